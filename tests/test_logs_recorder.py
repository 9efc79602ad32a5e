"""The recorder: what threads append is what is read, whatever the disk does and whenever the process dies."""

import contextlib
import json
import os
import signal
import threading
import time
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import camera, microphone, vector

from multisense.logs import LogError, Recording, open_log, write_log
from multisense.logs.fragments import GrowingVideo
from multisense.logs.media import open_video
from multisense.logs.recorder import LogWriter, RecorderWarning
from multisense.logs.swmr import SwmrLog
from multisense.types import Label


def declare(log: LogWriter, recordings: dict[str, Recording]) -> None:
    for name, made in recordings.items():
        log.add_sensor(
            name,
            made.modality,
            made.rate_hz,
            made.data.shape[1:],
            made.data.dtype,
            made.units,
            made.channels,
            made.media,
        )


def arm_log(path: Path, **options: object) -> LogWriter:
    log = LogWriter(path, **options)
    log.add_sensor("arm", "proprio", 250, (2,), "float32")
    return log


def test_a_recorded_log_holds_what_write_log_would_have_written(tmp_path: Path) -> None:
    mic = microphone()
    recordings = {"arm": vector(channels=("left", "right"), units="rad"), "camera": camera(), "mic": mic}
    material = Label("material", np.array(2), None, "unique", ("wood", "steel", "foam"))
    write_log(tmp_path / "whole.h5", recordings, [material], "made by a test", {"start_unix": 1.7e9})
    with LogWriter(tmp_path / "grown.h5", "made by a test", flush_s=60, attributes={"start_unix": 1.7e9}) as log:
        declare(log, recordings)
        log.label(material)
        for name in ("arm", "camera"):
            for sample, second in zip(recordings[name].data, recordings[name].times_s, strict=True):
                assert log.append(name, sample, second)
        for first, last in ((0, 3000), (3000, 7999), (7999, 8000)):
            log.append("mic", mic.data[first:last], dict(mic.anchors)[float(first)])
    whole, grown = open_log(tmp_path / "whole.h5"), open_log(tmp_path / "grown.h5")
    assert grown.sensors == whole.sensors
    assert grown.labels["material"].classes == material.classes
    assert grown.attributes == {**whole.attributes, "recording": False}
    for name in recordings:
        a, b = (log.read(name, -np.inf, np.inf) for log in (whole, grown))
        np.testing.assert_array_equal(a.times_s, b.times_s)
        np.testing.assert_array_equal(a.data, b.data)  # frames too: the encoder is the same


def test_frames_survive_many_flushes_and_the_video_ends_plain(tmp_path: Path) -> None:
    frames = camera(30)
    with LogWriter(tmp_path / "log.h5") as log:
        declare(log, {"camera": frames})
        for first in range(0, 30, 7):
            log.append("camera", frames.data[first : first + 7], frames.times_s[first : first + 7])
            log.flush()
        assert b"moof" in (tmp_path / "log.camera.mp4").read_bytes()
    assert b"moof" not in (tmp_path / "log.camera.mp4").read_bytes()
    stream = open_log(tmp_path / "log.h5").read("camera", 0.25, 1.2)
    assert np.round(stream.data.mean(axis=(1, 2, 3)) / 4).tolist() == list(range(5, 24))


def test_a_log_is_readable_while_it_is_recorded(tmp_path: Path) -> None:
    with LogWriter(tmp_path / "log.h5", flush_s=60) as log:
        declare(log, {"arm": vector(), "camera": camera(), "late": vector()})
        with pytest.raises(LogError, match="nothing"):
            open_log(tmp_path / "log.h5")
        log.append("arm", vector().data[:20], vector().times_s[:20])
        log.append("camera", camera().data[:5], camera().times_s[:5])
        log.flush()
        log.append("arm", vector().data[20:], vector().times_s[20:])
        early = open_log(tmp_path / "log.h5")
        assert early.attributes["recording"]
        assert {name: info.count for name, info in early.sensors.items()} == {"arm": 20, "camera": 5}
        np.testing.assert_array_equal(early.read("arm", 0.0, 9.0).data, vector().data[:20])
        assert len(early.read("camera", 0.0, 9.0).data) == 5
    log = open_log(tmp_path / "log.h5")
    assert not log.attributes["recording"]
    assert {name: info.count for name, info in log.sensors.items()} == {"arm": 50, "camera": 5}


