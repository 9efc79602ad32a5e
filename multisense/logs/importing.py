"""Any logs -> native logs, block by block, so that memory does not grow with a log.

Without `size` nothing is lost: a sensor that is a whole video file gets that file, bit for bit; other pictures become
lossless H.264; everything else keeps its numbers. With `size` pictures are decoded once, resized as `clips` would, and
kept as uint8 arrays, one frame per chunk. Times are kept as they are; of sound, anchors within a nanosecond.
"""

import hashlib
import json
import math
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from multisense.logs.anchors import AnchorLine
from multisense.logs.base import LogError, SensorLog, log_error
from multisense.logs.clock import Clock
from multisense.logs.foreign import ForeignLog, Frames
from multisense.logs.frames import LosslessVideo, resize_frames
from multisense.logs.media import open_video
from multisense.logs.native import NativeLog, _OpenLog
from multisense.logs.native_write import CHUNK_ROWS, FORMAT, VERSION, _publish, _write_label
from multisense.logs.open import survey_logs
from multisense.logs.parallel import each
from multisense.logs.pool import POOL
from multisense.types import SensorInfo, Stream

IMPORT_VERSION = 1
"""Raised when the same source gives other files."""
MANIFEST = "manifest.json"
BLOCK_BYTES = 24 << 20
BLOCK_ROWS = 1 << 20
MAX_BLOCKS = 1_000_000
RESIZED_TOGETHER = 8
ANCHOR_TOLERANCE_S = 1e-9
SMALLEST_VIDEO = 32
"""Pixels of a side below which H.264 is larger than the numbers."""


@dataclass(frozen=True)
class Imported:
    """What an import made."""

    logs: tuple[Path, ...]
    failed: Mapping[str, str]
    """Why a log could not be imported, by name."""
    manifest: Path


@dataclass(frozen=True)
class _Job:
    log: SensorLog
    path: Path
    size: tuple[int, int] | None
    sensors: tuple[str, ...] | None


def parse_size(size: str | None) -> tuple[int, int] | None:
    """(height, width) of "64x48". Raises ValueError where it is something else."""
    sides = (size or "").lower().split("x")
    if size is not None and (len(sides) != 2 or not all(side.isdigit() and int(side) for side in sides)):
        raise ValueError(f"--size {size}: expected HEIGHTxWIDTH, for example 64x64")
    return None if size is None else (int(sides[0]), int(sides[1]))


