"""Logs made in memory, small configurations, and a small native log on disk."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from multisense.clips import Grid, Rolling, read_clip
from multisense.logs import Recording, SensorLog, write_log
from multisense.logs.base import Picks
from multisense.run import RunConfig, parse_config
from multisense.types import Label, SensorInfo, Stream

torch.set_num_threads(1)


@dataclass
class ArrayLog:
    """A SensorLog over arrays."""

    name: str
    streams: Mapping[str, tuple[str, float, np.ndarray, np.ndarray]]
    """sensor -> (modality, rate_hz, times_s, data)"""
    labels: Mapping[str, Label] = field(default_factory=dict)
    at: str = ""
    """Where it says it lies; "memory:NAME" by default."""

    @property
    def path(self) -> str:
        return self.at or f"memory:{self.name}"

    @property
    def sensors(self) -> dict[str, SensorInfo]:
        return {
            n: SensorInfo(n, m, r, d.shape[1:], str(d.dtype), float(t[0]), float(t[-1]) + 1 / r, len(t))
            for n, (m, r, t, d) in self.streams.items()
        }

    def read(self, sensor: str, start_s: float, stop_s: float) -> Stream:
        _, rate, times, data = self.streams[sensor]
        a, b = np.searchsorted(times, [start_s, stop_s])
        return Stream(sensor, times[a:b], data[a:b], rate)

    def fingerprint(self) -> str:
        return self.name


def body_log(number: int, seconds: float = 3.0) -> ArrayLog:
    """A body in which one hidden angle drives a picture, a sound, a pad and three joints."""
    rng = np.random.default_rng(number)
    phase, speed = rng.uniform(0, 2 * np.pi), rng.uniform(1, 4)

    def angle(rate: float) -> tuple[np.ndarray, np.ndarray]:
        times = np.arange(round(seconds * rate)) / rate
        return times, phase + speed * times

    t, a = angle(10)
    frames = rng.integers(0, 30, (len(t), 32, 32, 3), dtype=np.uint8)
    for k, x in enumerate(a):
        y, z = (np.array([np.sin(x), np.cos(x)]) * 10 + 16).astype(int)
        frames[k, y - 3 : y + 3, z - 3 : z + 3] = 230
    video = ("video", 10.0, t, frames)
    t, a = angle(8000)
    sound = (np.sin(2 * np.pi * 400 * t) * (1 + np.sin(a)) / 4 + 0.01 * rng.normal(size=len(t))).astype(np.float32)
    audio = ("audio", 8000.0, t, sound)
    t, a = angle(100)
    touch = np.maximum(np.sin(a), 0)[:, None, None, None] * np.ones((1, 4, 4, 3)) + 0.02 * rng.normal(
        size=(len(t), 4, 4, 3)
    )
    joints = np.stack([np.sin(a), np.cos(a), np.full_like(a, speed)], 1) + 0.01 * rng.normal(size=(len(t), 3))
    streams = {
        "eye": video,
        "ear": audio,
        "pad": ("touch", 100.0, t, touch.astype(np.float32)),
        "arm": ("proprio", 100.0, t, joints.astype(np.float32)),
    }
    t, a = angle(50)
    labels = {
        "height": Label("height", np.sin(a).astype(np.float32), t),
        "fast": Label("fast", np.array(int(speed > 2.5)), classes=("slow", "fast")),
    }
    return ArrayLog(f"body-{number:03d}", streams, labels)


def body_tree(**train: object) -> dict:
    return {
        "data": {"train": "memory", "clip_seconds": 1.0},
        "sensors": {
            "eye": {"kind": "video", "patch": 16},
            "ear": {"kind": "audio", "mels": 32, "patch_mels": 32, "patch_s": 0.2},
            "pad": {"kind": "touch", "patch_s": 0.2},
            "arm": {"kind": "proprio", "patch_s": 0.2},
        },
        "model": {"width": 32, "depth": 2, "heads": 2},
        "objective": {"predictor_width": 16, "predictor_depth": 1, "predictor_heads": 2},
        "train": {"steps": 4, "batch_size": 4, "log_every": 1, "warmup_steps": 1, "log_with": [], **train},
    }


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is remembered between runs is remembered in a test's own folder."""
    folder = tmp_path.with_name(f"{tmp_path.name}-cache")
    monkeypatch.setenv("MULTISENSE_CACHE", str(folder))
    return folder


@pytest.fixture
def body_config() -> RunConfig:
    return parse_config(body_tree())


