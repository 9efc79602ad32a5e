"""Spread and rank of latents (N clips, T tokens, D), over clips and over time. `valid` (N, T) says which are there.

What differs between clips at one token position is the clip's own; what differs between positions in every clip alike is
only the position, which a collapsed model still tells apart.
"""

import torch
from torch import Tensor

from multisense.monitors import effective_rank

ROWS = 512
"""Vectors of which a rank is taken; more cost more and change little."""
ROUNDING = 1e-4
"""Layer-normed latents that differ less than this, of 1, are the same: float32 rounds at 1e-6."""


def deviations(latents: Tensor, valid: Tensor) -> Tensor:
    """Latents less the mean over clips at each token position; 0 where not valid."""
    weight = valid[..., None].to(latents.dtype)
    mean = (latents * weight).sum(0) / weight.sum(0).clamp(min=1)
    return (latents - mean) * weight


def spread(latents: Tensor, valid: Tensor) -> Tensor:
    """() root of the variance over clips, averaged over positions and channels. Of layer-normed latents it is 1 where
    nothing is common to all clips, and 0 where every clip looks the same."""
    count = valid.sum(0)
    variance = deviations(latents, valid).square().sum(0) / (count - 1).clamp(min=1)[:, None]
    return variance[count > 1].mean().sqrt()


def rank_over_clips(latents: Tensor, valid: Tensor) -> Tensor:
    """() RankMe of the clips' means over their tokens, each position's mean over clips taken off first."""
    return _rank(_clip_means(deviations(latents, valid), valid)[valid.any(1)])


def rank_over_time(latents: Tensor, valid: Tensor) -> Tensor:
    """() RankMe of what neither the clip nor the position explains: what happens when, of at most ROWS tokens."""
    left = deviations(latents, valid)
    moving = (left - _clip_means(left, valid)[:, None])[valid]
    return _rank(moving[torch.linspace(0, len(moving) - 1, min(ROWS, len(moving))).long()])


def _rank(rows: Tensor) -> Tensor:
    """1, the least there is, where the rows differ by no more than rounding, whose own rank would be high."""
    varies = rows.square().mean().sqrt() > ROUNDING
    return torch.where(varies, effective_rank(rows), torch.ones_like(rows[0, 0]))


def _clip_means(latents: Tensor, valid: Tensor) -> Tensor:
    weight = valid[..., None].to(latents.dtype)
    return (latents * weight).sum(1) / weight.sum(1).clamp(min=1)


def signal_spread(patches: Tensor, valid: Tensor, steps: int) -> Tensor:
    """() root of the variance over clips and time of normalised patches (N, T, t, h, w, C), T being `steps` of time by
    places; averaged over places, pixels and channels. About 1 for a signal like the training clips', 0 for a constant."""
    n, tokens = valid.shape
    rows = patches.reshape(n * steps, tokens // steps, *patches.shape[2:]).movedim(2, 1).flatten(0, 1)
    there = valid.reshape(n * steps, -1).repeat_interleave(patches.shape[2], 0)
    return spread(rows.flatten(2), there)
