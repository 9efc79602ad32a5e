"""LeRobotDataset v2.1 and v3.0, read in place: one log per episode.

Sensors are named by the last part of their feature key (`observation.images.cam_high` -> `cam_high`,
`observation.state` -> `state`); keys that would clash keep all parts, joined by "_". Videos and images kept inside parquet
are of modality "video", vectors of numbers "proprio"; these share the `timestamp` column, which LeRobot writes as
frame / fps. Sound files beside the videos (dtype "audio") keep their own rate and stamps. LeRobot's bookkeeping columns,
`next.*` and texts are no sensors; `LeRobotLog.skipped` says which features were left out and why.
"""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from multisense.logs.base import log_error
from multisense.logs.clock import StampedClock
from multisense.logs.files import fingerprint_files
from multisense.logs.foreign import Images, Sensor
from multisense.logs.formats.lerobot_columns import BOOKKEEPING, Bookkeeping, ImageBytes, VectorRows
from multisense.logs.formats.lerobot_meta import Episode, MediaPart, Root
from multisense.logs.formats.lerobot_sound import episode_sound
from multisense.logs.media import open_video
from multisense.logs.pool import POOL
from multisense.types import Label, SensorInfo, Stream

MEDIA = ("video", "image", "audio")
MAX_FRAME = 1 << 28
"""Bytes of a frame; info.json may say anything."""


