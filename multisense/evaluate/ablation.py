"""Which sense mattered: every subset of sensors of one checkpoint, probed for every label on held-out logs.

Sensors are dropped at the input of one and the same model; each subset gets its own probe. The same windows, through a
model that learned nothing and as raw signals, say what the representation adds.
"""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from multisense.checkpoint import warn_if_unfinished
from multisense.clips import Windows
from multisense.embed import batches, embed_subsets, weights_fingerprint
from multisense.evaluate.bench import Bench, bench
from multisense.evaluate.plots import heat_map
from multisense.evaluate.raw import compress, joint, raw_features
from multisense.evaluate.shuffle import shuffled
from multisense.evaluate.table import Scores, Tree, describe, key, rich_table, subsets, tabulate, write_ablation
from multisense.evaluate.windows import SignalLabels, label_names, targets
from multisense.logs.base import SensorLog
from multisense.logs.open import open_logs
from multisense.modalities import touch
from multisense.model import MultiSense
from multisense.run import (
    Run,
    RunConfig,
    check_logs,
    has_training_logs,
    held_out_logs,
    open_run,
    training_logs,
    untrained_model,
)
from multisense.types import Batch

Features = dict[str, np.ndarray]
"""{"fused:camera+mic" | "untrained:..." | "raw:camera": (N, F)} of the same N windows"""


def ablate(
    run: Run,
    test_logs: Sequence[SensorLog],
    out: Path,
    *,
    train_logs: Sequence[SensorLog] | None = None,
    stride_s: float | None = None,
    seed: int = 0,
    batch_size: int = 32,
) -> Tree:
    """Probe every subset of the run's sensors on `test_logs` and write ablation.json, .csv and .png into `out`.

    Probes are trained on `train_logs`, by default the run's own training logs or, where those are gone (which is said),
    on 70 % of the given logs; no log may be in both. Logs that the run holds out by name (`data.hold_out`) are picked
    from those given. Logs without any label are probed for what their vector sensors do (`SignalLabels`). Windows are the run's
    clips at `stride_s` (half a clip by default). Returns the tree of ablation.json.
    """
    sides = prepare(run, test_logs, train_logs, stride_s, seed)
    tree = tabulate_drop(run, sides, measure(run, sides, seed, batch_size))
    write_ablation(tree, Path(out))
    heat_map(tree, Path(out) / "ablation.png")
    return tree


def ablate_path(run: Path, logs: str | Path | None, out: Path, stride_s: float | None = None) -> Table:
    """`ablate` for the run in folder `run` and the logs at the path `logs`, as a table to print."""
    opened, found = open_held_out(run, logs)
    return rich_table(ablate(opened, found, out, stride_s=stride_s))


def open_held_out(run: Path, logs: str | Path | None) -> tuple[Run, list[SensorLog]]:
    """The run in folder `run`, and the logs at the path `logs`.

    Where no path is given: the run's `data.test`, or the logs of its `data.train` that it holds out.
    """
    opened = open_run(run, device="cuda" if torch.cuda.is_available() else "cpu")
    warn_if_unfinished(opened)
    data = opened.config.data
    logs = logs or data.test
    if logs is None and data.hold_out:
        return opened, held_out_logs(opened.config)
    if logs is None:
        raise ValueError(f"{run}: its configuration names no held-out logs (data.test); give their path")
    return opened, open_logs(logs)


@dataclass(frozen=True)
class Sides:
    """The windows that probes are trained on and those that they are scored on."""

    train: Windows
    test: Windows
    kept: Bench
    skipped: Mapping[str, str]
    """Labels that cannot be probed, and why."""
    stride_s: float
    seed: int


def prepare(
    run: Run,
    test_logs: Sequence[SensorLog],
    train_logs: Sequence[SensorLog] | None = None,
    stride_s: float | None = None,
    seed: int = 0,
) -> Sides:
    """Windows, labels and resamples as `ablate` describes them: whatever is probed on them is comparable."""
    if train_logs is None:
        train_logs, test_logs = probe_logs(run, test_logs)
    refuse_overlap(train_logs, test_logs)
    for logs in (train_logs, test_logs):
        check_logs(run.config, run.grids, logs)
    seconds = run.config.data.clip_seconds
    stride_s = seconds / 2 if stride_s is None else stride_s
    train, test = (Windows(logs, run.grids, seconds, stride_s) for logs in (train_logs, test_logs))
    return Sides(train, test, *_bench(train, test, seconds, seed), stride_s, seed)


