"""What predictions are scored by: class-balanced accuracy, macro-F1, R2, mean absolute error.

Each is a smooth function of sums over windows. A resample of logs is then a weight per log, a thousand of them one
product, and how a score depends on each log is a derivative. Shapes: L logs, K resamples, C classes, D dimensions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from multisense.evaluate.windows import Target

Bounds = tuple[float, float]


@dataclass(frozen=True)
class Metric:
    """`finish` (K, M, X) -> (K,) of what `rows` (N, M, X) give, summed over windows. NaN where nothing was drawn."""

    rows: Callable[[np.ndarray, np.ndarray], np.ndarray]
    finish: Callable[[Tensor], Tensor]
    bounds: Bounds

    def sums(self, target: Target, predicted: np.ndarray, log: np.ndarray, logs: int) -> np.ndarray:
        """(L, M, X) over the windows of each log where the target is present."""
        here = target.present
        rows = self.rows(target.values[here], predicted[here])
        sums = np.zeros((logs, *rows.shape[1:]))
        np.add.at(sums, log[here], rows)
        return sums


def metrics(target: Target) -> tuple[str, ...]:
    """Names of the metrics of a target, the principal one first."""
    return ("accuracy", "f1") if target.is_class else ("r2", "mae")


def _class_rows(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """(N, 3, C): whether a window is of each class, is predicted to be, and both."""
    classes = np.unique(truth)
    is_it, said = truth[:, None] == classes, predicted[:, None] == classes
    return np.stack([is_it, said, is_it & said], axis=1).astype(np.float64)


def _accuracy(sums: Tensor) -> Tensor:
    """Recall averaged over the classes that the resample holds."""
    count, _, right = sums.unbind(1)
    return _over_classes(right / torch.where(count > 0, count, 1.0), count)


def _f1(sums: Tensor) -> Tensor:
    """2 right / (there + said), averaged over the classes that the resample holds."""
    count, said, right = sums.unbind(1)
    return _over_classes(2 * right / torch.where(count > 0, count + said, 1.0), count)


def _over_classes(values: Tensor, count: Tensor) -> Tensor:
    held = count > 0
    return torch.where(held, values, 0.0).sum(1) / held.sum(1)


def _quantity_rows(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """(N, 4, D): one, the value, its square and the squared error in each dimension."""
    truth, predicted = truth.reshape(len(truth), -1), predicted.reshape(len(truth), -1)
    return np.stack([np.ones_like(truth), truth, truth**2, (truth - predicted) ** 2], axis=1)


def _r2(sums: Tensor) -> Tensor:
    """1 - error / variance, both summed over the dimensions that vary (scikit-learn: variance-weighted): a dimension
    that hardly varies in the held-out logs, an idle joint, would otherwise outweigh all others."""
    count, total, squares, error = sums.unbind(1)
    spread = squares - total**2 / torch.where(count > 0, count, torch.nan)
    varies = spread > 1e-12 * squares
    kept, lost = (torch.where(varies, x, 0.0).sum(1) for x in (spread, error))
    return 1 - lost / torch.where(varies.any(1), kept, torch.nan)


def _mae_rows(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """(N, 2, 1): one, and the absolute error averaged over dimensions."""
    error = np.abs(truth - predicted).reshape(len(truth), -1).mean(axis=1)
    return np.stack([np.ones_like(error), error], axis=1)[..., None]


def share(sums: Tensor) -> Tensor:
    """(K, 2, 1) -> (K,): the second sum over the first."""
    count, hits = sums[..., 0].unbind(1)
    return hits / torch.where(count > 0, count, torch.nan)


METRICS = {
    "accuracy": Metric(_class_rows, _accuracy, (0.0, 1.0)),
    "f1": Metric(_class_rows, _f1, (0.0, 1.0)),
    "r2": Metric(_quantity_rows, _r2, (-np.inf, 1.0)),
    "mae": Metric(_mae_rows, share, (0.0, np.inf)),
}
NAMES = {"accuracy": "balanced accuracy", "f1": "macro-F1", "r2": "R²", "mae": "MAE"}
"""What a reader is told that a metric is."""
