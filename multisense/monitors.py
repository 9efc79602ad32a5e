"""What a JEPA's loss does not say: skill against the mean, spread and effective rank of the targets, per sensor."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
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
def monitor(losses: Losses, layout: TokenLayout, accelerator: Any) -> dict[str, float]:
    """Metrics of one micro-batch, as numbers; the mean over processes.

    `skill/A+B->C` is 1 - loss / loss of predicting the batch mean: 0 says nothing was learnt. `spread/C` is the teacher's latents'
    deviation over clips, `rank/C` their effective rank (over at most 512 tokens): both near 0 are collapse.
    """
    values: dict[str, Tensor] = {"loss": losses.total}
    skills = defaultdict(list)
    for direction in losses.directions:
        skill = 1 - direction.loss / direction.baseline.clamp(min=1e-6)
        values[f"skill/{direction.name}"] = skill
        skills[direction.target].append(skill)
    for s, name in enumerate(layout.names):
        own = layout.sensor == s
        tokens = losses.latents[:, own][losses.valid[:, own]]
        if name in skills:
            values[f"skill/{name}"] = torch.stack(skills[name]).mean()
        if len(tokens) > 1:
            few = tokens[torch.linspace(0, len(tokens) - 1, min(512, len(tokens))).long()]
            values[f"spread/{name}"] = few.std(0).mean()
            values[f"rank/{name}"] = effective_rank(few)
    values["skill"] = torch.stack([values[f"skill/{name}"] for name in skills]).mean()
    ranks = [v for k, v in values.items() if k.startswith("rank/")]
    values["rank"] = torch.stack(ranks).mean() if ranks else torch.zeros(())
    # Which directions a step has is drawn from the step alone, so every process holds the same names here.
    stacked = torch.stack([v.detach().float().to(losses.total.device) for v in values.values()])
    numbers = accelerator.reduce(stacked, "mean").cpu().tolist()
    return dict(zip(values, numbers, strict=True))


def mean_of_parts(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric over the micro-batches that have it."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: fmean(part[name] for part in parts if name in part) for name in names}
