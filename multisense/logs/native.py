"""The native log, version 1: one HDF5 file per recording, video files beside it.

attrs  format="multisense-log"  version=1  source=<text>  ...
/streams/<sensor>   attrs: modality, rate_hz, units, channels?, media?
    times    float64 (N,)      seconds on the log's clock, strictly increasing
    anchors  float64 (K, 2)    (sample index, seconds), piecewise linear, instead of times
    data     (N, *sample)      absent when the file `media`, beside the log, holds the frames
    dropped  an attribute, by `LogWriter` only: how many samples a slow disk cost
    flushed  int64 (2,)        by `LogWriter` only: how many rows of data, and of times or anchors, are whole
/labels/<name>      attrs: reduce, classes, units; `times` and `data`, or an attribute `value` for one per log
/clock/<sensor>     attrs: offset_s, drift_ppm; applied when reading (see `clock.corrected` for the signs)

While a log is recorded, and after its process was killed, the attribute recording=True says that it ends at `flushed`.
A stream with none flushed is left out.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import h5py
import numpy as np

from multisense.logs.base import LogError, log_error
from multisense.logs.clock import (
    FARTHEST_S,
    AnchoredClock,
    Clock,
    StampedClock,
    check_anchors,
    check_rate,
    check_times,
    check_together,
    corrected,
)
from multisense.logs.files import fingerprint_files, stays_inside
from multisense.logs.hdf5_file import checked_array, follow, naming_damage
from multisense.logs.media import Video, open_video
from multisense.logs.native_write import FORMAT, VERSION, Recording, write_log
from multisense.logs.pool import POOL
from multisense.logs.unfinished import open_hdf5
from multisense.types import Label, Reduction, SensorInfo, Stream

__all__ = ["FORMAT", "VERSION", "NativeLog", "Recording", "write_log"]

EVERY_ROW = 1 << 62


@dataclass(frozen=True)
class Header:
    """What a log says of itself before any of its data are read."""

    attributes: Mapping[str, Any]
    sensors: Mapping[str, SensorInfo]
    media: Mapping[str, str]
    """Where the frames of a sensor lie, if beside the log."""
    dropped: Mapping[str, int]
    """How many samples a recorder left out because its disk was too slow; only the sensors where it did."""


class NativeLog:
    """A native log, checked on opening: format, version, lengths, every time stamp, and that its media are there.

    One that is being recorded is seen as it was when opened; `attributes["recording"]` tells.

    Holds no open file, so it pickles and forks; data are read through the pool.

    Raises:
        LogError: naming the file, the place in it, what was found, what was expected and the fix.
    """

    def __init__(self, path: str | Path, known: Header | None = None) -> None:
        """`known` is its header where that was read and checked before: the file is then not opened."""
        self.path = str(path)
        self.name = Path(path).stem
        self._labels: Mapping[str, Label] | None = None
        if known is None:
            with _opened(self.path) as file:
                known = _header(file, self.path)
                self._labels = {label.name: label for label in _labels(file, self.path)}
        self.header = known
        self.attributes, self.sensors = known.attributes, known.sensors
        self.media, self.dropped = known.media, known.dropped
        self.source = str(self.attributes.get("source", ""))
        if not self.sensors:
            raise log_error(f"{self.path}: /streams", "no sensor", "at least one", "Record something.")
        check_together({name: (info.start_s, info.stop_s) for name, info in self.sensors.items()}, self.path)

    @property
    def labels(self) -> Mapping[str, Label]:
        """Ground truth, by name; read when first asked for where the header was known."""
        if self._labels is None:
            with _opened(self.path) as file:
                self._labels = {label.name: label for label in _labels(file, self.path)}
        return self._labels

    def read(self, sensor: str, start_s: float, stop_s: float) -> Stream:
        """The samples of `sensor` with start_s <= time < stop_s, decoding or reading no others."""
        with naming_damage(self.path):
            clock, data = self._stream(sensor)
            first, last = clock.span(start_s, stop_s)
            values = self._frames(sensor, np.arange(first, last)) if data is None else data[first:last]
        return Stream(sensor, clock.times(first, last), values, self.sensors[sensor].rate_hz)

    def times(self, sensor: str, start_s: float, stop_s: float) -> np.ndarray:
        """The times of what `read` would give."""
        with naming_damage(self.path):
            clock, _ = self._stream(sensor)
        return clock.times(*clock.span(start_s, stop_s))

    def pick(self, sensor: str, start_s: float, stop_s: float, places: np.ndarray) -> Stream:
        """Of what `read` would give the samples at `places`, decoding no other frame."""
        with naming_damage(self.path):
            clock, data = self._stream(sensor)
            first, last = clock.span(start_s, stop_s)
            values = self._frames(sensor, first + places) if data is None else data[first:last][places]
        return Stream(sensor, clock.times(first, last)[places], values, self.sensors[sensor].rate_hz)

    def fingerprint(self) -> str:
        return fingerprint_files([self.path, *self.media.values()])

    def _stream(self, sensor: str) -> tuple[Clock, h5py.Dataset | None]:
        if sensor not in self.sensors:
            raise log_error(self.path, f"no sensor '{sensor}'", f"one of {sorted(self.sensors)}", "Check the name.")
        return POOL.get(OpenLog, self.path).stream(sensor)

    def _frames(self, sensor: str, places: np.ndarray) -> np.ndarray:
        video = POOL.get(open_video, self.media[sensor])
        _check_video(video, self.sensors[sensor], f"{self.path}: /streams/{sensor}")
        return video.frames(places)

    def __repr__(self) -> str:
        return f"NativeLog({self.path!r}, sensors={list(self.sensors)}, labels={list(self.labels)})"


class OpenLog:
    """The open HDF5 file of a log, with the clock and data set of each stream once asked for."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = open_hdf5(path)
        self._streams: dict[str, tuple[Clock, h5py.Dataset | None]] = {}

    def stream(self, sensor: str) -> tuple[Clock, h5py.Dataset | None]:
        """The clock of a sensor, and its data unless they are in a media file."""
        if sensor not in self._streams:
            group = _group(self._file, f"streams/{sensor}", self._path)
            where = f"{self._path}: /streams/{sensor}"
            data = None if "media" in group.attrs else _dataset(group, "data", where)
            self._streams[sensor] = _clock(self._file, group, self._path), data
        return self._streams[sensor]

    def close(self) -> None:
        self._file.close()


