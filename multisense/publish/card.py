"""What a model card says of a run and of its ablation, in Markdown: what is recorded with them, and nothing else."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from multisense.checkpoint import checkpoints
from multisense.embed import weights_fingerprint
from multisense.evaluate.metrics import NAMES
from multisense.evaluate.table import Tree, text
from multisense.inspect.info import show_hours
from multisense.run import Run, flat, read_lines, shareable

PICTURE = "ablation.png"


def training_section(run: Run) -> str:
    """Steps, data, versions and configuration of a run. Folders of the machine it was trained on are left out."""
    made, settings = run.provenance, run.config.train
    step, last = reached(run.path)
    rows = {
        "steps": f"{_steps(step, settings.steps)}, {settings.batch_size} clips of {run.config.data.clip_seconds:g} s each",
        "data": f"{made.get('logs', '?')} logs{_hours(made)}, fingerprint `{made.get('data', '?')}`",
        "clips seen": show_hours(last["hours_seen"]) + " of them, with repetition" if "hours_seen" in last else "",
        f"at step {last.get('step', 0):,}": ", ".join(
            f"{name} {last[name]:.3g}" for name in ("loss", "skill", "rank") if last.get(name) is not None
        ),
        "weights": f"fingerprint `{weights_fingerprint(run.model)}`",
        "code": f"multisense {made.get('multisense', '?')}, source `{made.get('code', '?')}`",
        "made with": f"torch {made.get('torch', '?')}, Python {made.get('python', '?')}, seed {settings.seed}",
        "changed on the way": _changes(made),
    }
    table = _table(["what", "how"], [[name, value] for name, value in rows.items() if value])
    config = OmegaConf.to_yaml(OmegaConf.create(shareable(run.config.tree())))
    return f"{table}\n\n<details><summary>Configuration</summary>\n\n```yaml\n{config}```\n\n</details>"


def reached(path: Path) -> tuple[int | None, dict[str, Any]]:
    """The step that the weights of the run folder are of, None where nothing says, and the last metrics up to there."""
    saved = checkpoints(path)
    rows = read_lines(path / "metrics.jsonl")
    step = int(saved[-1].name) if saved else rows[-1]["step"] if rows else None
    return step, next((row for row in reversed(rows) if row["step"] <= (step or 0)), {})


def results_section(tree: Tree) -> str:
    """The ablation of a model: its picture, every subset of senses and baseline x every label with intervals, the
    differences to the baselines, and what was measured on what."""
    parts = [*tree["labels"].items(), ("mean", tree["mean"])]
    keys, baselines = tree["mean"]["subsets"], tree["mean"]["baselines"]
    rows = [
        [name.replace("+", " + "), *(text(part[kind][name]) for _, part in parts)]
        for kind, names in (("subsets", keys), ("baselines", baselines))
        for name in names
    ]
    differences = "; ".join(
        f"{name.removeprefix('fused-')} {text(cell)}" for name, cell in tree["mean"]["differences"].items()
    )
    return "\n\n".join(
        [
            "Which sense mattered: linear probes on held-out logs, with 95 % bootstrap-t intervals over logs. Senses are "
            "taken away at the input of this one model, and each row has probes of its own, trained on the training logs. "
            "*untrained* is a network of the same shape that learned nothing, *raw* the signals themselves.",
            f"![Ablation: every subset of senses and every baseline, by label]({PICTURE})",
            _table(["probe on", *(name for name, _ in parts)], rows),
            f"In the mean a score below {tree['mean']['floor']:g} counts as {tree['mean']['floor']:g}. All senses less others, "
            f"paired over the same logs: {differences}.",
            _table(["label", "score", "held-out", "training"], [_measured(*label) for label in tree["labels"].items()]),
            *(f"Not probed: `{name}`, {why}." for name, why in tree["skipped"].items()),
            _protocol(tree["provenance"]["ablation"]),
        ]
    )


def _measured(name: str, label: Mapping[str, Any]) -> list[str]:
    counts = (f"{label['windows'][side]:,} windows of {label['logs'][side]:,} logs" for side in ("test", "train"))
    return [name, NAMES[label["metric"]], *counts]


def _protocol(how: Mapping[str, Any]) -> str:
    test, train = (how["logs"][side]["fingerprint"] for side in ("test", "train"))
    return (
        f"Windows of {how['window_s']:g} s every {how['stride_s']:g} s, seed {how['seed']}; fingerprints of the held-out logs "
        f"`{test}`, of the logs the probes were trained on `{train}`."
    )


def _steps(step: int | None, planned: int) -> str:
    if step is None:
        return f"{planned:,} planned; how many were taken is not recorded"
    return f"{step:,} of {planned:,}" + ("; its training has not finished" if step < planned else "")


def _hours(made: Mapping[str, Any]) -> str:
    return f", {show_hours(made['hours'])} of recording" if "hours" in made else ""


def _changes(made: Mapping[str, Any]) -> str:
    """What a run that went on with something else was begun with."""
    said, now = [], made
    while before := now.get("before"):
        ours, theirs = (flat(shareable({k: v for k, v in x.items() if k != "before"})) for x in (now, before))
        said += [f"{key} was {theirs.get(key)}" for key in sorted({*ours, *theirs}) if ours.get(key) != theirs.get(key)]
        now = before
    return "; ".join(said)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
