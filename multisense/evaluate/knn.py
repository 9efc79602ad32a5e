"""Weighted nearest neighbours on frozen features: what already lies together, with nothing fitted.

A neighbour's vote weighs exp(cosine / 0.07) (Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance
Discrimination"; DINO, Caron et al. 2021), and in a class one over its windows, as the balanced linear probe has it. How
many are asked is chosen on the training logs by folds that keep a log whole.
"""

import numpy as np

from multisense.evaluate.probe import folds, recall_of, standardise
from multisense.evaluate.windows import Target

NEIGHBOURS = (1, 3, 10, 30, 100)
TEMPERATURE = 0.07


def nearest(target: Target, train: np.ndarray, test: np.ndarray, train_log: np.ndarray) -> np.ndarray:
    """Predict every test window from the training windows where the target is present; as `probe.predict`.

    train (N, F), test (M, F), train_log (N,) number of the log of each training window -> (M,) classes or (M, ...).
    """
    here = target.present
    x, x_test = (_unit(side) for side in standardise(train[here], test))
    y, log = target.values[here], train_log[here]
    error = np.zeros(len(NEIGHBOURS))
    for fit, check in folds(log):
        error += [_error(y[check], _asked(k, x[fit], y[fit], x[check], target), target) for k in NEIGHBOURS]
    return _asked(NEIGHBOURS[int(error.argmin())], x, y, x_test, target)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def _error(truth: np.ndarray, predicted: np.ndarray, target: Target) -> float:
    return -recall_of(truth, predicted) if target.is_class else float(((truth - predicted) ** 2).sum())


def _asked(count: int, x: np.ndarray, y: np.ndarray, x_test: np.ndarray, target: Target) -> np.ndarray:
    """What the `count` nearest of x (N, F) to each of x_test (M, F) say of it."""
    similarity = x_test @ x.T
    count = min(count, len(x))
    near = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
    closeness = np.take_along_axis(similarity, near, axis=1)
    weight = np.exp((closeness - closeness.max(axis=1, keepdims=True)) / TEMPERATURE)
    if not target.is_class:
        return np.einsum("mk,mk...->m...", weight / weight.sum(axis=1, keepdims=True), y[near])
    classes, number, sizes = np.unique(y, return_inverse=True, return_counts=True)
    votes = np.stack([(weight * (number[near] == c) / sizes[c]).sum(axis=1) for c in range(len(classes))], axis=1)
    return classes[votes.argmax(axis=1)]
