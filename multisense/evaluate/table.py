"""The ablation as a tree of scores and intervals, and its files: JSON, CSV and a table for the terminal."""

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from multisense.evaluate.bench import Bench
from multisense.evaluate.information import shapley, shares
from multisense.evaluate.scores import Score, compared, known_value, mean_score

Tree = dict[str, Any]
Scores = Mapping[str, Score]
"""{label: score} of one set of features"""

ALL_SUBSETS_UP_TO = 5
FLOOR = 0.0
"""In the mean over labels a score below 0 counts as 0: predicting the training mean is always possible, and a baseline
that overfits one label must not lose the mean by it."""


def subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Non-empty subsets, small ones first: all of them up to five sensors, else singles, leave-one-out and all."""
    sizes = range(1, len(names) + 1) if len(names) <= ALL_SUBSETS_UP_TO else (1, len(names) - 1, len(names))
    return [subset for size in sizes for subset in combinations(names, size)]


def key(sensors: Sequence[str]) -> str:
    return "+".join(sensors)


def tabulate(
    names: Sequence[str],
    fused: Mapping[str, Scores],
    baselines: Mapping[str, Scores],
    by_sensor: Mapping[str, Scores],
    shuffled: Mapping[str, Scores] | None = None,
) -> Tree:
    """The tree of `ablation.json`, without provenance.

    `fused` {subset key: scores}; `baselines` untrained, raw, chance; `by_sensor` the same for one sensor alone, keyed
    "untrained:camera"; `shuffled` all sensors, one of them of another log. For every label and for the mean over labels:
    `synergy` = all sensors - best single one; `needs[sensor]` = what removing it costs; `differences` to the baselines
    and, of the mean, to each sensor alone; `shuffle`; `shares` and, where all subsets are there, `shapley`. All of these
    are paired over the same resampled logs; p of `needs` and `differences` are Holm's over all labels, and of the mean.
    """
    columns = {**fused, **baselines, **{f"shuffled:{n}": s for n, s in (shuffled or {}).items()}}
    at, mean = by_label(columns)
    learned = [b for b in baselines if b != "chance"]
    tree: Tree = {"labels": {}, "mean": {**_part(names, fused, baselines, mean), "floor": FLOOR}}
    for label in at:
        alone = {k: scores[label].interval() for k, scores in by_sensor.items()}
        tree["labels"][label] = {**_part(names, fused, baselines, at[label]), "by_sensor": alone}
    _compare(names, {label: (tree["labels"][label], at[label]) for label in at}, learned)
    _compare(names, {"mean": (tree["mean"], mean)}, learned + [name for name in names if len(names) > 1])
    tree["mean"]["differences"] = {f"fused-{k}": cell for k, cell in tree["mean"]["differences"].items()}
    return tree


def by_label(columns: Mapping[str, Scores]) -> tuple[dict[str, dict[str, Score]], dict[str, Score]]:
    """{label: {column: score}}, and {column: mean over labels}, in which less than FLOOR counts as FLOOR."""
    labels = list(next(iter(columns.values())))
    at = {label: {k: scores[label] for k, scores in columns.items()} for label in labels}
    return at, {k: mean_score([s[label].floored(FLOOR) for label in labels]) for k, s in columns.items()}


def _part(
    names: Sequence[str], fused: Mapping[str, Scores], baselines: Mapping[str, Scores], found: Mapping[str, Score]
) -> Tree:
    """What the tree says of one label, or of the mean, but for differences with p."""
    whole, by_subset = found[key(names)], {s: found[key(s)] for s in subsets(names)}
    best = max(names, key=lambda name: known_value(found[name]))
    part: Tree = {
        "subsets": {k: found[k].interval() for k in fused},
        "baselines": {k: found[k].interval() for k in baselines},
        "synergy": {"best_single": best, **(whole - found[best]).interval()},
        "shares": {
            name: {kind: share.interval() for kind, share in kinds.items()}
            for name, kinds in shares(names, by_subset, found["chance"]).items()
        },
        "shuffle": {n: (whole - found[f"shuffled:{n}"]).interval() for n in names if f"shuffled:{n}" in found},
    }
    if len(by_subset) == 2 ** len(names) - 1:
        values = shapley(names, by_subset, found["chance"])
        part["shapley"] = {name: value.interval() for name, value in values.items()}
    return part


def _compare(
    names: Sequence[str], parts: Mapping[str, tuple[Tree, Mapping[str, Score]]], against: Sequence[str]
) -> None:
    """Add `needs` and `differences` of these rows, each a family of comparisons."""
    rest = {name: key([n for n in names if n != name]) for name in names} if len(names) > 1 else {}
    for what, others in (("needs", rest), ("differences", {other: other for other in against})):
        gaps = {(r, o): at[key(names)] - at[others[o]] for r, (_, at) in parts.items() for o in others}
        cells = compared(gaps)
        for row, (part, _) in parts.items():
            part[what] = {other: cells[row, other] for other in others}


def describe(tree: Tree, kept: Bench) -> None:
    """Add metric and counts to each label of the tree."""
    for name, label in tree["labels"].items():
        train, test = kept.train[name], kept.test[name]
        label["metric"] = "accuracy" if test.is_class else "r2"
        label["windows"] = {"train": int(train.present.sum()), "test": int(test.present.sum())}
        label["logs"] = {
            "train": len(np.unique(kept.train_log[train.present])),
            "test": len(np.unique(kept.test_log[test.present])),
        }


def write_ablation(tree: Tree, out: Path, name: str = "ablation") -> None:
    """`<name>.json` and `<name>.csv` (one row per label and score or difference) in the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(tree, indent=1) + "\n")
    with open(out / f"{name}.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "metric", "kind", "features", "mean", "low", "high", "p"])
        for label, part in [*tree["labels"].items(), ("mean", tree["mean"])]:
            for kind, features, cell in _rows(part):
                row = [label, part.get("metric", ""), kind, features, cell["mean"], cell["low"], cell["high"]]
                writer.writerow([*row, cell.get("p", "")])


def _rows(part: Tree) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(kind, features, cell) of everything in a label's part of the tree that is a score or a difference."""
    for kind, cells in part.items():
        if kind == "synergy":
            yield kind, cells["best_single"], cells
        elif kind == "shares":
            yield from ((share, name, cell) for name, of in cells.items() for share, cell in of.items())
        elif kind not in ("windows", "logs") and isinstance(cells, Mapping):
            yield from ((kind, features, cell) for features, cell in cells.items())


def refuse_other(tree: Any, where: Path, fix: str, weights: str, logs: str | None = None) -> None:
    """Raise ValueError where the tree read from `where` is not of these weights or, if given, of held-out logs with this
    fingerprint: numbers of another model must not stand under the name of this one."""
    made = tree.get("provenance", {}) if isinstance(tree, Mapping) else {}
    theirs = made.get("weights")
    if theirs != weights:
        raise ValueError(
            f"{where}: an ablation of other weights: their fingerprint is {theirs}, that of the run's {weights}; {fix}"
        )
    theirs = made.get("ablation", {}).get("logs", {}).get("test", {}).get("fingerprint")
    if logs is not None and theirs != logs:
        raise ValueError(
            f"{where}: an ablation on other held-out logs: their fingerprint is {theirs}, that of those given {logs}; {fix}"
        )


def text(cell: Mapping[str, float | None], interval: bool = True) -> str:
    """A cell as people write it: .62 [.58, .66]."""
    number = [_short(cell[k]) for k in ("mean", "low", "high")]
    return f"{number[0]} [{number[1]}, {number[2]}]" if interval and cell["low"] is not None else number[0]


def _short(value: float | None) -> str:
    if value is None:
        return "-"
    return re.sub(r"^(-?)0\.", r"\1.", f"{value:.2f}").replace("-.00", ".00")


def rich_table(
    tree: Tree, title: str = "linear probes on held-out logs: R2 for quantities, balanced accuracy for classes"
) -> Table:
    """Sets of features down (every subset, then the baselines), labels across."""
    table = Table(title=title, box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    parts = [*tree["labels"].items(), ("mean", tree["mean"])]
    table.add_column("sensors", max_width=15)
    for name, _ in parts:
        style = "bold" if name == "mean" else None
        table.add_column(name.replace("_", "\n"), justify="right", style=style, overflow="fold")
    for kind in ("subsets", "baselines"):
        for features in tree["mean"][kind]:
            scores = (text(part[kind][features], interval=False) for _, part in parts)
            table.add_row(features.replace("+", " + "), *scores)
        table.add_section()
    return table
