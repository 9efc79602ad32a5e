"""Retrieval along the routes that a user asks for, as a table for the terminal."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from multisense.evaluate.ablation import open_held_out, refuse_overlap
from multisense.evaluate.retrieval import AT, Route, pairs, retrieve
from multisense.evaluate.table import text
from multisense.run import training_logs


def retrieve_path(
    run: Path, logs: str | Path | None, context: Sequence[str] | None = None, targets: Sequence[str] | None = None
) -> dict[str, Any]:
    """`retrieve` for the run in folder `run` and the logs at the path `logs`, both ways along the routes asked for.

    Raises ValueError for logs that the run was trained on, where its training logs are there to be compared.
    """
    opened, found = open_held_out(run, logs)
    trained_on = opened.config.data.train
    if Path(trained_on).exists() or str(logs) == trained_on:  # of the Hub nothing is fetched to compare it
        refuse_overlap(training_logs(opened.config), found)
    return retrieve(opened, found, routes=routes_of(opened.model.names, context, targets))


def routes_of(
    names: Sequence[str], context: Sequence[str] | None = None, targets: Sequence[str] | None = None
) -> list[Route]:
    """From the context together to each of the targets, and back. No context: all others of each target; no targets:
    all others of the context. Neither: every ordered pair, all others -> one, and back.

    Raises ValueError for a sensor that is not of `names` or is on both sides, and where one side is left empty.
    """
    unknown = sorted({*(context or ()), *(targets or ())} - set(names))
    wanted = [n for n in names if n not in (context or ())] if targets is None else list(targets)
    both = sorted(set(context or ()) & set(wanted))
    if unknown or both or not wanted or len(names) < 2:
        raise ValueError(
            f"retrieve from {list(context or ())} to {wanted}: expected different sensors of {list(names)}, some on each side"
        )
    there = [(tuple(n for n in names if n in (context or names) and n != target), (target,)) for target in wanted]
    around = [way for context, target in there for way in ((context, target), (target, context))]
    return list(dict.fromkeys([*(pairs(names) if context is None and targets is None else []), *around]))


def rich_table(found: dict[str, Any]) -> Table:
    """Routes down; below them the means over each kind of route, and chance."""
    title = f"the true window among {found['among']}"
    table = Table(title=title, box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for column in ("from", "to"):
        table.add_column(column, overflow="fold", max_width=18)
    for column in (*(f"R@{k}" for k in AT), "median\nrank", "skill"):
        table.add_column(column, justify="right")
    for way, entry in found["pairs"].items():
        table.add_row(*way.replace("+", " + ").split(">"), *_cells(entry))
    table.add_section()
    for kind, entry in found["means"].items():
        table.add_row(*(f"mean: {kind}").split(" > "), *_cells(entry), style="bold")
    chance = [_number(part["chance"]) for part in found["mean"]["recall"].values()]
    table.add_row("chance", "", *chance, _rank(found["mean"]["chance_rank"]), ".00", style="dim")
    return table


def _cells(entry: dict[str, Any]) -> list[str]:
    recall = entry["recall"]
    shown = [text(recall[str(k)], interval=k == AT[0]) for k in AT]
    return [*shown, _rank(entry["median_rank"]), _number(entry["skill"])]


def _number(value: float | None) -> str:
    return text({"mean": value, "low": None, "high": None})


def _rank(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