def test_missing_sound_leaves_a_gap_and_the_blocks_their_pitch(tmp_path: Path) -> None:
    with LogWriter(tmp_path / "log.h5") as log:
        log.add_sensor("mic", "audio", 1000, (2,), "int16")
        for start in (0.0, 0.1, 0.5):  # three blocks of 0.1 s, the last 0.3 s late
            log.append("mic", np.ones((100, 2), np.int16), start)
    times = open_log(tmp_path / "log.h5").read("mic", 0.0, 9.0).times_s
    np.testing.assert_allclose(times, np.concatenate([np.arange(200), 500 + np.arange(100)]) / 1000, atol=1e-12)


def test_threads_append_the_same_and_different_sensors(tmp_path: Path) -> None:
    def feed(name: str) -> None:
        for _ in range(200):
            with turn:
                number = next(counter)
                log.append(name, [number, -number], number / 1000)

    def own(name: str) -> None:
        for number in range(200):
            log.append(name, [number, number], number / 1000)

    turn, counter = threading.Lock(), iter(range(10_000))
    with LogWriter(tmp_path / "log.h5", flush_s=0.02) as log:
        for name in ("shared", "a", "b", "c"):
            log.add_sensor(name, "proprio", 1000, (2,), "int32")
        tasks = [(feed, "shared")] * 3 + [(own, name) for name in "abc"]
        threads = [threading.Thread(target=task, args=(name,)) for task, name in tasks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert log.stats["shared"].appended == 600
    opened = open_log(tmp_path / "log.h5")
    np.testing.assert_array_equal(opened.read("shared", 0, 9).data[:, 0], np.arange(600))
    for name in "abc":
        np.testing.assert_array_equal(opened.read(name, 0, 9).data[:, 1], np.arange(200))


def test_a_slow_disk_costs_samples_not_the_robot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, may_write = SwmrLog.write, threading.Event()

    def slow(self: SwmrLog, *arguments: object) -> None:
        may_write.wait()
        write(self, *arguments)

    monkeypatch.setattr(SwmrLog, "write", slow)
    log = arm_log(tmp_path / "log.h5", queue_bytes=10 * 8, patience_s=0.01)
    with pytest.warns(RecorderWarning, match="too slow"):
        taken = [log.append("arm", np.full(2, number, np.float32), number) for number in range(15)]
    assert taken == [True] * 10 + [False] * 5
    stats = log.stats["arm"]
    assert (stats.appended, stats.dropped, stats.waiting_bytes, stats.flushed) == (10, 5, 80, 0)
    assert stats.longest_wait_s >= 0.01
    may_write.set()
    log.flush()
    assert log.append("arm", np.full(2, 15, np.float32), 15)
    with pytest.warns(RecorderWarning, match="left out: {'arm': 5}"):
        log.close()
    assert open_log(tmp_path / "log.h5").read("arm", 0, 99).times_s.tolist() == [*range(10), 15]
    with h5py.File(tmp_path / "log.h5", locking=False) as file:
        assert file["streams/arm"].attrs["dropped"] == 5


def test_a_full_disk_raises_and_keeps_what_was_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: SwmrLog, *arguments: object) -> None:
        raise OSError("no space left on device")

    log = arm_log(tmp_path / "log.h5")
    log.append("arm", np.zeros((3, 2), np.float32), np.arange(3))
    log.flush()
    monkeypatch.setattr(SwmrLog, "write", full)
    log.append("arm", np.zeros((3, 2), np.float32), np.arange(3, 6))
    with pytest.raises(LogError, match="no space left"):
        log.flush()
    with pytest.raises(LogError, match="no space left"):
        log.append("arm", np.zeros(2, np.float32), 9.0)
    with pytest.raises(LogError, match="no space left"):
        log.close()
    assert open_log(tmp_path / "log.h5").sensors["arm"].count == 3


