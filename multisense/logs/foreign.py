"""A log of a foreign format, read in place: sensors whose samples lie anywhere, each on its own clock.

A format is one module of `formats` that turns what is at a path into `ForeignLog`s. A log keeps only what pickles small: a
`Samples` knows where its numbers lie and opens their file through the pool when they are asked for.
"""

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from multisense.logs.base import log_error
from multisense.logs.clock import Clock, StampedClock, check_rate, check_times, check_together
from multisense.logs.files import fingerprint_files
from multisense.logs.media import open_video
from multisense.logs.pool import POOL
from multisense.types import Label, SensorInfo, Stream

MOST_PIXELS = 1 << 26
"""Of one picture; some cameras have a quarter of that."""


class Samples(Protocol):
    """Where the samples of one sensor lie."""

    def read(self, first: int, last: int) -> np.ndarray:
        """(last - first, *sample): the samples [first, last), fetching no others where the format allows it."""
        ...


@runtime_checkable
class Pickable(Protocol):
    """Samples that are dear enough to be fetched one by one."""

    def pick(self, places: np.ndarray) -> np.ndarray:
        """(len(places), *sample): the samples at `places`, which are distinct and increasing."""
        ...


@dataclass(frozen=True)
class Rows:
    """Rows of one array of a file. `opener(path)` gives a closable mapping of arrays, such as an `h5py.File`."""

    opener: Callable[[str], Any]
    path: str
    key: str
    begin: int = 0
    """Row of the log's first sample."""

    def read(self, first: int, last: int) -> np.ndarray:
        array = POOL.get(self.opener, self.path)[self.key]
        try:
            return np.asarray(array[self.begin + first : self.begin + last])
        except (OSError, RuntimeError, LookupError, TypeError, OverflowError, MemoryError) as error:
            found = f"unreadable rows ({error})"
            raise log_error(f"{self.path}: {self.key}", found, "numbers", "Copy it again.") from error


@dataclass(frozen=True)
class Frames:
    """Frames of a video file, by their place in presentation order."""

    path: str
    begin: int = 0

    def read(self, first: int, last: int) -> np.ndarray:
        return self.pick(np.arange(first, last))

    def pick(self, places: np.ndarray) -> np.ndarray:
        return POOL.get(open_video, self.path).frames(self.begin + places)


@dataclass(frozen=True)
class Images:
    """Images kept one by one as JPEG or PNG bytes; `encoded` gives N objects that are bytes or uint8 arrays."""

    encoded: Samples
    shape: tuple[int, ...]
    where: str

    def read(self, first: int, last: int) -> np.ndarray:
        return self.pick(np.arange(first, last))

    def pick(self, places: np.ndarray) -> np.ndarray:
        out = np.empty((0, *self.shape), np.uint8)
        if not len(places):
            return out
        encoded = self.encoded.read(int(places[0]), int(places[-1]) + 1)
        for i, place in enumerate(places.tolist()):
            where = f"{self.where}, image {place}"
            image = decode_image(bytes(encoded[place - places[0]]), where)
            if image.shape != self.shape:
                raise log_error(where, f"shape {image.shape}", f"{self.shape}", "Re-encode it.")
            if not i:  # the first picture has shown that the shape is more than a claim
                out = np.empty((len(places), *self.shape), np.uint8)
            out[i] = image
        return out


def decode_image(data: bytes, where: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB of JPEG or PNG bytes. Raises LogError where they are neither, damaged, or absurdly large."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels")
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # over damaged bytes Pillow raises whatever its parsers do
        raise log_error(where, f"undecodable image bytes ({error})", "a JPEG or PNG", "Copy the file again.") from error


@dataclass(frozen=True)
class Sensor:
    """One sensor of a foreign log."""

    info: SensorInfo
    clock: Clock
    samples: Samples


def stamped(
    name: str,
    times_s: np.ndarray,
    samples: Samples,
    shape: tuple[int, ...],
    dtype: str,
    where: str,
    *,
    modality: str = "",
    rate_hz: float = 0.0,
    units: str = "",
    channels: tuple[str, ...] = (),
) -> Sensor:
    """A sensor with a time stamp for every sample; a rate of 0 means: measure it, as one over the median step.

    `where` names the file and the place in it. Raises LogError where the stamps are no clock, or there are none.
    """
    times_s = np.asarray(times_s, np.float64)
    if not len(times_s):
        raise log_error(where, "no samples", "at least one", "Leave this sensor out.")
    check_times(times_s, len(times_s), where)
    return on_clock(
        name, StampedClock(times_s), samples, shape, dtype,
        modality=modality, rate_hz=rate_hz or measured_rate(times_s), units=units, channels=channels,
    )  # fmt: skip


