"""The page: its sections in the order in which questions are asked, each left out where nothing was measured."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from multisense.evaluate.table import Tree
from multisense.inspect.page import html_page
from multisense.report.ablation import headline, heat_table, overview, probe_table, retrain_section, sensors_table
from multisense.report.maps import map_section
from multisense.report.retrieval import example_figures, retrieval_table
from multisense.report.robustness import robustness_section
from multisense.report.training import training_section

COMMANDS = """\
# 1. learn from your own recordings: a folder of logs, or the root of a LeRobot data set
multisense train CONFIG.yaml --out run
# 2. embeddings of any logs with the same sensors, or with some of them
multisense embed run LOGS -o embeddings.h5
# 3. this page of logs that were not trained on
multisense report run HELD_OUT_LOGS -o report.html"""


@dataclass(frozen=True)
class Findings:
    """What a report is about; what is None or empty is left out of it."""

    title: str
    run: Path
    sensors: Sequence[str]
    """In the order of the model."""
    data: str
    """What was recorded, as HTML (`data_section`)."""
    ablation: Tree | None = None
    retrain: Tree | None = None
    probe: Tree | None = None
    robustness: Tree | None = None
    retrieval: Mapping[str, Any] | None = None
    examples: Mapping[str, Any] | None = None
    map: Mapping[str, Any] | None = None
    health: Mapping[str, Any] | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    """How long each stage took."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Without folders of the machine: a page is passed on."""


def write_page(found: Findings, path: Path) -> None:
    """Write the page; it loads nothing from anywhere."""
    parts = {
        "recorded": ("What was recorded", found.data),
        "learned": ("What was learned", training_section(found.run, found.sensors, found.health)),
        "embedding": ("The embedding as a map", map_section(found.map) if found.map else ""),
        "probes": ("What labels it holds", probe_table(found.probe) if found.probe else ""),
        "mattered": ("Which sense mattered", _mattered(found)),
        "broken": (
            "What happens when a sense breaks",
            robustness_section(found.robustness) if found.robustness else "",
        ),
        "retrieval": ("Does one sense know another", _retrieval(found)),
        "own": ("With your own logs", _own()),
        "made": ("How this was made", _made(found)),
    }
    shown = {name: part for name, part in parts.items() if part[1]}
    links = "".join(f"<li><a href='#{name}'>{title}</a></li>" for name, (title, _) in shown.items())
    sections = "\n".join(_section(name, *part) for name, part in shown.items())
    head = f"<h1>{escape(found.title)}</h1>{headline(found.ablation) if found.ablation else ''}"
    nav = f"<nav aria-label='Sections'><ul>{links}</ul></nav>"
    own = files("multisense.report")
    style, script = ((own / name).read_text() for name in ("page.css", "page.js"))
    path.write_text(html_page(found.title, f"{head}{nav}{sections}", style, script))


def _section(name: str, title: str, body: str) -> str:
    return f"<section id='{name}' aria-labelledby='{name}-title'><h2 id='{name}-title'>{title}</h2>{body}</section>"


def _mattered(found: Findings) -> str:
    tree = found.ablation
    if tree is None:
        return retrain_section(found.retrain) if found.retrain else ""
    words = (
        "From one checkpoint, senses are taken away at the input and a fresh linear probe is trained for each subset. "
        "The network of the same shape that learned nothing, and the raw signals, are what it must beat. Dots in a heading "
        "say which senses a column holds; below a score stands its 95 % interval."
    )
    needs = (
        "What taking one sense away changes for each label (bold: p below .05 or, without a p, beyond its interval), and "
        "what all together add to the best single one (synergy; below 0, a probe on all senses has more to confuse it than to use)."
    )
    return (
        f"<p>{words}</p><div class='narrow'>{overview(tree)}</div><h3>Dropped at the input of one model</h3>"
        + heat_table(tree, "ablation", "Scores of every subset of sensors, dropped at the input of one model")
        + f"<p>{needs}</p>{sensors_table(tree, 'needs', 'What each sensor is needed for', ['needs', 'shuffle'])}"
        + sensors_table(tree, "shares", "What each sensor knows", ["shapley", "unique", "redundant"])
        + _skipped(tree)
        + (retrain_section(found.retrain) if found.retrain else "")
    )


def _skipped(tree: Tree) -> str:
    said = "".join(f"<li>{escape(name)}: {escape(why)}</li>" for name, why in tree.get("skipped", {}).items())
    return f"<p>Labels that could not be probed:</p><ul>{said}</ul>" if said else ""


def _retrieval(found: Findings) -> str:
    if found.retrieval is None:
        return ""
    words = (
        "From some senses, predict what another felt, saw or heard at that moment, and find it among the held-out "
        "recordings. The skill is against predicting the mean."
    )
    table = retrieval_table(found.retrieval)
    return f"<p>{words}</p>{table}{example_figures(found.examples) if found.examples else ''}"


def _own() -> str:
    words = "The same commands work on a folder of synchronized logs or a LeRobot data set read in place."
    return f"<p>{words}</p><pre tabindex='0' role='region' aria-label='commands'><code>{escape(COMMANDS)}</code></pre>"


def _made(found: Findings) -> str:
    times = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in found.seconds.items())
    body = escape(json.dumps(found.provenance, indent=1))
    return (
        (f"<p>{escape(times)}</p>" if times else "")
        + "<details><summary>configuration, code, seeds and data</summary>"
        + f"<pre tabindex='0' role='region' aria-label='provenance'>{body}</pre></details>"
    )