class LeRobotLog:
    """One episode of a LeRobot root, checked on opening: files, rows, columns and time stamps agree with `meta/`.

    That a video holds a frame for every row is checked when it is first read. Holds no open file.

    Raises:
        LogError: naming the file, what was found, what was expected and the fix.
    """

    def __init__(self, root: Root, episode: Episode) -> None:
        self.name = f"episode_{episode.index:06d}"
        self.path = root.path
        self._episode = episode
        self._fps = root.fps
        self._keys, self.skipped = _sensor_keys(root.features)
        if not self._keys:
            where = str(Path(root.path) / "meta" / "info.json")
            raise log_error(
                where, f"no usable feature; {self.skipped}", "a video, sound or vector", "Take another data set."
            )
        self._media = [part.path for part in (*episode.videos.values(), *episode.sounds.values())]
        for path in (episode.data, *self._media):
            if not Path(path).is_file():
                fix = "Download the data set again."
                raise log_error(path, "no such file", f"a file of {self.name}, as meta/ says", fix)
        table = POOL.get(Bookkeeping, episode.data)
        self._first_row, times = table.rows(episode)
        _check_fps(times, root.fps, episode.data)
        self._clock = StampedClock(times)
        self._dtypes = {name: str(root.features[key]["dtype"]) for name, key in self._keys.items()}
        self._sounds: Mapping[str, Sensor] = {
            name: episode_sound(name, episode.sounds[key]) for name, key in self._keys.items() if key in episode.sounds
        }
        self.sensors: Mapping[str, SensorInfo] = {
            name: self._sounds[name].info if name in self._sounds else self._info(name, root.features[key])
            for name, key in self._keys.items()
        }
        vectors = [(key, self.sensors[name]) for name, key in self._keys.items() if self._dtypes[name] not in MEDIA]
        self._vectors = tuple((key, sensor.dtype, sensor.shape) for key, sensor in vectors)
        images = tuple(key for name, key in self._keys.items() if self._dtypes[name] == "image")
        POOL.get(VectorRows(0, 1, self._vectors, images), episode.data)  # raises when columns and info.json disagree
        task = table.task(self._first_row, len(times))
        self.labels: Mapping[str, Label] = _task_labels(task, times, root.tasks, episode.data)

    def read(self, sensor: str, start_s: float, stop_s: float) -> Stream:
        """The samples of `sensor` with start_s <= time < stop_s, decoding or reading no others."""
        self._check(sensor)
        if sensor in self._sounds:
            sound = self._sounds[sensor]
            first, last = sound.clock.span(start_s, stop_s)
            return Stream(sensor, sound.clock.times(first, last), sound.samples.read(first, last), sound.info.rate_hz)
        return self._rows(sensor, np.arange(*self._clock.span(start_s, stop_s)))

    def times(self, sensor: str, start_s: float, stop_s: float) -> np.ndarray:
        """The times of what `read` would give."""
        self._check(sensor)
        clock = self._sounds[sensor].clock if sensor in self._sounds else self._clock
        return clock.times(*clock.span(start_s, stop_s))

    def pick(self, sensor: str, start_s: float, stop_s: float, places: np.ndarray) -> Stream:
        """Of what `read` would give the samples at `places`, decoding no other frame."""
        self._check(sensor)
        if sensor in self._sounds:
            sound = self.read(sensor, start_s, stop_s)
            return Stream(sensor, sound.times_s[places], sound.data[places], sound.rate_hz)
        return self._rows(sensor, self._clock.span(start_s, stop_s)[0] + places)

    def _check(self, sensor: str) -> None:
        if sensor not in self.sensors:
            where = f"{self.path}: {self.name}"
            raise log_error(where, f"no sensor '{sensor}'", f"one of {sorted(self.sensors)}", "Check the name.")

    def _rows(self, sensor: str, rows: np.ndarray) -> Stream:
        """Rows of the episode, which are distinct and increasing."""
        key, times = self._keys[sensor], self._clock.stamps_s[rows]
        if self._dtypes[sensor] == "image":
            encoded = ImageBytes(self._episode.data, key, self._first_row)
            images = Images(encoded, self.sensors[sensor].shape, f"{self._episode.data}: {key} of {self.name}")
            return Stream(sensor, times, images.pick(rows), self._fps)
        part = self._episode.videos.get(key)
        if part is not None:
            return Stream(sensor, times, self._frames(sensor, part, times), self._fps)
        vectors = POOL.get(VectorRows(self._first_row, self._clock.count, self._vectors), self._episode.data)
        return Stream(sensor, times, vectors[key][rows], self._fps)

    def fingerprint(self) -> str:
        return fingerprint_files(
            [self._episode.data, *self._media, str(Path(self.path) / "meta" / "info.json")], self.name
        )

    def _info(self, name: str, feature: Mapping[str, Any]) -> SensorInfo:
        is_video = feature["dtype"] in MEDIA
        times = self._clock.stamps_s
        return SensorInfo(
            name=name,
            modality="video" if is_video else "proprio",
            rate_hz=self._fps,
            shape=_frame_shape(feature) if is_video else _shape(feature),
            dtype="uint8" if is_video else feature["dtype"],
            start_s=float(times[0]),
            stop_s=float(times[-1]) + 1 / self._fps,
            count=len(times),
            channels=() if is_video else _channels(feature),
        )

    def _frames(self, sensor: str, part: MediaPart, times: np.ndarray) -> np.ndarray:
        """The frame nearest to each time; LeRobot's frame time is `from_timestamp` + t in the file."""
        video = POOL.get(open_video, part.path)
        if video.shape != self.sensors[sensor].shape:
            found = f"frames of shape {video.shape}"
            raise log_error(part.path, found, f"{self.sensors[sensor].shape}, as info.json says", "Correct one.")
        half = 0.5 / self._fps
        whole = part.start_s + self._clock.stamps_s
        there = np.subtract(*np.searchsorted(video.times_s, [whole[-1] + half, whole[0] - half]))
        if there < self._clock.count:
            found = f"{there} frames for the {self._clock.count} rows of {self.name}"
            raise log_error(part.path, found, "a frame for every row", "The video was cut short: download it again.")
        wanted = part.start_s + times
        index = np.searchsorted((video.times_s[1:] + video.times_s[:-1]) / 2, wanted)
        late = np.abs(video.times_s[index] - wanted)
        if late.max(initial=0) > half:
            at = int(np.argmax(late))
            found = f"no frame within {half:.4g} s of {wanted[at]:.4f} s ({self.name})"
            raise log_error(part.path, found, f"one every {2 * half:.4g} s", "Leave this episode out.")
        return video.frames(index)

    def __repr__(self) -> str:
        return f"LeRobotLog({self.path!r}, {self.name!r}, sensors={list(self.sensors)})"


