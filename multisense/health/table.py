"""Health for the terminal: a row per sensor, what each says of each other, and the alarms."""

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from multisense.health.alarms import Alarm

COLUMNS = {
    "skill": "skill",
    "spread": "spread",
    "prediction_spread": "predictions'\nspread",
    "rank": "rank over\nclips",
    "rank_time": "rank over\ntime",
    "importance": "importance\nto others",
    "gradient": "share of\ngradient",
    "input": "signal's\nspread",
    "valid": "valid",
}
"""Measures per sensor, as `measure` names them, and their headings."""


def print_health(values: Mapping[str, float], alarms: Sequence[Alarm], console: Console) -> None:
    """Print the measures of one moment and the alarms that stand."""
    if values.get("finite") == 1.0:
        console.print(sensors_table(values))
        pairs = pairs_table(values)
        if pairs.row_count:
            console.print(pairs)
            console.print(_chance(values), highlight=False)
    labels = [key.removeprefix("probe/") for key in values if key.startswith("probe/")]
    if labels:
        scores = (
            f"{n} {_number(values, f'probe/{n}')} (chance {_number(values, f'probe_chance/{n}')})" for n in labels
        )
        console.print(f"linear probes: {', '.join(scores)}", markup=False, highlight=False)
    for alarm in alarms:
        console.print(f"[bold red]alarm[/] ({alarm.kind}) {escape(alarm.message)}", highlight=False)
    if not alarms:
        console.print("no alarm")


def sensors(values: Mapping[str, float]) -> list[str]:
    return [key.removeprefix("valid/") for key in values if key.startswith("valid/")]


def sensors_table(values: Mapping[str, float]) -> Table:
    """One row for each sensor."""
    table = _table(f"sensors (loss {_number(values, 'loss')})")
    table.add_column("sensor")
    shown = {key: title for key, title in COLUMNS.items() if any(f"{key}/{name}" in values for name in sensors(values))}
    for title in shown.values():
        table.add_column(title, justify="right")
    for name in sensors(values):
        table.add_row(name, *(_number(values, f"{key}/{name}") for key in shown))
    return table


def pairs_table(values: Mapping[str, float]) -> Table:
    """Context sensors down, target sensors across: skill, and recall at 1 and 5."""
    names = sensors(values)
    table = _table("skill of one sensor for another, recall at 1 and 5")
    table.add_column("from \\ to")
    for name in names:
        table.add_column(name, justify="right")
    for a in names:
        if any(f"skill/{a}->{b}" in values for b in names):
            table.add_row(a, *(_pair(values, a, b) for b in names))
    return table


def _chance(values: Mapping[str, float]) -> str:
    """Of recall, where it is the largest: a sensor that some clips lack is sought among fewer."""
    largest = {k: max((v for key, v in values.items() if key.startswith(f"chance@{k}/")), default=0.0) for k in (1, 5)}
    return f"chance of recall: {largest[1]:.3f} at 1, {largest[5]:.3f} at 5"


def _pair(values: Mapping[str, float], a: str, b: str) -> str:
    if f"skill/{a}->{b}" not in values:
        return ""
    recalls = (_number(values, f"recall@{k}/{a}->{b}") for k in (1, 5))
    return f"{values[f'skill/{a}->{b}']:+.2f}  {' '.join(recalls)}"


def _number(values: Mapping[str, float], key: str) -> str:
    if key not in values:
        return "-"
    return f"{values[key]:.1f}" if key.startswith("rank") else f"{values[key]:.2f}"


def _table(title: str) -> Table:
    return Table(title=title, box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, title_justify="left")
