"""What latent prediction adds to a model: the scale of its targets, and the predictor that names them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from multisense.layers import Place, Transformer, init_linear
from multisense.masking import Mask
from multisense.model import MultiSense


class TargetScale(nn.Module):
    """Standardises targets (B, T, D) per token position and channel, by running moments over the steps.

    What is the same in every clip (the table under a fixed camera) would else be most of what there is to predict. The
    moments of a step are applied from the next step on, so that the loss does not depend on how a batch is cut.
    """

    DECAY = 0.9

    def __init__(self, tokens: int, width: int):
        super().__init__()
        self.register_buffer("moments", torch.zeros(3, tokens, width))
        self.register_buffer("fresh", torch.zeros(3, tokens, width), persistent=False)

    moments: Tensor
    """Decayed count, sum and sum of squares."""
    fresh: Tensor
    """The same of the current step alone."""

    def mean(self) -> Tensor:
        """(T, D) running mean; 0 where nothing was seen yet."""
        return torch.where(self.moments[0] > 0, self.moments[1] / self.moments[0].clamp(min=1e-6), 0.0)

    def forward(self, targets: Tensor) -> Tensor:
        return self.standardise(targets, slice(None), slice(None))

    def standardise(self, targets: Tensor, tokens: Tensor | slice, channels: slice) -> Tensor:
        """The same for some token positions and channels alone."""
        count, _, squares = self.moments[:, tokens][..., channels]
        mean = self.mean()[tokens][..., channels]
        # As if one more had been seen, of unit variance: what was seen once or twice has no variance of its own.
        variance = (squares - count * mean**2 + 1) / (count + 1)
        return (targets - mean) / variance.clamp(min=1e-4).sqrt()

    def observe(self, targets: Tensor, valid: Tensor) -> None:
        weight = valid[..., None].to(targets.dtype).expand_as(targets)
        self.fresh += torch.stack([weight.sum(0), (targets * weight).sum(0), (targets**2 * weight).sum(0)])

    def update(self, skip: Tensor | None = None) -> None:
        """Take in what was observed since the last update, on every process; forget it where `skip` () is not 0."""
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(self.fresh)
        # What is absent for a while is not forgotten: the moments would fade to nothing.
        taken = torch.where(self.fresh[0] > 0, self.moments * self.DECAY, self.moments) + self.fresh
        self.moments.copy_(taken if skip is None else torch.where(skip > 0, self.moments, taken))
        self.fresh.zero_()


class Predictor(nn.Module):
    """A narrow transformer: context latents and queries in, a prediction per query out.

    A query is (time, place, sensor); it knows nothing of the content it asks for.
    """

    def __init__(self, model: MultiSense, inner: int, depth: int, heads: int, signals: Sequence[int]):
        """`signals`: values of a coarse patch of each sensor, or none where patches are not predicted."""
        super().__init__()
        width = model.config.width
        self.scale = TargetScale(len(model.layout), 2 * width)
        self.inward = nn.Linear(width, inner)
        self.query = nn.Parameter(torch.randn(len(model.names), inner) * 0.02)
        self.place = Place(inner)
        self.transformer = Transformer(inner, depth, heads, ways=model.ways)
        self.outward = nn.Linear(inner, 2 * width)
        # A head that nothing trains would stall DistributedDataParallel, which waits for every gradient.
        self.signals = nn.ModuleList(nn.Linear(inner, size) for size in signals)
        for layer in (self.inward, self.outward, *self.signals):
            layer.apply(init_linear)

    def forward(self, model: MultiSense, latents: Tensor, valid: Tensor | None, mask: Mask) -> Tensor:
        """latents (B, K, D), valid (B, K) or None where all are -> hidden (B, M, P), from which `outward` and `signals`
        read predictions."""
        k = mask.keep.shape[1]
        queries = self.query[model.sensor[mask.target]] + self.place(model.place[mask.target])
        tokens = torch.cat([self.inward(latents), queries], dim=1)
        there = None if valid is None else torch.cat([valid, torch.ones_like(mask.target, dtype=torch.bool)], dim=1)
        where = torch.cat([mask.keep, mask.target], dim=1)
        parts = [*mask.parts, *mask.asked]
        outputs = self.transformer(tokens, there, model.time_s[where], model.place[where], parts=parts)
        return outputs[-1][:, k:]
