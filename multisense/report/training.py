"""Whether it learned: curves over training steps, and its health on held-out clips."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from multisense.health.report import read_history
from multisense.health.table import COLUMNS, sensors
from multisense.inspect.pictures import curves
from multisense.report.tables import NONE, Cell, Table, draw, number
from multisense.run import read_lines

Lines = Sequence[Mapping[str, float | None]]
"""What was no finite number is None."""


def training_section(run: Path, names: Sequence[str], health: Mapping[str, Any] | None) -> str:
    """Curves of the run in the folder `run`; the measures given, or else the last ones in its health.jsonl."""
    words = (
        "No label was used. The skill says how much better the hidden part of a sense is predicted than by its mean: 0 "
        "is knowing nothing, 1 is knowing all. The effective rank says over how many directions the representation "
        "spreads; a falling loss with a falling rank would be a collapse."
    )
    history = read_history(run)
    drawn = _curves(read_lines(run / "metrics.jsonl"), names) + _held_out(
        [{"step": step, **row} for step, row in history], names
    )
    shown = f"<div class='curves'>{''.join(drawn)}</div>" if drawn else "<p>The run's folder has no metrics.jsonl.</p>"
    values = health["health"] if health else dict(history[-1][1]) if history else {}
    return f"<p>{words}</p>{shown}{_health(values, health)}"


def _curves(metrics: Lines, names: Sequence[str]) -> list[str]:
    drawn = _one("loss", {"loss": series(metrics, "loss")})
    for kind, title in (("skill", "skill"), ("rank", "effective rank"), ("spread", "spread")):
        drawn += _one(title, {name: series(metrics, f"{kind}/{name}") for name in names})
    return drawn


def _held_out(history: Lines, names: Sequence[str]) -> list[str]:
    drawn = _one("held-out skill", {name: series(history, f"skill/{name}") for name in names})
    return drawn + _one("importance to others", {name: series(history, f"importance/{name}") for name in names})


def _one(title: str, lines: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> list[str]:
    lines = {name: line for name, line in lines.items() if len(line[0])}
    return [f"<div>{curves(title, lines)}</div>"] if lines else []


def series(metrics: Lines, key: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps (N,), values (N,)) of a key, where it is a number."""
    points = [
        (line["step"], value) for line in metrics if (value := line.get(key)) is not None and math.isfinite(value)
    ]
    steps, values = np.array(points, dtype=float).reshape(-1, 2).T
    return steps, values


def _health(values: Mapping[str, float], health: Mapping[str, Any] | None) -> str:
    if not values:
        return ""
    where = f"on {health['clips']} clips of the held-out logs" if health else "at the end of the training"
    alarms = "".join(
        f"<li><strong>{escape(alarm['kind'])}</strong> {escape(alarm['message'])}</li>"
        for alarm in (health or {}).get("alarms", [])
    )
    said = f"<ul class='alarms'>{alarms}</ul>" if alarms else "<p>No alarm stands.</p>" if health else ""
    return f"<h3>Health</h3>{said}{_sensors(values, where)}{_pairs(values, where)}"


def _sensors(values: Mapping[str, float], where: str) -> str:
    names = sensors(values)
    shown = {
        key: title.replace("\n", " ") for key, title in COLUMNS.items() if any(f"{key}/{n}" in values for n in names)
    }
    rows = [[Cell(name), *(_number(values, f"{key}/{name}", key) for key in shown)] for name in names]
    return (
        draw(Table("health", f"Measures of every sensor, {where}", ["sensor", *shown.values()], rows)) if rows else ""
    )


def _pairs(values: Mapping[str, float], where: str) -> str:
    """What each sensor alone says of each other one."""
    names = sensors(values)
    rows = [
        [Cell(a), *(_number(values, f"skill/{a}->{b}", "skill") for b in names)]
        for a in names
        if any(f"skill/{a}->{b}" in values for b in names)
    ]
    columns = ["from", *(f"to {name}" for name in names)]
    caption = f"Skill of one sensor alone for another, {where}"
    return draw(Table("health-pairs", caption, columns, rows)) if rows else ""


def _number(values: Mapping[str, float], key: str, kind: str) -> Cell:
    return number(values[key], ".1f" if kind.startswith("rank") else ".2f") if key in values else NONE
