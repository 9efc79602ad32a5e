"""What is counted in the stamps of one stream, and for how long something held in it."""

from dataclasses import dataclass, field

import numpy as np

GAP_PERIODS = 1.75
"""A single lost sample makes a step of 2 periods; jitter of a regular sensor stays well below 0.75."""
LONG_GAP_PERIODS = 5.0
"""For sensors that are irregular anyway, such as events on a bus."""
IRREGULAR = 0.25
"""A step off by more of a period than this is irregular; schedulers and USB frames stay within."""
ENOUGH = 32
"""Steps: fewer may all be those of a start that stutters."""
SPEED_S = 0.02
"""Sound comes in blocks of about so long, each with a stamp or an anchor."""


@dataclass
class Run:
    """How often something held, and the longest time for which it did without a break."""

    count: int = 0
    """Samples or steps for which it held."""
    longest: int = 0
    start_s: float = 0.0
    stop_s: float = 0.0
    _open: tuple[int, float] = (0, 0.0)

    @property
    def seconds(self) -> float:
        return self.stop_s - self.start_s

    def add(self, holds: np.ndarray, starts_s: np.ndarray, stops_s: np.ndarray) -> None:
        """The next (n,) bool, each over its own [start, stop)."""
        if not len(holds):
            return
        self.count += int(holds.sum())
        edges = np.flatnonzero(np.diff(np.concatenate([[False], holds, [False]])))
        first, last = edges[::2], edges[1::2]
        sizes, since = last - first, starts_s[np.minimum(first, len(holds) - 1)]
        if self._open[0] and len(first) and first[0] == 0:
            sizes[0] += self._open[0]
            since = np.concatenate([[self._open[1]], since[1:]])
        goes_on = bool(len(last)) and last[-1] == len(holds)
        self._open = (int(sizes[-1]), float(since[-1])) if goes_on else (0, 0.0)
        if len(sizes) and sizes.max() > self.longest:
            at = int(np.argmax(sizes))
            self.longest, self.start_s, self.stop_s = int(sizes[at]), float(since[at]), float(stops_s[last[at] - 1])


@dataclass
class Gaps:
    """Steps longer than so many periods."""

    periods: float
    count: int = 0
    lost: int = 0
    """Samples that would have fitted in."""
    start_s: float = 0.0
    stop_s: float = 0.0
    """The longest of them."""

    def add(self, times_s: np.ndarray, period_s: float) -> None:
        steps = np.diff(times_s)
        long = np.flatnonzero(steps > self.periods * period_s)
        if not len(long):
            return
        self.count += len(long)
        self.lost += int(np.round(steps[long] / period_s - 1).sum())
        at = long[np.argmax(steps[long])]
        if steps[at] > self.stop_s - self.start_s:
            self.start_s, self.stop_s = float(times_s[at]), float(times_s[at + 1])


class Speeds:
    """How fast sound runs: samples a second, from anchor to anchor or so."""

    def __init__(self, rate_hz: float) -> None:
        self.span = max(round(rate_hz * SPEED_S), 1)
        self._held = np.empty(0)
        self._found: list[np.ndarray] = []

    def add(self, times_s: np.ndarray, period_s: float) -> None:
        """The next stamps, the first of which is the last of those before. Spans with a gap in them do not count."""
        self._held = np.concatenate([self._held[:-1], times_s])
        marks = self._held[:: self.span]
        gaps = np.flatnonzero(np.diff(self._held) > GAP_PERIODS * period_s)
        whole = np.bincount(gaps // self.span, minlength=len(marks))[: len(marks) - 1] == 0
        self._found.append((self.span / np.diff(marks))[whole])
        self._held = self._held[(len(marks) - 1) * self.span :]

    def measured(self) -> np.ndarray:
        """(spans,) in hertz"""
        return np.concatenate(self._found)


@dataclass
class Times:
    """The stamps of one stream. Nothing is counted before there are enough of them to know the period, or `finish`."""

    period_s: float
    """Median step of the first ENOUGH and more; the nominal one until then."""
    speeds: Speeds | None = None
    steps: int = 0
    irregular: int = 0
    regular_s: float = 0.0
    """Sum of the steps that are no gaps, of which there are `steps - gaps.count`."""
    gaps: Gaps = field(default_factory=lambda: Gaps(GAP_PERIODS))
    long_gaps: Gaps = field(default_factory=lambda: Gaps(LONG_GAP_PERIODS))

    _held: np.ndarray | None = field(default_factory=lambda: np.empty(0))

    def add(self, times_s: np.ndarray) -> None:
        """The next stamps, the first of which is the last of those before."""
        if self._held is None:
            self._count(times_s)
            return
        self._held = np.concatenate([self._held[:-1], times_s])
        if len(self._held) > ENOUGH:
            self.finish()

    def finish(self) -> None:
        """Count what is still held."""
        held, self._held = self._held, None
        if held is not None and len(held) > 1:
            self.period_s = float(np.median(np.diff(held)))
            self._count(held)

    def _count(self, times_s: np.ndarray) -> None:
        steps = np.diff(times_s)
        self.steps += len(steps)
        if self.speeds is not None:
            self.speeds.add(times_s, self.period_s)
        short = steps <= GAP_PERIODS * self.period_s
        self.irregular += int((np.abs(steps[short] / self.period_s - 1) > IRREGULAR).sum())
        self.regular_s += float(steps[short].sum())
        self.gaps.add(times_s, self.period_s)
        self.long_gaps.add(times_s, self.period_s)
