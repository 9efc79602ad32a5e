"""Scores on held-out logs with bootstrap-t intervals over logs, paired between everything that shares the test logs.

A log, or a group of logs, is the unit: windows of one log resemble one another, so resampling windows would make every
interval too narrow. Units are drawn with replacement and keep all their windows, which reproduces the variance of nested
data to first order where drawing windows again inside would add to it (Davison & Hinkley 1997, section 3.8).

Intervals are studentised (bootstrap-t: Hall 1988, Annals of Statistics 16:927; DiCiccio & Efron 1996, Statistical Science
11:189). The percentile interval is too narrow for few logs and blind to skew. What covers how often is measured in
tests/test_evaluate_intervals.py.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from multisense.evaluate.metrics import METRICS, Bounds, metrics
from multisense.evaluate.windows import Target

K = TypeVar("K", bound=Hashable)
LEAST_ERROR = 0.5
"""A resample that happens to hold one log many times has next to no standard error; it counts as having this share of
the score's own, or a few such resamples would set the interval."""


@dataclass(frozen=True)
class Spread:
    """How a score depends on its U units (logs, or groups, then seeds), for its standard error and that of every draw.

    In draw k the influence of unit u is gradient[k] . sums[u] (the infinitesimal jackknife; Efron 1982).
    """

    weights: np.ndarray
    """(K, U) how often each unit is drawn"""
    gradient: np.ndarray
    """(K, P) of the score by the sums it is made of"""
    sums: np.ndarray
    """(U, P) of each unit, times sqrt(n / (n - 1)) for n units of its kind"""
    jackknife: np.ndarray
    """(U,) what leaving out one unit changes, times sqrt((n - 1) / n)"""

    def errors(self) -> np.ndarray:
        """(K,) standard error of each draw, from the draw alone."""
        return np.sqrt((self.weights * (self.gradient @ self.sums.T) ** 2).sum(axis=1))

    def error(self) -> float:
        """Standard error of the score, by the jackknife: not smaller than the truth where units are few, as the
        linear one is (Efron & Stein 1981; MacKinnon, Nielsen & Webb 2023 for clusters)."""
        return float(np.sqrt((self.jackknife**2).sum()))

    def freedom(self) -> int:
        """Degrees of freedom: the units that the score depends on, less one."""
        return max(int(self.sums.any(axis=1).sum()) - 1, 1)


