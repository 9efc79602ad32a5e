"""Robustness as a picture: a panel for each sensor, the curve over its offset in time above, everything else below."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from multisense.evaluate.robustness_files import by_words
from multisense.evaluate.table import Tree

INK, COLUMNS, ROW = "#08519c", 4, 0.17
LEVELS = {"clean": ("#20304a", "-"), "without": ("#d95f0e", "--"), "alone": ("#7a7a7a", ":")}
CURVE = "offset"
"""The disturbance that is drawn as a curve."""


def panels(tree: Tree, path: Path) -> None:
    """Write a PNG of mean scores over labels with 95 % intervals; lines are the levels that a curve is held against."""
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
    levels = [level["mean"] for part in tree["sensors"].values() for level in part["levels"].values()]
    points = [
        point["mean"]["score"] for part in tree["sensors"].values() for c in part["curves"].values() for point in c
    ]
    values = [value for score in [*levels, *points] for value in score.values() if value is not None]
    margin = 0.05 * (max(values) - min(values)) + 1e-3
    return min(values) - margin, max(values) + margin


def _curve(axes: Axes, part: Tree, limits: tuple[float, float], is_first: bool) -> None:
    """The score over the sensor's offset in time, which is 0 where nothing is disturbed."""
    points = part["curves"].get(CURVE, [])
    scores = [part["levels"]["clean"]["mean"], *(point["mean"]["score"] for point in points)]
    strengths = [0.0, *(point["strength"] for point in points)]
    low, high = ([_end(score, side) for score in scores] for side in ("low", "high"))
    axes.fill_between(strengths, low, high, color=INK, alpha=0.15, linewidth=0)
    axes.plot(strengths, [score["mean"] for score in scores], "o-", color=INK, markersize=3, label="disturbed")
    for level, (colour, style) in LEVELS.items():
        axes.axhline(part["levels"][level]["mean"]["mean"], color=colour, linestyle=style, linewidth=1, label=level)
    axes.set_xscale("symlog", linthresh=10, linscale=0.5)
    axes.set_xticks(strengths, [f"{strength:g}" for strength in strengths], fontsize=7)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("offset in ms", fontsize=8)
    axes.set_ylim(*limits)
    axes.tick_params(axis="y", labelsize=7, labelleft=is_first)
    axes.spines[["top", "right"]].set_visible(False)
    if is_first:
        axes.set_ylabel("mean score over labels", fontsize=8)


def _end(score: Tree, side: str) -> float:
    """An end of the interval; the score itself where a single log leaves none."""
    return score["mean"] if score[side] is None else score[side]


def _list(axes: Axes, part: Tree, limits: tuple[float, float], words: list[str], is_first: bool) -> None:
    """A row for each other disturbance, the same rows for every sensor; empty where it does not befall the sensor."""
    for curve in part["curves"].values():
        for point in curve:
            if point["words"] in words:
                row, score = words.index(point["words"]), point["mean"]["score"]
                axes.plot([_end(score, "low"), _end(score, "high")], [row, row], color=INK, linewidth=1.2, alpha=0.5)
                axes.plot(score["mean"], row, "o", color=INK, markersize=3)
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
