"""Which windows a probe is trained on: splits by groups of logs, and a share of the training logs."""

import math
from collections.abc import Sequence

import numpy as np

from multisense.evaluate.windows import Labelled, Target, is_known

Split = tuple[np.ndarray, np.ndarray]
"""Indices of the training and of the held-out windows"""


def groups_of(logs: Sequence[Labelled], label: str) -> np.ndarray:
    """(L,) number of the group that each log is of, by a label that says one thing of a log.

    Raises ValueError where a log lacks it or it changes within one, and where all logs are of one group.
    """
    known = sorted({name for log in logs for name in log.labels})
    values = []
    for at, log in enumerate(logs):
        if label not in log.labels:
            raise ValueError(f"--group {label}: log {at + 1} of {len(logs)} has no such label; known are {known}")
        said = _said(log, label)
        if len(said) != 1:
            found = f"{len(said)} values" if len(said) else "no known value"
            fit = [name for name in known if all(name in log.labels and len(_said(log, name)) == 1 for log in logs)]
            raise ValueError(
                f"--group {label}: log {at + 1} of {len(logs)} has {found} of it; a group is one per log, as is said by "
                f"{', '.join(fit) or 'no label of these logs'}"
            )
        values.append(said.item())
    found, number = np.unique(values, return_inverse=True)
    if len(found) < 2:
        raise ValueError(
            f"--group {label}: all {len(logs)} logs are of one group, {found[0]}; leaving it out leaves none"
        )
    return number


def _said(log: Labelled, label: str) -> np.ndarray:
    data = np.atleast_1d(log.labels[label].data)
    return np.unique(data[is_known(data)])


def leave_one_out(group: np.ndarray) -> list[Split]:
    """Each group of windows (N,) held out once, a probe for it trained on all others."""
    return [(np.flatnonzero(group != g), np.flatnonzero(group == g)) for g in np.unique(group)]


def draw_logs(target: Target, log: np.ndarray, rows: np.ndarray, budget: float, seed: int) -> np.ndarray:
    """Those of the training windows `rows` that lie in a share `budget` of the logs (N,) in which the target is known.

    Whole logs, drawn at random; at least two, and as many as it takes for every class to be there.
    """
    rows = rows[target.present[rows]]
    order = np.random.default_rng(seed).permutation(np.unique(log[rows]))
    count = max(math.ceil(budget * len(order) - 1e-9), 2)
    if target.is_class:
        bring = _bring_a_class(target.values[rows], log[rows], order)
        order, count = np.concatenate([order[bring], order[~bring]]), max(count, int(bring.sum()))
    return rows[np.isin(log[rows], order[:count])]


def _bring_a_class(values: np.ndarray, log: np.ndarray, order: np.ndarray) -> np.ndarray:
    """(L,) bool: which logs, in the order given, hold a class that none before them has."""
    held: set[int] = set()
    found = []
    for number in order:
        here = set(values[log == number].tolist())
        found.append(not here <= held)
        held |= here
    return np.array(found)
