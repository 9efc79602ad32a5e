"""Nearest neighbours, attentive probes, splits and budgets against planted truth; the command; a world without any truth."""

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import ArrayLog, body_log
from rich.console import Console
from sklearn.metrics import balanced_accuracy_score, r2_score
from sklearn.neighbors import KNeighborsRegressor
from test_embed import make_run
from threadpoolctl import threadpool_limits

from multisense.clips import Windows
from multisense.embed import batches, embed_subsets
from multisense.evaluate.attentive import attend
from multisense.evaluate.bench import bench
from multisense.evaluate.knn import _asked, nearest
from multisense.evaluate.probing import probe
from multisense.evaluate.probing_table import probe_table
from multisense.evaluate.protocol import Protocol, parse_budgets
from multisense.evaluate.splits import draw_logs, groups_of, leave_one_out
from multisense.evaluate.table import subsets
from multisense.evaluate.windows import Target, targets
from multisense.types import Label


def target(values: np.ndarray, is_class: bool = False) -> Target:
    return Target("t", values, np.ones(len(values), bool), is_class)


# --- nearest neighbours


def test_neighbours_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    x, x_test, y = rng.normal(size=(60, 5)), rng.normal(size=(20, 5)), rng.normal(size=(60, 2))
    x, x_test = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (x, x_test))
    model = KNeighborsRegressor(7, metric="cosine", weights=lambda distance: np.exp(-distance / 0.07)).fit(x, y)
    np.testing.assert_allclose(_asked(7, x, y, x_test, target(y)), model.predict(x_test))


