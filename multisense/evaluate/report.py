"""One self-contained page about a run: what was recorded, what was learned, which sense mattered, what to do next."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps

from multisense.evaluate.plots import CMAP
from multisense.evaluate.table import Tree, text
from multisense.inspect.page import html_page
from multisense.inspect.pictures import curves, intervals, recording
from multisense.logs.base import SensorLog

NEXT = """\
# 1. learn from your own recordings: a folder of logs, or the root of a LeRobot data set
multisense train CONFIG.yaml --out run
# 2. embeddings of any logs with the same sensors, or with some of them
multisense embed run LOGS -o embeddings.h5
# 3. which sense mattered for which label, on logs that were not trained on
multisense ablate run HELD_OUT_LOGS -o ablation/"""


@dataclass(frozen=True)
class Findings:
    """What a report is about."""

    title: str
    log: SensorLog
    """A recording to show."""
    sensors: Sequence[str]
    metrics: Sequence[Mapping[str, float]]
    """Lines of metrics.jsonl."""
    ablation: Tree
    retrieval: Mapping[str, Any]
    seconds: Mapping[str, float]
    """How long each stage took."""
    provenance: Mapping[str, Any]


def read_metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def write_report(found: Findings, path: Path) -> None:
    """Write the page; it loads nothing from anywhere."""
    parts = [
        _head(found),
        _recorded(found),
        _learned(found),
        _mattered(found),
        _retrieval(found),
        _next(),
        _made(found),
    ]
    path.write_text(html_page(found.title, "\n".join(parts)))


def _head(found: Findings) -> str:
    mean = found.ablation["mean"]
    whole = list(mean["subsets"])[-1]
    best, best_score = max(_singles(mean).items(), key=lambda item: item[1]["mean"])
    facts = {
        "all senses together": text(mean["subsets"][whole]),
        f"best single sense: {best}": text(best_score),
        "untrained network": text(mean["baselines"]["untrained"]),
        "raw signals": text(mean["baselines"]["raw"]),
    }
    boxes = "".join(
        f"<div class='fact'><b>{_number(v)}</b><span>{escape(k)}<br>{_range(v)}</span></div>" for k, v in facts.items()
    )
    labels = len(found.ablation["labels"])
    return (
        f"<h1>{escape(found.title)}</h1><p class='lead'>{escape(verdict(mean))}</p><div class='facts'>{boxes}</div>"
        f"<p class='faint'>Mean over {labels} labels of linear probes on held-out recordings (R² for quantities, "
        "balanced accuracy for classes), with 95 % intervals over recordings.</p>"
    )


def _number(words: str) -> str:
    return words.split(" ")[0]


def _range(words: str) -> str:
    return words.partition(" ")[2]


def _singles(part: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {name: score for name, score in part["subsets"].items() if "+" not in name}


def verdict(mean: Mapping[str, Any]) -> str:
    """What the paired intervals of an ablation tree's `mean` allow to be said, in a sentence."""
    said: dict[str, list[str]] = {"better than": [], "not distinguishable from": [], "worse than": []}
    for versus, gap in mean["differences"].items():
        low, high = gap["low"], gap["high"]
        clear = low is not None and (low > 0 or high < 0)
        how = "not distinguishable from" if not clear else "better than" if gap["mean"] > 0 else "worse than"
        said[how].append(f"{versus.removeprefix('fused-')} ({gap['mean']:+.2f})")
    return (
        "The fused representation is "
        + "; ".join(f"{how} {_listed(names)}" for how, names in said.items() if names)
        + "."
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _section(title: str, words: str, *content: str) -> str:
    return f"<section><h2>{title}</h2><p>{words}</p>{''.join(content)}</section>"


def _scroll(content: str) -> str:
    return f"<div class='scroll'>{content}</div>"


def _recorded(found: Findings) -> str:
    words = (
        f"One recording, <code>{escape(found.log.name)}</code>: every sense on its own clock and at its own rate, "
        "drawn on one time axis."
    )
    return _section("What was recorded", words, _scroll(recording(found.log, found.sensors)))


def _learned(found: Findings) -> str:
    words = (
        "No label was used. The skill says how much better the hidden part of a sense is predicted than by its mean: 0 "
        "is knowing nothing, 1 is knowing all. The effective rank says over how many directions the representation "
        "spreads; a falling loss with a falling rank would be a collapse."
    )
    drawn = [curves("loss", {"loss": _series(found.metrics, "loss")})]
    for kind, title in (("skill", "skill"), ("rank", "effective rank")):
        lines = {name: _series(found.metrics, f"{kind}/{name}") for name in found.sensors}
        lines = {name: line for name, line in lines.items() if len(line[0])}
        drawn += [curves(title, lines)] if lines else []
    return _section("What was learned", words, f"<div class='curves'>{''.join(drawn)}</div>")


def _series(metrics: Sequence[Mapping[str, float]], key: str) -> tuple[np.ndarray, np.ndarray]:
    points = [(line["step"], line[key]) for line in metrics if key in line and math.isfinite(line[key])]
    steps, values = np.array(points, dtype=float).reshape(-1, 2).T
    return steps, values


def _mattered(found: Findings) -> str:
    tree = found.ablation
    words = (
        "From one checkpoint, senses are taken away at the input and a fresh linear probe is trained for each subset. "
        "The network of the same shape that learned nothing, and the raw signals, are what it must beat."
    )
    return _section(
        "Which sense mattered",
        words,
        f"<div class='narrow'>{_overview(tree)}</div>",
        _scroll(heat_table(tree)),
        "<p>What taking one sense away changes for each label (bold: a loss beyond its interval), and what all together "
        "add to the best single one (synergy; below 0, a probe on all senses has more to confuse it than to use):</p>",
        _scroll(_needs(tree)),
    )


def _overview(tree: Tree) -> str:
    mean = tree["mean"]
    whole = list(mean["subsets"])[-1]
    rows = {"all senses": (mean["subsets"][whole], "var(--accent)")}
    rows |= {name: (score, f"var(--c{i % 8})") for i, (name, score) in enumerate(_singles(mean).items())}
    rows |= {name: (score, "var(--faint)") for name, score in mean["baselines"].items()}
    return intervals(rows, "mean score over labels")


def heat_table(tree: Tree) -> str:
    """The ablation as an HTML table: dots over a column say which senses it holds."""
    mean = tree["mean"]
    keys, baselines = list(mean["subsets"]), list(mean["baselines"])
    lines = []
    for sensor in keys[-1].split("+"):
        dots = "".join("<th class='on'>●</th>" if sensor in k.split("+") else "<th class='off'>●</th>" for k in keys)
        lines.append(f"<tr><th>{escape(sensor)}</th>{dots}" + "<th class='apart'></th>" * len(baselines) + "</tr>")
    names = "".join(f"<th>{escape(name)}</th>" for name in baselines)
    lines.append(f"<tr><th></th>{'<th></th>' * len(keys)}{names}</tr>")
    for name, part in [*tree["labels"].items(), ("mean", mean)]:
        cells = "".join(_cell(part["subsets"][k]) for k in keys) + "".join(
            _cell(part["baselines"][k]) for k in baselines
        )
        metric = f" <span class='faint'>{part['metric'].replace('r2', 'R²')}</span>" if "metric" in part else ""
        lines.append(f"<tr class='{'mean' if part is mean else 'label'}'><td>{escape(name)}{metric}</td>{cells}</tr>")
    return f"<table class='heat'>{''.join(lines)}</table>"


def _cell(score: Mapping[str, Any]) -> str:
    shade = min(max(score["mean"], 0), 1)
    red, green, blue = (round(255 * channel) for channel in colormaps[CMAP](shade)[:3])
    ink = "#fff" if shade > 0.55 else "#1c2430"
    style = f"background:rgb({red},{green},{blue});color:{ink}"
    return f"<td style='{style}' title='{text(score)}'>{text(score, interval=False)}</td>"


def _needs(tree: Tree) -> str:
    sensors = list(tree["mean"]["subsets"])[-1].split("+")
    head = "".join(f"<th>without {escape(s)}</th>" for s in sensors)
    rows = []
    for name, part in tree["labels"].items():
        drops = "".join(
            f"<td class='{'strong' if (part['needs'][s]['low'] or 0) > 0 else ''}' "
            f"title='{text(part['needs'][s])}'>{_signed(part['needs'][s], -1)}</td>"
            if s in part["needs"]
            else "<td>-</td>"
            for s in sensors
        )
        synergy = f"{_signed(part['synergy'])} <span class='faint'>over {escape(part['synergy']['best_single'])}</span>"
        rows.append(f"<tr><td>{escape(name)}</td>{drops}<td>{synergy}</td></tr>")
    return f"<table class='plain'><tr><th></th>{head}<th>synergy</th></tr>{''.join(rows)}</table>"


def _signed(score: Mapping[str, Any], sign: int = 1) -> str:
    return f"{sign * score['mean']:+.2f}".replace("-0.00", "0.00").replace("+0.00", "0.00")


def _retrieval(found: Findings) -> str:
    result = found.retrieval
    words = (
        "From one sense alone, predict what another felt, saw or heard at that moment, and find it among "
        f"{result['gallery']} held-out recordings. Chance is in the last row; the skill is against predicting the mean."
    )
    rows = [
        f"<tr><td>{escape(pair.replace('>', ' → '))}</td>{_recalls(entry)}<td>{entry['median_rank']:g}</td>"
        f"<td>{entry['skill']:.2f}</td></tr>"
        for pair, entry in [*result["pairs"].items(), ("mean", result["mean"])]
    ]
    mean = result["mean"]
    chance = "".join(f"<td>{_percent(entry['chance'])}</td>" for entry in mean["recall"].values())
    rows.append(f"<tr class='faint'><td>chance</td>{chance}<td>{mean['chance_rank']:g}</td><td>.00</td></tr>")
    head = "".join(f"<th>found in first {k}</th>" for k in mean["recall"]) + "<th>median rank</th><th>skill</th>"
    table = f"<table class='plain'><tr><th>from → to</th>{head}</tr>{''.join(rows)}</table>"
    return _section("Does one sense know another", words, _scroll(table))


def _recalls(entry: Mapping[str, Any]) -> str:
    return "".join(f"<td>{_percent(part['mean'])}</td>" for part in entry["recall"].values())


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.095 else f"{100 * share:.1f} %"


def _next() -> str:
    words = "The same three commands work on a folder of synchronized logs or a LeRobot data set read in place."
    return _section("With your own logs", words, f"<pre><code>{escape(NEXT)}</code></pre>")


def _made(found: Findings) -> str:
    times = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in found.seconds.items())
    body = escape(json.dumps(found.provenance, indent=1))
    return _section(
        "How this was made",
        times,
        f"<details><summary>configuration, code, seeds and data</summary><pre>{body}</pre></details>",
    )
