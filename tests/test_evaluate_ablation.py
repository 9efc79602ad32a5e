"""The ablation's tree on planted truth, its files, and the whole command on a small run."""

import csv
import io
import json
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import body_log
from rich.console import Console
from test_embed import make_run

from multisense.evaluate.ablation import ablate, open_held_out, prepare, probe_logs, split_logs
from multisense.evaluate.bench import Bench, bench
from multisense.evaluate.plots import heat_map
from multisense.evaluate.retrieval import retrieve
from multisense.evaluate.retrieval_table import retrieve_path
from multisense.evaluate.table import Tree, describe, key, rich_table, subsets, tabulate, text, write_ablation
from multisense.evaluate.windows import Target

NAMES = ("camera", "mic", "arm")
SEES = {"camera": [0, 1], "mic": [2], "arm": [0]}
"""Which hidden factors each sense tells."""


def planted() -> tuple[Tree, Bench]:
    """Factor 0 is seen by camera and arm, 1 by the camera, 2 by the mic; `both` needs 1 and 2; `null` is nothing."""
    rng = np.random.default_rng(0)
    sides = [(np.repeat(np.arange(logs), 4), rng.normal(size=(logs * 4, 4))) for logs in (100, 50)]

    def known(z: np.ndarray) -> dict[str, Target]:
        values = {"place": z[:, :2], "sound": (z[:, 2] > 0).astype(int), "both": z[:, 1] + z[:, 2], "null": z[:, 3]}
        return {n: Target(n, v, np.ones(len(z), bool), v.dtype == int) for n, v in values.items()}

    kept, _ = bench(known(sides[0][1]), known(sides[1][1]), sides[0][0], sides[1][0])

    def scores(names: tuple[str, ...], noise: float):
        factors = sorted({f for name in names for f in SEES[name]})
        return kept.scores(*(z[:, factors] + noise * rng.normal(size=(len(z), len(factors))) for _, z in sides))

    fused = {key(s): scores(s, 0.2) for s in subsets(NAMES)}
    baselines = {"untrained": scores(NAMES, 1.0), "raw": scores(NAMES, 0.8), "chance": kept.chance()}
    alone = {f"{kind}:{n}": scores((n,), 1.0) for kind in ("untrained", "raw") for n in NAMES}
    tree = tabulate(NAMES, fused, baselines, alone)
    describe(tree, kept)
    return {**tree, "skipped": {}, "provenance": {"seed": 0}}, kept


@pytest.fixture(scope="module")
def tree() -> Tree:
    return planted()[0]


def test_subsets_are_all_up_to_five_sensors_and_the_ends_beyond():
    assert len(subsets("abcde")) == 31
    assert len(subsets("abcdef")) == 6 + 6 + 1
    assert subsets(("a",)) == [("a",)]


def test_the_ablation_finds_the_planted_truth(tree):
    labels = tree["labels"]
    hurts = {name: max(part["needs"], key=lambda s: part["needs"][s]["mean"]) for name, part in labels.items()}
    assert hurts["place"] == "camera"
    assert hurts["sound"] == "mic"
    assert abs(labels["sound"]["needs"]["arm"]["mean"]) < 0.05
    assert labels["both"]["synergy"]["low"] > 0.2
    assert labels["sound"]["synergy"]["best_single"] == "mic"
    assert abs(labels["null"]["subsets"]["camera+mic+arm"]["mean"]) < 0.05
    assert tree["mean"]["differences"]["fused-untrained"]["low"] > 0
    assert set(tree["mean"]["differences"]) == {f"fused-{n}" for n in ("untrained", "raw", *NAMES)}


def test_the_mean_is_over_labels_and_counts_less_than_nothing_as_nothing(tree):
    for features, cell in tree["mean"]["subsets"].items():
        floored = [max(part["subsets"][features]["mean"], 0.0) for part in tree["labels"].values()]
        assert cell["mean"] == pytest.approx(np.mean(floored))


