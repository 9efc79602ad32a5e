"""Everything that is measured of a model on held-out clips, as flat numbers: one line of RUN/health.jsonl."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from multisense.health.across import between_sensors, from_all_others
from multisense.health.clips import HeldOut
from multisense.health.latents import rank_over_clips, rank_over_time, signal_spread, spread
from multisense.health.probes import probes
from multisense.health.spans import drawn, within_sensors
from multisense.objectives.latent import LatentPrediction, own
from multisense.types import Batch

Health = dict[str, float]
"""Flat measures: `skill/mic`, `skill/arm->mic`, `rank/mic`, ... (see `measure`). Only finite numbers are in it."""


def measure(objective: LatentPrediction, held: HeldOut) -> Health:
    """The health of a model on held-out clips; the same model and clips give the same numbers.

    finite                          1, or 0 where the loss is not a number; then there is nothing else
    loss                            of the first batch, under masks as in training
    valid/b                         share of tokens of b that hold real data
    input/b                         spread of the normalised signal: 1 as in training, 0 constant
    spread/b, rank/b, rank_time/b   of the teacher's latents of b, seen alone (latents.py)
    skill/b                         of spans of b, from the rest of b and of all others, against the mean (spans.py)
    skill/a->b, recall@1/a->b, ...  b from a alone (across.py), with chance@1/a->b
    prediction_spread/b             of b predicted from all others, as a share of the targets' spread
    importance/a                    relative growth of the error of others when a is another clip's
    gradient/b                      share of the norm of the loss's gradient that the tokenizer of b gets
    probe/label                     R2 or balanced accuracy on the fused embedding (probes.py), with probe_chance/label

    The model keeps its mode and gets no gradient; no global random state is used. It costs S (S - 1) predictions of one
    sensor from one and about S (S + 1), at most 5 S, from all others, for S sensors, and one backward pass.
    """
    held = held.to(objective.student.time_s.device)
    names = objective.student.names
    with looking(objective):
        values = _gradients(objective, held.batches[0])
        if not math.isfinite(values["loss"]):
            return {"finite": 0.0}
        tokens = [objective.teacher.tokenize(batch) for batch in held.batches]
        latents = torch.cat([objective.teacher_latents(batch) for batch in tokens])
        values |= _targets(objective, held.batches, own(latents), torch.cat([batch.valid for batch in tokens]))
        values |= within_sensors(objective, tokens, latents)
        values |= between_sensors(objective, tokens, names) | from_all_others(objective, tokens, names)
        if held.targets:
            fused = torch.cat([objective.teacher.embed(batch).fused for batch in held.batches])
            values |= probes(fused.float().cpu().numpy().astype(np.float64), held.log, held.targets)
    return {"finite": 1.0} | {name: value for name, value in values.items() if math.isfinite(value)}


@contextmanager
def looking(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every part is in the mode it was in."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def _gradients(objective: LatentPrediction, batch: Batch) -> dict[str, float]:
    """Loss of one batch, and each tokenizer's share of its gradient."""
    student = objective.student
    with torch.enable_grad():
        total = objective(batch, drawn(objective, objective.config.masks, range(len(batch)))).total
        weights = {name: list(student.tokenizer(name).parameters()) for name in student.names}
        found = iter(torch.autograd.grad(total, [p for some in weights.values() for p in some], allow_unused=True))
    norms = torch.stack([_norm([next(found) for _ in some], total) for some in weights.values()])
    shares = (norms / norms.sum().clamp(min=1e-30)).tolist()
    return {"loss": total.item()} | {f"gradient/{name}": s for name, s in zip(weights, shares, strict=True)}


def _norm(gradients: Sequence[Tensor | None], like: Tensor) -> Tensor:
    there = [g.float().square().sum() for g in gradients if g is not None]
    return torch.stack(there).sum().sqrt() if there else torch.zeros_like(like, dtype=torch.float32)


def _targets(objective: LatentPrediction, batches: Sequence[Batch], latents: Tensor, valid: Tensor) -> dict[str, float]:
    """Spread and rank of what is to be predicted, latents (N, T, D), and of the signals it is made of."""
    values: dict[str, Tensor] = {}
    for s, name in enumerate(objective.student.names):
        here = objective.student.sensor == s
        tokens = latents[:, here], valid[:, here]
        values[f"valid/{name}"] = tokens[1].float().mean()
        if tokens[1].any(1).sum() < 2:
            continue
        values |= {f"spread/{name}": spread(*tokens), f"rank/{name}": rank_over_clips(*tokens)}
        values[f"rank_time/{name}"] = rank_over_time(*tokens)
        values[f"input/{name}"] = torch.stack([_input_spread(objective, batch, name) for batch in batches]).mean()
    numbers = torch.stack([value.float() for value in values.values()]).tolist()
    return dict(zip(values, numbers, strict=True))


def _input_spread(objective: LatentPrediction, batch: Batch, name: str) -> Tensor:
    tokenizer = objective.student.tokenizer(name)
    patches, valid = tokenizer.patches(batch.values[name]), tokenizer.token_valid(batch.valid[name])
    return signal_spread(patches, valid, tokenizer.lattice[0])
