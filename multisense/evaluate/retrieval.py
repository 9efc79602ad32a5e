"""Does one sense know the other: predict sensor b from others alone, and find the true b among other recordings."""

from collections.abc import Sequence
from itertools import permutations
from typing import Any, Protocol

import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from multisense.clips import Windows, collate
from multisense.embed import weights_fingerprint
from multisense.evaluate.metrics import share
from multisense.evaluate.scores import of_sums, resamples
from multisense.evaluate.table import key
from multisense.logs.base import SensorLog
from multisense.run import Run, check_logs, data_fingerprint
from multisense.types import Batch

AT = (1, 5, 10)
GALLERIES = 4
"""At most this many galleries, each of another window of every log; their results are averaged."""
WINDOWS = 512
"""At most this many windows altogether."""
FEW = 10
"""Below this many logs the gallery holds windows of the same logs."""


Route = tuple[tuple[str, ...], tuple[str, ...]]
"""(context, targets): from which sensors together, and which ones are to be found together."""
Sides = dict[tuple[tuple[str, ...], str], tuple[np.ndarray, np.ndarray]]
"""{(context, target): (predicted, truth)}, each (N, T * D) float32 with NaN where a token is not valid."""


class Predicts(Protocol):
    """An objective that predicts the latents of one sensor from others."""

    def predict_sensor(self, batch: Batch, context: Sequence[str], target: str) -> tuple[Tensor, Tensor, Tensor]:
        """Prediction (B, T, D), target (B, T, D), validity (B, T) of the tokens of `target`."""
        ...


def retrieve(
    run: Run,
    logs: Sequence[SensorLog],
    *,
    routes: Sequence[Route] | None = None,
    batch_size: int = 32,
    seed: int = 0,
) -> dict[str, Any]:
    """Skill and retrieval on held-out logs along `routes`, by default between every ordered pair of sensors.

    Query: the latents of b predicted from a. Gallery: the latents of b of one window of every log, so that the match is
    among different recordings. Several targets count alike: the similarity is the mean of theirs. Returns {"pairs":
    {"camera>mic": ..., "camera+mic>arm": ...}, "means": {"one > one": ...}, "mean": that of the first kind of route,
    "gallery": size, "among": of what it is, in words, "provenance"}; each entry holds recall at 1, 5 and 10 with chance and
    95 % intervals over logs, the median rank, the `size` of its galleries, and the skill: 1 - L1 error of the prediction /
    L1 error of the mean target.

    Windows without all targets, or without any of the context, neither ask nor stand in a route's galleries; what is
    then not known of a route is None. A mean over routes counts every query alike, and the skill of every route.
    """
    check_logs(run.config, run.grids, logs)
    routes = pairs(run.model.names) if routes is None else routes
    windows = Windows(logs, run.grids, run.config.data.clip_seconds, run.config.data.clip_seconds)
    log = np.array([number for number, _ in windows.index], dtype=int)
    picks = galleries(log, seed)
    loader = DataLoader(Subset(windows, picks.ravel().tolist()), batch_size, collate_fn=collate)
    sides = predictions(run, loader, routes)
    found = {route: _ranks_of(route, sides, np.arange(picks.size).reshape(picks.shape)) for route in routes}
    skills = {route: _mean([skill(*sides[route[0], target]) for target in route[1]]) for route in routes}
    kinds: dict[str, list[Route]] = {}
    for route in routes:
        kinds.setdefault(" > ".join("one" if len(part) == 1 else "several" for part in route), []).append(route)

    def entry(some: Sequence[Route]) -> dict[str, Any]:
        ranked = np.concatenate([found[route] for route in some])
        whole = summary(ranked, np.concatenate([log[picks]] * len(some)))
        return {"skill": _mean([skills[route] for route in some]), **whole}

    means = {kind: entry(some) for kind, some in kinds.items()}
    named = {f"{key(route[0])}>{key(route[1])}": entry([route]) for route in routes}
    first = next(iter(means.values()))
    shape = {"gallery": picks.shape[1], "galleries": len(picks), "among": _among(log, picks)}
    return {"pairs": named, "means": means, "mean": first, **shape, "provenance": _provenance(run, logs, picks, seed)}


def _among(log: np.ndarray, picks: np.ndarray) -> str:
    size, logs = picks.shape[1], len(np.unique(log))
    return (
        f"those of {size} recordings" if logs >= FEW else f"{size} windows of {logs} recording{'s' if logs > 1 else ''}"
    )


def _provenance(run: Run, logs: Sequence[SensorLog], picks: np.ndarray, seed: int) -> dict[str, Any]:
    made = {"window_s": run.config.data.clip_seconds, "seed": seed, "windows": picks.size}
    of = {"count": len(logs), "first": logs[0].path, "fingerprint": data_fingerprint(logs)}
    return {**run.provenance, "weights": weights_fingerprint(run.model), "retrieval": {**made, "logs": {"test": of}}}


def _mean(skills: Sequence[float | None]) -> float | None:
    """Over those that are known."""
    known = [value for value in skills if value is not None and np.isfinite(value)]
    return float(np.mean(known)) if known else None


def pairs(names: Sequence[str]) -> list[Route]:
    """Every ordered pair of sensors."""
    return [((a,), (b,)) for a, b in permutations(names, 2)]


