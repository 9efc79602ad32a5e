"""Scores on held-out logs with bootstrap intervals over logs, paired between everything that shares the test logs.

A log is the unit: windows of one log resemble one another, so resampling windows would make every interval too narrow.
Both metrics are functions of sums over logs, so a resample is a weight per log and a thousand of them one product.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from multisense.evaluate.windows import Target


@dataclass(frozen=True)
class Score:
    """A score and its bootstrap draws; the difference of two scores from the same resamples is paired."""

    value: float
    draws: np.ndarray
    """(K,) the score in each resample; NaN where a resample holds none of the label's windows."""

    def __sub__(self, other: "Score") -> "Score":
        return Score(self.value - other.value, self.draws - other.draws)

    def floored(self, floor: float) -> "Score":
        return Score(max(self.value, floor), np.maximum(self.draws, floor))

    def interval(self, level: float = 0.95) -> dict[str, float | None]:
        """{"mean", "low", "high"}: the score and its percentile interval; None where a single log leaves none."""
        drawn = self.draws[np.isfinite(self.draws)]
        if len(drawn) == 0:
            return {"mean": float(self.value), "low": None, "high": None}
        low, high = np.percentile(drawn, [50 * (1 - level), 50 * (1 + level)])
        return {"mean": float(self.value), "low": float(low), "high": float(high)}


def constant(value: float, draws: int) -> Score:
    return Score(value, np.full(draws, value))


def mean_score(scores: Sequence[Score]) -> Score:
    """The mean over labels, in every resample: the labels share the test logs, so their errors are not independent."""
    return Score(float(np.mean([s.value for s in scores])), np.mean([s.draws for s in scores], axis=0))


def resamples(logs: int, draws: int = 1000, seed: int = 0) -> np.ndarray:
    """(draws, logs): how often each log is drawn when `logs` logs are drawn with replacement; NaN for a single log,
    which shows nothing of how logs differ."""
    if logs < 2:
        return np.full((draws, logs), np.nan)
    return np.random.default_rng(seed).multinomial(logs, np.full(logs, 1 / logs), size=draws).astype(np.float64)


def score(target: Target, predicted: np.ndarray, log: np.ndarray, weights: np.ndarray) -> Score:
    """R2 for quantities, balanced accuracy for classes, over the windows where the target is present.

    R2 is variance-weighted over the dimensions of a target (as scikit-learn calls it): a dimension that hardly varies in
    the held-out logs, an idle joint, would otherwise outweigh all others.

    `predicted` (N, ...) and `log` (N,) speak of all windows; `weights` (K, L) are resamples of the L logs.
    """
    here = target.present
    sums = _recall_sums if target.is_class else _r2_sums
    per_log = sums(target.values[here], predicted[here], log[here], weights.shape[1])
    finish = _balanced_accuracy if target.is_class else _r2
    return Score(float(finish(per_log.sum(axis=0)[None])[0]), finish(np.tensordot(weights, per_log, axes=1)))


def _per_log(rows: np.ndarray, log: np.ndarray, logs: int) -> np.ndarray:
    """Sum rows (N, ...) over the windows of each log -> (logs, ...)."""
    out = np.zeros((logs, *rows.shape[1:]))
    np.add.at(out, log, rows)
    return out


def _r2_sums(truth: np.ndarray, predicted: np.ndarray, log: np.ndarray, logs: int) -> np.ndarray:
    """(logs, 4, D): count, sum, sum of squares and squared error of each dimension."""
    truth, predicted = truth.reshape(len(truth), -1), predicted.reshape(len(truth), -1)
    rows = np.stack([np.ones_like(truth), truth, truth**2, (truth - predicted) ** 2], axis=1)
    return _per_log(rows, log, logs)


def _r2(sums: np.ndarray) -> np.ndarray:
    """(K, 4, D) -> (K,): 1 - error / variance, both summed over the dimensions that vary."""
    count, total, squares, error = np.moveaxis(sums, 1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = squares - total**2 / count
        varies = spread > 1e-12 * squares
        error, spread = (np.where(varies, x, 0).sum(axis=1) for x in (error, spread))
        return np.where(varies.any(axis=1), 1 - error / spread, np.nan)


def _recall_sums(truth: np.ndarray, predicted: np.ndarray, log: np.ndarray, logs: int) -> np.ndarray:
    """(logs, 2, C): windows of each class, and those predicted right."""
    of_class = truth[:, None] == np.unique(truth)
    rows = np.stack([of_class, of_class & (predicted == truth)[:, None]], axis=1).astype(np.float64)
    return _per_log(rows, log, logs)


def _balanced_accuracy(sums: np.ndarray) -> np.ndarray:
    """(K, 2, C) -> (K,): recall averaged over the classes that the resample holds."""
    count, right = np.moveaxis(sums, 1, 0)
    held = ~(count <= 0)  # NaN, of a single log, stays
    recall = np.divide(right, count, out=np.zeros_like(right), where=held)
    classes = held.sum(axis=1)
    return np.divide(recall.sum(axis=1), classes, out=np.full(len(sums), np.nan), where=classes > 0)