def probe_logs(run: Run, given: Sequence[SensorLog]) -> tuple[Sequence[SensorLog], Sequence[SensorLog]]:
    """(training, held-out) for probes: the run's own training logs and those given, or a split of those given."""
    data = run.config.data
    if has_training_logs(run.config):
        return training_logs(run.config), held_out_of(run.config, given)
    at = Path(data.train).resolve()
    words = (
        f"The run's training logs ({data.train}) are not at {at}, as seen from this folder: probes are trained on a part of "
        "the given logs and scored on the rest, lower than they would be. Call from the folder where the run was trained."
    )
    Console(stderr=True).print(words, markup=False, soft_wrap=True)
    held_out = [log for log in given if log.name in data.hold_out]
    if held_out and len(held_out) < len(given):
        return [log for log in given if log.name not in data.hold_out], held_out
    if len(given) < 3:
        raise ValueError(
            f"the run's training logs ({data.train}) are gone, and {len(given)} log(s) are too few to train "
            f"probes on some and test on others; give at least 3, or the training logs at {at}"
        )
    return split_logs(given)


def held_out_of(config: RunConfig, given: Sequence[SensorLog]) -> Sequence[SensorLog]:
    """Those given that the run holds out of its `data.train`; all of them where none is. A log elsewhere that only has
    the name of one is another log."""
    named = held_out_logs(config) if config.data.hold_out and has_training_logs(config) else []
    own = {_identity(log) for log in named}
    return [log for log in given if _identity(log) in own] or given


def split_logs(logs: Sequence[SensorLog], test_fraction: float = 0.3) -> tuple[list[SensorLog], list[SensorLog]]:
    """(training, held-out) by whole log, evenly through the list, for logs the run was not trained on."""
    count = max(round(len(logs) * test_fraction), 1)
    held_out = set(np.linspace(0, len(logs) - 1, count).round().astype(int).tolist())
    return [x for i, x in enumerate(logs) if i not in held_out], [x for i, x in enumerate(logs) if i in held_out]


def refuse_overlap(train: Sequence[SensorLog], test: Sequence[SensorLog]) -> None:
    """ValueError where a log is on both sides."""
    known = {_identity(log) for log in train}
    both = [log.name for log in test if _identity(log) in known]
    if both:
        raise ValueError(
            f"{len(both)} of {len(test)} held-out logs are among the training logs (first: {both[0]}); a score on what "
            "was trained on says nothing: give logs that the run has not seen"
        )


def _identity(log: SensorLog) -> tuple[Path, str]:
    return Path(log.path).resolve(), log.name


def _bench(train: Windows, test: Windows, seconds: float, seed: int) -> tuple[Bench, dict[str, str]]:
    for what, windows in (("training", train), ("held-out", test)):
        if not windows.index:
            raise ValueError(f"none of the {len(windows.logs)} {what} logs is as long as one clip of {seconds} s")
    logs = train.logs, test.logs
    if not any(log.labels for side in logs for log in side):
        logs = tuple([SignalLabels.of(log, list(train.grids)) for log in side] for side in logs)
    names = label_names(*logs)
    known = [targets(side, w.index, seconds, names) for side, w in zip(logs, (train, test), strict=True)]
    numbers = [np.array([log for log, _ in w.index]) for w in (train, test)]
    return bench(known[0], known[1], numbers[0], numbers[1], seed=seed)


def measure(
    run: Run, sides: Sides, seed: int, batch_size: int, others: Mapping[str, Sequence[MultiSense]] | None = None
) -> dict[str, Scores]:
    """Every set of features that `tabulate_drop` needs, probed: {"fused:camera+mic" | "untrained:..." | "raw:..." |
    "shuffled:mic": scores}; and under their own names `others`, each the vectors of some models one after the other."""
    names = run.model.names
    train, test = (_features(run, windows, seed, batch_size, others or {}) for windows in (sides.train, sides.test))
    swapped = shuffled(run, sides.test, seed, batch_size) if len(names) > 1 else {}
    raw = compress(*({n: side.pop(f"raw:{n}") for n in names} for side in (train, test)), sensors=names)
    for side, small in zip((train, test), raw, strict=True):
        side |= {f"raw:{name}": values for name, values in small.items()}
        side[f"raw:{key(names)}"] = joint(small, names)
    whole = f"fused:{key(names)}"
    found = _scores(sides.kept, train, {n: [x, *(swapped.values() if n == whole else ())] for n, x in test.items()})
    scores = {name: of[0] for name, of in found.items()}
    return scores | {f"shuffled:{name}": of for name, of in zip(swapped, found[whole][1:], strict=True)}


