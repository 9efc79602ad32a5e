"""One pass over a stream in blocks of bounded memory: what is counted, not yet what it means."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from multisense.inspect.info import sample_bytes
from multisense.inspect.stamps import Run, Speeds, Times
from multisense.logs.base import SensorLog
from multisense.types import SensorInfo, Stream

BLOCK_BYTES = 8 << 20
"""Of samples read at once; their float64 working copies are a few times that."""
STILL_LEVELS, STILL_MEAN = 16, 0.25
"""Of 255: two frames no farther apart, at most and in the mean, are the same picture. The noise of a real camera and
anything that moves differ by more."""
KEYFRAME_LEVELS = 32
"""Of 255: by so much may a single step between such frames differ, where an encoder draws the same picture anew."""
BLACK_MEAN, BLACK_SPREAD = 12.0, 6.0
"""Of 255: a covered lens is dark (video black is 16 of 255 in limited range, 0 decoded) and has no structure."""
WHITE_LEVEL, WHITE_SHARE = 250, 0.9
"""A picture of which so much is at the ceiling shows nothing."""


class Values:
    """The numbers of one stream, channel by channel; (C,) arrays unless said otherwise."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.bad = np.zeros(channels, int)
        """NaN or infinite."""
        self.spells = np.zeros(channels, int)
        """Times at which a channel became a number: 1 where it is one without a break, from first to last."""
        self._is_number = np.zeros(channels, bool)
        self.bad_from_s, self.bad_to_s = math.inf, -math.inf
        self.low, self.high = np.full(channels, np.inf), np.full(channels, -np.inf)
        self.at_low, self.at_high = np.zeros(channels, int), np.zeros(channels, int)
        """Samples at the extreme whose two predecessors are too."""
        self.runs_low, self.runs_high = np.zeros(channels, int), np.zeros(channels, int)
        """Runs of these."""
        self.steps = 0
        self.repeats, self.reversals, self.moves = (np.zeros(channels, int) for _ in range(3))
        """Steps of nothing; turns between two steps that both move; such pairs of steps."""
        self.least_step = np.full(channels, np.inf)
        self.twins = channels > 1
        """Whether all channels are the same, sample by sample."""
        self.still = Run()
        """No channel changes."""

    def add(self, times_s: np.ndarray, data: np.ndarray, fresh: int) -> None:
        """The next block, of which the samples before `fresh` were in the last one."""
        x = data.reshape(len(data), -1).astype(np.float64)
        finite = np.isfinite(x)
        self.count += len(x) - fresh
        before = np.concatenate([self._is_number[None], finite[fresh:-1]])
        self.spells += (finite[fresh:] & ~before).sum(0)
        self._is_number = finite[-1]
        if not finite[fresh:].all():
            self.bad += (~finite[fresh:]).sum(0)
            when = times_s[fresh:][~finite[fresh:].all(1)]
            self.bad_from_s, self.bad_to_s = min(self.bad_from_s, when[0]), max(self.bad_to_s, when[-1])
            x = np.where(finite, x, np.nan)
        self._extremes(x)
        with np.errstate(over="ignore"):  # of absurd values, whose steps are infinite then
            self._steps(x, times_s)
        self.twins = self.twins and bool((x == x[:, :1]).all())

    def _extremes(self, x: np.ndarray) -> None:
        low, high = np.fmin.reduce(x, 0, initial=np.inf), np.fmax.reduce(x, 0, initial=-np.inf)
        self.at_low[low < self.low] = self.runs_low[low < self.low] = 0
        self.at_high[high > self.high] = self.runs_high[high > self.high] = 0
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        for extreme, at, runs in ((self.low, self.at_low, self.runs_low), (self.high, self.at_high, self.runs_high)):
            is_at = x == extreme
            third = is_at[2:] & is_at[1:-1] & is_at[:-2]
            at += third.sum(0)
            runs += third[:1].sum(0) + (third[1:] & ~third[:-1]).sum(0)

    def _steps(self, x: np.ndarray, times_s: np.ndarray) -> None:
        step = np.diff(x, axis=0)
        self.steps += len(step)
        self.repeats += (step == 0).sum(0)
        turn = np.sign(step[1:]) * np.sign(step[:-1])
        self.reversals += (turn < 0).sum(0)
        self.moves += (turn != 0).sum(0)
        size = np.where(step != 0, np.abs(step), np.inf)
        self.least_step = np.fmin(self.least_step, np.fmin.reduce(size, 0, initial=np.inf))
        self.still.add((step == 0).all(1), times_s[:-1], times_s[1:])