@contextmanager
def _opened(path: str) -> Iterator[h5py.File]:
    if not Path(path).is_file():
        raise log_error(path, "no such file", "a native log (.h5)", "Check the path.")
    if not h5py.is_hdf5(path):
        raise log_error(path, "a file that is not HDF5", "a native log (.h5)", "Write it with `write_log`.")
    with naming_damage(path), open_hdf5(path) as file:
        _check_header(file, path)
        yield file


def _header(file: h5py.File, path: str) -> Header:
    names = map(str, _group(file, "streams", path))
    groups = {name: _group(file, f"streams/{name}", path) for name in names}
    streams = {name: group for name, group in groups.items() if _flushed(group, path)[0]}
    media: dict[str, str] = {}
    sensors: dict[str, SensorInfo] = {}
    for name, group in streams.items():
        with _naming(name):
            if "media" in group.attrs:
                media[name] = _media(group, path)
            sensors[name] = _info(file, group, media.get(name), path)
    attributes = {key: _plain(value) for key, value in file.attrs.items()}
    lost = {name: _plain(group.attrs.get("dropped")) for name, group in streams.items()}
    dropped = {name: n for name, n in lost.items() if isinstance(n, int) and n > 0}
    return Header(attributes, sensors, media, dropped)


def _check_header(file: h5py.File, path: str) -> None:
    form, version = _plain(file.attrs.get("format")), _plain(file.attrs.get("version"))
    if form != FORMAT:
        raise log_error(path, f"attribute format={form!r}", f"{FORMAT!r}", "Write it with `write_log`.")
    if version != VERSION:
        raise log_error(path, f"format version {version!r}", f"{VERSION}", "Update multisense, or write the log anew.")


