"""What each sensor says of each other one, on held-out clips: skill, retrieval, and what shuffling a sensor costs."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from multisense.evaluate.retrieval import flat, ranks, skill
from multisense.types import TokenBatch

AT = (1, 5)
TARGETS = 4
"""Shuffling a sensor is judged by at most this many others, so that ten sensors do not cost ninety passes."""

NOTHING = 1e-3
"""Standardised targets that differ less than this between clips, of about 1, leave nothing to predict."""

Sides = tuple[np.ndarray, np.ndarray]
"""Predicted and target latents (N, M * D), NaN where a token is not valid; of clips that have any."""


class Predicts(Protocol):
    """An objective that predicts the latents of one sensor from others."""

    def predict_tokens(self, tokens: TokenBatch, context: Sequence[str], target: str) -> tuple[Tensor, Tensor, Tensor]:
        """Prediction (B, M, D), target (B, M, D), validity (B, M) of the tokens of `target`."""
        ...


@torch.no_grad()
def predict(objective: Predicts, batches: Sequence[TokenBatch], context: Sequence[str], target: str) -> Sides:
    parts = [objective.predict_tokens(batch, context, target) for batch in batches]
    predicted, truth = (np.concatenate([flat(part[side], part[2]) for part in parts]) for side in (0, 1))
    there = np.isfinite(truth).any(axis=1)
    return predicted[there], truth[there]


def between_sensors(objective: Predicts, batches: Sequence[TokenBatch], names: Sequence[str]) -> dict[str, float]:
    """`skill/a->b`: 1 - L1 error of b predicted from a alone / that of the mean b; `recall@1/a->b` and `recall@5/a->b`:
    how often the true b is found by its prediction among those of all clips, with `chance@1/a->b`, `chance@5/a->b`."""
    values = {}
    for a, b in permutations(names, 2):
        predicted, truth = predict(objective, batches, [a], b)
        if rows_spread(truth) < NOTHING:
            continue
        values[f"skill/{a}->{b}"] = skill(predicted, truth)
        found = ranks(predicted, truth)
        for k in AT:
            values[f"recall@{k}/{a}->{b}"] = float((found <= k).mean())
            values[f"chance@{k}/{a}->{b}"] = min(k / len(truth), 1.0)
    return values


def from_all_others(objective: Predicts, batches: Sequence[TokenBatch], names: Sequence[str]) -> dict[str, float]:
    """What the sensors say together of the one that is hidden.

    `prediction_spread/b`: how far predictions of b from all others differ between clips, as a share of how far the
    targets do. `importance/a`: by how much the error of predicting others grows, relatively, when a is that of another
    clip; 0 where a is not listened to. Averaged over at most TARGETS others.
    """
    values: dict[str, float] = {}
    costs: dict[str, list[float]] = {name: [] for name in names}
    for b in names if len(names) > 1 else ():
        context = [name for name in names if name != b]
        predicted, truth = predict(objective, batches, context, b)
        if rows_spread(truth) < NOTHING:
            continue
        values[f"prediction_spread/{b}"] = rows_spread(predicted) / rows_spread(truth)
        error = max(_error(predicted, truth), NOTHING)
        for a in _following(names, b):
            shuffled = [shuffle(batch, a) for batch in batches]
            costs[a].append(_error(*predict(objective, shuffled, context, b)) / error - 1)
    return values | {f"importance/{a}": float(np.mean(cost)) for a, cost in costs.items() if cost}


def _following(names: Sequence[str], b: str) -> list[str]:
    """The TARGETS sensors before b, in a circle: each sensor is then judged by as many others."""
    at = list(names).index(b)
    return [names[at - k] for k in range(1, min(len(names), TARGETS + 1))]


def shuffle(batch: TokenBatch, sensor: str) -> TokenBatch:
    """Every clip gets the sensor of the clip half a batch away, which is of another log where there are several."""
    own = batch.layout.sensor == batch.layout.names.index(sensor)
    places = max(len(batch.valid) // 2, 1)
    tokens = torch.where(own[None, :, None], batch.tokens.roll(places, 0), batch.tokens)
    return replace(batch, tokens=tokens, valid=torch.where(own, batch.valid.roll(places, 0), batch.valid))


def _error(predicted: np.ndarray, truth: np.ndarray) -> float:
    return float(np.nanmean(np.abs(predicted - truth)))


def rows_spread(rows: np.ndarray) -> float:
    """Root of the variance over clips, averaged over entries known in two clips or more; 0 where there are none."""
    known = np.isfinite(rows).sum(axis=0) > 1
    return float(np.sqrt(np.nanvar(rows[:, known], axis=0).mean())) if known.any() else 0.0
