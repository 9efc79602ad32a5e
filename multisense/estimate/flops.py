"""FLOPs of a clip in one optimizer step, by closed form: 2 a multiply-add, matrix products and convolutions alone.

Left out, as they are no matrix products or next to nothing beside them: norms, activations, softmax, rotary and place tables
of the layout, mel spectrograms, the optimizer and the teacher's moving average.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import nn

from multisense.estimate.masks import Kept
from multisense.layers import Place
from multisense.model import MultiSense
from multisense.objectives.latent import LatentPrediction, coarse_size
from multisense.run import RunConfig

Cost = tuple[float, float]
"""Forward and backward."""


@dataclass(frozen=True)
class Flops:
    """Of one clip, forward and backward."""

    tokenize: Cost
    """The student's stems."""
    teacher: Cost
    """Its stems, one pass over all tokens and one over each sensor's own: no gradient."""
    student: Cost
    """A pass over the kept tokens of every mask."""
    predictor: Cost
    """A pass over all tokens, kept and asked for, of every mask; its heads; the contrast between clips."""

    @property
    def parts(self) -> dict[str, float]:
        return {name: sum(getattr(self, name)) for name in ("tokenize", "teacher", "student", "predictor")}

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def clip_flops(config: RunConfig, objective: LatentPrediction, kept: Kept, gallery: int) -> Flops:
    """Expected over the masks. `gallery`: clips that a contrast is among, those of a micro-batch on all processes."""

    def encoder(tokens: float, square: float) -> float:
        return transformer(tokens, square, wide.width, wide.depth, wide.mlp_ratio)

    model, wide, narrow = objective.student, config.model, config.objective
    counts = np.array([len(model.tokenizer(name)) for name in model.names])
    masks = narrow.masks.masks_per_clip
    stems = tokenize(model)
    apart = counts if len(counts) > 1 else []  # the only sensor is all there is
    alone = sum(encoder(float(n), float(n) ** 2) for n in apart)
    every = float(counts.sum())
    joint = encoder(every, every**2)
    student = masks * encoder(kept.mean, kept.square)
    named = masks * np.array(predictor(config, objective, counts - kept.per_sensor, kept.mean, gallery))
    for sensor, own in kept.alone.items():
        student += encoder(own.mean, own.square)
        hidden = (counts - own.mean) * (np.arange(len(counts)) == sensor)
        named += predictor(config, objective, hidden, own.mean, gallery)
    return Flops(stems, (stems[0] + joint + alone, 0.0), (student, 2 * student), (float(named[0]), float(named[1])))


def transformer(tokens: float, square: float, width: int, depth: int, mlp_ratio: float) -> float:
    """One pass over `tokens` and a register token; `square` is the mean square of `tokens`."""
    linear = 2 * width * (4 * width + 2 * int(width * mlp_ratio))
    return depth * ((tokens + 1) * linear + 4 * width * (square + 2 * tokens + 1))


def predictor(config: RunConfig, objective: LatentPrediction, hidden: np.ndarray, kept: float, gallery: int) -> Cost:
    """One mask; `hidden` (S,) tokens of each sensor are asked for."""
    width, inner, settings = config.model.width, config.objective.predictor_width, config.objective
    asked, every = float(hidden.sum()), float(hidden.sum() + kept)
    sizes = [coarse_size(objective.student.tokenizer(name).patch_shape) for name in objective.student.names]
    trained = transformer(every, every**2, inner, settings.predictor_depth, 4.0)
    trained += 2 * inner * (kept * width + asked * 2 * width)
    trained += 2 * inner * float(hidden @ sizes) if settings.signal else 0.0
    # No gradient passes to where a query stands, nor to the latents of the other clips.
    place = 2 * asked * 4 * len(Place.PERIODS) * inner
    contrast = 2 * gallery * asked * width if settings.contrast else 0.0
    return trained + place + contrast, 2 * trained + place + contrast


def tokenize(model: MultiSense) -> Cost:
    """Every patch by its sensor's stem. No gradient passes to the patches: the first layer has only that of its weights."""
    forward = backward = 0.0
    for name in model.names:
        tokenizer = model.tokenizer(name)
        for index, (layer, places) in enumerate(stem_layers(tokenizer.stem.net, tokenizer.patch)):
            flops = 2.0 * len(tokenizer) * places * layer.weight.numel()
            forward += flops
            backward += flops if index == 0 else 2 * flops
    return forward, backward


def stem_layers(net: nn.Sequential, patch: tuple[int, int, int]) -> Iterator[tuple[nn.Linear | nn.Conv2d, int]]:
    """The layers with weights of a stem, and at how many places of a patch each is applied."""
    height, width = patch[1:]
    for layer in net:
        if isinstance(layer, nn.Linear):
            yield layer, 1
        elif isinstance(layer, nn.Conv2d):
            (high, wide), (down, right) = layer.kernel_size, layer.stride
            (above, left) = (int(p) for p in layer.padding)
            height, width = (height + 2 * above - high) // down + 1, (width + 2 * left - wide) // right + 1
            yield layer, height * width
