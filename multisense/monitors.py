"""What a JEPA's loss does not say: skill against the mean, spread and effective rank of the targets, per sensor."""

import math
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from multisense.objectives.latent import Losses
from multisense.types import TokenLayout


def effective_rank(vectors: Tensor) -> Tensor:
    """RankMe (Garrido et al. 2023, eq. 1): exp of the entropy of the singular values of vectors (N, D), centred; NaN if
    they are not finite."""
    if not vectors.isfinite().all():  # of a spike, which has no singular values
        return vectors.new_tensor(torch.nan)
    values = torch.linalg.svdvals(vectors.float() - vectors.float().mean(0))
    share = values / values.sum().clamp(min=1e-12)
    return torch.exp(-(share * (share + 1e-12).log()).sum())


@torch.no_grad()
def monitor(parts: Sequence[Losses], layout: TokenLayout, accelerator: Any) -> dict[str, float]:
    """Metrics of a step, as numbers, over its micro-batches and all processes; NaN where nothing was there to measure.

    `skill/A+B->C` is 1 - loss / loss of predicting the batch mean: 0 says nothing was learnt. `spread/C` is the teacher's latents'
    deviation over clips, `rank/C` their effective rank (over at most 512 tokens): both near 0 are collapse.
    """
    sums: dict[str, Tensor] = {}
    for losses in parts:
        for name, pair in _sums(losses, layout):
            sums[name] = sums.get(name, 0) + pair
    # Which directions a step has is drawn from the step alone, so every process and part holds the same names.
    stacked = torch.stack(list(sums.values())).to(parts[0].total.device)
    numbers = accelerator.reduce(stacked, "sum").cpu().tolist()
    values = {name: above / below if below else math.nan for name, (above, below) in zip(sums, numbers, strict=True)}
    for name in layout.names:
        skills = [value for key, value in values.items() if key.startswith("skill/") and key.endswith(f"->{name}")]
        if skills:
            values[f"skill/{name}"] = known_mean(skills)
    values["skill"] = known_mean(values[f"skill/{name}"] for name in layout.names if f"skill/{name}" in values)
    return values | {"rank": known_mean(values[f"rank/{name}"] for name in layout.names)}


def _sums(losses: Losses, layout: TokenLayout) -> Iterator[tuple[str, Tensor]]:
    """Names of metrics, and (2,) what is to be added up above and below the line of their means."""
    zero, one = losses.total.detach().new_zeros(2), losses.total.detach().new_ones(())
    yield "loss", torch.stack([losses.total.detach(), one])
    for direction in losses.directions:
        yield f"skill/{direction.name}", torch.stack([direction.baseline - direction.loss, direction.baseline])
    for s, name in enumerate(layout.names):
        own = layout.sensor == s
        tokens = losses.latents[:, own][losses.valid[:, own]]
        few = tokens[torch.linspace(0, len(tokens) - 1, min(512, len(tokens))).long()]
        is_there = len(tokens) > 1
        yield f"spread/{name}", torch.stack([few.std(0).mean(), one]) if is_there else zero
        yield f"rank/{name}", torch.stack([effective_rank(few), one]) if is_there else zero


def known_mean(values: Iterable[float]) -> float:
    """The mean of those that are finite; NaN of none."""
    known = [value for value in values if math.isfinite(value)]
    return fmean(known) if known else math.nan
