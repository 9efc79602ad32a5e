"""What a run's latents say over time: how well each sense is named from others, and where the embedding goes."""

from collections.abc import Sequence
from itertools import permutations

import numpy as np
import rerun as rr
import torch
from einops import rearrange
from matplotlib import colormaps
from sklearn.decomposition import PCA
from torch import Tensor

from multisense.model import Embedding
from multisense.objectives.latent import LatentPrediction
from multisense.types import Batch
from multisense.view.send import clock, name_series, numbers, path

Route = tuple[tuple[str, ...], str]
"""(context sensors, target sensor)"""
COMPONENTS = 3
MEAN = "mean of training"


def routes(names: Sequence[str]) -> list[Route]:
    """Each sensor from each other one alone, and from all others together."""
    alone = [((a,), b) for a, b in permutations(names, 2)]
    together = [(tuple(n for n in names if n != b), b) for b in names] if len(names) > 2 else []
    return alone + together


def title(context: Sequence[str]) -> str:
    return context[0] if len(context) == 1 else "all others"


@torch.no_grad()
def errors(objective: LatentPrediction, batch: Batch) -> dict[Route, np.ndarray]:
    """{(context, target): (B, n)} over the n steps of time of the target's tokens.

    The mean L1 of the target's standardised latents as predicted from the context alone, over channels and over the valid
    tokens of a step; NaN where there are none, or nothing of the context. Under the empty context stands the L1 of
    predicting the mean of training, which is 0 in standardised latents: a line below it says that something is known.
    """
    tokens = objective.teacher.tokenize(batch)
    found: dict[Route, np.ndarray] = {}
    for context, target in routes(objective.student.names):
        prediction, truth, valid = objective.predict_tokens(tokens, context, target)
        steps = objective.student.tokenizer(target).lattice[0]
        there = tokens.valid[:, objective.student.sensor == objective.student.names.index(target)]
        found[context, target] = by_step((prediction.float() - truth).abs().mean(-1), valid, steps)
        found[(), target] = by_step(truth.abs().mean(-1), there, steps)
    return found


def by_step(tokens: Tensor, valid: Tensor, steps: int) -> np.ndarray:
    """Numbers (B, T) of tokens in order of time, each step as many -> means over the valid ones (B, n), or NaN."""
    known = torch.where(valid, tokens, torch.nan)
    return rearrange(known, "b (n p) -> b n p", n=steps).nanmean(-1).cpu().numpy()


def send_errors(rec: rr.RecordingStream, objective: LatentPrediction, batch: Batch) -> None:
    """Below `prediction/<target>/<context>` the errors, in the middle of each step of the target's tokens."""
    for (context, target), values in errors(objective, batch).items():
        tokenizer = objective.student.tokenizer(target)
        steps = (np.arange(tokenizer.lattice[0]) + 0.5) * tokenizer.token_seconds()
        times = (np.array(batch.starts_s)[:, None] + steps).ravel()
        known = np.isfinite(values.ravel())
        numbers(rec, _error_path(context, target), times[known], values.ravel()[known])


def _error_path(context: Sequence[str], target: str) -> str:
    return path("prediction", target, "+".join(context) or MEAN)


def name_errors(rec: rr.RecordingStream, names: Sequence[str]) -> None:
    """A sensor as context has the same colour in every plot; the mean of training is grey."""
    for context, target in routes(names):
        colour = names.index(context[0]) if len(context) == 1 else len(names)
        name_series(rec, _error_path(context, target), [title(context)], colour)
    for target in {target for _, target in routes(names)}:
        line = rr.SeriesLines(names=[MEAN], colors=[[130, 130, 130]], widths=[1.0])
        rec.log(_error_path((), target), line, static=True)


def send_embedding(rec: rr.RecordingStream, starts_s: np.ndarray, embeddings: Sequence[Embedding]) -> None:
    """The first principal components, over this log, of the per-time vectors.

    embedding/components   as numbers over time
    embedding/path         the whole way in three dimensions, dark to bright
    embedding/now          where it is
    """
    vectors, there = (torch.cat(parts).float().cpu().numpy() for parts in zip(
        *((e.per_time, e.time_valid) for e in embeddings), strict=True))  # fmt: skip
    times = starts_s[:, None] + embeddings[0].times_s.cpu().numpy()
    vectors, times = vectors[there > 0], times[there > 0]
    if len(vectors) < 2:
        return
    points, shares = components(vectors)
    numbers(rec, "embedding/components", times, points)
    names = [f"component {i + 1} ({100 * share:.0f} % of variance)" for i, share in enumerate(shares)]
    name_series(rec, "embedding/components", names)
    place = np.pad(points, ((0, 0), (0, 3 - points.shape[1])))
    colours = (colormaps["viridis"](np.linspace(0, 1, len(place) - 1))[:, :3] * 255).astype(np.uint8)
    strips = np.stack([place[:-1], place[1:]], axis=1)
    rec.log("embedding/path", rr.LineStrips3D(strips, colors=colours, radii=rr.Radius.ui_points(1.5)), static=True)
    rec.send_columns("embedding/now", clock(times), rr.Points3D.columns(positions=place))
    look = rr.Points3D.from_fields(radii=rr.Radius.ui_points(8.0), colors=[[230, 80, 60]])
    rec.log("embedding/now", look, static=True)


def components(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (N, F) -> their first principal components (N, C), C at most 3, and the shares (C,) of the variance."""
    found = PCA(min(COMPONENTS, *vectors.shape), svd_solver="full")
    points = found.fit_transform(vectors)
    total = max(float(vectors.var(0, ddof=1).sum()), 1e-12)
    return points, found.explained_variance_ / total