@contextmanager
def _naming(sensor: str) -> Iterator[None]:
    """Errors in here are of that sensor."""
    try:
        yield
    except LogError as error:
        error.sensor = sensor
        raise


def _info(file: h5py.File, group: h5py.Group, media: str | None, path: str) -> SensorInfo:
    where = f"{path}: {group.name}"
    if media:
        shape, dtype = _frame_shape(group, media), "uint8"
    else:
        data = _dataset(group, "data", where)
        shape, dtype = data.shape[1:], str(data.dtype)
    clock = _clock(file, group, path)
    first, last = clock.times(0, 1)[0], clock.times(clock.count - 1, clock.count)[0]
    attrs = {"modality": "", "units": "", **dict(group.attrs.items())}
    rate_hz = _rate(group, where)
    return SensorInfo(
        name=str(group.name).rpartition("/")[2],
        modality=str(_plain(attrs["modality"])),
        rate_hz=rate_hz,
        shape=shape,
        dtype=dtype,
        start_s=float(first),
        stop_s=float(last) + 1 / rate_hz,
        count=clock.count,
        units=str(_plain(attrs["units"])),
        channels=tuple(str(_plain(channel)) for channel in attrs.get("channels", ())),
    )


def _clock(file: h5py.File, group: h5py.Group, path: str) -> Clock:
    """The checked clock of a stream, corrections applied."""
    where = f"{path}: {group.name}"
    kinds = [kind for kind in ("times", "anchors") if kind in group]
    if len(kinds) != 1:
        fix = "Give every sensor exactly one of them."
        raise log_error(where, " and ".join(kinds) or "neither times nor anchors", "times or anchors", fix)
    stamps = np.asarray(_dataset(group, kinds[0], where)[()], np.float64)
    count = len(stamps) if "media" in group.attrs else len(_dataset(group, "data", where))
    if _plain(file.attrs.get("recording")) is True:
        rows, known = _flushed(group, path)
        count, stamps = min(count, rows), stamps[:known]
        if kinds == ["times"]:  # the counts may be newer than the lengths, which the writer changes as we read
            count = min(count, len(stamps))
            stamps = stamps[:count]
    if not count:
        raise log_error(where, "no samples", "at least one", "Leave a sensor that recorded nothing out of the log.")
    offset_s, drift_ppm = _correction(file, where.rpartition("/")[2], path)
    if kinds == ["times"]:
        check_times(stamps, count, f"{where}/times")
        stamps = corrected(stamps, offset_s, drift_ppm)
        check_times(stamps, count, f"{where}/times, corrected")
        return StampedClock(stamps)
    check_anchors(stamps, f"{where}/anchors")
    stamps[:, 1] = corrected(stamps[:, 1], offset_s, drift_ppm)
    check_anchors(stamps, f"{where}/anchors, corrected")
    return AnchoredClock(stamps, _rate(group, where), count)


def _flushed(group: h5py.Group, path: str) -> tuple[int, int]:
    """Whole rows of data, and of times or anchors; all of them in a log that was written in one go."""
    if "flushed" not in group:
        return EVERY_ROW, EVERY_ROW
    where = f"{path}: {group.name}"
    counts = _dataset(group, "flushed", where)
    if counts.shape != (2,) or counts.dtype.kind not in "iu" or (counts[()] < 0).any():
        found = f"{counts.dtype} of shape {counts.shape}"
        raise log_error(f"{where}/flushed", found, "two counts", "It was damaged: copy the log again.")
    rows, known = counts[()].tolist()
    return rows, known


def _rate(group: h5py.Group, where: str) -> float:
    rate_hz = _plain(group.attrs.get("rate_hz"))
    if not isinstance(rate_hz, (int, float)):
        raise log_error(where, f"rate_hz={rate_hz!r}", "a positive number", "Write the nominal rate in hertz.")
    check_rate(rate_hz, where)
    return float(rate_hz)


