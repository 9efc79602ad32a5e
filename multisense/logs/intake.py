"""What a recorder takes: each block checked, copied, and stamped, and counted by sensor."""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from multisense.logs.base import log_error
from multisense.logs.clock import check_anchors, check_times
from multisense.logs.native_write import Recording, check_recording
from multisense.logs.swmr import RecordedSensor


@dataclass(frozen=True)
class SensorStats:
    """How the recording of one sensor goes."""

    appended: int
    """Samples taken."""
    flushed: int
    """Samples safe on the disk: a kill from now on leaves at least these."""
    dropped: int
    """Samples refused because the queue stayed full."""
    waiting_bytes: int
    longest_wait_s: float
    """The longest that an append had to wait for room."""


@dataclass(frozen=True)
class Block:
    samples: np.ndarray
    """(N, *sample)"""
    stamps: np.ndarray
    """(N,) times, or (K, 2) anchors"""


@dataclass
class Intake:
    """What has come in of one sensor."""

    sensor: RecordedSensor
    where: str
    appended: int = 0
    flushed: int = 0
    dropped: int = 0
    waiting_bytes: int = 0
    longest_wait_s: float = 0.0
    last_s: float = -math.inf
    """The last stamp taken."""
    last_count: int = 0
    """Samples of the last block."""
    last_anchor: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))
    """(1, 2) of sound, once there was some."""

    def stats(self) -> SensorStats:
        return SensorStats(self.appended, self.flushed, self.dropped, self.waiting_bytes, self.longest_wait_s)

    def checked(self, data: ArrayLike, times: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """A copy (N, *sample), and its stamps (N,): one for all N of sound."""
        sensor, stamps = self.sensor, _seconds(times, f"{self.where}: times")
        given = _converted(data, sensor.dtype, self.where)
        samples = given if sensor.is_audio or stamps.ndim == 1 else given[None]
        if samples.ndim != 1 + len(sensor.shape) or samples.shape[1:] != sensor.shape:
            expected = f"{sensor.shape}, or a block (N, *{sensor.shape}) of them"
            fix = "Sound comes in blocks, with one time."
            raise log_error(self.where, f"data of shape {given.shape}", expected, fix)
        stamps = stamps[None] if stamps.ndim == 0 else stamps
        check_times(stamps, 1 if sensor.is_audio else len(samples), f"{self.where}: times")
        return samples, stamps

    def check_follows(self, samples: np.ndarray, stamps: np.ndarray) -> None:
        """Raise LogError where the log could not be read any more with these after what was taken."""
        if stamps[0] <= self.last_s:
            found = f"{stamps[0]:.9g} s after {self.last_s:.9g} s"
            fix = "Append a sensor's samples in order, each once."
            raise log_error(f"{self.where}: times", found, "later than the sample before", fix)
        if self.sensor.is_audio:
            anchors = np.concatenate([self.last_anchor, self._anchors(float(stamps[0]), len(samples))])
            check_anchors(anchors, f"{self.where}: anchors")

    def span(self, samples: np.ndarray, stamps: np.ndarray) -> tuple[float, float]:
        """When the block begins and ends."""
        stamped = len(samples) if self.sensor.is_audio else 1
        return float(stamps[0]), float(stamps[-1]) + stamped / self.sensor.rate_hz

    def take(self, samples: np.ndarray, stamps: np.ndarray) -> Block:
        block = Block(samples, self._anchors(float(stamps[0]), len(samples)) if self.sensor.is_audio else stamps)
        if self.sensor.is_audio:
            self.last_anchor = block.stamps[-1:]
        self.appended += len(samples)
        self.waiting_bytes += samples.nbytes
        self.last_s, self.last_count = float(stamps[-1]), len(samples)
        return block

    def _anchors(self, start_s: float, count: int) -> np.ndarray:
        """Where a block begins; when a block or more is missing before it, also the samples on either side of that.

        The sample before ends the line of the last block, the one after keeps the gap out of the slope of this one.
        """
        first, period_s = self.appended, 1 / self.sensor.rate_hz
        gap_s = start_s - (self.last_s + self.last_count * period_s)
        anchors = [(first, start_s)]
        if self.last_count and gap_s > self.last_count * period_s:
            before = [(first - 1, self.last_s + (self.last_count - 1) * period_s)] * (self.last_count > 1)
            after = [(first + 1, start_s + period_s)] * (count > 1)
            anchors = [*before, *anchors, *after]
        return np.array(anchors, np.float64)


def _seconds(times: ArrayLike, where: str) -> np.ndarray:
    try:
        return np.array(times, np.float64)
    except (ValueError, TypeError) as error:
        raise log_error(where, f"no numbers ({error})", "seconds", "Give one time per sample.") from error


def _converted(data: ArrayLike, dtype: np.dtype, where: str) -> np.ndarray:
    """A copy as `dtype`. An array is of that dtype, or both are floats; the numbers of anything else fit into it."""
    try:
        given = np.asarray(data)
    except (ValueError, TypeError) as error:
        raise log_error(where, f"data that are no array ({error})", str(dtype), "Give rows of one length.") from error
    if given.dtype == dtype or given.dtype.kind == dtype.kind == "f":
        return np.array(given, dtype)
    if not isinstance(data, np.ndarray) and given.dtype.kind in "biu":
        samples = given.astype(dtype)
        if dtype.kind == "f" or np.array_equal(samples, given):
            return samples
    found = f"{given.dtype} data that are not all {dtype}"
    raise log_error(where, found, str(dtype), "Convert them, or declare their dtype.")


def check_sensor(sensor: RecordedSensor, where: str) -> None:
    """The checks of a recording of one sample, and those that `write_log` leaves to the encoder."""
    if any(side < 1 for side in sensor.shape):
        raise log_error(where, f"shape {sensor.shape}", "positive sides", "Give the shape of one sample.")
    sample = np.zeros((1, *sensor.shape), sensor.dtype)
    stamps = {"anchors": np.zeros((1, 2))} if sensor.is_audio else {"times_s": np.zeros(1)}
    fields = {"units": sensor.units, "channels": sensor.channels, "media": sensor.media}
    check_recording(Recording(sensor.modality, sensor.rate_hz, sample, **stamps, **fields), where)
    if sensor.media and (sensor.shape[0] % 2 or sensor.shape[1] % 2):
        found = f"{sensor.shape[0]} x {sensor.shape[1]} pixels"
        raise log_error(where, found, "even sides (H.264 halves the colour planes)", "Crop or pad by one pixel.")