def test_files_hold_the_tree(tree, tmp_path):
    write_ablation(tree, tmp_path)
    heat_map(tree, tmp_path / "ablation.png")
    again = json.loads((tmp_path / "ablation.json").read_text())
    assert again == tree
    assert set(again) == {"labels", "mean", "skipped", "provenance"}
    for part in again["labels"].values():
        assert part["metric"] in {"r2", "accuracy"}
        assert set(part["subsets"]) == {key(s) for s in subsets(NAMES)}
        assert set(part["baselines"]) == {"untrained", "raw", "chance"}
        assert all(set(cell) == {"mean", "low", "high"} for cell in part["subsets"].values())
        assert part["windows"] == {"train": 400, "test": 200}
    rows = list(csv.DictReader((tmp_path / "ablation.csv").read_text().splitlines()))
    cell = next(r for r in rows if r["label"] == "sound" and r["features"] == "camera+mic" and r["kind"] == "subsets")
    assert float(cell["mean"]) == tree["labels"]["sound"]["subsets"]["camera+mic"]["mean"]
    assert (tmp_path / "ablation.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_is_read_by_people(tree):
    shown = io.StringIO()
    Console(file=shown, width=80).print(rich_table(tree))
    lines = shown.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("camera + mic ") for line in lines)
    assert next(line for line in lines if line.startswith("chance")).split()[-1] == ".12"  # the mean comes last
    assert text({"mean": 0.618, "low": -0.004, "high": 1.0}) == ".62 [.00, 1.00]"
    assert text({"mean": -10.5, "low": None, "high": None}) == "-10.50"


# --- the whole command on a small run


@pytest.fixture(scope="module")
def run():
    return make_run()


def test_ablate_writes_every_subset_and_its_provenance(run, tmp_path):
    train, test = [body_log(n) for n in range(8)], [body_log(n) for n in range(8, 14)]
    tree = ablate(run, test, tmp_path, train_logs=train)
    assert set(tree["labels"]) == {"height", "fast"}
    height = tree["labels"]["height"]
    assert len(height["subsets"]) == 15
    assert height["subsets"]["arm"]["mean"] > 0.3, "even untrained features of the joints tell the angle"
    assert set(height["by_sensor"]) == {f"{kind}:{n}" for kind in ("untrained", "raw") for n in run.model.names}
    assert tree["provenance"]["ablation"]["logs"]["test"]["count"] == 6
    assert json.loads((tmp_path / "ablation.json").read_text()) == tree


def test_ablate_splits_the_given_logs_where_the_training_logs_are_gone(run, tmp_path):
    logs = [body_log(n) for n in range(10)]
    for log in logs:
        log.labels = {"height": log.labels["height"]}
    tree = ablate(run, logs, tmp_path)
    assert tree["provenance"]["ablation"]["logs"]["test"]["count"] == 3
    with pytest.raises(ValueError, match=r"training logs \(memory\) are gone, and 2 log\(s\) are too few"):
        ablate(run, logs[:2], tmp_path)


def test_what_a_run_held_out_is_what_it_is_tested_on_even_where_its_training_logs_are_gone(run, tmp_path):
    data = run.config.data.model_copy(update={"hold_out": ["body-001", "body-004"]})
    holding = replace(run, config=run.config.model_copy(update={"data": data}))
    tree = ablate(holding, [body_log(n) for n in range(6)], tmp_path)
    logs = tree["provenance"]["ablation"]["logs"]
    assert (logs["train"]["count"], logs["test"]["count"]) == (4, 2)
    assert logs["test"]["first"] == "memory:body-001"


@pytest.fixture
def holding(run, tmp_path, monkeypatch):
    """A run that holds one of the three logs in its folder out, and a folder of others with the same names."""
    data = run.config.data.model_copy(update={"train": str(tmp_path / "own"), "hold_out": ["body-001"]})
    held = replace(run, config=run.config.model_copy(update={"data": data}))

    def logs_in(path: str | Path) -> list:
        found = [body_log(n, seconds=1.5) for n in range(3)]
        for log in found:
            log.at = f"{path}/{log.name}.h5"
        return found

    (tmp_path / "own").mkdir()
    monkeypatch.setattr("multisense.run.open_logs", logs_in)
    monkeypatch.setattr("multisense.evaluate.ablation.open_logs", logs_in)
    monkeypatch.setattr("multisense.evaluate.ablation.open_run", lambda path, device: held)
    return held


