"""The tree of `probe` for the terminal: a row per label, share of logs and metric."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from multisense.evaluate.metrics import NAMES
from multisense.evaluate.probing import probe_path
from multisense.evaluate.protocol import Protocol
from multisense.evaluate.table import Tree, text


def show_probe(
    run: Path, logs: str | Path | None, protocol: Protocol, labels: Sequence[str], console: Console, as_json: bool
) -> None:
    """Print `probe_path` as a table, or as JSON."""
    tree = probe_path(run, logs, protocol, labels)
    if as_json:
        print(json.dumps(tree, indent=1))
        return
    console.print(probe_table(tree))
    for name, reason in tree["skipped"].items():
        console.print(f"not probed: {name}: {reason}", markup=False, highlight=False)


def probe_table(tree: Tree) -> Table:
    """Scores with 95 % intervals beside the untrained network's and chance."""
    by = tree["protocol"]["group"]
    title = f"{tree['protocol']['probe']} probes on held-out {'logs' if by is None else f'groups by {by}'}"
    table = Table(title=title, box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("label", overflow="fold")
    for heading in ("logs trained\nand tested on", "score", "run", "untrained", "chance"):
        table.add_column(heading, justify="left" if heading == "score" else "right", overflow="fold")
    for name, label in tree["labels"].items():
        tested = label["tested"]["logs"]
        for found in label["budgets"].values():
            for metric in label["metrics"]:
                unit = f" {label['units']}" if metric == "mae" and label["units"] else ""
                cells = [_cell(metric, found[metric][who]) for who in ("run", "untrained")]
                chance = _cell(metric, {**found[metric]["chance"], "low": None})
                table.add_row(name, f"{found['logs']}, {tested}", NAMES[metric] + unit, *cells, chance)
        table.add_section()
    return table


def _cell(metric: str, score: Mapping[str, float | None]) -> str:
    """Shares as `.62 [.58, .66]`; an error in its unit with three digits."""
    if metric != "mae":
        return text(score)
    mean, low, high = (score[k] for k in ("mean", "low", "high"))
    return f"{mean:.3g}" if low is None else f"{mean:.3g} [{low:.3g}, {high:.3g}]"
