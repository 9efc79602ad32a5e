"""The ablation as a tree of scores and intervals, and its files: JSON, CSV and a table for the terminal."""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from multisense.evaluate.bench import Bench
from multisense.evaluate.scores import Score, mean_score

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
    names: Sequence[str], fused: Mapping[str, Scores], baselines: Mapping[str, Scores], by_sensor: Mapping[str, Scores]
) -> Tree:
    """The tree of `ablation.json`, without provenance.

    `fused` {subset key: scores}; `baselines` untrained, raw, chance; `by_sensor` the same for one sensor alone, keyed
    "untrained:camera". `synergy` = all sensors - best single one; `needs[sensor]` = what removing it costs. Both, and
    the differences in `mean`, are paired over the same resampled logs.
    """
    labels = list(next(iter(fused.values())))
    tree: Tree = {"labels": {label: _label(names, label, fused, baselines, by_sensor) for label in labels}}
    means = {k: mean_score([s[label].floored(FLOOR) for label in labels]) for k, s in {**fused, **baselines}.items()}
    whole = means[key(names)]
    against = [b for b in baselines if b != "chance"] + [name for name in names if name != key(names)]
    tree["mean"] = {
        "subsets": {k: means[k].interval() for k in fused},
        "baselines": {k: means[k].interval() for k in baselines},
        "differences": {f"fused-{other}": (whole - means[other]).interval() for other in against},
        "floor": FLOOR,
    }
    return tree


def _label(
    names: Sequence[str],
    label: str,
    fused: Mapping[str, Scores],
    baselines: Mapping[str, Scores],
    by_sensor: Mapping[str, Scores],
) -> Tree:
    whole = fused[key(names)][label]
    best = max(names, key=lambda name: fused[name][label].value)
    without = {name: key([n for n in names if n != name]) for name in names} if len(names) > 1 else {}
    return {
        "subsets": {k: scores[label].interval() for k, scores in fused.items()},
        "baselines": {k: scores[label].interval() for k, scores in baselines.items()},
        "by_sensor": {k: scores[label].interval() for k, scores in by_sensor.items()},
        "synergy": {"best_single": best, **(whole - fused[best][label]).interval()},
        "needs": {name: (whole - fused[rest][label]).interval() for name, rest in without.items()},
        "differences": {k: (whole - s[label]).interval() for k, s in baselines.items() if k != "chance"},
    }


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


def write_ablation(tree: Tree, out: Path) -> None:
    """`ablation.json` and `ablation.csv` (one row per label and set of features) in the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "ablation.json").write_text(json.dumps(tree, indent=1) + "\n")
    with open(out / "ablation.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "metric", "kind", "features", "mean", "low", "high"])
        for name, part in [*tree["labels"].items(), ("mean", tree["mean"])]:
            for kind in ("subsets", "baselines", "by_sensor", "differences"):
                for features, s in part.get(kind, {}).items():
                    row = [name, part.get("metric", ""), kind, features, s["mean"], s["low"], s["high"]]
                    writer.writerow(row)


def text(cell: Mapping[str, float | None], interval: bool = True) -> str:
    """A cell as people write it: .62 [.58, .66]."""
    number = [_short(cell[k]) for k in ("mean", "low", "high")]
    return f"{number[0]} [{number[1]}, {number[2]}]" if interval and cell["low"] is not None else number[0]


def _short(value: float | None) -> str:
    if value is None:
        return "-"
    return re.sub(r"^(-?)0\.", r"\1.", f"{value:.2f}").replace("-.00", ".00")


def rich_table(tree: Tree) -> Table:
    """Sets of features down (every subset, then the baselines), labels across."""
    title = "linear probes on held-out logs: R2 for quantities, balanced accuracy for classes"
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
