"""The file of a native log that is being recorded: readable at any moment, also after its process was killed.

HDF5's single-writer-multiple-readers mode keeps the file's structure whole; which rows are whole, each stream says in
its data set `flushed` (see logs/native.py), written when they are on the disk.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from multisense.logs.fragments import GrowingVideo
from multisense.logs.native_write import CHUNK_ROWS, FORMAT, VERSION, media_path, publish_new, write_label
from multisense.types import Label

STAMP_ROWS = 4096
"""Time stamps, or anchors, per chunk."""


@dataclass(frozen=True)
class RecordedSensor:
    """What `LogWriter.add_sensor` was told."""

    modality: str
    rate_hz: float
    shape: tuple[int, ...]
    dtype: np.dtype
    units: str = ""
    channels: tuple[str, ...] = ()
    media: str = ""

    @property
    def is_audio(self) -> bool:
        return self.modality == "audio"


class SwmrLog:
    """The open file; one thread at a time."""

    def __init__(
        self,
        path: Path,
        sensors: Mapping[str, RecordedSensor],
        labels: Iterable[Label],
        attributes: Mapping[str, str | float | int],
    ) -> None:
        """Write the structure, which cannot change any more, and start recording. LogError where `path` is there."""
        partial = path.with_name(f".{path.name}.partial")
        with h5py.File(partial, "w", libver="v110") as file:
            file.attrs.update({"format": FORMAT, "version": VERSION, "recording": np.bool_(True), **attributes})
            for name, sensor in sensors.items():
                _create_stream(file.create_group(f"streams/{name}"), path, sensor)
            for label in labels:
                write_label(file.create_group(f"labels/{label.name}"), label)
        publish_new(partial, path)
        self._file = h5py.File(path, "r+", libver="v110", locking=False)
        self._file.swmr_mode = True
        self._streams = {name: _Stream(self._file, f"streams/{name}", path, s) for name, s in sensors.items()}

    def write(self, name: str, data: list[np.ndarray], stamps: list[np.ndarray]) -> None:
        """Blocks (N, *sample), in order, and their times (N,) or anchors (K, 2)."""
        self._streams[name].write(data, stamps)

    def flush(self, dropped: Mapping[str, int]) -> dict[str, int]:
        """Bring all that was written to the disk and only then say so; whole samples per sensor."""
        for name, stream in self._streams.items():
            stream.flush(dropped[name])
        self._sync()
        for stream in self._streams.values():
            stream.commit()
        self._sync()
        return {name: stream.rows for name, stream in self._streams.items()}

    def finish(self) -> None:
        """Mark the log, flushed before, as finished, unless a video fails to be; all others are finished nevertheless."""
        with ExitStack() as every:
            for stream in self._streams.values():
                if stream.video is not None:
                    every.callback(stream.video.finish)
        self._file.attrs.modify("recording", np.bool_(False))
        self._file.flush()
        self._sync()

    def close(self) -> None:
        self._file.close()

    def _sync(self) -> None:
        os.fsync(self._file.id.get_vfd_handle())


class _Stream:
    """One sensor's part of the file. Stamps wait for the flush, so that none is ever ahead of its data."""

    def __init__(self, file: h5py.File, place: str, path: Path, sensor: RecordedSensor) -> None:
        self._attributes = file[place].attrs
        self._stamps = _dataset(file, f"{place}/{'anchors' if sensor.is_audio else 'times'}")
        self._flushed = _dataset(file, f"{place}/flushed")
        self.video = (
            GrowingVideo(media_path(path, sensor.media), sensor.shape, sensor.rate_hz) if sensor.media else None
        )
        self._data = None if sensor.media else _dataset(file, f"{place}/data")
        self._waiting: list[np.ndarray] = []
        self._dropped = 0
        self.rows = 0

    def write(self, data: list[np.ndarray], stamps: list[np.ndarray]) -> None:
        if self.video is not None:
            for frame in (frame for block in data for frame in block):
                self.video.append(frame)
        if self._data is not None:
            _extend(self._data, data)
        self.rows += sum(map(len, data))
        self._waiting += stamps

    def flush(self, dropped: int) -> None:
        if self._waiting:
            for part in (self.video, self._data):
                if part is not None:
                    part.flush()
            _extend(self._stamps, self._waiting)
            self._stamps.flush()
            self._waiting = []
        if dropped != self._dropped:
            self._dropped = dropped
            self._attributes.modify("dropped", np.int64(dropped))

    def commit(self) -> None:
        self._flushed[...] = self.rows, len(self._stamps)
        self._flushed.flush()


def _dataset(file: h5py.File, place: str) -> h5py.Dataset:
    found = file[place]
    assert isinstance(found, h5py.Dataset)
    return found


def _extend(dataset: h5py.Dataset, blocks: list[np.ndarray]) -> None:
    rows = np.concatenate(blocks)
    dataset.resize(len(dataset) + len(rows), axis=0)
    dataset[-len(rows) :] = rows


def _create_stream(group: h5py.Group, path: Path, sensor: RecordedSensor) -> None:
    group.attrs.update({"modality": sensor.modality, "rate_hz": sensor.rate_hz, "units": sensor.units})
    group.attrs["dropped"] = np.int64(0)
    if sensor.channels:
        group.attrs["channels"] = list(sensor.channels)
    if sensor.media:
        group.attrs.update({"media": media_path(path, sensor.media).name, "shape": sensor.shape})
    else:
        _create_growing(group, "data", sensor.shape, sensor.dtype, _chunk_rows(sensor.shape))
    kind, row = ("anchors", (2,)) if sensor.is_audio else ("times", ())
    _create_growing(group, kind, row, np.dtype(np.float64), STAMP_ROWS)
    group.create_dataset("flushed", data=np.zeros(2, np.int64))


def _create_growing(group: h5py.Group, name: str, row: tuple[int, ...], dtype: np.dtype, chunk_rows: int) -> None:
    group.create_dataset(name, (0, *row), dtype, maxshape=(None, *row), chunks=(chunk_rows, *row))


def _chunk_rows(shape: tuple[int, ...]) -> int:
    """One frame per chunk for images, some rows for signals, as in `write_log`."""
    size = int(np.prod(shape))
    return 1 if len(shape) == 3 and size >= 1024 else CHUNK_ROWS * max(1, 64 // size)