@pytest.fixture
def body_logs() -> list[ArrayLog]:
    return [body_log(n) for n in range(6)]


def vector(count: int = 50, rate_hz: float = 100.0, **changes: object) -> Recording:
    """Sample i is [i, -i], at i / rate."""
    data = np.arange(count)[:, None] * np.array([1.0, -1.0])
    return replace(Recording("proprio", rate_hz, data, np.arange(count) / rate_hz), **changes)


def camera(count: int = 20) -> Recording:
    """Frame i is grey of level 4 i, 20 times a second."""
    frames = np.zeros((count, 64, 64, 3), np.uint8) + (4 * np.arange(count, dtype=np.uint8))[:, None, None, None]
    return Recording("video", 20.0, frames, np.arange(count) / 20, media="camera.mp4")


def microphone() -> Recording:
    sound = np.sin(np.arange(8000) / 7).astype(np.float32)
    anchors = np.array([[0, 0.01], [3000, 0.3855], [7999, 1.01]])
    return Recording("audio", 8000.0, sound, anchors=anchors, units="1")


@pytest.fixture
def body(tmp_path: Path) -> Path:
    """A log of three senses and three labels."""
    labels = [
        Label("force", np.arange(10.0), np.arange(10) / 10, "max", units="N"),
        Label("material", np.array(2), None, "unique", ("wood", "steel", "foam")),
        Label("touching", np.arange(10) > 5, np.arange(10) / 10, "max"),
    ]
    recordings = {"arm": vector(channels=("left", "right"), units="rad"), "camera": camera(), "mic": microphone()}
    write_log(tmp_path / "body.h5", recordings, labels, "made by a test", {"start_unix": 1.7e9})
    return tmp_path / "body.h5"


class OnlyRead:
    """A log of which nothing but ranges can be read."""

    def __init__(self, log: SensorLog):
        self.name, self.path, self.sensors, self.labels = log.name, log.path, log.sensors, log.labels
        self.read, self.fingerprint = log.read, log.fingerprint


def assert_gives_single_samples(log: SensorLog) -> None:
    """Samples picked are those that `read` gives, and clips of frames picked are clips of frames read."""
    assert isinstance(log, Picks)
    rng = np.random.default_rng(0)
    for name, info in log.sensors.items():
        for _ in range(5):
            window = np.sort(rng.uniform(info.start_s - 0.1, info.stop_s + 0.1, 2)).tolist()
            whole = log.read(name, *window)
            np.testing.assert_array_equal(log.times(name, *window), whole.times_s)
            places = np.flatnonzero(rng.random(len(whole.times_s)) < 0.4)
            some = log.pick(name, *window, places)
            assert some.data.dtype == whole.data.dtype
            np.testing.assert_array_equal(some.times_s, whole.times_s[places])
            np.testing.assert_array_equal(some.data, whole.data[places])
        if info.dtype == "uint8":
            assert_same_frames(log, name)


def assert_same_frames(log: SensorLog, name: str) -> None:
    """Of every grid, in place and rolling on, to the bit those of a log that reads whole ranges."""
    info, plain = log.sensors[name], OnlyRead(log)
    size = (max(info.shape[0] // 2, 2), max(info.shape[1] // 3, 2))
    for rate in (0.3, 1.0, 2.7):
        seconds = 0.5 * (info.stop_s - info.start_s)
        count = max(int(seconds * info.rate_hz * rate), 1)
        shape = (*size, *info.shape[2:])
        grid = Grid(name, "v", info.rate_hz * rate, count, shape, "uint8", "nearest", 0.6 / info.rate_hz, size=size)
        rolling = Rolling(log, {name: grid})
        for start in info.start_s + seconds * np.array([-0.2, 0.0, 0.13, 0.5, 0.13, 1.7]):
            theirs = read_clip(plain, float(start), {name: grid}, grid.seconds)
            for some in (log, rolling):
                ours = read_clip(some, float(start), {name: grid}, grid.seconds)
                assert torch.equal(ours.values[name], theirs.values[name])
                assert torch.equal(ours.valid[name], theirs.valid[name])


@pytest.fixture
def realdata() -> Path:
    root = Path(__file__).parents[1]
    folder = Path(os.environ.get("MULTISENSE_REALDATA", root / ".." / "shared" / "realdata"))
    if not folder.is_dir():
        pytest.skip(f"no real recordings at {folder}; set MULTISENSE_REALDATA")
    return folder
