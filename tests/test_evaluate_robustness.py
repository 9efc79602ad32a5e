"""Robustness on a small run: levels that are the ablation's, points that are what they say, files and table."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import body_log
from rich.console import Console
from test_embed import make_run

from multisense.evaluate.ablation import ablate, prepare
from multisense.evaluate.disturbances import DISTURBANCES
from multisense.evaluate.robustness import robustness
from multisense.evaluate.robustness_files import rich_table
from multisense.evaluate.shuffle import SWAPPED, shuffled
from multisense.evaluate.table import Tree
from multisense.run import Run

SIDES = [body_log(n) for n in range(8)], [body_log(n) for n in range(8, 14)]


@pytest.fixture(scope="module")
def run() -> Run:
    return make_run()


@pytest.fixture(scope="module")
def made(run, tmp_path_factory) -> tuple[Tree, Path]:
    out = tmp_path_factory.mktemp("robustness")
    return robustness(run, SIDES[1], out, train_logs=SIDES[0]), out


def test_levels_are_those_of_the_ablation(run, made, tmp_path):
    ablation = ablate(run, SIDES[1], tmp_path, train_logs=SIDES[0])
    names = run.model.names
    for name, part in made[0]["sensors"].items():
        rest = "+".join(other for other in names if other != name)
        for level, features in (("clean", "+".join(names)), ("alone", name), ("without", rest)):
            for label in ablation["labels"]:
                expected = ablation["labels"][label]["subsets"][features]["mean"]
                assert part["levels"][level]["labels"][label]["mean"] == pytest.approx(expected, abs=0.02)


def test_every_disturbance_of_a_sense_is_there_at_every_strength(made):
    for part in made[0]["sensors"].values():
        expected = {d.name: list(d.strengths) for d in DISTURBANCES if part["sense"] in d.senses}
        assert {name: [point["strength"] for point in points] for name, points in part["curves"].items()} == expected


def test_differences_are_those_of_the_scores_and_the_mean_counts_less_than_nothing_as_nothing(made):
    for part in made[0]["sensors"].values():
        levels = part["levels"]
        for points in part["curves"].values():
            for point in points:
                for label, cell in point["labels"].items():
                    score = cell["score"]["mean"]
                    assert cell["loss"]["mean"] == pytest.approx(levels["clean"]["labels"][label]["mean"] - score)
                    assert cell["over_without"]["mean"] == pytest.approx(
                        score - levels["without"]["labels"][label]["mean"]
                    )
                    assert cell["loss"]["low"] <= cell["loss"]["high"]
                floored = [max(cell["score"]["mean"], 0.0) for cell in point["labels"].values()]
                assert point["mean"]["score"]["mean"] == pytest.approx(np.mean(floored))


def test_joints_of_another_log_or_with_noise_cost_what_the_joints_told(made):
    """The angle is in the joints of even an untrained model, and its height is asked for."""
    arm = made[0]["sensors"]["arm"]
    assert arm["levels"]["alone"]["labels"]["height"]["mean"] > 0.3
    loss = {(name, p["strength"]): p["labels"]["height"]["loss"] for name, ps in arm["curves"].items() for p in ps}
    assert loss["swapped", 1]["low"] > 0
    assert loss["offset", 10]["mean"] < loss["offset", 200]["mean"]
    assert loss["noise", 0.1]["mean"] < loss["noise", 1.0]["mean"]


def test_seen_is_the_share_of_the_sensor_that_is_there(made):
    dropped = [point["seen"] for point in made[0]["sensors"]["arm"]["curves"]["dropped"]]
    np.testing.assert_allclose(dropped, [0.75, 0.5, 0.25, 0.0])
    assert all(point["seen"] == 1.0 for point in made[0]["sensors"]["ear"]["curves"]["noise"])


def test_files_hold_the_tree_and_the_table_is_read_by_people(made):
    tree, out = made
    assert json.loads((out / "robustness.json").read_text()) == tree
    assert set(tree) == {"sensors", "labels", "skipped", "floor", "provenance"}
    rows = list(csv.DictReader((out / "robustness.csv").read_text().splitlines()))
    row = next(
        r
        for r in rows
        if (r["sensor"], r["disturbance"], r["strength"], r["label"], r["measure"])
        == ("pad", "dead", "0.5", "height", "loss")
    )
    assert float(row["mean"]) == tree["sensors"]["pad"]["curves"]["dead"][-1]["labels"]["height"]["loss"]["mean"]
    assert (out / "robustness.png").read_bytes()[:4] == b"\x89PNG"
    shown = io.StringIO()
    Console(file=shown, width=80).print(rich_table(tree))
    lines = shown.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "eye" in lines[3] or any("eye" in line and "arm" in line for line in lines[:6])
    assert len(next(line for line in lines if "taxels dead" in line).split()) == 5  # of the pad alone


def test_one_probe_of_many_features_is_a_probe_of_each(run):
    sides = prepare(run, SIDES[1], SIDES[0])
    rng = np.random.default_rng(0)
    train, tests = rng.normal(size=(len(sides.train), 12)), rng.normal(size=(3, len(sides.test), 12))
    tests[1, :4] = np.nan
    together = sides.kept.scores_of_each(train, list(tests))
    for features, scores in zip(tests, together, strict=True):
        for label, score in sides.kept.scores(train, features).items():
            assert score.value == pytest.approx(scores[label].value)
            np.testing.assert_allclose(score.draws, scores[label].draws)


def test_a_single_sensor_is_held_against_chance(tmp_path):
    only = make_run(["arm"])
    tree = robustness(only, SIDES[1], tmp_path, train_logs=SIDES[0], disturbances=[DISTURBANCES[0]])
    arm = tree["sensors"]["arm"]
    assert arm["levels"]["without"]["labels"]["height"]["mean"] == 0.0
    assert arm["levels"]["without"]["labels"]["fast"]["mean"] == 0.5
    assert arm["levels"]["clean"] == arm["levels"]["alone"]


def test_a_sensor_that_one_log_has_is_not_swapped_for_itself(run, tmp_path):
    logs = [body_log(n, seconds=1.5) for n in range(8, 11)]
    for log in logs[1:]:
        log.streams = {name: stream for name, stream in log.streams.items() if name != "arm"}
    sides = prepare(run, logs, SIDES[0])
    assert set(shuffled(run, sides.test, 0, 8)) == set(run.model.names) - {"arm"}
    tree = robustness(run, logs, tmp_path, train_logs=SIDES[0], disturbances=[SWAPPED, DISTURBANCES[0]])
    assert {name for name, part in tree["sensors"].items() if "swapped" in part["curves"]} == {"eye", "ear", "pad"}
