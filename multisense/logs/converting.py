"""One log, of any format -> a native log, block by block, so that memory does not grow with it.

Without `size` nothing is lost: a sensor that is a whole video file gets that file, bit for bit; other pictures become
lossless H.264; everything else keeps its numbers. With `size` pictures are decoded once, resized as `clips` would, and
kept as uint8 arrays, one frame per chunk. Times are kept as they are; of sound, anchors within a nanosecond, or within
two steps of float64 where those are wider (0.5 us of unix time).
"""

import json
import math
import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from multisense.logs.anchors import AnchorLine
from multisense.logs.base import SensorLog, log_error
from multisense.logs.clock import Clock
from multisense.logs.foreign import ForeignLog, Frames
from multisense.logs.frames import LosslessVideo, resize_frames
from multisense.logs.media import open_video
from multisense.logs.native import NativeLog, OpenLog
from multisense.logs.native_write import CHUNK_ROWS, FORMAT, VERSION, publish, write_label
from multisense.logs.pool import POOL
from multisense.types import SensorInfo, Stream

BLOCK_BYTES = 24 << 20
BLOCK_ROWS = 1 << 20
MAX_BLOCKS = 1_000_000
RESIZED_TOGETHER = 8
ANCHOR_TOLERANCE_S = 1e-9
SMALLEST_VIDEO = 32
"""Pixels of a side below which H.264 is larger than the numbers."""
OF_ONE_FILE = ("recording", "imported")
"""Attributes of a native log that tell how that very file was made."""


def safe_name(name: str) -> str:
    """A name a native log can have: `/robot/arm` becomes `robot_arm`."""
    return re.sub(r"[^\w.-]+", "_", name).lstrip("._") or "log"


def convert(
    log: SensorLog, path: Path, size: tuple[int, int] | None = None, sensors: tuple[str, ...] | None = None
) -> dict[str, Any]:
    """Write `log` as the native log `path`, and return what there is to say of it.

    Everything lies under temporary names first; then the media and at last the log get theirs. Raises LogError where the
    log cannot be read, or holds none of the `sensors`.
    """
    wanted = [name for name in log.sensors if sensors is None or name in sensors]
    names = {safe_name(name): name for name in wanted}
    where = f"{log.path}: {log.name}"
    if len(names) < len(wanted) or not names:
        found = f"sensors {list(log.sensors)}"
        raise log_error(where, found, f"some of {sensors or 'any name'}, told apart by letters", "Choose sensors.")
    entry: dict[str, Any] = {"path": log.path, "name": log.name, "fingerprint": log.fingerprint()}
    entry |= {"skipped": dict(getattr(log, "skipped", {})), "notes": dict(getattr(log, "notes", {})), "sensors": {}}
    partial = _partial(path)
    media: list[Path] = []
    with h5py.File(partial, "w", libver="v110") as file:
        file.attrs.update({"source": where, **_attributes(log), "format": FORMAT, "version": VERSION})
        for native, name in names.items():
            writer = _SensorWriter(file.create_group(f"streams/{native}"), path, log.sensors[name], size)
            stored = writer.copy(log)
            media += [writer.media] if writer.media else []
            entry["sensors"][native] = _described(log.sensors[name], stored)
        for label in log.labels.values():
            write_label(file.create_group(f"labels/{safe_name(label.name)}"), label)
        entry["files"] = [path.name, *(target.name for target in media)]
        file.attrs["imported"] = json.dumps(entry)
    path.unlink(missing_ok=True)  # an older import must not stand beside new media
    for target in media:
        publish(_partial(target), target)
    publish(partial, path)
    return entry


def _attributes(log: SensorLog) -> dict[str, Any]:
    """Those of a native log that are true of its copy; an empty source says less than where it was found."""
    kept = log.attributes if isinstance(log, NativeLog) else {}
    return {key: value for key, value in kept.items() if key not in OF_ONE_FILE and (key != "source" or value)}


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _described(info: SensorInfo, stored: str) -> dict[str, Any]:
    form = {"sensor": info.name, "modality": info.modality, "rate_hz": info.rate_hz, "count": info.count}
    return {**form, "shape": list(info.shape), "dtype": info.dtype, "stored": stored}