class Pictures:
    """The frames of one stream."""

    def __init__(self) -> None:
        self.count, self.steps = 0, 0
        self.black, self.white, self.still = Run(), Run(), Run()

    def add(self, times_s: np.ndarray, data: np.ndarray, fresh: int, period_s: float) -> None:
        """The next block, of which the frames before `fresh` were in the last one."""
        new, when = data[fresh:], times_s[fresh:]
        self.count += len(new)
        self.steps += len(data) - 1
        if data.dtype == np.uint8:
            self.black.add(np.array([_is_black(frame) for frame in new], bool), when, when + period_s)
            white = np.array([(frame >= WHITE_LEVEL).mean() > WHITE_SHARE for frame in new], bool)
            self.white.add(white, when, when + period_s)
        self.still.add(_still(data), times_s[:-1], times_s[1:])


def _still(frames: np.ndarray) -> np.ndarray:
    """(N - 1,) whether a frame shows the picture of the one before it."""
    if frames.dtype != np.uint8:
        return np.array([np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairwise(frames)], bool)
    apart = (np.maximum(a, b) - np.minimum(a, b) for a, b in pairwise(frames))
    most, mean = np.array([(change.max(), change.mean()) for change in apart]).reshape(-1, 2).T
    same = (most <= STILL_LEVELS) & (mean < STILL_MEAN)
    around = np.pad(same, 1, constant_values=True)
    return same | ((most <= KEYFRAME_LEVELS) & around[:-2] & around[2:])


def _is_black(frame: np.ndarray) -> bool:
    return bool(frame.mean() < BLACK_MEAN and frame.std() < BLACK_SPREAD)


@dataclass
class Tally:
    """What was counted in one stream; `values` or `pictures`, by the shape of its samples."""

    info: SensorInfo
    times: Times
    values: Values | None
    pictures: Pictures | None


def tally(log: SensorLog, name: str) -> Tally:
    """Read a stream once, from end to end. Raises LogError where its data cannot be read."""
    info = log.sensors[name]
    frames = is_frames(info)
    stamps = Times(1 / info.rate_hz, Speeds(info.rate_hz) if info.modality == "audio" else None)
    found = Tally(info, stamps, None if frames else Values(math.prod(info.shape)), None)
    found.pictures = Pictures() if frames else None
    times, data = np.empty(0), None
    for block in blocks(log, info):
        fresh = 0 if data is None else 1
        times = np.concatenate([times[-1:], block.times_s])
        data = block.data if data is None else np.concatenate([data[-1:], block.data])
        found.times.add(times)
        if found.values is not None:
            found.values.add(times, data, fresh)
        if found.pictures is not None:
            found.pictures.add(times, data, fresh, found.times.period_s)
    found.times.finish()
    return found


def is_frames(info: SensorInfo) -> bool:
    """Whether its samples are pictures rather than a few channels: at least 1024 places in rows and columns."""
    return len(info.shape) in (2, 3) and math.prod(info.shape[:2]) >= 1024


def blocks(
    log: SensorLog,
    info: SensorInfo,
    block_bytes: int = BLOCK_BYTES,
    start_s: float = -math.inf,
    stop_s: float = math.inf,
) -> Iterator[Stream]:
    """The stream, or its samples with start_s <= time < stop_s, in pieces of about `block_bytes`, none empty.

    A stream with long gaps is read in longer steps, so that the number of pieces stays a small multiple of its size.
    """
    size = sample_bytes(info) + 8
    begin, end = max(info.start_s, start_s), min(info.stop_s, stop_s)
    span = max(end - begin, 1 / info.rate_hz)
    pieces = 4 * math.ceil(info.count * size / block_bytes) + 64
    step = max(block_bytes / size / info.rate_hz, span / pieces)
    for k in range(math.ceil(span / step)):
        # The last piece ends where asked, not at `stop_s` of the stream: its last stamp may be rounded past that.
        stop = begin + (k + 1) * step if (k + 1) * step < span else stop_s
        block = log.read(info.name, start_s if k == 0 else begin + k * step, stop)
        if len(block.times_s):
            yield block
