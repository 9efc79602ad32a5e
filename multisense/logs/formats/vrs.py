"""Project Aria recordings (VRS) through `projectaria_tools`: one log per file, its streams by their labels.

Cameras are of modality "video" (grey ones three times the same plane), microphones "audio" (interleaved in the file, here
(channels,) per sample), inertial units, magnetometers, barometers and pulse sensors "proprio". Times are of the device's
clock, the only one of a file that never jumps; 0 is the first sample of any stream. Other kinds of streams are listed in
the log's `skipped`.
"""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from multisense.logs.base import LogError, SensorLog, how_to_install, log_error
from multisense.logs.clock import AnchoredClock, check_anchors
from multisense.logs.files import head
from multisense.logs.foreign import ForeignLog, Sensor, on_clock, stamped
from multisense.logs.pool import POOL

MAGIC = b"VisionRecord"
FULL_SCALE = 2.0**31
"""Of 32-bit sound that does not state its own."""


@dataclass(frozen=True)
class Kind:
    """How the records of one sort of stream become vectors."""

    getter: str
    fields: tuple[str, ...]
    channels: tuple[str, ...]
    units: str


XYZ = ("x", "y", "z")
VECTORS = {
    "IMU": Kind(
        "get_imu_data_by_index",
        ("accel_msec2", "gyro_radsec"),
        tuple(f"{what}_{axis}" for what in ("accel", "gyro") for axis in XYZ),
        "m/s^2 (accel), rad/s (gyro)",
    ),
    "MAGNETOMETER": Kind("get_magnetometer_data_by_index", ("mag_tesla",), XYZ, "T"),
    "BAROMETER": Kind(
        "get_barometer_data_by_index", ("pressure", "temperature"), ("pressure", "temperature"), "Pa, degC"
    ),
    "PPG": Kind("get_ppg_data_by_index", ("value",), ("value",), ""),
}


def recognises(path: Path) -> bool:
    """Whether `path` is a VRS file."""
    return head(path, len(MAGIC)) == MAGIC


def candidates(path: Path) -> dict[str, Callable[[], SensorLog]]:
    """{name: opener} of the one log that a VRS file is."""
    return {path.stem: partial(_open_log, str(path))}


class Recording:
    """An open VRS file."""

    def __init__(self, path: str) -> None:
        try:
            from projectaria_tools.core import data_provider
            from projectaria_tools.core.sensor_data import TimeDomain
        except ImportError as error:
            fix = how_to_install("aria")
            raise log_error(path, "no projectaria_tools in this environment", "it, to read VRS", fix) from error
        self.path = path
        with self.reading("its index"):
            self.provider: Any = data_provider.create_vrs_data_provider(path)
        if self.provider is None:
            fix = "Copy it again; recordings of other devices than Aria's are not read."
            raise log_error(path, "no readable recording", "a whole VRS file of Project Aria", fix)
        self._device_time = TimeDomain.DEVICE_TIME
        self._streams = {}
        for stream in self.provider.get_all_streams():
            label = self.provider.get_label_from_stream_id(stream) or str(stream)
            self._streams[str(stream) if label in self._streams else label] = stream

    @contextmanager
    def reading(self, what: str):
        """Turns what the library raises into a LogError that says what was read."""
        try:
            yield
        except LogError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError, OverflowError) as error:
            reason = str(error).partition("\n")[0][:200]
            raise log_error(
                f"{self.path}: {what}", f"unreadable records ({reason})", "data", "Copy it again."
            ) from error

    def kinds(self) -> dict[str, str]:
        """{label: name of its kind, as projectaria_tools has it}, sorted."""
        return {label: self.provider.get_sensor_data_type(self._streams[label]).name for label in sorted(self._streams)}

    def stamps_ns(self, label: str) -> np.ndarray:
        """(records,) int64"""
        with self.reading(label):
            return np.array(self.provider.get_timestamps_ns(self._streams[label], self._device_time), np.int64)

    def rate_hz(self, label: str) -> float:
        """Nominal rate; 0 where the file does not say."""
        with self.reading(label):
            rate = float(self.provider.get_nominal_rate_hz(self._streams[label]))
        return rate if np.isfinite(rate) and rate > 0 else 0.0

    def vector(self, label: str, kind: Kind, index: int) -> np.ndarray:
        """(channels,) float32"""
        with self.reading(f"{label}, record {index}"):
            record = getattr(self.provider, kind.getter)(self._streams[label], index)
            return np.concatenate([np.atleast_1d(getattr(record, name)) for name in kind.fields]).astype(np.float32)

    def frame(self, label: str, index: int) -> np.ndarray:
        """(height, width, 3) uint8"""
        with self.reading(f"{label}, frame {index}"):
            image = self.provider.get_image_data_by_index(self._streams[label], index)[0].to_numpy_array()
        grey = image[..., None] if image.ndim == 2 else image
        if grey.dtype != np.uint8 or grey.ndim != 3 or grey.shape[2] not in (1, 3):
            where = f"{self.path}: {label}, frame {index}"
            raise log_error(where, f"{image.dtype} of shape {image.shape}", "8-bit grey or RGB", "Leave it out.")
        return np.broadcast_to(grey, (*grey.shape[:2], 3))

    def sound(self, label: str, index: int) -> tuple[np.ndarray, np.ndarray]:
        """One record of a microphone: (N, channels) float32 of full scale 1, and (N,) int64 device times in ns."""
        with self.reading(f"{label}, block {index}"):
            data, record = self.provider.get_audio_data_by_index(self._streams[label], index)
            channels = self.provider.get_audio_configuration(self._streams[label]).num_channels
            samples = np.array(data.data, np.float64).reshape(-1, max(channels, 1))
            full = data.max_amplitude if np.isfinite(data.max_amplitude) and data.max_amplitude > 1 else FULL_SCALE
            return (samples / full).astype(np.float32), np.array(record.capture_timestamps_ns, np.int64)

    def sound_rate_hz(self, label: str) -> float:
        with self.reading(label):
            return float(self.provider.get_audio_configuration(self._streams[label]).sample_rate)

    def close(self) -> None:
        self.provider = None


