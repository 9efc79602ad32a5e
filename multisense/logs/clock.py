"""When each sample was taken: stamps or anchors, and which samples lie in a half-open range of seconds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from multisense.logs.base import log_error

FARTHEST_S = float(1 << 33)
"""The year 2242 in unix time; later stamps are in another unit than said."""
LONGEST_S = 10 * 366 * 86400.0
"""Nothing records for more than ten years: a stamp so far from another is damaged, or of another clock."""
FASTEST_HZ = 1e9


class Clock(Protocol):
    """Times of the samples 0 ... count - 1 of one sensor, float64 seconds, strictly increasing."""

    @property
    def count(self) -> int: ...

    def times(self, first: int, last: int) -> np.ndarray:
        """(last - first,) float64 times of the samples [first, last)."""
        ...

    def span(self, start_s: float, stop_s: float) -> tuple[int, int]:
        """[first, last) of the samples with start_s <= time < stop_s."""
        ...


@dataclass(frozen=True)
class StampedClock:
    """Every sample has its own time stamp."""

    stamps_s: np.ndarray
    """(N,) float64"""

    @property
    def count(self) -> int:
        return len(self.stamps_s)

    def times(self, first: int, last: int) -> np.ndarray:
        return self.stamps_s[first:last].copy()

    def span(self, start_s: float, stop_s: float) -> tuple[int, int]:
        first, last = np.searchsorted(self.stamps_s, [start_s, stop_s])
        return int(first), max(int(first), int(last))


@dataclass(frozen=True)
class AnchoredClock:
    """A few samples have a known time; the others lie on straight lines between and, with the end slopes, beyond."""

    anchors: np.ndarray
    """(K, 2) float64 of (sample index, seconds), K >= 1, both increasing. One anchor alone runs at the nominal rate."""
    rate_hz: float
    count: int

    def times(self, first: int, last: int) -> np.ndarray:
        index, seconds = self._line()
        return _along(np.arange(first, last, dtype=np.float64), index, seconds)

    def span(self, start_s: float, stop_s: float) -> tuple[int, int]:
        index, seconds = self._line()
        # The inverse is rounded differently from `times`, so it only brackets the answer; the times decide.
        low, high = _along(np.array([start_s, stop_s]), seconds, index)
        first = int(np.clip(np.floor(low) - 1, 0, self.count))
        last = int(np.clip(np.ceil(high) + 1, first, self.count))
        begin, end = np.searchsorted(self.times(first, last), [start_s, stop_s])
        return first + int(begin), first + max(int(begin), int(end))

    def _line(self) -> tuple[np.ndarray, np.ndarray]:
        if len(self.anchors) > 1:
            return self.anchors[:, 0], self.anchors[:, 1]
        index, second = self.anchors[0]
        return np.array([index, index + 1]), np.array([second, second + 1 / self.rate_hz])


def _along(x: np.ndarray, knots: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Piecewise linear like `numpy.interp`, but the first and last pieces go on for ever."""
    piece = np.clip(np.searchsorted(knots, x, side="right") - 1, 0, len(knots) - 2)
    slope = np.diff(values) / np.diff(knots)
    return values[piece] + (x - knots[piece]) * slope[piece]


def corrected(seconds: np.ndarray, offset_s: float, drift_ppm: float) -> np.ndarray:
    """t' = t + offset_s + drift_ppm * 1e-6 * (t - t0), with t0 the first of `seconds`.

    A positive offset moves the sensor later on the log's clock (it had been stamped too early); a positive drift
    stretches its time (its clock ran slow by so many microseconds per second).
    """
    return seconds + offset_s + drift_ppm * 1e-6 * (seconds - seconds[:1])


def check_times(times: np.ndarray, count: int, where: str) -> None:
    """Raise LogError unless `times` is (count,), finite and strictly increasing."""
    if times.shape != (count,):
        found = f"times of shape {times.shape} for {count} samples"
        raise log_error(where, found, "one time per sample", "Write as many times as samples.", kind="frames")
    _check_increasing(times, "times", where)
    _check_span(times, where)


def check_anchors(anchors: np.ndarray, where: str) -> None:
    """Raise LogError unless `anchors` is (K, 2) with K >= 1, finite, and increasing in both columns."""
    if anchors.ndim != 2 or anchors.shape[1:] != (2,) or not len(anchors):
        raise log_error(where, f"shape {anchors.shape}", "(K, 2) of (sample index, seconds)", "Give at least one.")
    _check_increasing(anchors[:, 0], "sample indices", where)
    _check_increasing(anchors[:, 1], "seconds", where)
    _check_span(anchors[:, 1], where)
    step, finest = np.diff(anchors[:, 1]) / np.diff(anchors[:, 0]), 2 * np.spacing(np.abs(anchors[:, 1]).max())
    if not ((step > finest) & (step < LONGEST_S)).all():
        at = int(np.argmin((step > finest) & (step < LONGEST_S)))
        found = f"samples {step[at]:.3g} s apart after anchor {at}"
        raise log_error(where, found, "steps that a clock can have", "Drop the anchor.", kind="stamps")


def check_rate(rate_hz: float, where: str) -> None:
    """Raise LogError unless a nominal rate is one that something can have."""
    if not 1 / LONGEST_S <= rate_hz <= FASTEST_HZ:
        found = f"rate_hz={rate_hz!r}"
        raise log_error(where, found, f"{1 / LONGEST_S:.2g} to {FASTEST_HZ:.2g}", "Give the nominal rate.", kind="rate")


def check_together(spans: Mapping[str, tuple[float, float]], where: str) -> None:
    """Raise LogError unless the sensors of a log, given by their first and last second, can be of one recording."""
    first = min(spans, key=lambda name: spans[name][0])
    last = max(spans, key=lambda name: spans[name][1])
    if spans[last][1] - spans[first][0] > LONGEST_S:
        found = f"{first} from {spans[first][0]:.6g} s on and {last} until {spans[last][1]:.6g} s"
        raise log_error(
            where, found, "stamps of one clock", "Stamp all sensors by one clock.", kind="apart", sensor=last
        )


def _check_span(seconds: np.ndarray, where: str) -> None:
    if not len(seconds):
        return
    first, last = float(seconds[0]), float(seconds[-1])
    if not -FARTHEST_S <= first <= last <= FARTHEST_S or last - first > LONGEST_S:
        found = f"times from {first:.6g} to {last:.6g} s"
        fix = "Check their unit; or they are damaged."
        raise log_error(where, found, "years at most, in this millennium", fix, kind="stamps")


def _check_increasing(values: np.ndarray, what: str, where: str) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        at = int(np.argmin(finite))
        found, fix = f"{what} with {values[at]} at {at}", "Drop the sample or stamp it."
        raise log_error(where, found, "finite numbers", fix, kind="stamps")
    step = np.diff(values)
    if (step <= 0).any():
        at = int(np.argmax(step <= 0))
        found = f"{what} not increasing: {values[at]:.9g} at {at}, then {values[at + 1]:.9g}"
        kind = "backward" if step[at] < 0 else "duplicate"
        raise log_error(where, found, "strictly increasing", "Sort them, or drop those stamped twice.", kind=kind)
