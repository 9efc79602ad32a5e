"""Embeddings of what led up to each frame of a data set, for a policy: of the past and the frame itself, never of later.

The window of a frame ends with it: nothing that was sensed after the frame is read, so an embedding that a policy is
trained on is one that it could have had on the robot.
"""

from collections.abc import Collection, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
import torch
from rich.progress import track
from torch.utils.data import Dataset

from multisense.clips import Grid, Rolling, Windows, read_clip
from multisense.embed import Parts, group_names, read_settings, weights_fingerprint, window_arrays
from multisense.embedder import Source, open_model
from multisense.logs.base import Picks, SensorLog
from multisense.run import check_sensors
from multisense.types import Clip

KEY = "observation.environment_state"
"""What LeRobot calls a vector that is no camera and not the robot's own state. Its ACT policy reads one for each frame, as
here; its Diffusion policy wants those of the last `n_obs_steps` frames, (B, n, F), which is not made here."""


class FrameWindows(Windows):
    """For every frame of a log, at `frames_s`, the clip of what was sensed up to it: (frame - seconds, frame].

    The last point of the finest grid is the frame's time, that of a slower one at most its period before, as in a clip
    that training saw. No sample after the frame is read. What would lie before the log's beginning is not valid.
    """

    def __init__(self, log: SensorLog, frames_s: np.ndarray, grids: Mapping[str, Grid]):
        self.logs, self.grids, self.frames_s = [Rolling(log, grids)], dict(grids), frames_s
        self.seconds = max((grid.count - 1) / grid.rate_hz for grid in grids.values())
        self.index = [(0, float(frame - self.seconds - _slack(frame))) for frame in frames_s]

    def __getitem__(self, item: int) -> Clip:
        start, frame = self.index[item][1], self.frames_s[item]
        return read_clip(self.logs[0], start, self.grids, float(frame - start + _slack(frame)))


def _slack(frame_s: float) -> float:
    """What rounding may take from either end of a window: ranges are half-open, and this one must hold its frame."""
    return 4 * float(np.spacing(max(abs(frame_s), 1.0)))


@dataclass(frozen=True)
class FrameEmbeddings:
    """Embeddings of logs by when what they are of had ended."""

    ends_s: Mapping[str, np.ndarray]
    """log name -> (N,) increasing: everything embedded was sensed by then."""
    fused: Mapping[str, np.ndarray]
    """log name -> (N, F)"""
    valid: Mapping[str, np.ndarray]
    """log name -> (N,) whether there was anything to embed."""

    @cached_property
    def width(self) -> int:
        return next(iter(self.fused.values())).shape[1]

    def at(self, log: str, frame_s: float) -> tuple[np.ndarray, bool]:
        """The last embedding (F,) of what had ended by `frame_s`, and whether it is there; zeros where it is not.

        `frame_s` may have been rounded to float32, as LeRobot's time stamps are. Raises ValueError for an unknown log.
        """
        if log not in self.ends_s:
            raise ValueError(
                f"no embeddings of {log}; there are those of {len(self.ends_s)} logs: {list(self.ends_s)[:5]}"
            )
        rounding = float(np.spacing(np.float32(abs(frame_s))))
        row = int(np.searchsorted(self.ends_s[log], frame_s + rounding, side="right")) - 1
        if row < 0 or not self.valid[log][row]:
            return np.zeros(self.width, np.float32), False
        return self.fused[log][row], True

    def stats(self) -> dict[str, np.ndarray]:
        """Mean, standard deviation, minimum and maximum (F,) and count (1,) of what is there, as LeRobot's `meta.stats`."""
        rows = np.concatenate([fused[self.valid[log]] for log, fused in self.fused.items()])
        extremes = {"min": rows.min(0), "max": rows.max(0)}
        return {"mean": rows.mean(0), "std": rows.std(0), **extremes, "count": np.array([len(rows)])}