def on_clock(
    name: str,
    clock: Clock,
    samples: Samples,
    shape: tuple[int, ...],
    dtype: str,
    *,
    modality: str,
    rate_hz: float,
    units: str = "",
    channels: tuple[str, ...] = (),
) -> Sensor:
    """A sensor on a clock already made and checked, such as the anchors of sound."""
    check_rate(rate_hz, name)
    first, last = clock.times(0, 1)[0], clock.times(clock.count - 1, clock.count)[0]
    stop = float(last) + 1 / rate_hz
    info = SensorInfo(name, modality, rate_hz, shape, dtype, float(first), stop, clock.count, units, channels)
    return Sensor(info, clock, samples)


def measured_rate(times_s: np.ndarray) -> float:
    """Samples per second: one over the median step; 1 for a single sample."""
    return float(1 / np.median(np.diff(times_s))) if len(times_s) > 1 else 1.0


class ForeignLog:
    """One recording of a foreign format. Holds no open file, so it pickles and forks."""

    def __init__(
        self,
        name: str,
        path: str,
        sensors: Iterable[Sensor],
        *,
        labels: Iterable[Label] = (),
        files: Iterable[str] = (),
        skipped: Mapping[str, str] | None = None,
        notes: Mapping[str, str] | None = None,
    ) -> None:
        """`files` are all that the log is read from (`path` alone by default); `skipped` says, by name, why something in
        them is no sensor; `notes` says, by sensor, what a reader had to decide, such as which of two stamps it took."""
        self.name, self.path = name, path
        self._parts = {sensor.info.name: sensor for sensor in sensors}
        self.sensors: Mapping[str, SensorInfo] = {name: sensor.info for name, sensor in self._parts.items()}
        self.labels: Mapping[str, Label] = {label.name: label for label in labels}
        self.skipped: Mapping[str, str] = dict(skipped or {})
        self.notes: Mapping[str, str] = dict(notes or {})
        self._files = tuple(files) or (path,)
        if not self.sensors:
            found = f"no usable sensor; {self.skipped}" if self.skipped else "no usable sensor"
            raise log_error(f"{path}: {name}", found, "at least one", "Leave this log out, or convert it.")
        check_together({n: (info.start_s, info.stop_s) for n, info in self.sensors.items()}, f"{path}: {name}")

    def read(self, sensor: str, start_s: float, stop_s: float) -> Stream:
        """The samples of `sensor` with start_s <= time < stop_s, decoding or reading no others."""
        found = self.sensor(sensor)
        first, last = found.clock.span(start_s, stop_s)
        return self._stream(found, found.clock.times(first, last), found.samples.read(first, last))

    def times(self, sensor: str, start_s: float, stop_s: float) -> np.ndarray:
        """The times of what `read` would give."""
        clock = self.sensor(sensor).clock
        return clock.times(*clock.span(start_s, stop_s))

    def pick(self, sensor: str, start_s: float, stop_s: float, places: np.ndarray) -> Stream:
        """Of what `read` would give the samples at `places`, decoding no other frame."""
        found = self.sensor(sensor)
        if not isinstance(found.samples, Pickable):
            stream = self.read(sensor, start_s, stop_s)
            return Stream(sensor, stream.times_s[places], stream.data[places], stream.rate_hz)
        first, last = found.clock.span(start_s, stop_s)
        return self._stream(found, found.clock.times(first, last)[places], found.samples.pick(first + places))

    def _stream(self, sensor: Sensor, times_s: np.ndarray, values: np.ndarray) -> Stream:
        name = sensor.info.name
        if len(values) != len(times_s):
            where, found = f"{self.path}: {self.name}/{name}", f"{len(values)} samples"
            raise log_error(where, found, f"{len(times_s)}, as many as stamps", "Copy it again.")
        return Stream(name, times_s, values, sensor.info.rate_hz)

    def sensor(self, name: str) -> Sensor:
        """One of `sensors` with its clock and where its samples lie."""
        if name not in self._parts:
            where = f"{self.path}: {self.name}"
            raise log_error(where, f"no sensor '{name}'", f"one of {sorted(self._parts)}", "Check the name.")
        return self._parts[name]

    def fingerprint(self) -> str:
        return fingerprint_files(self._files, self.name)

    def __repr__(self) -> str:
        return f"ForeignLog({self.path!r}, {self.name!r}, sensors={list(self.sensors)})"