def tabulate_drop(run: Run, sides: Sides, scores: Mapping[str, Scores]) -> Tree:
    """The tree of ablation.json from what was measured."""
    names = run.model.names
    tree = tabulate(
        names,
        fused={key(s): scores[f"fused:{key(s)}"] for s in subsets(names)},
        baselines=baselines(run, sides, scores),
        by_sensor={f"{b}:{name}": scores[f"{b}:{name}"] for b in ("untrained", "raw") for name in names},
        shuffled={name: scores[f"shuffled:{name}"] for name in names if f"shuffled:{name}" in scores},
    )
    describe(tree, sides.kept)
    return {**tree, "skipped": sides.skipped, "provenance": provenance(run, sides, "ablation")}


def baselines(run: Run, sides: Sides, scores: Mapping[str, Scores]) -> dict[str, Scores]:
    return {b: scores[f"{b}:{key(run.model.names)}"] for b in ("untrained", "raw")} | {"chance": sides.kept.chance()}


def _features(
    run: Run, windows: Windows, seed: int, batch_size: int, others: Mapping[str, Sequence[MultiSense]]
) -> Features:
    """Every set of features of every window, in one pass over the data."""
    names = run.model.names
    untrained = untrained_model(run, seed).to(run.model.time_s.device)
    singles_and_all = list(dict.fromkeys([*((name,) for name in names), names]))
    rates_hz = {name: grid.rate_hz for name, grid in run.grids.items()}
    scales = {
        n: float(s.log_scale) for n, s in run.config.sensors.items() if isinstance(s, touch.Config) and s.log_scale
    }
    parts: list[Features] = []
    for batch in track(batches(windows, batch_size), "embedding subsets", transient=True):
        here = {f"fused:{key(s)}": x for s, x in embed_subsets(run.model, batch, subsets(names)).items()}
        here |= {f"untrained:{key(s)}": x for s, x in embed_subsets(untrained, batch, singles_and_all).items()}
        here |= {f"raw:{name}": x for name, x in raw_features(batch, rates_hz, scales).items()}
        here |= {name: np.concatenate([_whole(m, batch) for m in models], axis=1) for name, models in others.items()}
        parts.append(here)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _whole(model: MultiSense, batch: Batch) -> np.ndarray:
    return embed_subsets(model, batch, [model.names])[model.names]


def _scores(kept: Bench, train: Features, tests: Mapping[str, Sequence[np.ndarray]]) -> Mapping[str, Sequence[Scores]]:
    """Every set of features probed, on as many threads as torch may use, and scored on each of its held-out ones.

    Probes are thousands of small products: on a busy machine several BLAS threads in each make them 50 times slower.
    """
    with threadpool_limits(1), warnings.catch_warnings(), ThreadPoolExecutor(torch.get_num_threads()) as pool:
        warnings.simplefilter("ignore", ConvergenceWarning)  # see probe.py; its own filter is not one thread's alone
        found = pool.map(lambda name: kept.scores_of_each(train[name], tests[name]), train)
        return dict(zip(train, map(list, track(found, "probing", total=len(train), transient=True)), strict=True))


def provenance(run: Run, sides: Sides, what: str) -> dict[str, Any]:
    """What a result of these windows needs to be made again; its settings are under the name `what`."""
    return {
        **run.provenance,
        "weights": weights_fingerprint(run.model),
        what: {
            "window_s": sides.train.seconds,
            "stride_s": sides.stride_s,
            "seed": sides.seed,
            "windows": {"train": len(sides.train), "test": len(sides.test)},
            "logs": {
                side: {"count": len(w.logs), "first": w.logs[0].path, "fingerprint": logs_fingerprint(w.logs)}
                for side, w in (("train", sides.train), ("test", sides.test))
            },
        },
    }


def logs_fingerprint(logs: Sequence[SensorLog]) -> str:
    """A short hash of what a result says its logs were: names and contents, in order."""
    return hashlib.sha256("".join(log.name + log.fingerprint() for log in logs).encode()).hexdigest()[:16]