def _correction(file: h5py.File, name: str, path: str) -> tuple[float, float]:
    if f"clock/{name}" not in file:
        return 0.0, 0.0
    attrs = _group(file, f"clock/{name}", path).attrs
    offset_s, drift_ppm = float(attrs.get("offset_s", 0.0)), float(attrs.get("drift_ppm", 0.0))
    if not abs(offset_s) <= FARTHEST_S or not abs(drift_ppm) < 1e6:
        found = f"offset_s={offset_s}, drift_ppm={drift_ppm}"
        raise log_error(f"{path}: /clock/{name}", found, "a finite offset and |drift| < 1e6 ppm", "Estimate it again.")
    return offset_s, drift_ppm


def _media(group: h5py.Group, path: str) -> str:
    """The media file of a stream: beside the log, never outside its folder."""
    where, folder = f"{path}: {group.name}", Path(path).parent
    name = str(_plain(group.attrs["media"]))
    if not stays_inside(name) or not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise log_error(
            where, f"media {name!r} outside the log's folder", "a relative name inside it", "Move it there."
        )
    if not (folder / name).is_file():
        raise log_error(where, f"no media file {name!r}", f"it in {folder}", "Copy the media files with the log.")
    return str(folder / name)


def _frame_shape(group: h5py.Group, media: str) -> tuple[int, ...]:
    """Shape of a media frame, recorded by the writer so that opening a log does not open its videos."""
    if "shape" in group.attrs:
        return tuple(int(side) for side in np.asarray(group.attrs["shape"]))
    return POOL.get(open_video, media).shape


def _check_video(video: Video, info: SensorInfo, where: str) -> None:
    if len(video.times_s) < info.count:
        found = f"{len(video.times_s)} frames in {Path(video.path).name} for {info.count} times"
        fix = "The video was cut short: copy or encode it again."
        raise log_error(where, found, "a frame for every time", fix, kind="frames", sensor=info.name)
    if video.shape != info.shape:
        found = f"frames of shape {video.shape} in {Path(video.path).name}"
        raise log_error(where, found, f"{info.shape}", "Is this the video of another log?")


def _labels(file: h5py.File, path: str) -> Iterator[Label]:
    for name in map(str, _group(file, "labels", path) if "labels" in file else ()):
        where = f"{path}: /labels/{name}"
        group = _group(file, f"labels/{name}", path)
        attrs = {"reduce": "mean", "units": "", "classes": (), **dict(group.attrs.items())}
        reduce = _plain(attrs["reduce"])
        if reduce not in get_args(Reduction):
            raise log_error(where, f"reduce={reduce!r}", f"one of {get_args(Reduction)}", "Correct the attribute.")
        times, data = _label_values(group, where)
        classes = tuple(str(_plain(item)) for item in attrs["classes"])
        yield Label(name, data, times, reduce, classes, str(_plain(attrs["units"])))


def _label_values(group: h5py.Group, where: str) -> tuple[np.ndarray | None, np.ndarray]:
    if "value" in group.attrs:
        return None, np.asarray(group.attrs["value"])
    times, data = (np.asarray(_dataset(group, part, where)[()]) for part in ("times", "data"))
    check_times(times, len(data), f"{where}/times")
    return times, data


def _group(parent: h5py.Group, name: str, path: str) -> h5py.Group:
    child = follow(parent, name, path)
    if not isinstance(child, h5py.Group):
        found = "nothing" if child is None else type(child).__name__
        raise log_error(f"{path}: /{name}", found, "a group", "Write the log with `write_log`.")
    return child


def _dataset(group: h5py.Group, name: str, where: str) -> h5py.Dataset:
    array = checked_array(follow(group, name, where.removesuffix(f": {group.name}")), f"{where}/{name}")
    if array.dtype.kind not in "biuf":
        raise log_error(f"{where}/{name}", f"{array.dtype} values", "numbers", "Write the log with `write_log`.")
    return array


def _plain(value: Any) -> Any:
    """An HDF5 attribute as a plain Python value."""
    return value.decode() if isinstance(value, bytes) else value.item() if isinstance(value, np.generic) else value
