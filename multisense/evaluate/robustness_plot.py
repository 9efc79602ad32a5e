"""Robustness as a picture: a panel for each sensor, the curve over its offset in time above, everything else below."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from multisense.evaluate.robustness_files import by_words
from multisense.evaluate.table import Tree

INK, COLUMNS, ROW = "#08519c", 4, 0.17
LEVELS = {"clean": ("#20304a", "-"), "without": ("#d95f0e", "--"), "alone": ("#7a7a7a", ":")}
CURVE = "offset"
"""The disturbance that is drawn as a curve."""


def panels(tree: Tree, path: Path) -> None:
    """Write a PNG of mean scores over labels; lines are the levels that a curve is held against.

    The intervals are those of the paired loss, drawn from the clean level: one that does not reach it is a loss. Those of
    the scores themselves are in the files, and mostly of which logs were drawn.
    """
    sensors = list(tree["sensors"].items())
    words = [w for name, points in by_words(tree).items() if name != CURVE for w in points]
    columns = min(len(sensors), COLUMNS)
    blocks = -(-len(sensors) // columns)
    low = ROW * (len(words) + 1)
    figure = Figure(figsize=(2.2 + 1.9 * columns, 1.0 + blocks * (2.1 + low)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2 * blocks, columns, height_ratios=[1.6, low] * blocks)
    limits = _limits(tree)
    for k, (name, part) in enumerate(sensors):
        block, column = divmod(k, columns)
        above, below = (figure.add_subplot(grid[2 * block + half, column]) for half in (0, 1))
        above.set_title(name, fontsize=9)
        _curve(above, part, limits, is_first=column == 0)
        _list(below, part, limits, words, is_first=column == 0)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=150)


def _limits(tree: Tree) -> tuple[float, float]:
    values: list[float] = []
    for part in tree["sensors"].values():
        values += [level["mean"]["mean"] for level in part["levels"].values()]
        values += [value for points in part["curves"].values() for point in points for value in _drawn(part, point)]
    margin = 0.05 * (max(values) - min(values)) + 1e-3
    return min(values) - margin, max(values) + margin


def _curve(axes: Axes, part: Tree, limits: tuple[float, float], is_first: bool) -> None:
    """The score over the sensor's offset in time, which is 0 where nothing is disturbed."""
    points = part["curves"].get(CURVE, [])
    clean = part["levels"]["clean"]["mean"]["mean"]
    ticks = ["0", *(f"{point['strength']:g}" for point in points)]
    drawn = [(clean, clean, clean), *(_drawn(part, point) for point in points)]
    low, middle, high = zip(*drawn, strict=True)
    axes.fill_between(range(len(ticks)), low, high, color=INK, alpha=0.15, linewidth=0)
    axes.plot(range(len(ticks)), middle, "o-", color=INK, markersize=3, label="disturbed (interval of the loss)")
    for level, (colour, style) in LEVELS.items():
        axes.axhline(part["levels"][level]["mean"]["mean"], color=colour, linestyle=style, linewidth=1, label=level)
    axes.set_xticks(range(len(ticks)), ticks, fontsize=7)
    axes.set_xlabel(f"{CURVE} in ms", fontsize=8)
    axes.set_ylim(*limits)
    axes.tick_params(axis="y", labelsize=7, labelleft=is_first)
    axes.spines[["top", "right"]].set_visible(False)
    if is_first:
        axes.set_ylabel("mean score over labels", fontsize=8)


def _drawn(part: Tree, point: Tree) -> tuple[float, float, float]:
    """The score, between the ends of the interval of its loss below the clean level; a single log leaves no interval."""
    clean, loss = part["levels"]["clean"]["mean"]["mean"], point["mean"]["loss"]
    high, low = (loss["mean"] if loss[side] is None else loss[side] for side in ("low", "high"))
    return clean - low, clean - loss["mean"], clean - high


def _list(axes: Axes, part: Tree, limits: tuple[float, float], words: list[str], is_first: bool) -> None:
    """A row for each other disturbance, the same rows for every sensor; empty where it does not befall the sensor."""
    for curve in part["curves"].values():
        for point in curve:
            if point["words"] in words:
                row, (low, middle, high) = words.index(point["words"]), _drawn(part, point)
                axes.plot([low, high], [row, row], color=INK, linewidth=1.2, alpha=0.5)
                axes.plot(middle, row, "o", color=INK, markersize=3)
    for level, (colour, style) in LEVELS.items():
        axes.axvline(part["levels"][level]["mean"]["mean"], color=colour, linestyle=style, linewidth=1)
    axes.set_xlim(*limits)
    axes.set_ylim(len(words) - 0.4, -0.6)
    axes.set_yticks(range(len(words)), words if is_first else [], fontsize=7)
    axes.tick_params(axis="x", labelsize=7)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color="#eef0f3", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("mean score", fontsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
