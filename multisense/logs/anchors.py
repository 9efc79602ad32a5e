"""Many stamps, few anchors: the knots of a line that passes as near to every (sample, seconds) as asked for."""

import numpy as np

STEP = 64


class AnchorLine:
    """Takes the points of a clock in order, block by block, and keeps only the knots of its line.

    Every knot is one of the points, so the line never runs backwards where the points do not.
    """

    def __init__(self, tolerance_s: float) -> None:
        self._tolerance_s = tolerance_s
        self._knots: list[tuple[float, float]] = []
        self._last = (0.0, 0.0)
        self._slopes = (-np.inf, np.inf)

    def add(self, index: np.ndarray, seconds: np.ndarray) -> None:
        """The next (N,) points; `index` increases."""
        position, step = 0, STEP
        if not self._knots and len(index):
            self._last = float(index[0]), float(seconds[0])
            self._knots.append(self._last)
            position = 1
        while position < len(index):
            part = slice(position, position + step)
            good = self._fitting(index[part], seconds[part])
            if good:
                position += good
                self._last = float(index[position - 1]), float(seconds[position - 1])
            if good < len(index[part]):
                self._knots.append(self._last)
                self._slopes, step = (-np.inf, np.inf), STEP
            else:
                step *= 2

    def _fitting(self, index: np.ndarray, seconds: np.ndarray) -> int:
        """How many of the points, from the first on, a chord from the last knot reaches and misses none before."""
        run, rise = index - self._knots[-1][0], seconds - self._knots[-1][1]
        low = np.maximum.accumulate(np.append(self._slopes[0], (rise - self._tolerance_s) / run))
        high = np.minimum.accumulate(np.append(self._slopes[1], (rise + self._tolerance_s) / run))
        misses = (rise / run < low[:-1]) | (rise / run > high[:-1])
        good = int(np.argmax(misses)) if misses.any() else len(index)
        self._slopes = float(low[good]), float(high[good])
        return good

    def take(self) -> np.ndarray:
        """(K, 2) knots that are settled and not yet taken, so that a long clock needs no memory."""
        taken, self._knots = self._knots[:-1], self._knots[-1:]
        return np.array(taken, np.float64).reshape(-1, 2)

    def knots(self) -> np.ndarray:
        """(K, 2) float64 of (sample index, seconds): the anchors not yet taken, up to the last point."""
        ends = self._knots if self._knots and self._knots[-1] == self._last else [*self._knots, self._last]
        return np.array(ends, np.float64)
