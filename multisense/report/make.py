"""A run and held-out logs -> everything the page shows, measured once and kept beside it."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from multisense.embed import weights_fingerprint
from multisense.evaluate.ablation import ablate, held_out_of, logs_fingerprint, open_held_out
from multisense.evaluate.probing import probe
from multisense.evaluate.protocol import Protocol
from multisense.evaluate.retrieval import retrieve
from multisense.evaluate.retrieval_table import routes_of
from multisense.evaluate.robustness import robustness
from multisense.evaluate.table import Tree, refuse_other
from multisense.health.report import measured
from multisense.logs.base import SensorLog
from multisense.report.data import data_section
from multisense.report.maps import embedding_map, has_umap
from multisense.report.page import Findings, write_page
from multisense.report.retrieval import examples
from multisense.run import (
    Run,
    code_fingerprint,
    data_fingerprint,
    has_training_logs,
    shareable,
    training_logs,
    write_atomically,
)

MEASURES = ("health", "map", "retrieval", "examples", "ablation", "probe", "robustness")
"""In the order in which they are measured: what is quick comes first."""
PROBED = ("ablation", "probe", "robustness")
"""Those whose probes are trained on the run's training logs."""


def report_path(run: Path, logs: str | Path | None, out: Path, retrain: Path | None = None) -> Path:
    """`report` for the run in folder `run`, the logs at the path `logs` (by default those that the run holds out) and the
    folder of `ablate --retrain`."""
    opened, found = open_held_out(run, logs)
    return report(opened, held_out_of(opened.config, found), out, retrain=retrain)


def report(
    run: Run,
    logs: Sequence[SensorLog],
    out: Path,
    *,
    title: str | None = None,
    given: Mapping[str, Any] | None = None,
    measure: Sequence[str] = MEASURES,
    retrain: Path | None = None,
    seconds: Mapping[str, float] | None = None,
) -> Path:
    """Write the page `out` about a run on held-out `logs`; returns its path.

    Each of MEASURES that is in `given` is shown as it is; those of `measure` that are not are measured and kept in
    `<out>.parts`, from where a later call takes them if weights, logs and code are the same. `retrain` is the folder of
    `ablate --retrain`, which holds retrain.json. `seconds` is how long what came before took, by stage. Raises ValueError
    for an unknown measure, a `retrain` of another run or other logs, and as they do.
    """
    given, out = dict(given or {}), Path(out)
    unknown = sorted({*given, *measure} - set(MEASURES))
    if unknown:
        raise ValueError(f"no measure {unknown}; there are {', '.join(MEASURES)}")
    other = None if retrain is None else _read_retrain(retrain, run, logs)
    out.parent.mkdir(parents=True, exist_ok=True)
    layout = run.model.layout
    counts = torch.bincount(layout.sensor.cpu(), minlength=len(layout.names)).tolist()
    tokens = dict(zip(layout.names, counts, strict=True))
    data = data_section(logs, layout.names, tokens)  # first: what cannot be drawn is known before hours of measuring
    parts = Parts(out.with_name(out.name + ".parts"), _stamp(run, logs), _own_stamps(run, measure))
    todo = _measures(run, logs, parts.folder)
    found = {name: given[name] if name in given else parts.get(name, todo[name]) for name in (*measure, *given)}
    write_page(
        Findings(
            title or f"{run.path.resolve().name}: what its senses learned together",
            run.path,
            layout.names,
            data,
            **found,
            retrain=other,
            seconds={**(seconds or {}), **parts.seconds},
            provenance=shareable({**run.provenance, "report": parts.stamp}),
        ),
        out,
    )
    return out


def _read_retrain(folder: Path, run: Run, logs: Sequence[SensorLog]) -> Tree:
    file, fix = (
        folder / "retrain.json",
        "expected the folder of `multisense ablate --retrain` of this run on these logs",
    )
    if not file.exists():
        raise ValueError(f"{folder}: no retrain.json; {fix}")
    tree = json.loads(file.read_text())
    refuse_other(tree, file, fix, weights_fingerprint(run.model), logs_fingerprint(logs))
    return tree


def _measures(run: Run, logs: Sequence[SensorLog], folder: Path) -> dict[str, Callable[[], Any]]:
    """How each is measured; None where the run has too few sensors for it."""
    names = run.model.names
    has_others = len(names) > 1
    return {
        "health": lambda: measured(run, logs, "held-out logs").as_dict(),
        "map": lambda: embedding_map(run, logs),
        "retrieval": lambda: retrieve(run, logs, routes=routes_of(names)) if has_others else None,
        "examples": lambda: examples(run, logs) if has_others else None,
        "ablation": lambda: ablate(run, logs, folder),
        "probe": lambda: probe(run, logs, Protocol()),
        "robustness": lambda: robustness(run, logs, folder),
    }


def _stamp(run: Run, logs: Sequence[SensorLog]) -> dict[str, str]:
    """What every result must have been made with to be shown again."""
    return {"weights": weights_fingerprint(run.model), "logs": data_fingerprint(logs), "code": code_fingerprint()}


def _own_stamps(run: Run, measure: Sequence[str]) -> dict[str, dict[str, Any]]:
    """And what some results must, besides; the training logs are read only where probes are asked for."""
    own: dict[str, dict[str, Any]] = {"map": {"umap": has_umap()}}
    if set(PROBED) & set(measure):
        there = has_training_logs(run.config)
        training = data_fingerprint(training_logs(run.config)) if there else "gone"
        own |= {name: {"training": training} for name in PROBED}
    return own


@dataclass(frozen=True)
class Parts:
    """Results beside the page, one JSON file each; `made.json` says what each was made with, and in how many seconds."""

    folder: Path
    stamp: Mapping[str, str]
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By result, what else it depends on."""

    def get(self, name: str, measure: Callable[[], Any]) -> Any:
        """The result of that name: kept from before, or measured now."""
        file = self.folder / f"{name}.json"
        made, stamp = self._made().get(name, {}), {**self.stamp, **self.own.get(name, {})}
        if file.exists() and all(made.get(key) == value for key, value in stamp.items()):
            return json.loads(file.read_text())
        Console(stderr=True).print(f"[bold]{name}[/]", highlight=False)
        self.folder.mkdir(exist_ok=True)
        began = time.perf_counter()
        found = measure()
        write_atomically(file, json.dumps(found, indent=1) + "\n")
        entry = {**stamp, "seconds": round(time.perf_counter() - began, 2)}
        write_atomically(self.folder / "made.json", json.dumps({**self._made(), name: entry}, indent=1) + "\n")
        return found

    @property
    def seconds(self) -> dict[str, float]:
        return {name: entry["seconds"] for name, entry in self._made().items()}

    def _made(self) -> dict[str, Any]:
        file = self.folder / "made.json"
        return json.loads(file.read_text()) if file.exists() else {}
