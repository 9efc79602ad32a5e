"""The bench on which every set of features is probed alike: the same windows, labels, folds and resampled logs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from multisense.evaluate.probe import predict
from multisense.evaluate.scores import Score, constant, resamples, score
from multisense.evaluate.windows import Target


@dataclass(frozen=True)
class Bench:
    """Targets of the training and held-out windows, and the log that each window is of."""

    train: Mapping[str, Target]
    test: Mapping[str, Target]
    train_log: np.ndarray
    """(N,) number of the log of each training window; `test_log` (M,) likewise."""
    test_log: np.ndarray
    weights: np.ndarray
    """(K, L) from `resamples`"""

    def scores(self, train: np.ndarray, test: np.ndarray) -> dict[str, Score]:
        """Probe features (N, F) -> (M, F) for every label."""
        return self.scores_of_each(train, [test])[0]

    def scores_of_each(self, train: np.ndarray, tests: Sequence[np.ndarray]) -> list[dict[str, Score]]:
        """`scores` of several sets of features of the same held-out windows, by one probe for each label."""
        train, test = filled(train, np.concatenate(tests))
        found: list[dict[str, Score]] = [{} for _ in tests]
        for name, target in self.train.items():
            predicted = predict(target, train, test, self.train_log)
            for here, part in zip(found, np.split(predicted, len(tests)), strict=True):
                here[name] = score(self.test[name], part, self.test_log, self.weights)
        return found

    def chance(self) -> dict[str, Score]:
        """0 for R2 (the mean of the held-out windows), one over the number of classes for balanced accuracy."""
        values = {n: 1 / len(np.unique(t.values[t.present])) if t.is_class else 0.0 for n, t in self.test.items()}
        return {name: constant(value, len(self.weights)) for name, value in values.items()}


def bench(
    train: Mapping[str, Target],
    test: Mapping[str, Target],
    train_log: np.ndarray,
    test_log: np.ndarray,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[Bench, dict[str, str]]:
    """A bench over the labels that can be probed, and for every other label why it cannot."""
    reasons = {name: _unusable(train[name], test[name], train_log) for name in train}
    usable = [name for name, reason in reasons.items() if not reason]
    if not usable:
        raise ValueError(
            f"no label can be probed: {reasons or 'the logs hold none'}; ablation needs labels in the logs"
        )
    weights = resamples(int(test_log.max()) + 1, draws, seed)
    pairs = {name: _unit_free(train[name], test[name]) for name in usable}
    kept = Bench(
        {n: a for n, (a, _) in pairs.items()}, {n: b for n, (_, b) in pairs.items()}, train_log, test_log, weights
    )
    return kept, {name: reason for name, reason in reasons.items() if reason}


def filled(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, F), (M, F) in which a row of NaN, a window without any of the sensors, is the training mean: it says
    nothing."""
    mean = np.nan_to_num(np.nanmean(train, axis=0)) if np.isfinite(train).any() else np.zeros(train.shape[1])
    return np.where(np.isfinite(train), train, mean), np.where(np.isfinite(test), test, mean)


def _unit_free(train: Target, test: Target) -> tuple[Target, Target]:
    """Quantities in deviations from the mean of the training windows, so that every dimension has the same say; 0 where
    it has none."""
    if train.is_class:
        return train, test
    known = train.values[train.present]
    mean, spread = known.mean(axis=0), known.std(axis=0)
    scale = np.where(spread > 0, spread, np.inf)
    return replace(train, values=(train.values - mean) / scale), replace(test, values=(test.values - mean) / scale)


def _unusable(train: Target, test: Target, train_log: np.ndarray) -> str:
    logs = len(np.unique(train_log[train.present]))
    if logs < 2:
        return f"known in {logs} training log(s); choosing the regularisation by logs needs two"
    if not test.present.any():
        return "known in no window of the held-out logs"
    for where, target in (("training", train), ("held-out", test)):
        values = target.values[target.present]
        if (values == values[0]).all():
            return f"the same value in all {len(values)} {where} windows"
    return ""