def embed_frames(
    source: Source,
    logs: Sequence[SensorLog],
    out: Path | str | None = None,
    *,
    sensors: Sequence[str] | None = None,
    batch_size: int = 32,
) -> FrameEmbeddings:
    """Embed, for every frame of `logs`, the window that ends with it. The frames are the samples of the log's first sensor
    that is no sound.

    With `out` they are kept in a file of embeddings, as `multisense embed` writes it with `ends_s` besides: what is in it
    is not computed again, those of other logs stay in it, and `read_embeddings` reads all. Returned are those of `logs`.
    Raises as `multisense.embed.embed_logs` does.
    """
    model = open_model(source)
    check_sensors(model.sensors, model.grids, model.seconds, logs)
    unknown = sorted(set(sensors or ()) - set(model.names))
    if unknown:
        raise ValueError(f"sensors: no {unknown} in the model; it was trained on {list(model.names)}")
    chosen = [name for name in model.names if sensors is None or name in sensors]

    def arrays(log: SensorLog) -> dict[str, np.ndarray]:
        windows = FrameWindows(log, frame_times(log), model.grids)
        return {"ends_s": windows.frames_s, **window_arrays(model, windows, chosen, batch_size)}

    named = list(zip(group_names(logs), logs, strict=True))
    if out is None:
        return _gathered({group: arrays(log) for group, log in track(named, "embedding frames", transient=True)})
    settings = {
        "window_s": model.seconds,
        "ends_at": "frames",
        "sensors": chosen,
        "weights": weights_fingerprint(model),
    }
    done = Parts(Path(out), settings)
    for group, log in track([(g, log) for g, log in named if not done.has(g, log)], "embedding frames", transient=True):
        done.write(group, log, arrays(log))
    done.gather([group for group, _ in named], {}, {})
    return _gathered(_read_groups(Path(out), {group for group, _ in named}))


def read_embeddings(path: Path | str) -> FrameEmbeddings:
    """The embeddings of a file of `embed_frames`, or of `multisense embed`: its windows end a window after they start.

    A window [start, stop) of the latter holds nothing from `stop` on, so that a frame gets the last window that had ended
    by then. Raises ValueError for any other file.
    """
    return _gathered(_read_groups(Path(path)))


def _read_groups(path: Path, names: Collection[str] | None = None) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of each log by its name; of all logs by default."""
    settings = read_settings(path)
    groups = {}
    with h5py.File(path) as file:
        for name, group in file.items():
            if names is not None and name not in names:
                continue
            arrays = {key: np.asarray(group[key]) for key in ("starts_s", "ends_s", "fused") if key in group}
            arrays |= {f"valid/{key}": np.asarray(value) for key, value in group.get("valid", {}).items()}
            groups[name] = {"ends_s": arrays["starts_s"] + settings["window_s"], **arrays}
    return groups


def frame_times(log: SensorLog) -> np.ndarray:
    """(N,) the times in seconds of the frames of a log: the samples of its first sensor that is no sound."""
    clocks = [name for name, info in log.sensors.items() if info.modality != "audio"] or list(log.sensors)
    if isinstance(log, Picks):
        return log.times(clocks[0], -np.inf, np.inf)
    return log.read(clocks[0], -np.inf, np.inf).times_s


class Frames(Sized, Protocol):
    """A LeRobotDataset, or what looks like one: items are dicts with `episode_index` and `timestamp`."""

    def __getitem__(self, item: int, /) -> dict[str, Any]: ...


class EmbeddedFrames(Dataset):
    """A LeRobot data set whose every frame also has the embedding of what led up to it.

    Each item gains `key`, a float32 tensor (F,), and `<key>_is_pad`, true where nothing had been sensed long enough to be
    embedded. `feature` and `stats` are the entries that `meta.features` and `meta.stats` need for a policy of one step of
    observations, such as ACT.
    """

    def __init__(self, frames: Frames, embeddings: FrameEmbeddings, key: str = KEY):
        self.frames, self.embeddings, self.key = frames, embeddings, key

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, item: int) -> dict[str, Any]:
        frame = self.frames[item]
        if self.key in frame:
            raise ValueError(f"frames have a '{self.key}' of their own: choose another key for the embeddings")
        log = f"episode_{int(frame['episode_index']):06d}"  # as multisense.logs names the episodes of a LeRobot root
        fused, is_there = self.embeddings.at(log, float(frame["timestamp"]))
        return {**frame, self.key: torch.from_numpy(fused), f"{self.key}_is_pad": torch.tensor(not is_there)}

    @property
    def feature(self) -> dict[str, Any]:
        return {"dtype": "float32", "shape": (self.embeddings.width,), "names": None}

    @property
    def stats(self) -> dict[str, np.ndarray]:
        return self.embeddings.stats()


def _gathered(groups: Mapping[str, Mapping[str, np.ndarray]]) -> FrameEmbeddings:
    widths = {arrays["fused"].shape[1] for arrays in groups.values() if "fused" in arrays}
    if not widths:
        raise ValueError(f"none of {len(groups)} logs has an embedding: each is shorter than one window")
    empty = np.zeros((0, widths.pop()), np.float32)
    masks = {name: [x for key, x in arrays.items() if key.startswith("valid/")] for name, arrays in groups.items()}
    return FrameEmbeddings(
        {name: arrays["ends_s"] for name, arrays in groups.items()},
        {name: arrays.get("fused", empty) for name, arrays in groups.items()},
        {name: np.any(masks[name], axis=0) if masks[name] else np.zeros(0, bool) for name in groups},
    )