def test_neighbours_weigh_rare_classes_alike_and_need_no_line_between_classes():
    rng = np.random.default_rng(1)
    y, y_test = rng.choice(2, 600, p=[0.9, 0.1]), np.repeat([0, 1], 100)

    def ring(kind: np.ndarray) -> np.ndarray:
        angle = rng.uniform(0, np.pi / 2, len(kind)) + np.pi / 2 * (kind + 2 * rng.integers(0, 2, len(kind)))
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)

    said = nearest(target(y, True), ring(y), ring(y_test), np.arange(600) // 5)
    assert balanced_accuracy_score(y_test, said) > 0.9


# --- attentive probes


def planted(rng: np.random.Generator, windows: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (windows, 12, 16): one of them, anywhere, is marked and holds a number; the others hold other numbers."""
    tokens = rng.normal(size=(windows, 12, 16)).astype(np.float32)
    tokens[..., 0] = -2
    at = rng.integers(0, 12, windows)
    tokens[np.arange(windows), at, 0] = 3
    return tokens, tokens[np.arange(windows), at, 1].astype(np.float64)


def test_attention_finds_the_token_that_holds_the_answer():
    rng = np.random.default_rng(2)
    (x, y), (x_test, y_test) = planted(rng, 900), planted(rng, 200)
    log = np.arange(900) // 5
    assert r2_score(y_test, attend(target(10 * y + 3), x, x_test, log) / 10 - 0.3) > 0.7
    said = attend(target((y > 0).astype(int), True), x, x_test, log)
    assert balanced_accuracy_score(y_test > 0, said) > 0.85


def test_an_attentive_probe_is_a_function_of_its_seed_and_of_known_windows_and_tokens_alone():
    rng = np.random.default_rng(3)
    x, y = planted(rng, 40)
    x[:, 3] = np.nan
    x[5] = np.nan
    asked = replace(target(y), present=np.arange(40) < 30)
    first = attend(asked, x, x[:6], np.arange(40) // 4, seed=1)
    changed = x.copy()
    changed[30:] = 7
    np.testing.assert_array_equal(first, attend(asked, changed, x[:6], np.arange(40) // 4, seed=1))
    assert np.isfinite(first).all()
    assert np.abs(first - attend(asked, x, x[:6], np.arange(40) // 4, seed=2)).max() > 1e-3


# --- splits and budgets


@pytest.mark.parametrize("seed", range(5))
def test_a_budget_is_a_share_of_whole_logs_with_every_class(seed):
    log = np.repeat(np.arange(100), 3)
    rows = np.flatnonzero(log >= 20)
    of_log = np.repeat(np.minimum(np.arange(100) % 50, 3), 3)  # classes 0, 1, 2 are in two logs each
    for asked, budget, expected in (
        (target(of_log, True), 0.01, 4),
        (target(of_log, True), 0.1, 8),
        (target(of_log, True), 1.0, 80),
        (target(of_log * 1.0), 0.01, 2),
        (target(of_log * 1.0), 0.1, 8),
    ):
        drawn = draw_logs(asked, log, rows, budget, seed)
        assert len(np.unique(log[drawn])) == expected
        assert set(drawn) == set(np.flatnonzero(np.isin(log, log[drawn])))
        assert set(drawn) <= set(rows)
        if asked.is_class:
            assert set(of_log[drawn]) == set(of_log[rows])
    assert not np.array_equal(drawn, draw_logs(target(of_log * 1.0), log, rows, 0.1, seed + 1))


def test_groups_are_what_a_label_says_of_a_log():
    logs = [body_log(n, seconds=0.2) for n in range(4)]
    for log, kind in zip(logs, (5, 2, 5, 2), strict=True):
        log.labels = {"kind": Label("kind", np.array(kind)), "height": log.labels["height"]}
    number = groups_of(logs, "kind")
    assert number.tolist() == [1, 0, 1, 0]
    (train, test), _ = leave_one_out(number)
    assert (train.tolist(), test.tolist()) == ([0, 2], [1, 3])
    told = Label("kind", np.array([-1, 5, -1, 5]), np.arange(4) / 20)
    unsaid = Label("kind", np.array(-1))
    logs[0].labels["kind"] = told
    assert groups_of(logs, "kind").tolist() == [1, 0, 1, 0]
    logs[1].labels["kind"] = unsaid
    with pytest.raises(
        ValueError, match="log 2 of 4 has no known value of it; a group is one per log, as is said by no label"
    ):
        groups_of(logs, "kind")
    logs[1].labels["kind"] = logs[3].labels["kind"]
    with pytest.raises(ValueError, match="log 1 of 4 has 10 values of it; a group is one per log, as is said by kind"):
        groups_of(logs, "height")
    with pytest.raises(ValueError, match=r"has no such label; known are \['height', 'kind'\]"):
        groups_of(logs, "object")
    with pytest.raises(ValueError, match="all 1 logs are of one group"):
        groups_of(logs[:1], "kind")


def test_a_protocol_says_what_it_cannot_be():
    assert parse_budgets("1,10,100") == (0.01, 0.1, 1.0)
    with pytest.raises(ValueError, match=r"expected per cents separated by commas"):
        parse_budgets("all")
    with pytest.raises(ValueError, match="expected one of linear, knn, attentive"):
        Protocol("ridge")
    with pytest.raises(ValueError, match="above 0 and up to 100"):
        Protocol(budgets=parse_budgets("0,10"))


# --- the whole on a small run


@pytest.fixture(scope="module")
def run():
    return make_run()


def bodies(first: int, stop: int) -> list[ArrayLog]:
    """Bodies of four kinds, three logs each, one after the other, whose height is in millimetres."""
    logs = [body_log(n, seconds=2.0) for n in range(first, stop)]
    for n, log in enumerate(logs):
        height = log.labels["height"]
        scaled = Label("height", 1000 * height.data, height.times_s, units="mm")
        log.labels = {**log.labels, "height": scaled, "kind": Label("kind", np.array(n // 3 % 4))}
    return logs


def test_probes_of_drawn_budgets_are_told_with_intervals_beside_the_untrained_network(run, tmp_path):
    tree = probe(run, bodies(12, 20), Protocol(budgets=(0.1, 1.0), seeds=2), ["height"], train_logs=bodies(0, 12))
    height = tree["labels"]["height"]
    assert list(tree["labels"]) == ["height"]
    assert height["tested"] == {"windows": 24, "units": 8, "logs": 8}
    few, all_logs = height["budgets"]["10 %"], height["budgets"]["100 %"]
    assert (few["logs"], few["seeds"], all_logs["logs"], all_logs["seeds"]) == (2, 2, 12, 1)
    for cell in (few, all_logs):
        for metric in ("r2", "mae"):
            assert set(cell[metric]) == {"run", "untrained", "chance", "gain"}
            assert cell[metric]["run"]["low"] < cell[metric]["run"]["mean"] < cell[metric]["run"]["high"]
    assert 10 < all_logs["mae"]["run"]["mean"] < all_logs["mae"]["chance"]["mean"] < 1000, "millimetres"
    assert all_logs["r2"]["run"]["mean"] > few["r2"]["run"]["mean"]
    assert json.loads(json.dumps(tree))["labels"] == tree["labels"]
    shown = Console(record=True, width=100)
    shown.print(probe_table(tree))
    text = shown.export_text()
    assert "linear probes on held-out logs" in text
    assert "MAE mm" in text


@pytest.mark.parametrize("kind", ["linear", "knn", "attentive"])
def test_a_group_left_out_is_predicted_by_probes_of_the_others(run, kind, monkeypatch):
    monkeypatch.setattr("multisense.evaluate.attentive.STEPS", 40)
    tree = probe(run, bodies(0, 12), Protocol(kind, group="kind", seeds=1), ["height", "fast", "kind"])
    assert tree["skipped"] == {"kind": "class 0 is in one group only: left out, no probe can know it"}
    found = tree["labels"]["height"]["budgets"]["100 %"]
    assert tree["labels"]["height"]["tested"]["units"] == 4
    assert found["logs"] == 9
    assert found["mae"]["run"]["mean"] < found["mae"]["chance"]["mean"]
    assert tree["labels"]["fast"]["budgets"]["100 %"]["f1"]["chance"]["mean"] < 0.51


def test_what_cannot_be_probed_is_said(run):
    logs = bodies(0, 6)
    with pytest.raises(ValueError, match=r"--label weight: known on both sides are \['height', 'fast', 'kind'\]"):
        probe(run, logs[3:], Protocol(), ["weight"], train_logs=logs[:3])
    with pytest.raises(ValueError, match="among the training logs"):
        probe(run, logs[3:], Protocol(), train_logs=logs[2:])


# --- a world in which nothing can be known


def beats_chance(run, logs: list[ArrayLog], training: int, permutations: int) -> list[bool]:
    """Whether `low` lies above chance, for every cell: subset x label x permutation of the labels between logs."""
    windows = Windows(logs, run.grids, 1.0, 1.0)
    found = [embed_subsets(run.model, batch, subsets(run.model.names)) for batch in batches(windows)]
    features = [np.concatenate([part[subset] for part in found]) for subset in found[0]]
    number = np.array([log for log, _ in windows.index])
    train, test = number < training, number >= training
    above = []
    for seed in range(permutations):
        order = np.random.default_rng(seed).permutation(len(logs))
        shuffled = [replace(log, labels=logs[other].labels) for log, other in zip(logs, order, strict=True)]
        known = targets(shuffled, windows.index, 1.0, ["height", "fast"]).items()
        sides = ({n: replace(t, values=t.values[x], present=t.present[x]) for n, t in known} for x in (train, test))
        kept, _ = bench(*sides, number[train], number[test] - training)
        chance = kept.chance()
        with threadpool_limits(1):  # as in `ablate`
            scores = [score for x in features for score in kept.scores(x[train], x[test]).items()]
        above += [score.interval()["low"] > chance[name].value for name, score in scores]
    return above


def test_where_labels_are_permuted_between_logs_no_subset_beats_chance(run):
    above = beats_chance(run, [body_log(n, seconds=2.0) for n in range(50)], 30, permutations=2)
    assert len(above) == 2 * 15 * 2
    assert np.mean(above) <= 0.05


@pytest.mark.slow
def test_nor_in_many_permutations(run):
    above = beats_chance(run, [body_log(n, seconds=2.0) for n in range(120)], 80, permutations=20)
    assert np.mean(above) <= 0.05