def galleries(log: np.ndarray, seed: int = 0) -> np.ndarray:
    """(G, L) indices of windows: each row a gallery with one window of every log; `log` (N,) is each window's log.

    Fewer than FEW logs are too few to choose among: then one gallery of all windows, up to WINDOWS, evenly chosen.
    """
    numbers, counts = np.unique(log, return_counts=True)
    if len(log) < 2:
        raise ValueError(f"retrieval needs at least 2 windows to choose among, found {len(log)}")
    if len(numbers) < FEW:
        return np.unique(np.linspace(0, len(log) - 1, min(len(log), WINDOWS)).round().astype(int))[None]
    numbers, counts = numbers[:WINDOWS], counts[:WINDOWS]
    rows = int(np.clip(WINDOWS // len(numbers), 1, min(GALLERIES, counts.max())))
    rng = np.random.default_rng(seed)
    columns = [np.resize(rng.permutation(np.flatnonzero(log == number)), rows) for number in numbers]
    return np.stack(columns, axis=1)


def predictions(run: Run, loader: DataLoader, routes: Sequence[Route]) -> Sides:
    """What is predicted along `routes`, and the truth, of every window of a loader of batches."""
    ways = list(dict.fromkeys((context, target) for context, targets in routes for target in targets))
    parts: list[Sides] = []
    for batch in track(loader, "predicting across sensors", transient=True):
        parts.append(_across(run.objective, batch.to(run.model.time_s.device), ways))
    return {way: (_joined(parts, way, 0), _joined(parts, way, 1)) for way in ways}


@torch.no_grad()
def _across(objective: Predicts, batch: Batch, ways: Sequence[tuple[tuple[str, ...], str]]) -> Sides:
    found: Sides = {}
    for context, target in ways:
        predicted, truth, valid = objective.predict_sensor(batch, context, target)
        found[context, target] = flat(predicted, valid), flat(truth, valid)
    return found


def _joined(parts: list[Sides], way: tuple[tuple[str, ...], str], side: int) -> np.ndarray:
    return np.concatenate([part[way][side] for part in parts])


def _ranks_of(route: Route, sides: Sides, rows: np.ndarray) -> np.ndarray:
    """(G, L) ranks in each gallery, whose windows are the rows (G, L) of the sides; NaN where a window has no query or
    no match, and so is in no gallery, or is alone in its own."""
    context, targets = route
    both = [sides[context, target] for target in targets]
    there = known_on_both(both)
    found = np.full(rows.shape, np.nan)
    for ranks_here, row in zip(found, rows, strict=True):
        kept = row[there[row]]
        if len(kept) > 1:
            ranks_here[there[row]] = places(np.mean([similarity(q[kept], g[kept]) for q, g in both], axis=0))
    return found


def known_on_both(both: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """(N,) bool: which windows have something predicted, and something to be found, of every target."""
    return np.logical_and.reduce([np.isfinite(side).any(axis=1) for pair in both for side in pair])


def flat(tokens: Tensor, valid: Tensor) -> np.ndarray:
    """Tokens (B, M, D) as rows (B, M * D), NaN where `valid` (B, M) says there is nothing."""
    return torch.where(valid[..., None], tokens.float(), torch.nan).flatten(1).cpu().numpy()


def skill(predicted: np.ndarray, target: np.ndarray) -> float:
    """1 - |predicted - target| / |mean target - target| over known entries (NaN is unknown): 1 is perfect, 0 is what
    knowing nothing of the window achieves. NaN where nothing is known, or the target is the same in every window."""
    rows = np.isfinite(predicted).any(axis=1) & np.isfinite(target).any(axis=1)
    known = np.isfinite(target[rows]).any(axis=0)
    predicted, target = predicted[rows][:, known], target[rows][:, known]
    spread = float(np.nanmean(np.abs(np.nanmean(target, axis=0) - target))) if target.size else 0.0
    return 1 - float(np.nanmean(np.abs(predicted - target))) / spread if spread > 0 else float("nan")


def ranks(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """(N,) rank, from 1, of the true match of each query among the N gallery entries, by `similarity`."""
    return places(similarity(query, gallery))


def similarity(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """(N, N) cosines of each query (N, D) with each gallery entry (N, D), NaN where nothing is known.

    Both are centred by the gallery's mean, or all would look alike.
    """
    known = np.isfinite(gallery).any(axis=0)
    query, gallery = query[:, known], gallery[:, known]
    centre = np.nanmean(gallery, axis=0)
    query, gallery = (np.nan_to_num(x - centre) for x in (query, gallery))
    query, gallery = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (query, gallery))
    return query @ gallery.T


def places(cosines: np.ndarray) -> np.ndarray:
    """(N,) rank, from 1, of the true match in each row of cosines (N, N); a tie counts as half a place lost."""
    own = np.diag(cosines)[:, None]
    return 1 + (cosines > own).sum(axis=1) + 0.5 * ((cosines == own).sum(axis=1) - 1)


def summary(found: np.ndarray, log: np.ndarray) -> dict[str, Any]:
    """Ranks (G, L) in galleries of L windows, NaN where a window is not in it, and the log (G, L) of each -> recall,
    median rank, chance, and the median `size` of a gallery. All are None where no rank is known."""
    there = np.isfinite(found)
    if not there.any():
        nothing = dict.fromkeys(("mean", "low", "high", "chance"))
        return {"recall": {str(k): nothing for k in AT}, **dict.fromkeys(("median_rank", "chance_rank")), "size": 0}
    size = there.sum(axis=1)[there.any(axis=1)]
    found, (_, number) = found[there], np.unique(log[there], return_inverse=True)
    counts = np.bincount(number)
    weights = resamples(len(counts))
    recall = {}
    for k in AT:
        hits = np.bincount(number, weights=found <= k)
        drawn = of_sums(np.stack([counts, hits], axis=1)[..., None], share, weights, (0.0, 1.0))
        recall[str(k)] = {**drawn.interval(), "chance": float(np.average(np.minimum(k / size, 1.0), weights=size))}
    by_chance = float(np.average((size + 1) / 2, weights=size))
    return {
        "recall": recall,
        "median_rank": float(np.median(found)),
        "chance_rank": by_chance,
        "size": int(np.median(size)),
    }
