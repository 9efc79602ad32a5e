"""What frozen embeddings say of labels: any probe, any share of the training logs, held-out logs or held-out groups.

The run and the network of its shape that learned nothing are probed on the same windows and the same drawn logs, so
that their difference is paired. Scores come with intervals over held-out logs (or groups) and over seeds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from threadpoolctl import threadpool_limits

from multisense.clips import Windows
from multisense.embed import batches, embed_subsets, weights_fingerprint
from multisense.evaluate.ablation import open_held_out, probe_logs, refuse_overlap
from multisense.evaluate.attentive import attend
from multisense.evaluate.bench import filled
from multisense.evaluate.knn import nearest
from multisense.evaluate.metrics import metrics
from multisense.evaluate.probe import predict
from multisense.evaluate.protocol import Protocol, Samples, held_out, labels_to_probe, take_samples
from multisense.evaluate.scores import Score, constant, over_seeds, score
from multisense.evaluate.splits import Split, draw_logs
from multisense.evaluate.table import Tree
from multisense.evaluate.windows import Target
from multisense.logs.base import SensorLog
from multisense.model import MultiSense
from multisense.run import Run, check_logs, data_fingerprint, untrained_model
from multisense.types import Batch

Guess = Callable[[Target, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def probe(
    run: Run,
    logs: Sequence[SensorLog],
    protocol: Protocol,
    labels: Sequence[str] = (),
    *,
    train_logs: Sequence[SensorLog] | None = None,
    seed: int = 0,
    batch_size: int = 32,
) -> Tree:
    """Probe the run for `labels` (all by default) as `protocol` says.

    Without a group, probes are trained on `train_logs` (by default as `ablate` does) and scored on `logs`; with one, both
    are of `logs`. Returns {"labels": {label: {"metrics", "units", "tested", "budgets": {"100 %": {"logs", "seeds",
    metric: {"run", "untrained", "chance", "gain"}}}}}, "skipped", "protocol", "provenance"}: each of the four a
    {"mean", "low", "high"}, `gain` the paired difference of run and untrained network.

    Intervals take the probes as they are: folds of leave-one-group-out share training logs, of which no estimate of
    variance is free of bias (Bengio & Grandvalet 2004, JMLR 5:1089).
    """
    train, test = ([], logs) if protocol.group else _sides(run, logs, train_logs)
    every = [*train, *test]
    check_logs(run.config, run.grids, every)
    seconds = run.config.data.clip_seconds
    windows = Windows(every, run.grids, seconds, protocol.stride_s or seconds / 2)
    samples = take_samples(windows, len(train), protocol, labels, seed)
    names, skipped = labels_to_probe(samples)
    features = _features(run, windows, protocol.probe, seed, batch_size)
    todo = [(name, budget) for name in names for budget in protocol.budgets]
    tree: Tree = {"labels": {name: _known(samples, name) for name in names}, "skipped": skipped}
    with threadpool_limits(1):  # as in `ablate`
        for name, budget in track(todo, "probing", transient=True):
            found = _cell(samples, features, samples.targets[name], protocol, budget, seed)
            tree["labels"][name]["budgets"][f"{100 * budget:g} %"] = found
    origin = {"weights": weights_fingerprint(run.model), "seed": seed, "logs": data_fingerprint(every)}
    return {**tree, "protocol": asdict(protocol), "provenance": {**run.provenance, "probe": origin}}


def probe_path(run: Path, logs: str | Path | None, protocol: Protocol, labels: Sequence[str] = ()) -> Tree:
    """`probe` for the run in folder `run` and the logs at the path `logs`, by default those that the run holds out."""
    opened, found = open_held_out(run, logs)
    return probe(opened, found, protocol, labels)


def _sides(
    run: Run, logs: Sequence[SensorLog], train_logs: Sequence[SensorLog] | None
) -> tuple[Sequence[SensorLog], Sequence[SensorLog]]:
    train, test = probe_logs(run, logs) if train_logs is None else (train_logs, logs)
    refuse_overlap(train, test)
    return train, test


def _known(samples: Samples, name: str) -> dict[str, Any]:
    target = samples.targets[name]
    held = held_out(target, samples)
    tested = {
        "windows": len(held),
        "units": len(np.unique(samples.unit[held])),
        "logs": len(np.unique(samples.log[held])),
    }
    return {"metrics": list(metrics(target)), "units": target.units, "tested": tested, "budgets": {}}


def _features(run: Run, windows: Windows, kind: str, seed: int, batch_size: int) -> dict[str, np.ndarray]:
    """{"run", "untrained"}: fused vectors (N, F), or tokens (N, T, D) in half precision for an attentive probe."""
    models = {"run": run.model, "untrained": untrained_model(run, seed).to(run.model.time_s.device)}
    look = _tokens if kind == "attentive" else _fused
    parts = [
        {who: look(model.eval(), batch) for who, model in models.items()}
        for batch in track(batches(windows, batch_size), "embedding", transient=True)
    ]
    return {who: np.concatenate([part[who] for part in parts]) for who in models}


def _fused(model: MultiSense, batch: Batch) -> np.ndarray:
    return embed_subsets(model, batch, [model.names])[model.names]


@torch.no_grad()
def _tokens(model: MultiSense, batch: Batch) -> np.ndarray:
    tokens = model.tokenize(batch.to(model.time_s.device))
    latents = model.encode(tokens)[-1]
    return torch.where(tokens.valid[..., None], latents, torch.nan).half().cpu().numpy()


def _cell(
    samples: Samples,
    features: Mapping[str, np.ndarray],
    target: Target,
    protocol: Protocol,
    budget: float,
    seed: int,
) -> dict[str, Any]:
    """One label at one budget: every metric of the run, the untrained network and chance, over seeds."""
    target, spread = _unit_free(target, samples)
    found: dict[str, dict[str, list[Score]]] = {metric: {} for metric in metrics(target)}
    logs = 0
    for repeat in range(seed, seed + protocol.repeats(budget)):
        splits = [(draw_logs(target, samples.log, train, budget, repeat), test) for train, test in samples.splits]
        logs = max(len(np.unique(samples.log[train])) for train, _ in splits)
        guesses = {who: _guessed(target, samples, x, splits, protocol.probe, repeat) for who, x in features.items()}
        for metric, by in found.items():
            for who, guess in guesses.items():
                by.setdefault(who, []).append(_scored(target, guess, samples, metric, spread))
            by.setdefault("chance", []).append(_chance(target, samples, splits, metric, spread))
    scores = {metric: {who: over_seeds(each, seed) for who, each in by.items()} for metric, by in found.items()}
    gains = {metric: {"gain": by["run"] - by["untrained"]} for metric, by in scores.items()}
    tables = {
        metric: {who: s.interval() for who, s in {**by, **gains[metric]}.items()} for metric, by in scores.items()
    }
    return {"logs": logs, "seeds": protocol.repeats(budget), **tables}


def _unit_free(target: Target, samples: Samples) -> tuple[Target, np.ndarray]:
    """Quantities in deviations from the mean of the training windows, as on the bench of `ablate`, and what one deviation is."""
    if target.is_class:
        return target, np.ones(())
    train = np.unique(np.concatenate([train for train, _ in samples.splits]))
    known = target.values[train[target.present[train]]]
    mean, spread = known.mean(axis=0), known.std(axis=0)
    return replace(target, values=(target.values - mean) / np.where(spread > 0, spread, np.inf)), spread


def _guessed(
    target: Target, samples: Samples, x: np.ndarray, splits: Sequence[Split], kind: str, seed: int
) -> np.ndarray:
    """What probes say of every held-out window; zero elsewhere."""
    guesses: dict[str, Guess] = {"linear": predict, "knn": nearest, "attentive": partial(attend, seed=seed)}
    said = np.zeros_like(target.values)
    for train, test in splits:
        seen = (x[train], x[test]) if kind == "attentive" else filled(x[train], x[test])
        said[test] = guesses[kind](_only(target, train), *seen, samples.log[train])
    return said


def _only(target: Target, rows: np.ndarray) -> Target:
    return replace(target, values=target.values[rows], present=target.present[rows])


def _scored(target: Target, guess: np.ndarray, samples: Samples, metric: str, spread: np.ndarray) -> Score:
    held = np.concatenate([test for _, test in samples.splits])
    asked, guess = _only(target, held), guess[held]
    if metric == "mae":
        asked, guess = replace(asked, values=asked.values * spread), guess * spread
    return score(asked, guess, samples.unit[held], samples.weights, metric)


def _chance(target: Target, samples: Samples, splits: Sequence[Split], metric: str, spread: np.ndarray) -> Score:
    """What knowing nothing scores: every class alike; R2 of the held-out mean; the error of the training median."""
    if metric == "mae":
        guess = np.zeros_like(target.values)
        for train, test in splits:
            guess[test] = np.median(target.values[train], axis=0)
        return _scored(target, guess, samples, metric, spread)
    _, counts = np.unique(target.values[held_out(target, samples)], return_counts=True)
    classes, share = len(counts), counts / counts.sum()
    values = {"accuracy": 1 / classes, "f1": float(np.mean(2 * share / (classes * share + 1))), "r2": 0.0}
    return constant(values[metric], len(samples.weights))
