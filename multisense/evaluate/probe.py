"""Linear probes on frozen features: ridge for quantities, logistic regression for classes.

Features are standardised by the training windows. The strength of the regularisation is chosen on the training logs by
folds that keep a log whole; the held-out logs are predicted once.
"""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from multisense.evaluate.windows import Target

RIDGE_STRENGTHS = np.logspace(-4, 2, 13)
"""Times the number of training windows: the penalty, relative to features of unit variance."""
LOGISTIC_STRENGTHS = (1.0, 0.1, 0.01, 0.001)
"""The same for logistic regression: the best one does not move with the number of windows, as scikit-learn's C does."""
FOLDS = 3
SEARCH_WINDOWS = 1500
"""Logistic regression picks its strength on at most this many training windows (whole logs), then fits on all."""


def predict(target: Target, train: np.ndarray, test: np.ndarray, train_log: np.ndarray) -> np.ndarray:
    """Fit on the training windows where the target is present, predict every test window.

    train (N, F), test (M, F), train_log (N,) number of the log of each training window -> (M,) classes or (M, ...).
    """
    here = target.present
    x, x_test = standardise(train[here], test)
    fit = _logistic if target.is_class else _ridge
    return fit(x, target.values[here], train_log[here], x_test)


def standardise(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both in deviations of the training windows; 0 where those do not vary."""
    mean, std = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    scale = np.where(std > 1e-6 * max(float(std.max()), 1e-30), std, np.inf)  # a constant feature says nothing
    return (train - mean) / scale, (test - mean) / scale


def folds(log: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(fit, check) indices of windows; a log (N,) is never on both sides."""
    return list(GroupKFold(min(FOLDS, len(np.unique(log)))).split(log, groups=log))


def _ridge(x: np.ndarray, y: np.ndarray, log: np.ndarray, x_test: np.ndarray) -> np.ndarray:
    """Ridge regression; every strength of a fold comes from one eigendecomposition of its covariance."""
    flat = y.reshape(len(y), -1).astype(np.float64)
    error = np.zeros(len(RIDGE_STRENGTHS))
    for fit, check in folds(log):
        path = _RidgePath(x[fit], flat[fit])
        error += [((path.predict(s, x[check]) - flat[check]) ** 2).sum() for s in RIDGE_STRENGTHS]
    best = RIDGE_STRENGTHS[int(error.argmin())]
    return _RidgePath(x, flat).predict(best, x_test).reshape(len(x_test), *y.shape[1:])


class _RidgePath:
    """argmin_w |y - xw|^2 + strength * n * |w|^2 (with a free intercept) for any strength."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.mean_x, self.mean_y = x.mean(axis=0), y.mean(axis=0)
        centred = x - self.mean_x
        if len(x) < x.shape[1]:  # fewer windows than features: what no window spans gets no weight
            _, singular, directions = np.linalg.svd(centred, full_matrices=False)
            self.values, self.vectors = singular**2 / len(x), directions.T
        else:
            self.values, self.vectors = np.linalg.eigh(centred.T @ centred / len(x))
        self.projected = self.vectors.T @ (centred.T @ (y - self.mean_y) / len(x))

    def predict(self, strength: float, x: np.ndarray) -> np.ndarray:
        shrunk = self.projected / (np.maximum(self.values, 0) + strength)[:, None]
        return (x - self.mean_x) @ (self.vectors @ shrunk) + self.mean_y


def _logistic(x: np.ndarray, y: np.ndarray, log: np.ndarray, x_test: np.ndarray) -> np.ndarray:
    """Logistic regression with balanced classes; float32 halves its time and moves no score."""
    x, x_test = x.astype(np.float32), x_test.astype(np.float32)
    some = _some_logs(log)
    recall = np.zeros(len(LOGISTIC_STRENGTHS))
    for fit, check in folds(log[some]):
        fit, check = some[fit], some[check]
        if len(np.unique(y[fit])) > 1:
            recall += [recall_of(y[check], _classified(c, x[fit], y[fit], x[check])) for c in LOGISTIC_STRENGTHS]
    best = LOGISTIC_STRENGTHS[int(recall.argmax())]
    return _classified(best, x, y, x_test)


def recall_of(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Averaged over the classes of `truth`."""
    return float(np.mean([(predicted[truth == c] == c).mean() for c in np.unique(truth)]))


def _some_logs(log: np.ndarray) -> np.ndarray:
    """Indices of the windows of as many whole logs, drawn at random, as SEARCH_WINDOWS allows."""
    order, counts = np.unique(log, return_counts=True)
    shuffled = np.random.default_rng(0).permutation(len(order))
    keep = shuffled[np.cumsum(counts[shuffled]) <= max(SEARCH_WINDOWS, counts.max() * FOLDS)]
    return np.flatnonzero(np.isin(log, order[keep]))


def _classified(strength: float, x: np.ndarray, y: np.ndarray, x_test: np.ndarray) -> np.ndarray:
    model = LogisticRegression(C=1 / (strength * len(x)), class_weight="balanced", max_iter=100, tol=1e-3)
    with warnings.catch_warnings():
        # Stopping early is a second regulariser, the same for every set of features; it is not an error.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, y)
    return np.asarray(model.predict(x_test))
