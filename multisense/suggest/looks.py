"""A look at a few windows of a sensor: whether anything happens in it, how regular its stamps are, how loud it is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from multisense.inspect.info import sample_bytes
from multisense.logs.base import SensorLog
from multisense.suggest.kinds import is_picture
from multisense.types import Stream

WINDOWS, WINDOW_S = 32, 2.0
"""Windows of signals, and the seconds of each."""
PICTURES = 8
"""Decoding is slow, and two pictures already tell a living camera."""
WINDOW_BYTES = 1 << 19
"""A window of a fast sensor is shorter."""
LEAST_PERIODS = 4
"""A window of a slow sensor is longer."""
ROUND = 0.005
"""Clocks are off by less, and cameras of 29.97 Hz are called 30."""
CONSTANT = 1e-5
"""Deviation over mean below which nothing happens; training refuses such a sensor below a tenth of it."""


@dataclass(frozen=True)
class Look:
    """What the windows hold."""

    finite: bool
    """Whether any sample is free of NaN and infinity."""
    varies: bool
    step_s: float
    """Nine steps in ten from sample to sample are no longer; 0 where there is none, and of pictures."""
    quiet: float = 0.0
    """Nine values in ten are no farther from 0."""
    peak: float = 0.0
    """The value farthest from 0."""


def look(logs: Sequence[SensorLog], name: str) -> Look:
    """Look at sensor `name` of the logs that have it. Raises LogError where it cannot be read."""
    logs = [log for log in logs if name in log.sensors]
    if is_picture(logs[0].sensors[name]):
        return _pictures(logs, name)
    pieces = list(_windows(logs, name, WINDOWS, WINDOW_S))
    steps = np.concatenate([np.diff(piece.times_s) for piece in pieces])
    rows = np.concatenate([piece.data.reshape(len(piece.data), -1).astype(np.float64) for piece in pieces])
    rows = rows[np.isfinite(rows).all(1)]
    if not len(rows):
        return Look(False, False, 0.0)
    spread, level = rows.std(0).max(), np.abs(rows.mean(0)).max()
    size = np.abs(rows)
    step_s = float(np.quantile(steps, 0.9)) if len(steps) else 0.0
    return Look(True, bool(spread > CONSTANT * level), step_s, *_loudness(size))


def _loudness(size: np.ndarray) -> tuple[float, float]:
    """(quiet, peak) of absolute values. Noise-free skin reads 0 in quiet: then the least it ever feels stands for it."""
    quiet, peak = float(np.quantile(size, 0.9)), float(size.max())
    return (quiet if quiet > 0 or peak == 0 else float(size[size > 0].min())), peak


def _pictures(logs: Sequence[SensorLog], name: str) -> Look:
    period = 1 / min(log.sensors[name].rate_hz for log in logs)
    first, varies = None, False
    for piece in _windows(logs, name, PICTURES, 1.5 * period):
        first = piece.data[0] if first is None else first
        varies = varies or not np.array_equal(first, piece.data[0])
    return Look(first is not None, varies, 0.0)


def _windows(logs: Sequence[SensorLog], name: str, count: int, seconds: float) -> Iterator[Stream]:
    """Windows at even steps through all the seconds of a sensor, none empty."""
    infos = [log.sensors[name] for log in logs]
    ends = np.cumsum([info.stop_s - info.start_s for info in infos])
    for at in (np.arange(count) + 0.5) / count * ends[-1]:
        k = min(int(np.searchsorted(ends, at, side="right")), len(logs) - 1)
        length = seconds
        if not is_picture(infos[k]):
            most = max(WINDOW_BYTES / sample_bytes(infos[k]), LEAST_PERIODS) / infos[k].rate_hz
            length = min(max(seconds, LEAST_PERIODS / infos[k].rate_hz), most)
        middle = infos[k].stop_s - (ends[k] - at)
        start = max(min(middle - length / 2, infos[k].stop_s - length), infos[k].start_s)
        piece = logs[k].read(name, start, start + length)
        if not len(piece.data):  # a gap: what comes after it, if anything does
            piece = logs[k].read(name, infos[k].start_s, infos[k].start_s + length)
        if len(piece.data):
            yield piece


def usual(rate_hz: float) -> float:
    """A measured rate as one would say it: 99.96 is 100, 62.51 is 62.5."""
    short, longer = (float(f"{rate_hz:.{digits}g}") for digits in (2, 3))
    return short if abs(short / rate_hz - 1) <= ROUND else longer