@dataclass(frozen=True)
class Score:
    """A score and its bootstrap draws; the difference of two scores from the same resamples is paired."""

    value: float
    draws: np.ndarray
    """(K,) the score in each resample; NaN where a resample holds none of the label's windows."""
    spread: Spread | None = None
    """None of a constant, and where one log alone says nothing of how logs differ."""
    bounds: Bounds = (-np.inf, np.inf)
    """Between which values it can be."""

    def __sub__(self, other: "Score") -> "Score":
        return weighted([self, other], [1.0, -1.0])

    def floored(self, floor: float) -> "Score":
        """The greater of the score and `floor`, in every resample.

        It keeps the spread of the score itself: leaving out single logs does not see the bend at the floor, and an
        interval that took it for flat there would be too narrow (67 % coverage where R2 is .03).
        """
        bounds = max(self.bounds[0], floor), max(self.bounds[1], floor)
        return Score(max(self.value, floor), np.maximum(self.draws, floor), self.spread, bounds)

    def interval(self, level: float = 0.95) -> dict[str, float | None]:
        """{"mean", "low", "high"}: the score and its bootstrap-t interval; None where a single log leaves none, and of
        what was never measured.

        Neither side is nearer than Student's t would put it: the pivot of a difference of two heavy-tailed errors is
        drawn too short on the side of its skew (measured: 88 % coverage without this, 94 % with it, on 80 logs).
        Where all logs say the same, all is right in all of them, no resample shows an error: then so many more logs may
        differ as the exact binomial interval allows that saw none (Clopper & Pearson 1934), each by as much as a score
        can. Without a `spread` it is the percentile interval of the draws.
        """
        tails = np.array([50 * (1 - level), 50 * (1 + level)])
        drawn = self.draws[np.isfinite(self.draws)]
        if not np.isfinite(self.value):
            return {"mean": None, "low": None, "high": None}
        if len(drawn) == 0:
            return {"mean": float(self.value), "low": None, "high": None}
        ends = np.percentile(drawn, tails) if self.spread is None else self._studentised(self.spread, tails)
        low, high = (float(end) if np.isfinite(end) else None for end in ends)
        return {"mean": float(self.value), "low": low, "high": high}

    def p_value(self) -> float:
        """Two-sided p of the score being 0: below .05 exactly where the 95 % interval leaves 0 out.

        Student's t, stretched so that its .975 quantile is that of the bootstrap's pivot on the side of 0: a thousand
        draws say nothing of their own about p below .001, which a correction for many comparisons asks for. 1 where
        nothing says how the score varies.
        """
        if self.spread is None or not np.isfinite(self.value) or not np.isfinite(self.draws).any():
            return 1.0
        error = self.spread.error()
        if error <= 1e-12 * abs(self.value):
            bound = abs(self.bounds[0] if self.value > 0 else self.bounds[1])  # how far a log could pull past 0
            share = bound / (bound + abs(self.value)) if np.isfinite(bound) else 1.0
            return min(2 * share ** (self.spread.freedom() + 1), 1.0)
        low, high = self._pivots(self.spread, error, np.array([2.5, 97.5]))
        freedom = self.spread.freedom()
        stretch = (high if self.value > 0 else -low) / student.ppf(0.975, freedom)
        return float(2 * student.sf(abs(self.value) / error / stretch, freedom))

    def _studentised(self, spread: Spread, tails: np.ndarray) -> np.ndarray:
        error = spread.error()
        if error <= 1e-12 * abs(self.value):
            others = 1 - (tails[0] / 100) ** (1 / (spread.freedom() + 1))
            return self.value + others * (np.array(self.bounds) - self.value)
        low, high = self._pivots(spread, error, tails)
        return np.clip(self.value - error * np.array([high, low]), *self.bounds)

    def _pivots(self, spread: Spread, error: float, tails: np.ndarray) -> tuple[float, float]:
        """(low, high) quantiles of the pivot, neither nearer to 0 than Student's t."""
        pivots = (self.draws - self.value) / np.maximum(spread.errors(), LEAST_ERROR * error)
        low, high = np.percentile(pivots[np.isfinite(pivots)], tails)
        least = student.ppf(tails[1] / 100, spread.freedom())
        return float(min(low, -least)), float(max(high, least))


def _weighted(spreads: Sequence[Spread | None], factors: Sequence[float]) -> Spread | None:
    """Of a weighted sum of scores over the same units; constants have none."""
    held = [(s, f) for s, f in zip(spreads, factors, strict=True) if s is not None]
    if not held:
        return None
    units = {len(s.sums) for s, _ in held}
    if len(units) > 1:
        raise ValueError(f"scores over {sorted(units)} units cannot be paired: score both on the same logs and seeds")
    gradient = np.concatenate([f * s.gradient for s, f in held], axis=1)
    sums = np.concatenate([s.sums for s, _ in held], axis=1)
    return Spread(held[0][0].weights, gradient, sums, np.sum([f * s.jackknife for s, f in held], axis=0))


def constant(value: float, draws: int) -> Score:
    return Score(value, np.full(draws, value), bounds=(value, value))


def unknown(draws: int) -> Score:
    """Of what could not be measured; so is everything that is made of it."""
    return Score(np.nan, np.full(draws, np.nan))


def known_value(score: Score) -> float:
    """To order scores by: what is unknown comes last of the best."""
    return score.value if np.isfinite(score.value) else -np.inf


def weighted(scores: Sequence[Score], factors: Sequence[float]) -> Score:
    """A weighted sum of scores over the same resampled logs, in every resample: their errors are not independent."""
    ends = np.array([sorted((f * s.bounds[0], f * s.bounds[1])) for s, f in zip(scores, factors, strict=True)])
    spread = _weighted([s.spread for s in scores], factors)
    value = float(np.dot(factors, [s.value for s in scores]))
    low, high = ends.sum(axis=0)
    return Score(value, np.tensordot(np.asarray(factors), np.stack([s.draws for s in scores]), 1), spread, (low, high))


def mean_score(scores: Sequence[Score]) -> Score:
    """The mean over labels, which share the test logs."""
    return weighted(scores, [1 / len(scores)] * len(scores))