class _SensorWriter:
    """Writes one sensor into its group, and beside the log where it is a video."""

    def __init__(self, group: h5py.Group, path: Path, info: SensorInfo, size: tuple[int, int] | None) -> None:
        self._group, self._path, self._info = group, path, info
        self.media: Path | None = None
        is_frames = info.dtype == "uint8" and len(info.shape) == 3 and info.shape[2] == 3
        self._size = size if is_frames else None
        self._is_video = is_frames and not size and min(info.shape[:2]) >= SMALLEST_VIDEO
        group.attrs.update({"modality": info.modality, "rate_hz": float(info.rate_hz), "units": info.units})
        if info.channels:
            group.attrs["channels"] = list(info.channels)

    def copy(self, log: SensorLog) -> str:
        """Write every sample; how they are stored, in words."""
        if isinstance(log, NativeLog) and self._info.name in log.dropped:
            self._group.attrs["dropped"] = np.int64(log.dropped[self._info.name])
        whole = _whole_video(log, self._info.name) if self._is_video else None
        if whole:
            source, clock = whole
            shutil.copyfile(source, self._beside(Path(source).suffix))
            self._group.create_dataset("times", data=clock.times(0, clock.count))
            return "the video file, copied"
        if self._is_video:
            self._encode(log)
            return "lossless H.264"
        self._append(log)
        return f"uint8 frames of {self._size[0]} x {self._size[1]}" if self._size else "as it was"

    def _beside(self, suffix: str) -> Path:
        """The temporary name of a media file; the log refers to its final one."""
        native = str(self._group.name).rpartition("/")[2]
        self.media = self._path.with_name(f"{self._path.stem}.{native}{suffix}")
        self._group.attrs.update({"media": self.media.name, "shape": self._info.shape})
        return _partial(self.media)

    def _encode(self, log: SensorLog) -> None:
        height, width = self._info.shape[:2]
        video = LosslessVideo(str(self._beside(".mp4")), height, width, self._info.rate_hz)
        times = _Rows(self._group, "times", (), np.dtype(np.float64))
        try:
            for block in _blocks(log, self._info):
                times.append(block.times_s)
                video.append(block.data)
        finally:
            video.close()
        self._check(times.count)

    def _append(self, log: SensorLog) -> None:
        rows, count, line = None, 0, AnchorLine(max(ANCHOR_TOLERANCE_S, 2 * np.spacing(abs(self._info.stop_s))))
        kind, shape = ("anchors", (2,)) if self._info.modality == "audio" else ("times", ())
        times = _Rows(self._group, kind, shape, np.dtype(np.float64))
        for block in _blocks(log, self._info):
            if kind == "anchors":
                line.add(np.arange(count, count + len(block.data)), block.times_s)
                times.append(line.take())
            else:
                times.append(block.times_s)
            data = _resized(block.data, self._size)
            rows = rows or _Rows(self._group, "data", data.shape[1:], data.dtype)
            rows.append(data)
            count += len(data)
        if kind == "anchors" and count:
            times.append(line.knots())
        self._check(count)

    def _check(self, count: int) -> None:
        if count != self._info.count:
            where = f"{self._path}: {self._info.name}"
            raise log_error(where, f"{count} samples", f"{self._info.count}, as the log says", "Is it being written?")


class _Rows:
    """An array of an HDF5 file that grows by blocks."""

    def __init__(self, group: h5py.Group, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
        size = math.prod(shape)
        rows = 1 if size >= 1024 else CHUNK_ROWS * max(1, 64 // max(size, 1))
        form = {"maxshape": (None, *shape), "chunks": (rows, *shape), "dtype": dtype}
        self._data = group.create_dataset(name, (0, *shape), **form)
        self.count = 0

    def append(self, rows: np.ndarray) -> None:
        if len(rows):
            self._data.resize(self.count + len(rows), axis=0)
            self._data[self.count :] = rows
            self.count += len(rows)


def _blocks(log: SensorLog, info: SensorInfo) -> Iterator[Stream]:
    """All samples of a sensor in pieces of bounded size, not one left out whatever its stamp."""
    rows = min(max(1, BLOCK_BYTES // (math.prod(info.shape) * np.dtype(info.dtype).itemsize + 8)), BLOCK_ROWS)
    seconds = info.stop_s - info.start_s
    step = max(rows / max(info.rate_hz, info.count / seconds), seconds / MAX_BLOCKS)
    edges = info.start_s + step * np.arange(1, math.ceil(seconds / step))
    for start, stop in pairwise([-math.inf, *edges.tolist(), math.inf]):
        block = log.read(info.name, start, stop)
        if len(block.times_s):
            yield block


def _resized(data: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """A few frames at a time: on the way they are float32."""
    if size is None or not len(data):
        return data
    parts = [resize_frames(data[i : i + RESIZED_TOGETHER], size) for i in range(0, len(data), RESIZED_TOGETHER)]
    return np.concatenate(parts)


def _whole_video(log: SensorLog, name: str) -> tuple[str, Clock] | None:
    """The video file that is this sensor, frame by frame, and its clock; None where frames lie elsewhere or in a part."""
    if isinstance(log, NativeLog) and name in log.media:
        path, clock = log.media[name], POOL.get(OpenLog, log.path).stream(name)[0]
    elif isinstance(log, ForeignLog) and isinstance(frames := log.sensor(name).samples, Frames) and not frames.begin:
        path, clock = frames.path, log.sensor(name).clock
    else:
        return None
    return (path, clock) if len(POOL.get(open_video, path).times_s) == clock.count else None
