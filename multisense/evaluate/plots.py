"""The ablation as a picture: labels down, sets of sensors across, the baselines set apart."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from multisense.evaluate.table import Tree, text

CMAP = "YlGnBu"
"""Sequential, falling evenly in lightness, and read alike by the colour-blind."""


def heat_map(tree: Tree, path: Path) -> None:
    """Write the heat map of an ablation tree as PNG. Dots below the columns say which sensors a subset holds."""
    rows = [*tree["labels"].items(), ("mean", tree["mean"])]
    keys, baselines = list(tree["mean"]["subsets"]), list(tree["mean"]["baselines"])
    sensors = keys[-1].split("+")
    width, height = 2.6 + 0.58 * (len(keys) + len(baselines)), 1.3 + 0.46 * len(rows) + 0.3 * len(sensors)
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        2, 2, width_ratios=(len(keys), len(baselines)), height_ratios=(0.46 * len(rows), 0.3 * len(sensors))
    )
    cells, apart, dots = (figure.add_subplot(grid[at]) for at in ((0, 0), (0, 1), (1, 0)))
    _cells(cells, rows, "subsets", keys)
    _cells(apart, rows, "baselines", baselines)
    cells.set_xticks([])
    apart.set_yticks([])
    apart.set_xticks(range(len(baselines)), baselines, fontsize=8)
    apart.xaxis.tick_top()
    _dots(dots, sensors, keys)
    figure.suptitle("Linear probes on held-out logs (R² for quantities, balanced accuracy for classes)", fontsize=10)
    figure.savefig(path, dpi=150)


def _cells(axes: Axes, rows: Sequence[tuple[str, Mapping[str, Any]]], kind: str, columns: Sequence[str]) -> None:
    values = np.array([[part[kind][column]["mean"] for column in columns] for _, part in rows], float)  # None: NaN
    axes.imshow(values, cmap=CMAP, vmin=0, vmax=1, aspect="auto")
    for y, (_, part) in enumerate(rows):
        for x, column in enumerate(columns):
            ink = "white" if values[y, x] > 0.55 else "black"
            axes.text(x, y, text(part[kind][column], interval=False), ha="center", va="center", color=ink, fontsize=8)
    axes.axhline(len(rows) - 1.5, color="white", linewidth=3)
    names = [f"{name}\n({part['metric']})" if "metric" in part else name for name, part in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _dots(axes: Axes, sensors: Sequence[str], keys: Sequence[str]) -> None:
    """A filled dot where the subset of that column holds the sensor of that row."""
    for y, sensor in enumerate(sensors):
        for x, subset in enumerate(keys):
            held = sensor in subset.split("+")
            axes.plot(x, y, "o", markersize=6, color="#20304a" if held else "#dfe3ea")
    axes.set_xlim(-0.5, len(keys) - 0.5)
    axes.set_ylim(len(sensors) - 0.5, -0.5)
    axes.set_yticks(range(len(sensors)), sensors, fontsize=8)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