@pytest.mark.parametrize(
    ("data", "times", "complaint"),
    [
        (np.zeros(2, np.float32), 1.0, "later than"),
        (np.zeros(2, np.float32), np.nan, "finite"),
        (np.zeros((2, 2), np.float32), [3.0, 2.0], "not increasing"),
        (np.zeros((2, 2), np.float32), [3.0], "one time per sample"),
        (np.zeros(3, np.float32), 3.0, r"shape \(3,\)"),
        (np.zeros(2, np.int64), 3.0, "int64"),
    ],
)
def test_a_wrong_append_is_refused_and_nothing_else_lost(
    tmp_path: Path, data: np.ndarray, times: object, complaint: str
) -> None:
    with arm_log(tmp_path / "log.h5") as log:
        log.append("arm", np.zeros((2, 2), np.float32), [0.0, 1.0])
        with pytest.raises(LogError, match=complaint):
            log.append("arm", data, times)
        log.append("arm", [5.0, 5.0], 2.0)
    assert open_log(tmp_path / "log.h5").read("arm", 0, 9).times_s.tolist() == [0, 1, 2]


def test_what_cannot_be_recorded_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "there.h5").touch()
    with pytest.raises(LogError, match="existing file"):
        LogWriter(tmp_path / "there.h5")
    with pytest.raises(LogError, match="flush_s"):
        LogWriter(tmp_path / "log.h5", flush_s=0)
    with pytest.raises(LogError, match="recording"):
        LogWriter(tmp_path / "log.h5", attributes={"recording": 1})
    log = arm_log(tmp_path / "log.h5")
    with pytest.raises(LogError, match="already"):
        log.add_sensor("arm", "proprio", 250, (2,), "float32")
    with pytest.raises(LogError, match="even sides"):
        log.add_sensor("eye", "video", 20, (65, 64, 3), "uint8", media="eye.mp4")
    with pytest.raises(LogError, match="rate_hz"):
        log.add_sensor("leg", "proprio", 0, (2,), "float32")
    with pytest.raises(LogError, match="no sensor 'leg'"):
        log.append("leg", np.zeros(2), 0.0)
    log.append("arm", [0.0, 0.0], 0.0)
    with pytest.raises(LogError, match="begun"):
        log.add_sensor("leg", "proprio", 250, (2,), "float32")
    log.close()
    with pytest.raises(LogError, match="closed"):
        log.append("arm", [0.0, 0.0], 1.0)


@pytest.mark.parametrize("damage", [np.zeros(3, np.int64), np.array([-1, 5]), np.zeros(2), "recording"])
def test_a_damaged_count_of_whole_rows_is_named(tmp_path: Path, damage: np.ndarray | str) -> None:
    with arm_log(tmp_path / "log.h5") as log:
        log.append("arm", [0.0, 0.0], 0.0)
    with h5py.File(tmp_path / "log.h5", "r+") as file:
        if isinstance(damage, str):
            file.attrs["recording"] = [1, 2]  # no flag: the log counts as finished
        else:
            del file["streams/arm/flushed"]
            file["streams/arm/flushed"] = damage
    if isinstance(damage, str):
        assert open_log(tmp_path / "log.h5").sensors["arm"].count == 1
    else:
        with pytest.raises(LogError, match="flushed"):
            open_log(tmp_path / "log.h5")


def test_nothing_appended_leaves_no_file(tmp_path: Path) -> None:
    with pytest.warns(RecorderWarning, match="nothing was appended"), arm_log(tmp_path / "log.h5"):
        pass
    assert not list(tmp_path.iterdir())


def test_the_caller_may_reuse_its_buffer(tmp_path: Path) -> None:
    buffer = np.zeros(2, np.float32)
    with arm_log(tmp_path / "log.h5") as log:
        for number in range(20):
            buffer[:] = number
            log.append("arm", buffer, number)
    np.testing.assert_array_equal(open_log(tmp_path / "log.h5").read("arm", 0, 99).data[:, 0], np.arange(20))


def test_a_fragment_cut_anywhere_leaves_the_frames_before(tmp_path: Path) -> None:
    video, frames = GrowingVideo(tmp_path / "v.mp4", (64, 64, 3), 20), camera(10).data
    for frame in frames[:5]:
        video.append(frame)
    video.flush()
    before = (tmp_path / "v.mp4").read_bytes()
    for frame in frames[5:]:
        video.append(frame)
    video.flush()
    after = (tmp_path / "v.mp4").read_bytes()
    headless = before + bytes(8) + after[len(before) + 8 :]
    for stop in [*range(len(before), len(after), 23), len(after)]:
        (tmp_path / "cut.mp4").write_bytes(headless[:stop])
        cut = open_video(str(tmp_path / "cut.mp4"))
        assert len(cut.times_s) == 5
        assert np.round(cut.frames(range(5)).mean(axis=(1, 2, 3)) / 4).tolist() == [0, 1, 2, 3, 4]
        cut.close()


