"""Robustness as files and as a table for the terminal."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from multisense.evaluate.table import Tree, text

LEVELS = {"clean": "nothing is broken", "alone": "the sensor alone", "without": "all but the sensor"}


def write_robustness(tree: Tree, out: Path) -> None:
    """`robustness.json`, and `robustness.csv` with a row for each sensor, disturbance, strength, label and measure."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "robustness.json").write_text(json.dumps(tree, indent=1) + "\n")
    with open(out / "robustness.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sensor", "disturbance", "strength", "seen", "label", "measure", "mean", "low", "high"])
        for sensor, part in tree["sensors"].items():
            writer.writerows([sensor, *row] for row in _rows(part))


def _rows(part: Tree) -> Iterator[list[Any]]:
    for level, scores in part["levels"].items():
        for label, s in [*scores["labels"].items(), ("mean", scores["mean"])]:
            yield [level, "", "", label, "score", s["mean"], s["low"], s["high"]]
    for name, points in part["curves"].items():
        for point in points:
            at = [name, point["strength"], point["seen"]]
            for label, measures in [*point["labels"].items(), ("mean", point["mean"])]:
                for measure, s in measures.items():
                    yield [*at, label, measure, s["mean"], s["low"], s["high"]]


def rich_table(tree: Tree) -> Table:
    """Disturbances down, the disturbed sensor across: mean scores over labels.

    A "*" is a loss beyond its interval; a "!" says that the score is, beyond its interval, below that without the sensor.
    """
    title, notes = (
        "mean score over labels, one sensor disturbed",
        "* a loss, ! worse than without it, beyond its interval",
    )
    table = Table(title=title, caption=notes, box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("disturbance")
    for sensor in tree["sensors"]:
        table.add_column(sensor, justify="right", overflow="fold")
    for level, words in LEVELS.items():
        scores = (part["levels"][level]["mean"] for part in tree["sensors"].values())
        table.add_row(words, *(f"{text(s, interval=False)}  " for s in scores), style="dim")
    for words_of in by_words(tree).values():
        table.add_section()
        for words, cells in words_of.items():
            table.add_row(words, *(_cell(cells.get(sensor)) for sensor in tree["sensors"]))
    return table


def by_words(tree: Tree) -> dict[str, dict[str, dict[str, Tree]]]:
    """{disturbance: {its strength in words: {sensor: measures of the mean}}}"""
    found: dict[str, dict[str, dict[str, Tree]]] = {}
    for sensor, part in tree["sensors"].items():
        for name, points in part["curves"].items():
            for point in points:
                found.setdefault(name, {}).setdefault(point["words"], {})[sensor] = point["mean"]
    return found


def _cell(measures: Tree | None) -> str:
    if measures is None:
        return ""
    said = text(measures["score"], interval=False)
    is_lost, is_worse = (measures["loss"]["low"] or 0) > 0, (measures["over_without"]["high"] or 0) < 0
    return said + ("*" if is_lost else " ") + ("!" if is_worse else " ")