@dataclass(frozen=True)
class Records:
    """Streams with a sample per record."""

    path: str
    label: str
    what: Literal["video"] | Kind
    shape: tuple[int, ...]

    def read(self, first: int, last: int) -> np.ndarray:
        return self.pick(np.arange(first, last))

    def pick(self, places: np.ndarray) -> np.ndarray:
        recording = POOL.get(Recording, self.path)
        out = np.empty((len(places), *self.shape), np.uint8 if self.what == "video" else np.float32)
        for i, place in enumerate(places.tolist()):
            if isinstance(self.what, Kind):
                sample = recording.vector(self.label, self.what, place)
            else:
                sample = recording.frame(self.label, place)
            if sample.shape != self.shape:
                where = f"{self.path}: {self.label}, record {place}"
                raise log_error(where, f"shape {sample.shape}", f"{self.shape}", "Leave this sensor out.")
            out[i] = sample
        return out


@dataclass(frozen=True)
class Blocks:
    """Microphones: `block` samples per record."""

    path: str
    label: str
    block: int
    shape: tuple[int, ...]

    def read(self, first: int, last: int) -> np.ndarray:
        recording = POOL.get(Recording, self.path)
        parts = [np.empty((0, *self.shape), np.float32)]
        for number in range(first // self.block, -(-last // self.block) if last > first else 0):
            samples = recording.sound(self.label, number)[0].reshape(-1, *self.shape)
            begin = number * self.block
            if begin + len(samples) < min(last, begin + self.block):
                where = f"{self.path}: {self.label}, block {number}"
                raise log_error(where, f"{len(samples)} samples", f"{self.block}", "Leave this sensor out.")
            parts.append(samples[max(first - begin, 0) : last - begin])
        return np.concatenate(parts)


def _open_log(path: str) -> ForeignLog:
    recording = POOL.get(Recording, path)
    sensors, skipped, notes = [], {}, {}
    kinds = recording.kinds()
    wanted = {label: kind for label, kind in kinds.items() if kind in VECTORS or kind in ("IMAGE", "AUDIO")}
    skipped = {label: f"a stream of kind {kind}" for label, kind in kinds.items() if label not in wanted}
    starts = [stamps[0] for label in wanted if len(stamps := recording.stamps_ns(label))]
    origin = _origin(recording, [label for label, kind in wanted.items() if kind == "AUDIO"], starts)
    for label, kind in wanted.items():
        try:
            make = _microphone if kind == "AUDIO" else _sensor
            sensors.append(make(recording, label, kind, origin))
            notes[label] = f"device time; 0 is {origin} ns of the device's clock"
        except LogError as error:
            skipped[label] = error.reason
    return ForeignLog(Path(path).stem, path, sensors, skipped=skipped, notes=notes)


def _origin(recording: Recording, microphones: list[str], starts: list[int]) -> int:
    """The earliest device time of any sample; a block of sound may be stamped at its end."""
    for label in microphones:
        if len(recording.stamps_ns(label)):
            stamps = recording.sound(label, 0)[1]
            starts = [*starts, *stamps[:1]]
    return int(min(starts, default=0))


def _sensor(recording: Recording, label: str, kind: str, origin: int) -> Sensor:
    times_s, where = (recording.stamps_ns(label) - origin) / 1e9, f"{recording.path}: {label}"
    rate_hz = recording.rate_hz(label)
    if kind == "IMAGE":
        shape = recording.frame(label, 0).shape if len(times_s) else ()
        records = Records(recording.path, label, "video", shape)
        return stamped(label, times_s, records, shape, "uint8", where, modality="video", rate_hz=rate_hz)
    vector = VECTORS[kind]
    shape = (len(vector.channels),)
    records = Records(recording.path, label, vector, shape)
    return stamped(
        label, times_s, records, shape, "float32", where,
        modality="proprio", rate_hz=rate_hz, units=vector.units, channels=vector.channels,
    )  # fmt: skip


def _microphone(recording: Recording, label: str, kind: str, origin: int) -> Sensor:
    """One anchor per block: the sample of it that the block is stamped by."""
    stamps, where, rate_hz = recording.stamps_ns(label), f"{recording.path}: {label}", recording.sound_rate_hz(label)
    if not len(stamps) or not rate_hz > 0:
        raise log_error(where, f"{len(stamps)} blocks at {rate_hz} Hz", "sound", "Leave this sensor out.")
    (samples, times_ns), (tail, _) = recording.sound(label, 0), recording.sound(label, len(stamps) - 1)
    if not len(samples) or len(times_ns) != len(samples) or stamps[0] not in times_ns:
        found = f"{len(times_ns)} times, and the block's own {stamps[0]}, for {len(samples)} samples"
        raise log_error(where, found, "a time for every sample, the block's among them", "Leave this sensor out.")
    index = np.arange(len(stamps)) * len(samples) + int(np.flatnonzero(times_ns == stamps[0])[0])
    anchors = np.stack([index.astype(np.float64), (stamps - origin) / 1e9], 1)
    check_anchors(anchors, where)
    shape = samples.shape[1:] if samples.shape[1] > 1 else ()
    clock = AnchoredClock(anchors, rate_hz, (len(stamps) - 1) * len(samples) + len(tail))
    blocks = Blocks(recording.path, label, len(samples), shape)
    return on_clock(label, clock, blocks, shape, "float32", modality="audio", rate_hz=rate_hz)