def compared(differences: Mapping[K, Score]) -> dict[K, dict[str, float | None]]:
    """{"mean", "low", "high", "p"} of a family of differences: p is Holm's (1979, Scandinavian Journal of Statistics
    6:65), so that in a family without any difference none has p < .05 in 95 % of cases."""
    by_size = sorted(differences, key=lambda name: differences[name].p_value())
    found, least = {}, 0.0
    for at, name in enumerate(by_size):
        least = max(least, min(1.0, (len(by_size) - at) * differences[name].p_value()))
        found[name] = {**differences[name].interval(), "p": least}
    return {name: found[name] for name in differences}


def over_seeds(scores: Sequence[Score], seed: int = 0) -> Score:
    """The mean of scores that differ by a seed alone, with seeds as a second, crossed kind of unit.

    In each resample of logs the seeds are drawn again, too (the pigeonhole bootstrap; Owen 2007, Annals of Applied
    Statistics 1:386), so that the interval speaks of other logs and other seeds.
    """
    spreads = [s.spread for s in scores if s.spread is not None]
    if len(scores) == 1 or len(spreads) < len(scores):
        return mean_score(scores)
    count, each = len(scores), np.stack([s.draws for s in scores], axis=1)
    drawn = np.random.default_rng((seed, count)).multinomial(count, np.full(count, 1 / count), len(each)) / count
    draws, values = (drawn * each).sum(axis=1), np.array([s.value for s in scores])
    gradient = [share[:, None] * s.gradient for share, s in zip(drawn.T, spreads, strict=True)]
    sums = np.concatenate([s.sums for s in spreads], axis=1)
    of_seeds = np.sqrt(count / (count - 1)) * np.eye(count)
    spread = Spread(
        np.concatenate([spreads[0].weights, drawn * count], axis=1),
        np.concatenate([*gradient, (each - draws[:, None]) / count], axis=1),
        np.block([[sums, np.zeros((len(sums), count))], [np.zeros((count, sums.shape[1])), of_seeds]]),
        np.concatenate(
            [np.mean([s.jackknife for s in spreads], 0), (values - values.mean()) / np.sqrt(count * (count - 1))]
        ),
    )
    return Score(float(values.mean()), draws, spread, scores[0].bounds)


def resamples(logs: int, draws: int = 1000, seed: int = 0) -> np.ndarray:
    """(draws, logs): how often each log is drawn when `logs` logs are drawn with replacement; NaN for a single log,
    which shows nothing of how logs differ."""
    if logs < 2:
        return np.full((draws, logs), np.nan)
    return np.random.default_rng(seed).multinomial(logs, np.full(logs, 1 / logs), size=draws).astype(np.float64)


def score(target: Target, predicted: np.ndarray, log: np.ndarray, weights: np.ndarray, metric: str = "") -> Score:
    """A metric over the windows where the target is present; by default R2 for quantities, balanced accuracy for classes.

    `predicted` (N, ...) and `log` (N,) speak of all windows; `weights` (K, L) are resamples of the L logs.
    """
    chosen = METRICS[metric or metrics(target)[0]]
    return of_sums(chosen.sums(target, predicted, log, weights.shape[1]), chosen.finish, weights, chosen.bounds)


def of_sums(sums: np.ndarray, finish: Callable[[Tensor], Tensor], weights: np.ndarray, bounds: Bounds) -> Score:
    """`finish` of sums (L, ...) over the windows of L logs, and in each of the resamples `weights` (K, L)."""
    there = np.abs(sums).reshape(len(sums), -1).any(axis=1)
    count, total = int(there.sum()), torch.from_numpy(sums).sum(0, keepdim=True)
    value = float(finish(total)[0])
    if count < 2:
        return Score(value, np.full(len(weights), np.nan), bounds=bounds)
    drawn = torch.from_numpy(np.tensordot(weights, sums, axes=1)).requires_grad_()
    with torch.enable_grad():
        draws = finish(drawn)
        (gradient,) = torch.autograd.grad(draws.sum(), drawn)
    without = finish(total - torch.from_numpy(sums)).numpy()
    jackknife = np.where(there & np.isfinite(without), without - value, 0.0) * np.sqrt((count - 1) / count)
    scaled = sums.reshape(len(sums), -1) * np.sqrt(count / (count - 1))
    spread = Spread(weights, gradient.flatten(1).numpy(), scaled, jackknife)
    return Score(value, draws.detach().numpy(), spread, bounds)
