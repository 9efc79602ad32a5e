"""Ablation by retraining: a model for every subset of the sensors, beside one model from which sensors are dropped.

Dropping asks what one representation draws from a sense; retraining asks what could have been learned without it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from multisense.arms.plan import Arm, objective_arms, subset_arms
from multisense.arms.queue import Outcome, train_arms
from multisense.checkpoint import saved_step
from multisense.config import ConfigError
from multisense.evaluate.ablation import Sides, baselines, measure, prepare, provenance, tabulate_drop
from multisense.evaluate.plots import heat_map
from multisense.evaluate.scores import compared, unknown
from multisense.evaluate.table import Scores, Tree, by_label, describe, key, subsets, tabulate, text, write_ablation
from multisense.logs.base import SensorLog
from multisense.model import MultiSense
from multisense.run import Run, make_grids, open_run, resume_differs, training_logs

LATE = "late fusion"


def retrain(
    run: Run,
    test_logs: Sequence[SensorLog],
    out: Path,
    *,
    on: str = "here",
    workers: int = 2,
    train_logs: Sequence[SensorLog] | None = None,
    stride_s: float | None = None,
    seed: int = 0,
    batch_size: int = 32,
) -> Tree:
    """Train an arm for every subset of the run's sensors with the run's configuration (see `train_arms`), and probe them
    all on the windows, labels and resamples of `ablate`.

    Writes ablation.json, .csv, .png (sensors dropped from the run) and retrain.json, .csv, .png into `out`. The tree of
    retrain.json is as that of `ablate`; all sensors are the run itself. Its baselines also hold "late fusion": the
    vectors of the models of single sensors one after the other. For every label and the mean it also holds, paired:
    `drop`, the scores of the run with sensors dropped; `laziness[sensor]` = the model of that sensor alone - the run from
    that sensor alone (Du et al. 2023, arXiv:2305.01233); `missing[sensor]` = the run without the sensor - the model that
    was trained without it. `arms` says what became of each; one that failed leaves its cells empty.

    Every model is one training: intervals and p speak of other held-out logs, not of other seeds. What a seed is worth is
    an arm of `objective` with another `train.seed`.
    """
    arms = subset_arms(run.config, out / "arms")
    sides = _ready(run, arms, prepare(run, test_logs, train_logs, stride_s, seed))
    outcomes = train_arms(arms, out, on, workers)
    models = _models(run, arms, outcomes)
    scores = measure(run, sides, seed, batch_size, {f"retrained:{name}": of for name, of in models.items()})
    dropped = tabulate_drop(run, sides, scores)
    write_ablation(dropped, out)
    heat_map(dropped, out / "ablation.png")
    tree = _tabulate(run, sides, scores)
    tokens = {name: len(model.layout.sensor) for name, (model, *_) in models.items()}
    tree["arms"] = {name: {**asdict(outcome), "tokens": tokens.get(name)} for name, outcome in outcomes.items()}
    write_ablation(tree, out, "retrain")
    heat_map(tree, out / "retrain.png")
    return tree


def objective(
    run: Run,
    test_logs: Sequence[SensorLog],
    out: Path,
    without: Sequence[str],
    grid: Path | None = None,
    *,
    on: str = "here",
    workers: int = 2,
    train_logs: Sequence[SensorLog] | None = None,
    stride_s: float | None = None,
    seed: int = 0,
    batch_size: int = 32,
) -> Tree:
    """Train the run's configuration again for each part of the objective left `without` and each entry of `grid` (see
    `objective_arms`), and probe them beside the run. Writes objective.json and .csv into `out`.

    For every label and the mean: `arms` {name: cell} with "the run" first, and `differences` the run - the arm, paired,
    with Holm's p over labels and arms. An arm with other sensors is probed on those.
    """
    arms = objective_arms(run.config, out / "arms", without, grid)
    sides = _ready(run, arms, prepare(run, test_logs, train_logs, stride_s, seed))
    outcomes = train_arms(arms, out, on, workers)
    models = {name: of for name, of in _models(run, arms, outcomes).items() if name != LATE}
    measured = measure(run, sides, seed, batch_size, {f"retrained:{name}": of for name, of in models.items()})
    columns = {"the run": measured[f"fused:{key(run.model.names)}"]}
    columns |= {arm.name: _known(measured, sides, f"retrained:{arm.name}") for arm in arms}
    at, mean = by_label(columns)
    tree: Tree = {"labels": {label: {} for label in at}, "mean": {}}
    for rows in (at, {"mean": mean}):
        cells = compared({(row, arm.name): of["the run"] - of[arm.name] for row, of in rows.items() for arm in arms})
        for row, of in rows.items():
            part = tree["mean"] if row == "mean" else tree["labels"][row]
            part["arms"] = {name: score.interval() for name, score in of.items()}
            part["differences"] = {arm.name: cells[row, arm.name] for arm in arms}
    describe(tree, sides.kept)
    tree["arms"] = {name: asdict(outcome) for name, outcome in outcomes.items()}
    tree["provenance"] = provenance(run, sides, "ablation")
    write_ablation(tree, out, "objective")
    return tree


def _ready(run: Run, arms: Sequence[Arm], sides: Sides) -> Sides:
    """Raises ConfigError, before hours of training, where the arms would not be comparable with the run."""
    logs, steps = training_logs(run.config), run.config.train.steps
    resume_differs(run.path, run.config, logs)
    if saved_step(run.path) < steps:
        raise ConfigError(f"{run.path}: is at step {saved_step(run.path)} of {steps}; finish it first, with --resume")
    for arm in arms:
        grids = make_grids(arm.config, logs)
        other = [name for name, grid in grids.items() if grid != run.grids[name]]
        if other:
            raise ConfigError(
                f"arm '{arm.name}': sensors.{other[0]}: another rate or size than the run's; arms see the same clips"
            )
    return sides


def _models(run: Run, arms: Sequence[Arm], outcomes: Mapping[str, Outcome]) -> dict[str, list[MultiSense]]:
    """The models of the arms that are done; and, where that of every single sensor is, those together."""
    device = str(run.model.time_s.device)
    models = {arm.name: [open_run(arm.folder, device).model] for arm in arms if outcomes[arm.name].state == "done"}
    if len(run.model.names) > 1 and all(name in models for name in run.model.names):
        models[LATE] = [models[name][0] for name in run.model.names]
    return models


def _tabulate(run: Run, sides: Sides, scores: Mapping[str, Scores]) -> Tree:
    names = run.model.names
    whole = scores[f"fused:{key(names)}"]
    retrained = {key(s): _known(scores, sides, f"retrained:{key(s)}") for s in subsets(names)} | {key(names): whole}
    late = {LATE: _known(scores, sides, f"retrained:{LATE}")} if len(names) > 1 else {}
    tree = tabulate(names, retrained, {**late, **baselines(run, sides, scores)}, {})
    describe(tree, sides.kept)
    columns = {f"drop:{key(s)}": scores[f"fused:{key(s)}"] for s in subsets(names)}
    at, mean = by_label(columns | {f"retrained:{name}": of for name, of in retrained.items()})
    rest = {name: key([n for n in names if n != name]) for name in names} if len(names) > 1 else {}
    for rows in (at, {"mean": mean}):
        lazy = compared({(r, n): of[f"retrained:{n}"] - of[f"drop:{n}"] for r, of in rows.items() for n in rest})
        gone = compared(
            {(r, n): of[f"drop:{o}"] - of[f"retrained:{o}"] for r, of in rows.items() for n, o in rest.items()}
        )
        for row, of in rows.items():
            part = tree["mean"] if row == "mean" else tree["labels"][row]
            part["drop"] = {key(s): of[f"drop:{key(s)}"].interval() for s in subsets(names)}
            part["laziness"], part["missing"] = ({n: cells[row, n] for n in rest} for cells in (lazy, gone))
    return {**tree, "skipped": sides.skipped, "provenance": provenance(run, sides, "ablation")}


def _known(scores: Mapping[str, Scores], sides: Sides, name: str) -> Scores:
    draws = len(sides.kept.weights)
    return scores[name] if name in scores else {label: unknown(draws) for label in sides.kept.train}


def sensor_table(tree: Tree) -> Table:
    """Of the mean over labels: each sensor alone and all but it, dropped from one model beside trained anew."""
    mean: Mapping[str, Any] = tree["mean"]
    table = Table(title="mean over labels: dropped from one model, or trained without", box=SIMPLE, pad_edge=False)
    for column in ("sensor", "alone:\ndropped", "\ntrained", "\nloses", "all but it:\ndropped", "\ntrained", "\ngains"):
        table.add_column(column, justify="left" if column == "sensor" else "right", overflow="fold")
    names = list(mean["laziness"])
    for name in names:
        rest = key([n for n in names if n != name])
        cells = [mean["drop"][name], mean["subsets"][name], mean["laziness"][name]]
        cells += [mean["drop"][rest], mean["subsets"][rest], mean["missing"][name]]
        table.add_row(name, *(text(cell, interval=number % 3 == 2) for number, cell in enumerate(cells)))
    return table
