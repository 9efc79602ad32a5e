"""95 % intervals against tables whose true score is known: how often they hold it in 1,000 tables of each kind."""

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import f1_score, mean_absolute_error

from multisense.evaluate.bench import bench
from multisense.evaluate.metrics import share
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


def hardly_known(rng: np.random.Generator, logs: int, weights: np.ndarray) -> tuple[Score, float]:
    """An R2 of .05, which resamples take below the floor."""
    y = mixed(rng, logs)
    return score(target(y), y + 0.95**0.5 * mixed(rng, logs), numbers(logs), weights).floored(0.0), 0.05


def mean_of_the_hardly_known(rng: np.random.Generator, logs: int, weights: np.ndarray) -> tuple[Score, float]:
    return mean_score([hardly_known(rng, logs, weights)[0] for _ in range(4)]), 0.05


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


WORLDS = (
    classes, class_of_a_log, quantity, absolute_error, difference, mean_of_labels, hardly_known,
    mean_of_the_hardly_known, nested, nested_classes,
)  # fmt: skip


def coverage(world: World, logs: int, repeats: int) -> float:
    """Share of tables whose interval holds the truth."""
    rng, weights = np.random.default_rng(logs), resamples(logs)
    held = 0
    for _ in range(repeats):
        found, truth = world(rng, logs, weights)
        interval = found.interval()
        held += interval["low"] <= truth <= interval["high"]
    return held / repeats


@pytest.mark.slow
@pytest.mark.parametrize("logs", [20, 80, 200])
@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.__name__)
def test_intervals_hold_the_truth_in_93_to_97_per_cent_of_1000_tables(world, logs):
    """On 20 logs two are too wide: ten logs a class, and a difference of two heavy-tailed errors. So are means of scores
    that are hardly above their floor, which takes their draws' lower half away."""
    most = 0.98 if logs == 20 and world in (class_of_a_log, difference) else 0.97
    most = 0.995 if world in (hardly_known, mean_of_the_hardly_known) else most
    assert 0.93 <= coverage(world, logs, 1000) <= most


@pytest.mark.parametrize("world", [classes, difference, nested], ids=lambda world: world.__name__)
def test_intervals_hold_the_truth_in_few_tables(world):
    assert 0.90 <= coverage(world, 30, 150) <= 0.99


def test_the_error_of_a_mean_is_that_of_the_textbook():
    rng = np.random.default_rng(0)
    x = rng.normal(size=50)
    sums = np.stack([np.ones(50), x], axis=1)[..., None]
    found = of_sums(sums, share, resamples(50), (-np.inf, np.inf))
    assert found.spread is not None
    assert found.spread.error() == pytest.approx(x.std(ddof=1) / 50**0.5)
    drawn = np.repeat(x, resamples(50)[0].astype(int))
    assert found.spread.errors()[0] == pytest.approx(drawn.std() / 49**0.5)
    found = over_seeds([Score(v, np.full(1000, v), found.spread) for v in (0.0, 1.0, 5.0)])
    of_seeds = np.array([0.0, 1.0, 5.0]).std(ddof=1) / 3**0.5
    assert found.spread is not None
    assert found.spread.error() == pytest.approx(np.hypot(of_seeds, x.std(ddof=1) / 50**0.5))


def test_derivatives_are_those_of_leaving_a_little_of_a_log_out():
    rng = np.random.default_rng(1)
    log = numbers(12)
    y, kinds = rng.normal(size=(72, 2)), rng.integers(0, 3, 72)
    guess, said = y + rng.normal(size=y.shape), rng.integers(0, 3, 72)
    for metric, asked, predicted in (
        ("r2", target(y), guess),
        ("mae", target(y), guess),
        ("accuracy", target(kinds, True), said),
        ("f1", target(kinds, True), said),
    ):
        weights = np.ones((2, 12))
        weights[1, 3] += 1e-6
        found = score(asked, predicted, log, weights, metric)
        assert found.spread is not None
        influence = found.spread.gradient[0] @ found.spread.sums[3] / (12 / 11) ** 0.5
        assert influence == pytest.approx((found.draws[1] - found.draws[0]) / 1e-6, rel=1e-3)


def test_metrics_are_those_of_scikit_learn():
    rng = np.random.default_rng(2)
    y, kinds = rng.normal(size=(72, 2)), rng.integers(0, 3, 72)
    guess, said = y + rng.normal(size=y.shape), rng.integers(0, 3, 72)
    weights = resamples(12)
    assert score(target(y), guess, numbers(12), weights, "mae").value == pytest.approx(mean_absolute_error(y, guess))
    found = score(target(kinds, True), said, numbers(12), weights, "f1").value
    assert found == pytest.approx(f1_score(kinds, said, average="macro"))


def test_intervals_stay_within_what_a_score_can_be_and_perfection_is_not_certain():
    y, log, weights = np.arange(120) % 4, numbers(20), resamples(20)
    perfect = score(target(y, True), y, log, weights).interval()
    assert perfect == {"mean": 1.0, "low": pytest.approx(0.025 ** (1 / 20)), "high": 1.0}
    nearly = np.where(np.arange(120) == 7, 0, y)
    interval = score(target(y, True), nearly, log, weights).interval()
    assert interval["high"] <= 1
    assert interval["low"] < interval["mean"] < 1
    gap = score(target(y, True), nearly, log, weights) - constant(0.25, 1000)
    assert gap.interval()["high"] == pytest.approx(interval["high"] - 0.25)
    assert constant(0.25, 1000).interval() == {"mean": 0.25, "low": 0.25, "high": 0.25}


def test_where_no_log_differs_from_the_others_few_say_little():
    y = np.repeat([0, 0, 1, 1], 3)
    log, weights = np.repeat(np.arange(4), 3), resamples(4)
    right, constant_guess = (score(target(y, True), guess, log, weights) for guess in (y, 0 * y))
    gap = right - constant_guess
    assert gap.interval()["low"] < 0
    assert gap.p_value() > 0.3
    many = np.repeat(np.arange(200) % 2, 3)
    sides = (
        score(target(many, True), guess, np.repeat(np.arange(200), 3), resamples(200)) for guess in (many, 0 * many)
    )
    gap = next(sides) - next(sides)
    assert gap.interval()["low"] > 0.4
    assert gap.p_value() < 1e-6


def test_an_offset_changes_no_score():
    rng = np.random.default_rng(0)
    sides = [(np.repeat(np.arange(logs), 4), rng.normal(size=logs * 4)) for logs in (30, 20)]

    def low(offset: float) -> float:
        known = [{"north": Target("north", y + offset, np.ones(len(y), bool), False)} for _, y in sides]
        kept, _ = bench(known[0], known[1], sides[0][0], sides[1][0])
        return kept.scores(*(y[:, None] + 0.5 * np.ones_like(y)[:, None] for _, y in sides))["north"].interval()["low"]

    assert low(5.4e6) == pytest.approx(low(0.0), abs=1e-4)


def test_scores_over_other_units_cannot_be_paired():
    one, two = (quantity(np.random.default_rng(0), logs, resamples(logs))[0] for logs in (5, 6))
    with pytest.raises(ValueError, match=r"over \[5, 6\] units cannot be paired"):
        _ = one - two


def test_a_label_known_in_one_log_has_no_interval():
    y = np.arange(18.0)
    present = numbers(3) == 1
    found = score(Target("t", y, present, False), y + 1, numbers(3), resamples(3))
    assert found.p_value() == 1.0
    assert found.interval()["low"] is None
