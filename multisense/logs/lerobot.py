"""LeRobotDataset v2.1 and v3.0, read in place: one log per episode.

Sensors are named by the last part of their feature key (`observation.images.cam_high` -> `cam_high`,
`observation.state` -> `state`); keys that would clash keep all parts, joined by "_". Video features are of modality
"video"; vectors of numbers "proprio". LeRobot's own bookkeeping columns, `next.*`, texts and images stored inside
parquet are not sensors; `LeRobotLog.skipped` says which features were left out and why. All sensors share the
`timestamp` column, which LeRobot writes as frame / fps.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from multisense.logs.base import log_error
from multisense.logs.clock import StampedClock, check_times
from multisense.logs.files import fingerprint_files
from multisense.logs.lerobot_meta import Episode, Root, VideoPart, open_parquet, read_columns
from multisense.logs.media import open_video
from multisense.logs.pool import POOL
from multisense.types import Label, SensorInfo, Stream

BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index")


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
            raise log_error(where, f"no usable feature; {self.skipped}", "a video or a vector", "Re-encode the images.")
        for path in (episode.data, *(part.path for part in episode.videos.values())):
            if not Path(path).is_file():
                fix = "Download the data set again."
                raise log_error(path, "no such file", f"a file of {self.name}, as meta/ says", fix)
        table = POOL.get(_Bookkeeping, episode.data)
        self._first_row, times = table.rows(episode)
        _check_fps(times, root.fps, episode.data)
        self._clock = StampedClock(times)
        self.sensors: Mapping[str, SensorInfo] = {
            name: self._info(name, root.features[key]) for name, key in self._keys.items()
        }
        vectors = [(key, self.sensors[name]) for name, key in self._keys.items() if key not in episode.videos]
        self._vectors = tuple((key, sensor.dtype, sensor.shape) for key, sensor in vectors)
        POOL.get(_Rows(0, 1, self._vectors), episode.data)  # raises when columns and info.json disagree
        task = table.task(self._first_row, len(times))
        self.labels: Mapping[str, Label] = _task_labels(task, times, root.tasks, episode.data)

    def read(self, sensor: str, start_s: float, stop_s: float) -> Stream:
        """The samples of `sensor` with start_s <= time < stop_s, decoding or reading no others."""
        if sensor not in self.sensors:
            where = f"{self.path}: {self.name}"
            raise log_error(where, f"no sensor '{sensor}'", f"one of {sorted(self.sensors)}", "Check the name.")
        key, (first, last) = self._keys[sensor], self._clock.span(start_s, stop_s)
        times = self._clock.times(first, last)
        part = self._episode.videos.get(key)
        if part is not None:
            return Stream(sensor, times, self._frames(sensor, part, times), self._fps)
        vectors = POOL.get(_Rows(self._first_row, self._clock.count, self._vectors), self._episode.data)
        return Stream(sensor, times, vectors[key][first:last], self._fps)

    def fingerprint(self) -> str:
        files = [self._episode.data, *(part.path for part in self._episode.videos.values())]
        return fingerprint_files([*files, str(Path(self.path) / "meta" / "info.json")], self.name)

    def _info(self, name: str, feature: Mapping[str, Any]) -> SensorInfo:
        is_video = feature["dtype"] == "video"
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

    def _frames(self, sensor: str, part: VideoPart, times: np.ndarray) -> np.ndarray:
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


class _Bookkeeping:
    """The bookkeeping columns of one data file, which may hold many episodes."""

    def __init__(self, path: str) -> None:
        self._path = path
        columns = {name: column.to_numpy() for name, column in read_columns(path, list(BOOKKEEPING)).items()}
        for name in ("timestamp", "episode_index"):
            if name not in columns:
                raise log_error(path, f"no column {name!r}", "it, in every LeRobot data file", "Download it again.")
        self._times = columns["timestamp"].astype(np.float64)
        self._episodes = columns["episode_index"]
        self._tasks = columns.get("task_index")

    def rows(self, episode: Episode) -> tuple[int, np.ndarray]:
        """First row and the (N,) times of an episode."""
        rows = np.flatnonzero(self._episodes == episode.index)
        if len(rows) != episode.length or not len(rows):
            found = f"{len(rows)} rows of episode {episode.index}"
            fix = "meta/ and data/ are of different states: download the data set again."
            raise log_error(self._path, found, f"{episode.length}, as meta/ says", fix)
        if rows[-1] - rows[0] + 1 != len(rows):
            found = f"rows of episode {episode.index} between those of others"
            raise log_error(self._path, found, "an episode's rows together", "Sort the file by index.")
        times = self._times[rows]
        check_times(times, len(rows), f"{self._path}: timestamp of episode {episode.index}")
        return int(rows[0]), times

    def task(self, first: int, count: int) -> np.ndarray | None:
        return None if self._tasks is None else self._tasks[first : first + count].astype(np.int64)

    def close(self) -> None:
        """Nothing is open; the columns go with this object."""


@dataclass(frozen=True)
class _Rows:
    """Reads rows of the vectors of a data file; hashable, so that the pool knows an episode's rows again."""

    first: int
    count: int
    vectors: tuple[tuple[str, str, tuple[int, ...]], ...]
    """(feature key, dtype, shape of a sample)"""

    def __call__(self, path: str) -> "_Vectors":
        keys = [key for key, _, _ in self.vectors]
        with open_parquet(path) as file:
            missing = sorted(set(keys) - set(file.schema_arrow.names))
            if missing:
                raise log_error(path, f"no columns {missing}", "them, as info.json says", "Download it again.")
            stops = np.cumsum([file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)])
            low, high = np.searchsorted(stops, [self.first, self.first + self.count - 1], side="right")
            table = file.read_row_groups(list(range(low, high + 1)), columns=keys, use_threads=False)
        skip = self.first - (int(stops[low - 1]) if low else 0)
        table = table.slice(skip, self.count)
        return _Vectors({key: _array(table.column(key), dtype, shape, path, key) for key, dtype, shape in self.vectors})


class _Vectors(dict[str, np.ndarray]):
    """(N, *shape) values by feature key."""

    def close(self) -> None:
        self.clear()


def _array(column: Any, dtype: str, shape: tuple[int, ...], path: str, key: str) -> np.ndarray:
    count, values = len(column), column.combine_chunks()
    while hasattr(values.type, "value_type"):  # lists in lists, of fixed length or not
        values = values.flatten()
    flat = values.to_numpy(zero_copy_only=False)
    if flat.dtype == object or flat.size != count * math.prod(shape):
        found = f"{flat.size} values ({values.type}) in {count} rows of {key}"
        raise log_error(path, found, f"{dtype} of shape {shape} in each, as info.json says", "Correct info.json.")
    return flat.astype(dtype).reshape(count, *shape)


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
    if dtype == "video":
        return ""
    if key in BOOKKEEPING or key.startswith("next."):
        return "bookkeeping"
    if dtype == "image":
        return "images inside parquet are not read: convert the data set to video"
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
