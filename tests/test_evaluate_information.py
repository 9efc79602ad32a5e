"""Shares of a score among sensors against closed forms and brute force; p-values against SciPy and their intervals."""

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import ttest_rel

from multisense.evaluate.information import shapley, shares
from multisense.evaluate.scores import Score, compared, constant, of_sums, resamples, unknown
from multisense.evaluate.table import subsets

CHANCE = constant(0.0, 10)


def game(values: dict[str, float]) -> dict[tuple[str, ...], Score]:
    return {tuple(coalition): constant(value, 10) for coalition, value in values.items()}


def test_shapley_is_the_mean_over_all_orders_of_arrival():
    rng, names = np.random.default_rng(0), ("a", "b", "c", "d")
    values = {subset: float(rng.uniform()) for subset in subsets(names)}
    found = shapley(names, {s: constant(v, 10) for s, v in values.items()}, constant(0.1, 10))
    worth = {frozenset(s): v for s, v in values.items()} | {frozenset(): 0.1}
    for name in names:
        added = [
            worth[frozenset(o[: o.index(name) + 1])] - worth[frozenset(o[: o.index(name)])] for o in permutations(names)
        ]
        assert found[name].value == pytest.approx(np.mean(added))
    assert sum(f.value for f in found.values()) == pytest.approx(values[names] - 0.1)


def test_shares_of_a_copy_an_exclusive_or_and_a_single_source():
    copy = shares("ab", game({"a": 1.0, "b": 1.0, "ab": 1.0}), CHANCE)["a"]
    assert [copy[k].value for k in ("unique", "redundant", "synergy")] == [0, 1, 0]
    both = shares("ab", game({"a": 0.0, "b": 0.0, "ab": 1.0}), CHANCE)["a"]
    assert [both[k].value for k in ("unique", "redundant", "synergy")] == [0, 0, 1]
    alone = shares("ab", game({"a": 0.7, "b": 0.0, "ab": 0.7}), CHANCE)
    assert [alone["a"][k].value for k in ("unique", "redundant", "synergy")] == [0.7, 0, 0]
    assert alone["b"]["unique"].value == 0


def test_shares_add_up_to_what_is_known():
    rng, names = np.random.default_rng(1), ("a", "b", "c")
    scores = {subset: constant(float(rng.uniform(0.2, 1)), 10) for subset in subsets(names)}
    for name, of in shares(names, scores, CHANCE).items():
        rest = tuple(n for n in names if n != name)
        of_rest = max(scores[rest].value - scores[(name,)].value, 0)
        assert sum(s.value for s in of.values()) + of_rest == pytest.approx(scores[names].value)


def paired(gap: float, logs: int, seed: int) -> tuple[np.ndarray, np.ndarray, Score]:
    """Two columns of numbers, one per log, and their difference as a score."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(gap, 1, logs), rng.normal(0, 1, logs)
    weights = resamples(logs, 1000, seed)

    def mean(x: np.ndarray) -> Score:
        return of_sums(np.stack([np.ones(logs), x], 1), lambda s: s[:, 1] / s[:, 0], weights, (-np.inf, np.inf))

    return a, b, mean(a) - mean(b)


@pytest.mark.parametrize("gap", [0.0, 0.3, -0.5])
def test_p_is_that_of_the_paired_t_test_where_that_holds(gap: float):
    for seed in range(5):
        a, b, difference = paired(gap, 200, seed)
        assert difference.p_value() == pytest.approx(ttest_rel(a, b).pvalue, rel=0.35, abs=0.03)


def test_p_is_below_five_per_cent_exactly_where_the_interval_leaves_zero_out():
    decided = []
    for seed in range(300):
        difference = paired(0.35, 30, seed)[2]
        cell = difference.interval()
        assert cell["low"] is not None
        assert cell["high"] is not None
        decided.append(difference.p_value() < 0.05)
        assert decided[-1] == (cell["low"] > 0 or cell["high"] < 0)
    assert 60 < sum(decided) < 240  # both happen


def test_without_a_difference_p_is_small_no_oftener_than_it_says():
    small = np.mean([paired(0.0, 60, seed)[2].p_value() < 0.05 for seed in range(1000)])
    assert 0.025 < small < 0.065


def test_holm_on_his_example():
    class Known(Score):
        def p_value(self) -> float:
            return self.value

    cells = compared({n: Known(p, np.full(10, p)) for n, p in zip("abcd", (0.01, 0.04, 0.03, 0.005), strict=True)})
    assert [cells[n]["p"] for n in "abcd"] == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_what_is_unknown_makes_all_that_is_made_of_it_unknown():
    names = ("a", "b")
    scores = game({"a": 0.5, "ab": 0.9}) | {("b",): unknown(10)}
    assert shapley(names, scores, CHANCE)["a"].interval() == {"mean": None, "low": None, "high": None}
    assert compared({"x": scores["a", "b"] - scores["b",]})["x"] == {"mean": None, "low": None, "high": None, "p": 1.0}