def names_of(logs) -> list[str]:
    return [log.name for log in logs]


def test_held_out_logs_are_those_that_the_run_holds_out(holding, tmp_path):
    opened, found = open_held_out(tmp_path, None)
    assert names_of(found) == ["body-001"]
    train, test = probe_logs(opened, found)
    assert (names_of(train), names_of(test)) == (["body-000", "body-002"], ["body-001"])
    _, everything = open_held_out(tmp_path, tmp_path / "own")
    assert names_of(probe_logs(opened, everything)[1]) == ["body-001"]


def test_what_is_scored_on_training_logs_is_refused(holding, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"2 of 3 held-out logs are among the training logs \(first: body-000\)"):
        retrieve_path(tmp_path, tmp_path / "own")
    assert retrieve_path(tmp_path, tmp_path / "other", ["eye"], ["arm"])["gallery"] == 3
    tool = runpy.run_path(str(Path(__file__).parents[1] / "tools" / "null_world.py"))
    monkeypatch.setattr("sys.argv", ["null_world.py", "run", str(tmp_path / "own"), "--logs", "1"])
    with pytest.raises(ValueError, match="2 of 3 held-out logs are among the training logs"):
        tool["main"]()


def test_logs_elsewhere_that_have_the_name_of_a_held_out_one_are_all_used(holding, tmp_path):
    _, found = open_held_out(tmp_path, tmp_path / "other")
    train, test = probe_logs(holding, found)
    assert (names_of(train), names_of(test)) == (["body-000", "body-002"], ["body-000", "body-001", "body-002"])
    assert prepare(holding, found).test.logs == found


def test_training_logs_on_the_hub_are_not_gone(holding, tmp_path):
    data = holding.config.data.model_copy(update={"train": "hf://datasets/some/body"})
    remote = replace(holding, config=holding.config.model_copy(update={"data": data}))
    train, test = probe_logs(remote, open_held_out(tmp_path, tmp_path / "other")[1])
    assert (names_of(train), len(test)) == (["body-000", "body-002"], 3)


def test_where_training_logs_were_looked_for_is_said(run, capsys):
    with pytest.raises(ValueError, match=f"give at least 3, or the training logs at {Path('memory').resolve()}"):
        probe_logs(run, [body_log(n) for n in range(2)])
    assert str(Path("memory").resolve()) in capsys.readouterr().err


def test_ablate_refuses_to_test_on_what_probes_were_trained_on(run, tmp_path):
    logs = [body_log(n) for n in range(4)]
    with pytest.raises(ValueError, match=r"1 of 2 held-out logs are among the training logs \(first: body-002\)"):
        ablate(run, logs[2:], tmp_path, train_logs=logs[:3])
    with pytest.raises(ValueError, match=r"none of the 1 held-out logs is as long as one clip of 1\.0 s"):
        ablate(run, [body_log(9, seconds=0.5)], tmp_path, train_logs=logs)


def test_logs_without_labels_are_probed_for_what_their_joints_do(run, tmp_path):
    logs = [body_log(n) for n in range(5)]
    for log in logs:
        log.labels = {}
    tree = ablate(run, logs[3:], tmp_path, train_logs=logs[:3])
    assert list(tree["labels"]) == ["mean_arm"]
    assert tree["labels"]["mean_arm"]["subsets"]["arm"]["mean"] > tree["labels"]["mean_arm"]["subsets"]["ear"]["mean"]


def test_split_is_by_log_and_loses_none():
    logs = [body_log(n, seconds=0.2) for n in range(9)]
    train, test = split_logs(logs)
    assert sorted(log.name for log in [*train, *test]) == [log.name for log in logs]
    assert len(test) == 3


def test_retrieve_covers_every_ordered_pair(run):
    found = retrieve(run, [body_log(n) for n in range(12)])
    assert set(found["pairs"]) == {f"{a}>{b}" for a in run.model.names for b in run.model.names if a != b}
    assert (found["gallery"], found["among"]) == (12, "those of 12 recordings")
    assert found["galleries"] == 3
    assert found["mean"]["recall"]["1"]["chance"] == pytest.approx(1 / 12)
    assert found["mean"]["recall"]["10"]["low"] is not None
