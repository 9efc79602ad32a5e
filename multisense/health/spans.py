"""How well hidden spans of a sensor are named from the rest of it and of all others, by its own content alone."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from multisense.evaluate.retrieval import flat, skill
from multisense.health.across import NOTHING, rows_spread
from multisense.masking import Mask, MaskConfig, draw_masks
from multisense.objectives.latent import LatentPrediction, own, take
from multisense.types import TokenBatch, TokenLayout

SPANS = MaskConfig(masks_per_clip=2, block=1.0, cross=0.0, causal=0.0)
"""Drawn once, the same at every measure."""


@torch.no_grad()
def within_sensors(objective: LatentPrediction, batches: Sequence[TokenBatch], latents: Tensor) -> dict[str, float]:
    """`skill/b`: 1 - L1 error of hidden spans of b / that of the mean at each position, of latents (N, T, 2 D).

    A loss over all senses' view of a token would say that noise is predictable, as far as other senses are written into
    it: only the second view counts. Left out for a sensor of a single token, or without anything to predict.
    """
    parts, first = [], 0
    for batch in batches:
        clips = range(first, first + len(batch.valid))
        targets = own(objective.predictor.scale(latents[first : clips.stop]))
        parts += [_filled(objective, batch, targets, mask) for mask in drawn(objective, SPANS, clips) if mask.columns]
        first = clips.stop
    values = {}
    for s, name in enumerate(objective.student.names):
        here = objective.student.sensor == s
        predicted, truth = (
            np.concatenate([flat(part[side][:, here], part[2][:, here]) for part in parts] or [np.zeros((0, 0))])
            for side in (0, 1)
        )
        if rows_spread(truth) > NOTHING:
            values[f"skill/{name}"] = skill(predicted, truth)
    return values


def drawn(objective: LatentPrediction, masks: MaskConfig, clips: Sequence[int]) -> list[Mask]:
    """The masks of the clips with these numbers: the same at every measure."""
    layout = objective.student.layout
    on_host = TokenLayout(layout.time_s.cpu(), layout.place.cpu(), layout.sensor.cpu(), layout.names)
    return [mask.to(layout.time_s.device) for mask in draw_masks(on_host, masks, seed=0, step=0, items=clips)]


def _filled(
    objective: LatentPrediction, tokens: TokenBatch, targets: Tensor, mask: Mask
) -> tuple[Tensor, Tensor, Tensor]:
    """Predicted and true latents (B, T, D) in their places, and where (B, T) they were asked for and are known."""
    context, valid = objective.teacher.encode_kept(tokens, mask.keep, mask.parts)
    prediction = own(objective.predictor.outward(objective.predictor(objective.teacher, context, valid, mask)))
    places = mask.target[..., None].expand_as(prediction)
    predicted = torch.zeros_like(targets).scatter(1, places, prediction.to(targets.dtype))
    truth = torch.zeros_like(targets).scatter(1, places, take(targets, mask.target))
    asked = torch.zeros_like(tokens.valid).scatter(1, mask.target, tokens.valid.gather(1, mask.target))
    return predicted, truth, asked & valid.any(1)[:, None]
