"""What `multisense ablate` prints where models are trained for it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from multisense.arms.retrain import objective, retrain, sensor_table
from multisense.evaluate.ablation import open_held_out
from multisense.evaluate.table import Tree, rich_table, text


def show_retrained(
    run: Path, logs: str | None, out: Path, stride_s: float | None, on: str, workers: int, console: Console
) -> None:
    """`retrain` for the run in folder `run` and the logs at the path `logs`, as tables."""
    opened, found = open_held_out(run, logs)
    tree = retrain(opened, found, out, stride_s=stride_s, on=on, workers=workers)
    console.print(rich_table(tree, "a model trained for each set of sensors, late fusion, and baselines"))
    if tree["mean"]["laziness"]:
        console.print(sensor_table(tree))
    _failures(tree["arms"], console)


def show_objective(
    run: Path,
    logs: str | None,
    out: Path,
    without: Sequence[str],
    grid: Path | None,
    stride_s: float | None,
    on: str,
    workers: int,
    console: Console,
) -> None:
    """`objective` for the run in folder `run` and the logs at the path `logs`, as a table."""
    opened, found = open_held_out(run, logs)
    tree = objective(opened, found, out, without, grid, stride_s=stride_s, on=on, workers=workers)
    console.print(objective_table(tree))
    _failures(tree["arms"], console)


def objective_table(tree: Tree) -> Table:
    """Arms down, labels across; last the paired difference of the mean."""
    table = Table(title="the run, and trained otherwise", box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    parts = [*tree["labels"].values(), tree["mean"]]
    for column in ("arm", *tree["labels"], "mean", "the run - arm"):
        table.add_column(column.replace("_", "\n"), justify="left" if column == "arm" else "right", overflow="fold")
    for name in tree["mean"]["arms"]:
        gap = text(tree["mean"]["differences"][name]) if name in tree["mean"]["differences"] else ""
        table.add_row(name, *(text(part["arms"][name], interval=False) for part in parts), gap)
    return table


def _failures(arms: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    for name, outcome in arms.items():
        if outcome["state"] == "failed":
            words = (
                f"arm {name} failed {outcome['attempts']} times: {outcome['error']}; the same command tries it again"
            )
            console.print(words, markup=False, highlight=False, soft_wrap=True)
