"""What happens when a sense breaks: a small panel for every disturbance of every sensor, held against three levels."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from multisense.evaluate.robustness_files import LEVELS
from multisense.evaluate.table import Tree
from multisense.inspect.pictures import svg, ticks, words_at
from multisense.report.ablation import floored
from multisense.report.tables import Cell, Table, draw, gap, percent, score

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 220, 150, 30, 8, 24, 30
STYLES = {
    "clean": "stroke:var(--ink);stroke-width:1.2",
    "alone": "stroke:var(--c1);stroke-dasharray:2 3;stroke-width:1.6",
    "without": "stroke:var(--c3);stroke-dasharray:7 4;stroke-width:1.6",
}
UNITS = {
    "offset": "ms", "dropped": "share of the window gone", "slower": "times halved", "noise": "x its own spread",
    "swapped": "", "gain": "dB", "blur": "share of the height", "frozen": "share of the window", "dead": "share of taxels",
    "saturated": "dB below peak",
}  # fmt: skip


def robustness_section(tree: Tree) -> str:
    """The mean over labels, or one label, chosen by a select; below, every number of the mean."""
    words = (
        "Probes were trained on whole recordings and know nothing of the disturbance. A curve that falls below the dashed "
        "line does worse than probes that were trained without the sensor: the model then trusts a broken sense. Bands are "
        f"95 % intervals of the paired loss. {floored(tree['floor'])}"
    )
    names = ["mean", *tree["labels"]]
    options = "".join(
        f"<option value='{escape(n, quote=True)}'>{'mean over labels' if n == 'mean' else escape(n)}</option>"
        for n in names
    )
    views = "".join(
        f"<div data-view-of='robustness-label' data-view='{escape(n, quote=True)}'{' hidden' if n != 'mean' else ''}>"
        f"{_label(tree, n)}</div>"
        for n in names
    )
    chosen = f"<label>Score of <select id='robustness-label' data-views>{options}</select></label>"
    return f"<p>{words}</p><div class='controls'>{chosen}{_legend()}</div>{views}{_table(tree)}"


def _legend() -> str:
    said = {"all sensors, one disturbed": "stroke:var(--accent);stroke-width:2.5"}
    said |= {words: STYLES[level] for level, words in LEVELS.items()}
    marks = "".join(
        f"<span><svg viewBox='0 0 28 10' aria-hidden='true'><line x1='0' x2='28' y1='5' y2='5' style='{style}'/></svg>"
        f"{escape(words)}</span>"
        for words, style in said.items()
    )
    return f"<div class='legend lines'>{marks}</div>"


def _label(tree: Tree, label: str) -> str:
    """All panels of one label on one scale."""
    limits = _limits(tree, label)
    drawn = []
    for sensor, part in tree["sensors"].items():
        panels = "".join(_panel(sensor, part, name, label, limits) for name in part["curves"])
        drawn.append(f"<h3>{escape(sensor)}</h3><div class='panels'>{panels}</div>")
    return "".join(drawn)


def _of(scores: Mapping[str, Any], label: str) -> Any:
    return scores["mean"] if label == "mean" else scores["labels"].get(label)


def _limits(tree: Tree, label: str) -> tuple[float, float]:
    values = [0.0]
    for part in tree["sensors"].values():
        values += [_of(level, label)["mean"] for level in part["levels"].values()]
        values += [_of(p, label)["score"]["mean"] for points in part["curves"].values() for p in points]
    low, high = max(min(values), -0.5), max(values)  # R2 has no floor: what is far below 0 is drawn at the edge
    return low, max(high, low + 0.1) * 1.05


def _panel(sensor: str, part: Tree, name: str, label: str, limits: tuple[float, float]) -> str:
    points = part["curves"][name]
    x = np.linspace(LEFT, WIDTH - RIGHT, len(points) + 2)[1:-1]

    def y(value: float) -> float:
        share = (min(max(value, limits[0]), limits[1]) - limits[0]) / (limits[1] - limits[0])
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)

    body = [words_at(LEFT, 12, name, style="strong", size=12)]
    for tick in ticks(*limits, 4):
        body.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        body.append(words_at(LEFT - 4, y(tick) + 3, f"{tick:g}", "end", "faint", 10))
    for level, style in STYLES.items():
        at = y(_of(part["levels"][level], label)["mean"])
        body.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" style="{style}"/>')
    body += _curve([_drawn(part, point, label) for point in points], x, y)
    for at, point in zip(x, points, strict=True):
        body.append(words_at(at, HEIGHT - 17, _strength(point), "middle", "faint", 10))
    body.append(words_at((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, UNITS.get(name, ""), "middle", "faint", 10))
    return svg(HEIGHT, body, f"{sensor}, {name}: {_said(points, label)}", WIDTH)


def _strength(point: Tree) -> str:
    return "" if point["words"] == "of another log" else f"{point['strength']:g}"


def _said(points: Sequence[Tree], label: str) -> str:
    return "; ".join(f"{point['words']} {_of(point, label)['score']['mean']:.2f}" for point in points)


def _drawn(part: Tree, point: Tree, label: str) -> tuple[float, float, float]:
    """The score between the ends of the interval of its loss below the clean level."""
    found, clean = _of(point, label), _of(part["levels"]["clean"], label)["mean"]
    low, high = (
        clean - (found["loss"][k] if found["loss"][k] is not None else found["loss"]["mean"]) for k in ("high", "low")
    )
    return low, found["score"]["mean"], high


def _curve(drawn: Sequence[tuple[float, float, float]], x: np.ndarray, y: Any) -> list[str]:
    band = [(at, y(high)) for at, (_, _, high) in zip(x, drawn, strict=True)]
    band += [(at, y(low)) for at, (low, _, _) in zip(x[::-1], drawn[::-1], strict=True)]
    middle = [(at, y(score)) for at, (_, score, _) in zip(x, drawn, strict=True)]
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in middle)
    body = [f'<polyline points="{path}" fill="none" style="stroke:var(--accent)" stroke-width="2"/>']
    if len(drawn) > 1:
        outline = " ".join(f"{a:.1f},{b:.1f}" for a, b in band)
        body.insert(0, f'<polygon points="{outline}" style="fill:var(--accent);fill-opacity:.18"/>')
    for (a, b), (_, low), (_, high) in zip(middle, reversed(band[len(drawn) :]), band[: len(drawn)], strict=True):
        body.append(f'<line x1="{a:.1f}" x2="{a:.1f}" y1="{low:.1f}" y2="{high:.1f}" style="stroke:var(--accent)"/>')
        body.append(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" style="fill:var(--accent)"/>')
    return body


def _table(tree: Tree) -> str:
    rows = []
    for sensor, part in tree["sensors"].items():
        for level, words in LEVELS.items():
            rows.append(
                [Cell(sensor), Cell(words), Cell("", ("",)), score(part["levels"][level]["mean"]), gap(None), gap(None)]
            )
        for points in part["curves"].values():
            for point in points:
                found = point["mean"]
                said = [Cell(sensor), Cell(point["words"]), percent(float(point["seen"]))]
                rows.append([*said, score(found["score"]), gap(found["loss"], -1), gap(found["over_without"])])
    columns = ["sensor", "disturbance", "still there", "score", "change", "over without it"]
    caption = "Mean score over labels where one sensor is disturbed, its change, and what it is over probes without it"
    return f"<details><summary>Every number</summary>{draw(Table('robustness', caption, columns, rows))}</details>"