def _sensor_keys(features: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, str], dict[str, str]]:
    """({sensor: feature key}, {feature key: why it is no sensor})."""
    reasons = {key: _why_not(key, feature) for key, feature in features.items()}
    keys = [key for key, reason in reasons.items() if not reason]
    clashes = Counter(key.rpartition(".")[2] for key in keys)
    names = {key: key.rpartition(".")[2] for key in keys}
    names = {key: name if clashes[name] == 1 else key.replace(".", "_") for key, name in names.items()}
    return {name: key for key, name in names.items()}, {key: reason for key, reason in reasons.items() if reason}


def _why_not(key: str, feature: Mapping[str, Any]) -> str:
    dtype = feature["dtype"]
    if key in BOOKKEEPING or key.startswith("next."):
        return "bookkeeping"
    if dtype in ("video", "image") and not 0 < math.prod(_frame_shape(feature)) <= MAX_FRAME:
        return f"frames of shape {feature['shape']}"
    if dtype in MEDIA:
        return ""
    if dtype.startswith("float") or (dtype.startswith(("int", "uint")) and math.prod(feature["shape"]) > 1):
        return ""
    return f"dtype {dtype} is no sensor signal"


def _shape(feature: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(feature["shape"])


def _frame_shape(feature: Mapping[str, Any]) -> tuple[int, ...]:
    """(height, width, 3), whichever way round info.json has it."""
    sides, names = list(feature["shape"]), _names(feature.get("names"))
    first = names[0].startswith("c") if len(names) == 3 else len(sides) == 3 and sides[0] in (1, 3, 4)
    return (*(sides[1:3] if first else sides[:2]), 3)


def _channels(feature: Mapping[str, Any]) -> tuple[str, ...]:
    """Names along the last axis; none where info.json does not name each of them."""
    names = _names(feature.get("names"))
    return tuple(names) if len(names) == feature["shape"][-1] else ()


def _names(names: Any) -> list[str]:
    """LeRobot writes names as a list, a list in a list, {group: list}, {name: index} or null."""
    if names is None:
        return []
    if isinstance(names, Mapping):
        is_index = all(isinstance(value, int) for value in names.values())
        return sorted(names, key=lambda name: names[name]) if is_index else _names(list(names.values()))
    if isinstance(names, (list, tuple)):
        return [name for item in names for name in _names(item)]
    return [str(names)]


def _check_fps(times: np.ndarray, fps: float, path: str) -> None:
    if len(times) < 2:
        return
    step = float(np.median(np.diff(times)))
    if abs(step * fps - 1) > 0.01:
        found = f"time stamps {step:.5g} s apart"
        raise log_error(path, found, f"{1 / fps:.5g} s: info.json says fps={fps:g}", "Correct whichever is wrong.")


def _task_labels(task: np.ndarray | None, times: np.ndarray, tasks: tuple[str, ...], path: str) -> dict[str, Label]:
    """None in a data set of one task; else one value per log, or one per time in an episode of several tasks."""
    if task is None or len(tasks) < 2:
        return {}
    if not 0 <= task.min() <= task.max() < len(tasks):
        found = f"task_index {task.min()} to {task.max()}"
        raise log_error(path, found, f"one of the {len(tasks)} tasks in meta/", "Download the data set again.")
    if (task == task[0]).all():
        return {"task": Label("task", np.asarray(task[0]), None, "unique", tasks)}
    return {"task": Label("task", task, times, "unique", tasks)}
