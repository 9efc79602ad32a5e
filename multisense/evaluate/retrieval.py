"""Does one sense know the other: predict sensor b from sensor a alone, and find the true b among other recordings."""

from collections.abc import Sequence
from itertools import permutations
from typing import Any, Protocol

import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from multisense.clips import Windows, collate
from multisense.evaluate.metrics import share
from multisense.evaluate.scores import of_sums, resamples
from multisense.logs.base import SensorLog
from multisense.run import Run, check_logs
from multisense.types import Batch

AT = (1, 5, 10)
GALLERIES = 4
"""At most this many galleries, each of another window of every log; their results are averaged."""
WINDOWS = 512
"""At most this many windows altogether."""
FEW = 10
"""Below this many logs the gallery holds windows of the same logs."""


Sides = dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]
"""{(a, b): (predicted, target)}, each (N, T * D) float32 with NaN where a token is not valid."""


class Predicts(Protocol):
    """An objective that predicts the latents of one sensor from others."""

    def predict_sensor(self, batch: Batch, context: Sequence[str], target: str) -> tuple[Tensor, Tensor, Tensor]:
        """Prediction (B, T, D), target (B, T, D), validity (B, T) of the tokens of `target`."""
        ...


def retrieve(run: Run, logs: Sequence[SensorLog], *, batch_size: int = 32, seed: int = 0) -> dict[str, Any]:
    """Skill and retrieval between every ordered pair of sensors on held-out logs.

    Query: the latents of b predicted from a. Gallery: the latents of b of one window of every log, so that the match is
    among different recordings. Returns {"pairs": {"camera>mic": ...}, "mean": ..., "gallery": size}; each entry holds
    recall at 1, 5 and 10 with chance and 95 % intervals over logs, the median rank, and the skill: 1 - L1 error of the
    prediction / L1 error of the mean target.
    """
    check_logs(run.config, run.grids, logs)
    windows = Windows(logs, run.grids, run.config.data.clip_seconds, run.config.data.clip_seconds)
    log = np.array([number for number, _ in windows.index], dtype=int)
    picks = galleries(log, seed)
    loader = DataLoader(Subset(windows, picks.ravel().tolist()), batch_size, collate_fn=collate)
    rows = np.arange(picks.size).reshape(picks.shape)
    found, skills = {}, {}
    for (a, b), (predicted, target) in _predictions(run, loader).items():
        found[f"{a}>{b}"] = np.stack([ranks(predicted[row], target[row]) for row in rows])
        skills[f"{a}>{b}"] = skill(predicted, target)
    pairs = {pair: {"skill": skills[pair], **summary(found[pair], log[picks])} for pair in found}
    whole = summary(np.concatenate(list(found.values())), np.concatenate([log[picks]] * len(found)))
    mean = {"skill": float(np.mean(list(skills.values()))), **whole}
    return {"pairs": pairs, "mean": mean, "gallery": picks.shape[1], "galleries": len(picks)}


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


def _predictions(run: Run, loader: DataLoader) -> Sides:
    parts: list[Sides] = []
    for batch in track(loader, "predicting across sensors", transient=True):
        parts.append(_across(run.objective, batch.to(run.model.time_s.device), run.model.names))
    return {pair: (_joined(parts, pair, 0), _joined(parts, pair, 1)) for pair in parts[0]}


@torch.no_grad()
def _across(objective: Predicts, batch: Batch, names: Sequence[str]) -> Sides:
    found: Sides = {}
    for a, b in permutations(names, 2):
        predicted, target, valid = objective.predict_sensor(batch, [a], b)
        found[a, b] = flat(predicted, valid), flat(target, valid)
    return found


def _joined(parts: list[Sides], pair: tuple[str, str], side: int) -> np.ndarray:
    return np.concatenate([part[pair][side] for part in parts])


def flat(tokens: Tensor, valid: Tensor) -> np.ndarray:
    """Tokens (B, M, D) as rows (B, M * D), NaN where `valid` (B, M) says there is nothing."""
    return torch.where(valid[..., None], tokens.float(), torch.nan).flatten(1).cpu().numpy()


def skill(predicted: np.ndarray, target: np.ndarray) -> float:
    """1 - |predicted - target| / |mean target - target| over known entries (NaN is unknown): 1 is perfect, 0 is what
    knowing nothing of the window achieves."""
    known = np.isfinite(target).any(axis=0)
    predicted, target = predicted[:, known], target[:, known]
    return float(1 - np.nanmean(np.abs(predicted - target)) / np.nanmean(np.abs(np.nanmean(target, axis=0) - target)))


def ranks(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """(N,) rank, from 1, of the true match of each query among the N gallery entries, by cosine.

    query, gallery (N, D), NaN where nothing is known. Both are centred by the gallery's mean, or all would look alike.
    A tie counts as half a place lost.
    """
    known = np.isfinite(gallery).any(axis=0)
    query, gallery = query[:, known], gallery[:, known]
    centre = np.nanmean(gallery, axis=0)
    query, gallery = (np.nan_to_num(x - centre) for x in (query, gallery))
    query, gallery = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (query, gallery))
    similarity = query @ gallery.T
    own = np.diag(similarity)[:, None]
    return 1 + (similarity > own).sum(axis=1) + 0.5 * ((similarity == own).sum(axis=1) - 1)


def summary(found: np.ndarray, log: np.ndarray) -> dict[str, Any]:
    """Ranks (G, L) in galleries of L windows, and the log (G, L) of each -> recall, median rank and chance."""
    size = found.shape[1]
    _, number = np.unique(log, return_inverse=True)
    number = number.ravel()
    counts = np.bincount(number)
    weights = resamples(len(counts))
    recall = {}
    for k in AT:
        hits = np.bincount(number, weights=(found <= k).ravel())
        drawn = of_sums(np.stack([counts, hits], axis=1)[..., None], share, weights, (0.0, 1.0))
        recall[str(k)] = {**drawn.interval(), "chance": min(k / size, 1.0)}
    return {"recall": recall, "median_rank": float(np.median(found)), "chance_rank": (size + 1) / 2}