def import_logs(
    source: str | Path | Sequence[SensorLog],
    out: str | Path,
    size: tuple[int, int] | None = None,
    sensors: Sequence[str] | None = None,
    workers: int | None = None,
) -> Imported:
    """Write every log of `source` (a path, or logs) as a native log into the folder `out`, and a `manifest.json`.

    `size` (height, width) resizes pictures; `sensors` chooses by name (default: all). Logs run in parallel over `workers`
    processes. A log appears under its name only when whole, and one already there from the same source is kept, so a
    run that was stopped goes on. A log that cannot be read is listed as failed, and the others are imported.

    Raises:
        LogError: nothing readable in `source`, sensors that no log has, or an `out` of another import.
    """
    opened, errors = survey_logs(source) if isinstance(source, (str, Path)) else (list(source), {})
    failed = {name: str(error) for name, error in errors.items()}
    _check_sensors(opened, sensors, str(source))
    folder = Path(out)
    manifest = _claim(
        folder, {"import": IMPORT_VERSION, "size": size and list(size), "sensors": sensors and [*sensors]}
    )
    chosen = tuple(sensors) if sensors else None
    jobs = {job.path.stem: job for job in (_Job(log, folder / f"{_safe(log.name)}.h5", size, chosen) for log in opened)}
    if len(jobs) < len(opened):
        raise log_error(str(source), "logs of one name", "a name for each", "Import them into folders of their own.")
    missing = [job for name, job in jobs.items() if not _is_done(job, manifest["logs"].get(name))]
    columns = (TextColumn("importing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("logs", total=len(jobs), completed=len(jobs) - len(missing))
        for name, entry, error in _noting(folder, manifest, missing, workers):
            progress.advance(task)
            if error:
                failed[name] = error
            else:
                manifest["logs"][name] = entry
    _write_manifest(folder, {**manifest, "failed": failed})
    paths = tuple(job.path for name, job in jobs.items() if name not in failed)
    return Imported(paths, failed, folder / MANIFEST)


def _noting(folder: Path, manifest: dict, jobs: list[_Job], workers: int | None) -> Iterator[tuple[str, dict, str]]:
    """Run the jobs; the manifest is written every few seconds and when they end, however they end."""
    written = time.monotonic()
    try:
        for done in each(_import, jobs, workers):
            yield done
            if time.monotonic() - written > 5:
                _write_manifest(folder, manifest)
                written = time.monotonic()
    finally:
        _write_manifest(folder, manifest)


def _check_sensors(logs: Sequence[SensorLog], sensors: Sequence[str] | None, where: str) -> None:
    there = {name for log in logs for name in log.sensors}
    unknown = sorted(set(sensors or ()) - there)
    if logs and unknown:
        raise log_error(where, f"no sensor {unknown} in any log", f"names of {sorted(there)}", "Check the names.")


def _claim(folder: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    """The manifest of the folder, new or of a run before; a folder of another recipe is refused."""
    path = folder / MANIFEST
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        manifest = {"recipe": recipe, "native": VERSION, "logs": {}, "failed": {}}
        _write_manifest(folder, manifest)
        return manifest
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        found = manifest["recipe"]
        assert isinstance(manifest["logs"], dict)
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise log_error(str(path), "no manifest of an import", "one", "Choose another folder.") from error
    if found != recipe:
        raise log_error(str(path), f"an import with {found}", f"{recipe}", "Choose another folder, or remove this one.")
    return manifest


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    partial = folder / f".{MANIFEST}.partial"
    partial.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    _publish(partial, folder / MANIFEST)


def _is_done(job: _Job, entry: dict[str, Any] | None) -> bool:
    if not entry or not all((job.path.parent / name).is_file() for name in entry["files"]):
        return False
    return entry["fingerprint"] == job.log.fingerprint()


def _safe(name: str) -> str:
    """A name a native log can have: `/robot/arm` becomes `robot_arm`."""
    return re.sub(r"[^\w.-]+", "_", name).lstrip("._") or "log"


def _import(job: _Job) -> tuple[str, dict[str, Any], str]:
    """(name, manifest entry, error) of one log; the entry lies in the finished file too, should the run end here."""
    try:
        entry = _finished(job) or _convert(job)
    except LogError as error:
        return job.path.stem, {}, str(error)
    return job.path.stem, {**entry, "files": {name: _sha256(job.path.parent / name) for name in entry["files"]}}, ""


def _finished(job: _Job) -> dict[str, Any] | None:
    if not job.path.exists():
        return None
    with h5py.File(job.path, "r", locking=False) as file:
        text = file.attrs.get("imported")
    if not isinstance(text, str):
        raise log_error(str(job.path), "a file no import made", "none of this name", "Choose another folder.")
    entry = json.loads(text)
    return entry if _is_done(job, entry) else None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _convert(job: _Job) -> dict[str, Any]:
    """Write one log: everything under temporary names first, then the media and at last the log get theirs."""
    log, path = job.log, job.path
    names = {_safe(name): name for name in log.sensors if job.sensors is None or name in job.sensors}
    where = f"{log.path}: {log.name}"
    if len(names) < sum(job.sensors is None or name in job.sensors for name in log.sensors) or not names:
        found = f"sensors {list(log.sensors)}"
        raise log_error(where, found, f"some of {job.sensors or 'any name'}, told apart by letters", "Choose sensors.")
    entry: dict[str, Any] = {"path": log.path, "name": log.name, "fingerprint": log.fingerprint()}
    entry |= {"skipped": dict(getattr(log, "skipped", {})), "notes": dict(getattr(log, "notes", {})), "sensors": {}}
    partial = _partial(path)
    media: list[Path] = []
    with h5py.File(partial, "w", libver="v110") as file:
        attributes = log.attributes if isinstance(log, NativeLog) else {}
        file.attrs.update({**attributes, "format": FORMAT, "version": VERSION, "source": where})
        for native, name in names.items():
            writer = _SensorWriter(file.create_group(f"streams/{native}"), path, log.sensors[name], job.size)
            stored = writer.copy(log)
            media += [writer.media] if writer.media else []
            entry["sensors"][native] = _described(log.sensors[name], stored)
        for label in log.labels.values():
            _write_label(file.create_group(f"labels/{_safe(label.name)}"), label)
        entry["files"] = [path.name, *(target.name for target in media)]
        file.attrs["imported"] = json.dumps(entry)
    path.unlink(missing_ok=True)  # an older import must not stand beside new media
    for target in media:
        _publish(_partial(target), target)
    _publish(partial, path)
    return entry


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
        rows, count, line = None, 0, AnchorLine(ANCHOR_TOLERANCE_S)
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
    if isinstance(log, NativeLog) and name in log._media:
        path, clock = log._media[name], POOL.get(_OpenLog, log.path).stream(name)[0]
    elif isinstance(log, ForeignLog) and isinstance(frames := log._sensors[name].samples, Frames) and not frames.begin:
        path, clock = frames.path, log._sensors[name].clock
    else:
        return None
    return (path, clock) if len(POOL.get(open_video, path).times_s) == clock.count else None
