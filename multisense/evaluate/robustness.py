"""What happens when a sense breaks: probes trained on clean windows, scored where one sensor is late, noisy or gone.

The model and its probes are those of the ablation and know nothing of the disturbance. Beside each curve stand three
levels: all sensors clean, the sensor alone, and probes that were trained without it, which is what somebody would have
who knew that it is broken. A model that takes a broken sense for a whole one falls below the last.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track
from rich.table import Table
from threadpoolctl import threadpool_limits

from multisense.clips import Windows
from multisense.embed import batches, embed_subsets
from multisense.evaluate.ablation import Sides, open_held_out, prepare, provenance
from multisense.evaluate.disturbances import DISTURBANCES, Disturbance, Gauge, Scale, Surroundings, View, sense
from multisense.evaluate.robustness_files import rich_table, write_robustness
from multisense.evaluate.robustness_plot import panels
from multisense.evaluate.scores import Score, mean_score
from multisense.evaluate.shuffle import SWAPPED
from multisense.evaluate.table import FLOOR, Scores, Tree, describe
from multisense.logs.base import SensorLog
from multisense.run import Run

Subset = tuple[str, ...]
At = tuple[Disturbance, float]
"""A disturbance and its strength."""


def robustness(
    run: Run,
    test_logs: Sequence[SensorLog],
    out: Path,
    *,
    train_logs: Sequence[SensorLog] | None = None,
    stride_s: float | None = None,
    seed: int = 0,
    batch_size: int = 32,
    disturbances: Sequence[Disturbance] = DISTURBANCES,
) -> Tree:
    """Disturb each sensor in turn on `test_logs`; write robustness.json, .csv and .png into `out`.

    Logs, windows and labels are those of `ablate` for the same arguments, so its scores stand beside these. Each point
    of a curve holds, for every label and for the mean over labels, the `score`, the `loss` against clean windows, and
    `over_without`: the score less that of probes trained without the sensor. The differences are paired over resampled
    logs. `seen` is the share of the sensor's samples that are there. Returns the tree of robustness.json.
    """
    sides = prepare(run, test_logs, train_logs, stride_s, seed)
    train, _ = _clean(run, sides.train, batch_size)
    test, scales = _clean(run, sides.test, batch_size)
    with threadpool_limits(1):  # see ablation._scores
        levels = {s: sides.kept.scores(train[s], test[s]) for s in track(list(train), "probing", transient=True)}
    tree: Tree = {"sensors": {}, "labels": {name: {} for name in sides.kept.train}, "skipped": sides.skipped}
    for name in run.model.names:
        around = Surroundings(run.grids[name], sides.test, scales[name], seed)
        has_another = len(around.order[0]) > 1  # else the sensor "of another log" is that of the log itself
        able = [d for d in disturbances if sense(around.grid) in d.senses and (has_another or d is not SWAPPED)]
        tries = [(d, s) for d in able for s in d.strengths]
        features, seen = _disturbed(run, around, tries, batch_size)
        with threadpool_limits(1):
            scores = sides.kept.scores_of_each(train[run.model.names], features)
        tree["sensors"][name] = _curves(around, tries, scores, seen, _levels(sides, levels, run.model.names, name))
    describe(tree, sides.kept)
    tree["floor"], tree["provenance"] = FLOOR, provenance(run, sides, "robustness")
    write_robustness(tree, Path(out))
    panels(tree, Path(out) / "robustness.png")
    return tree


def robustness_path(run: Path, logs: str | Path | None, out: Path, stride_s: float | None = None) -> Table:
    """`robustness` for the run in folder `run` and the logs at the path `logs`, as a table to print."""
    opened, found = open_held_out(run, logs)
    return rich_table(robustness(opened, found, out, stride_s=stride_s))


def _clean(run: Run, windows: Windows, batch_size: int) -> tuple[dict[Subset, np.ndarray], dict[str, Scale]]:
    """Features of all sensors, of each alone and of all but each; and the scale of each sensor."""
    names = run.model.names
    wanted = [names, *((name,) for name in names), *(without(names, name) for name in names if len(names) > 1)]
    gauges, parts = {name: Gauge(run.grids[name]) for name in names}, []
    for batch in track(batches(windows, batch_size), "embedding clean windows", transient=True):
        parts.append(embed_subsets(run.model, batch, list(dict.fromkeys(wanted))))
        for name, gauge in gauges.items():
            gauge.add(batch.values[name], batch.valid[name])
    features = {subset: np.concatenate([part[subset] for part in parts]) for subset in parts[0]}
    return features, {name: gauge.scale for name, gauge in gauges.items()}


def without(names: Subset, name: str) -> Subset:
    return tuple(other for other in names if other != name)


def _disturbed(
    run: Run, around: Surroundings, tries: Sequence[At], batch_size: int
) -> tuple[list[np.ndarray], list[float]]:
    """For each of the tries the features (N, F) from all sensors with one disturbed, and the share of it that is there."""
    names, name = run.model.names, around.grid.name
    features: list[list[np.ndarray]] = [[] for _ in tries]
    seen = np.zeros(len(tries))
    loader = batches(around.windows, batch_size)
    for number, batch in enumerate(track(loader, f"disturbing {name}", transient=True)):
        items = range(number * batch_size, number * batch_size + len(batch))
        view = View(around, items, batch.values[name], batch.valid[name])
        for k, (disturbance, strength) in enumerate(tries):
            worse = disturbance.disturb(batch, view, strength)
            features[k].append(embed_subsets(run.model, worse, [names])[names])
            seen[k] += float(worse.valid[name].double().mean(1).sum())
    return [np.concatenate(parts) for parts in features], (seen / len(around.windows)).tolist()


Levels = Mapping[str, Scores]
"""{"clean" | "alone" | "without": scores by label}"""


def _levels(sides: Sides, scores: Mapping[Subset, Scores], names: Subset, name: str) -> Levels:
    rest = without(names, name)
    return {"clean": scores[names], "alone": scores[name,], "without": scores[rest] if rest else sides.kept.chance()}


def _curves(
    around: Surroundings, tries: Sequence[At], scores: Sequence[Scores], seen: Sequence[float], levels: Levels
) -> Tree:
    """What the tree says of one sensor."""
    curves: dict[str, Any] = {}
    for (disturbance, strength), here, share in zip(tries, scores, seen, strict=True):
        words = disturbance.words.format(strength)
        point = {"strength": strength, "words": words, "seen": share, **_compared(here, levels)}
        curves.setdefault(disturbance.name, []).append(point)
    shown = {
        level: {"labels": {label: s.interval() for label, s in of.items()}, "mean": _mean(of).interval()}
        for level, of in levels.items()
    }
    return {"sense": sense(around.grid), "levels": shown, "curves": curves}


def _compared(here: Scores, levels: Levels) -> Tree:
    labels = {label: _differences(*(of[label] for of in (here, levels["clean"], levels["without"]))) for label in here}
    return {"labels": labels, "mean": _differences(*map(_mean, (here, levels["clean"], levels["without"])))}


def _differences(here: Score, clean: Score, rest: Score) -> Tree:
    """Scores of the same resampled logs."""
    parts = {"score": here, "loss": clean - here, "over_without": here - rest}
    return {name: part.interval() for name, part in parts.items()}


def _mean(scores: Scores) -> Score:
    return mean_score([score.floored(FLOOR) for score in scores.values()])