# Kills


def test_a_killed_recording_that_was_cut_short_is_an_error_at_once(tmp_path: Path) -> None:
    flushed: dict[str, int] = {}
    while not any(flushed.values()):
        flushed = recorded_then_killed(tmp_path / f"{time.monotonic_ns()}.h5", after_s=0.3)
    path = max(tmp_path.glob("*.h5"))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for stop in rng.integers(48, len(whole) // 4, 10):
        path.write_bytes(whole[:stop])
        with pytest.raises(LogError):
            open_log(path).read("arm", -1.0, np.inf)
    for at in rng.integers(0, 4000, 30):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        began = time.monotonic()
        with contextlib.suppress(LogError):
            open_log(path).read("arm", -1.0, np.inf)
        assert time.monotonic() - began < 5


def record_until_killed(path: Path, report: int) -> None:
    """An arm at 250 Hz, a microphone at 16 kHz, a camera at 20 Hz, as fast as they go; reports what is flushed."""
    log = LogWriter(path, flush_s=0.03)
    log.add_sensor("arm", "proprio", 250, (2,), "float64")
    log.add_sensor("mic", "audio", 16_000, (), "int32")
    log.add_sensor("camera", "video", 20, (64, 64, 3), "uint8", media="camera.mp4")
    for tick in range(100_000):  # of 20 ms
        for number in range(5 * tick, 5 * tick + 5):
            log.append("arm", [number, -number], number / 250)
        log.append("mic", np.arange(320 * tick, 320 * tick + 320, dtype=np.int32), tick / 50)
        if tick % 5 < 2:
            number = tick // 5 * 2 + tick % 5
            log.append("camera", np.full((64, 64, 3), number % 60 * 4, np.uint8), number / 20)
        os.write(report, (json.dumps({name: stats.flushed for name, stats in log.stats.items()}) + "\n").encode())
        time.sleep(0.002)


def recorded_then_killed(path: Path, after_s: float) -> dict[str, int]:
    """Fork a recorder, kill it so long after its first report, and return its last one."""
    out, report = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(out)
            record_until_killed(path, report)
        finally:
            os._exit(1)
    os.close(report)
    with os.fdopen(out) as lines:
        said = [lines.readline()]
        time.sleep(after_s)
        os.kill(child, signal.SIGKILL)
        said += lines.readlines()
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    return json.loads(next(line for line in reversed(said) if line.endswith("\n")))


def check_what_was_left(path: Path, flushed: dict[str, int]) -> None:
    if not any(flushed.values()):
        return
    log = open_log(path)
    for name, count in flushed.items():
        assert not count or log.sensors[name].count >= count, f"{name}: {log.sensors[name]} after {flushed}"
    streams = {name: log.read(name, -1.0, np.inf) for name in log.sensors}
    arm, mic, eye = (np.arange(log.sensors[name].count) for name in ("arm", "mic", "camera"))
    np.testing.assert_array_equal(streams["arm"].data, np.stack([arm, -arm], axis=1))
    np.testing.assert_array_equal(streams["arm"].times_s, arm / 250)
    np.testing.assert_array_equal(streams["mic"].data, mic)
    np.testing.assert_allclose(streams["mic"].times_s, mic / 16_000, atol=1e-9)
    np.testing.assert_array_equal(streams["camera"].times_s, eye / 20)
    np.testing.assert_array_equal(np.round(streams["camera"].data.mean(axis=(1, 2, 3)) / 4), eye % 60)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_a_kill_at_any_moment_leaves_all_that_was_flushed(tmp_path: Path, kills: int) -> None:
    rng, seen = np.random.default_rng(kills), 0
    for number in range(kills):
        path = tmp_path / f"{number}.h5"
        flushed = recorded_then_killed(path, after_s=float(rng.uniform(0.02, 0.6)))
        check_what_was_left(path, flushed)
        seen += any(flushed.values())
    assert seen >= 0.5 * kills, "too few were killed after a flush for this to say anything"


def test_stats_are_plain_numbers(tmp_path: Path) -> None:
    with arm_log(tmp_path / "log.h5") as log:
        log.append("arm", np.zeros((4, 2), np.float32), np.arange(4))
        log.flush()
        assert json.loads(json.dumps(asdict(log.stats["arm"])))["flushed"] == 4
