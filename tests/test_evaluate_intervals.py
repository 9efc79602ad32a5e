"""95 % intervals against tables whose true score is known: how often they hold it in 1,000 tables of each kind."""

from collections.abc import Callable

import numpy as np
import pytest

from multisense.evaluate.scores import Score, constant, mean_score, of_sums, over_seeds, resamples, score
from multisense.evaluate.windows import Target

WINDOWS, TRUTH = 6, 0.7
World = Callable[[np.random.Generator, int, np.ndarray], tuple[Score, float]]
"""(generator, logs, resamples) -> a score of one table and what it would be of infinitely many logs (and seeds)"""


def target(values: np.ndarray, is_class: bool = False) -> Target:
    return Target("t", values, np.ones(len(values), bool), is_class)


def numbers(logs: int) -> np.ndarray:
    return np.repeat(np.arange(logs), WINDOWS)


def windows(values: np.ndarray) -> np.ndarray:
    return np.repeat(values, WINDOWS)


def mixed(rng: np.random.Generator, logs: int) -> np.ndarray:
    """One part shared by the windows of a log, one of each window; unit variance."""
    return windows(rng.normal(size=logs)) * 0.8**0.5 + rng.normal(size=logs * WINDOWS) * 0.2**0.5


def classes(rng: np.random.Generator, logs: int, weights: np.ndarray) -> tuple[Score, float]:
    """Four classes that change within a log; how often one is recognised differs between logs."""
    y = rng.integers(0, 4, logs * WINDOWS)
    right = rng.random(len(y)) < windows(rng.beta(4 * TRUTH, 4 * (1 - TRUTH), logs))
    return score(target(y, True), np.where(right, y, 4), numbers(logs), weights), TRUTH


def class_of_a_log(rng: np.random.Generator, logs: int, weights: np.ndarray) -> tuple[Score, float]:
    """Two classes, one for a log."""
    y = windows(rng.permutation(np.arange(logs) % 2))
    right = rng.random(len(y)) < windows(rng.beta(4 * TRUTH, 4 * (1 - TRUTH), logs))
    return score(target(y, True), np.where(right, y, 1 - y), numbers(logs), weights), TRUTH


def quantity(rng: np.random.Generator, logs: int, weights: np.ndarray, hard: float = 0.25) -> tuple[Score, float]:
    """Value and error both shared within logs, some of which are harder than others."""
    y, size = mixed(rng, logs), 0.5
    error = size * windows(rng.lognormal(0, hard, logs)) * mixed(rng, logs)
    return score(target(y), y + error, numbers(logs), weights), 1 - size**2 * np.exp(2 * hard**2)


def absolute_error(rng: np.random.Generator, logs: int, weights: np.ndarray) -> tuple[Score, float]:
    error = 2 * mixed(rng, logs)
    y = mixed(rng, logs)
    return score(target(y), y + error, numbers(logs), weights, "mae"), 2 * (2 / np.pi) ** 0.5


def difference(rng: np.random.Generator, logs: int, weights: np.ndarray) -> tuple[Score, float]:
    """Of two probes whose errors are correlated."""
    y, hard, log = mixed(rng, logs), windows(rng.lognormal(0, 0.25, logs)), numbers(logs)
    common, own, other = (mixed(rng, logs) for _ in range(3))
    one = score(target(y), y + 0.5 * hard * (common + own) / 2**0.5, log, weights)
    two = score(target(y), y + 0.55 * hard * (common + other) / 2**0.5, log, weights)
    return one - two, (0.55**2 - 0.5**2) * np.exp(2 * 0.25**2)


def mean_of_labels(rng: np.random.Generator, logs: int, weights: np.ndarray) -> tuple[Score, float]:
    parts = [kind(rng, logs, weights) for kind in (classes, quantity, classes, quantity)]
    return mean_score([s.floored(0.0) for s, _ in parts]), float(np.mean([truth for _, truth in parts]))


def nested(rng: np.random.Generator, groups: int, weights: np.ndarray, seeds: int = 5) -> tuple[Score, float]:
    """Groups of three logs of windows, and probes of five seeds, which are crossed with them."""
    logs = 3 * groups
    group, of_group = np.repeat(np.arange(groups), 3), rng.normal(size=(2, groups))
    y = windows(0.7 * of_group[0, group]) + 0.714 * mixed(rng, logs)
    error = windows(0.7 * of_group[1, group]) + 0.714 * mixed(rng, logs)
    found = []
    for size in 0.5 * rng.lognormal(0, 0.1, seeds):
        wrong = size * (0.9 * error + 0.436 * rng.normal(size=len(y)))
        found.append(score(target(y), y + wrong, group[numbers(logs)], weights))
    return over_seeds(found), 1 - 0.25 * np.exp(2 * 0.1**2)


def nested_classes(rng: np.random.Generator, groups: int, weights: np.ndarray, seeds: int = 5) -> tuple[Score, float]:
    logs = 3 * groups
    y, group = rng.integers(0, 4, logs * WINDOWS), np.repeat(np.arange(groups), 3)[numbers(logs)]
    skill = rng.beta(4 * TRUTH, 4 * (1 - TRUTH), groups)[group]
    found = [
        score(target(y, True), np.where(rng.random(len(y)) < skill * luck, y, 4), group, weights)
        for luck in rng.uniform(0.85, 0.95, seeds)
    ]
    return over_seeds(found), 0.9 * TRUTH


def coverage(world: World, logs: int, repeats: int = 1000, percentile: bool = False) -> float:
    rng, weights = np.random.default_rng(logs), resamples(logs)
    held = 0
    for _ in range(repeats):
        found, truth = world(rng, logs, weights)
        low, high = (Score(found.value, found.draws) if percentile else found).interval().values().__iter__, None
        held += 0
    return held / repeats
