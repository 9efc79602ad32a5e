"""Linear probes cheap enough for training: every label by ridge on the fused embedding, each clip tested by other logs'."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from sklearn.model_selection import GroupKFold

from multisense.evaluate.probe import predict
from multisense.evaluate.scores import resamples, score
from multisense.evaluate.windows import Target

FOLDS = 3
FEWEST_LOGS = 6
"""Below this, two thirds of the logs are too few to choose a regularisation by."""


def probes(features: np.ndarray, log: np.ndarray, targets: Mapping[str, Target]) -> dict[str, float]:
    """`probe/label` for features (N, F) and clips of logs `log` (N,): R2 of a quantity, balanced accuracy of a class, and
    `probe_chance/label`. Labels that do not vary, or are known in few logs, are left out."""
    scores = {name: _score(features, log, target) for name, target in targets.items() if _usable(log, target)}
    chances = {name: 1 / len(_classes(targets[name])) if targets[name].is_class else 0.0 for name in scores}
    return {f"probe/{n}": s for n, s in scores.items()} | {f"probe_chance/{n}": c for n, c in chances.items()}


def _usable(log: np.ndarray, target: Target) -> bool:
    values = target.values[target.present]
    return len(np.unique(log[target.present])) >= FEWEST_LOGS and bool((values != values[0]).any())


def _classes(target: Target) -> np.ndarray:
    return np.unique(target.values[target.present])


def _score(features: np.ndarray, log: np.ndarray, target: Target) -> float:
    """Score of predictions each of which was made by a probe that saw no clip of the same log."""
    here = target.present
    features, log = features[here], log[here]
    known = replace(target, values=target.values[here], present=np.ones(int(here.sum()), dtype=bool))
    asked = _as_quantities(known) if known.is_class else known
    predicted = np.zeros(asked.values.shape)
    for fit, test in GroupKFold(FOLDS).split(features, groups=log):
        part = replace(asked, values=asked.values[fit], present=asked.present[fit])
        predicted[test] = predict(part, features[fit], features[test], log[fit])
    if known.is_class:
        predicted = _classes(known)[predicted.argmax(axis=1)]
    weights = resamples(int(log.max()) + 1, draws=1)
    return score(known, predicted, log, weights).value


def _as_quantities(target: Target) -> Target:
    """One column per class, 1 where it is that: logistic regression would cost a hundred times as much."""
    columns = target.values[:, None] == _classes(target)
    return replace(target, values=columns.astype(np.float64), is_class=False)
