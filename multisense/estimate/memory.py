"""Bytes that one process holds, by closed form. Weights are float32; under mixed precision matrix products see 16 bits."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
from torch import nn

from multisense.clips import Grid
from multisense.estimate.flops import stem_layers
from multisense.estimate.masks import Kept
from multisense.estimate.skeleton import frozen, trained
from multisense.objectives.latent import LatentPrediction, coarse_size
from multisense.run import RunConfig

GIB = 2**30


@dataclass(frozen=True)
class Memory:
    """Bytes of one process at the moment it holds most: the end of the forward pass."""

    parameters: float
    """Student and predictor."""
    teacher: float
    """Their moving average."""
    gradients: float
    optimizer: float
    """AdamW: two moments."""
    buffers: float
    """Mostly the moments of the targets, which every process keeps."""
    copies: float
    """16-bit copies of the weights, or the whole weights of the blocks at work where they are sharded."""
    batch: float
    """Clips and their patches."""
    activations: float
    """What the backward pass needs, or what the teacher's passes hold, where that is more."""

    @property
    def total(self) -> float:
        return sum(getattr(self, field.name) for field in fields(self))

    @property
    def working(self) -> float:
        """What grows with the micro-batch."""
        return self.batch + self.activations

    @property
    def weights(self) -> float:
        """What does not."""
        return self.total - self.working


def process_memory(
    config: RunConfig, grids: Iterable[Grid], objective: LatentPrediction, kept: Kept, processes: int, sharded: bool
) -> Memory:
    """Of each of `processes` that share a batch: every one with all weights (DDP), or with its share of them (FSDP2)."""
    clips = micro_batch(config, processes)
    over = processes if sharded else 1
    ours, theirs = shard(trained(objective), over), shard(frozen(objective), over)
    low = element_bytes(config)
    if sharded:  # the block at work and the next one, gathered whole
        copies = 2.0 * low * max(count(block) for block in objective.student.encoder.blocks)
    else:
        copies = 0.0 if low == 4 else float(low * count(objective.student) + low * count(objective.predictor))
    return Memory(
        parameters=ours,
        teacher=theirs,
        gradients=ours,
        optimizer=2 * ours,
        buffers=float(sum(b.numel() * b.element_size() for b in objective.buffers())),
        copies=copies,
        batch=clips * batch_bytes(grids, objective),
        activations=clips * max(teacher_bytes(config, objective), student_bytes(config, objective, kept))
        + clips * config.train.accumulate * len(objective.student.layout) * 2 * config.model.width * 4,
    )


def micro_batch(config: RunConfig, processes: int) -> int:
    """Clips that one process holds at a time; rounded up where the batch does not divide, which training refuses."""
    return math.ceil(config.train.batch_size / (config.train.accumulate * processes))


def element_bytes(config: RunConfig) -> int:
    return 4 if config.train.mixed_precision == "no" else 2


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def shard(parameters: Iterable[nn.Parameter], processes: int) -> float:
    """Bytes of the fullest process: `fully_shard` cuts each parameter along its first dimension, rounded up."""
    return sum(4.0 * math.ceil(p.shape[0] / processes) * (p.numel() // p.shape[0]) for p in parameters)


def batch_bytes(grids: Iterable[Grid], objective: LatentPrediction) -> float:
    """Of a clip: its values as they come from the loader, and its patches, float32."""
    patches = [math.prod(t.patch_shape) * len(t) for t in map(objective.student.tokenizer, objective.student.names)]
    return float(sum(grid.bytes for grid in grids) + 4 * sum(patches))


def block_bytes(width: int, heads: int, mlp_ratio: float, low: int) -> int:
    """What one `Block` keeps for its gradient of a token, layer after layer.

    The input of each norm and its two moments, float32; each norm's output, q, k, v as one, q and k rotated, what attention
    mixed, and the MLP's inside before and after its activation, in `low` bytes; the log-sum of each head's softmax.
    """
    return 2 * (4 * width + 8) + low * (8 * width + 2 * int(width * mlp_ratio)) + 4 * heads


def student_bytes(config: RunConfig, objective: LatentPrediction, kept: Kept) -> float:
    """Of a clip, at the fullest masks that can be drawn."""
    wide, narrow, low = config.model, config.objective, element_bytes(config)
    inner, every = narrow.predictor_width, len(objective.student.layout)
    blocks = (
        block_bytes(wide.width, wide.heads, wide.mlp_ratio, low),
        block_bytes(inner, narrow.predictor_heads, 4.0, low),
    )
    redo = config.train.checkpoint_activations  # then a block keeps its input alone
    student, asked = (4 * wide.width, 4 * inner) if redo else blocks
    at_work = max((kept.most + 1) * blocks[0], (every + 1) * blocks[1]) if redo else 0.0

    def of_mask(most: int, tokens: int) -> float:
        passes = (most + 1) * (wide.depth * student + 8 * wide.width)
        passes += (tokens + 1) * (narrow.predictor_depth * asked + 8 * inner)
        return passes + (tokens - most) * loss_bytes(config, objective) + most * low * wide.width

    masks = narrow.masks.masks_per_clip * of_mask(kept.most, every)
    tokens = [len(objective.student.tokenizer(name)) for name in objective.student.names]
    masks += sum(of_mask(own.most, tokens[sensor]) for sensor, own in kept.alone.items())
    targets = every * 4 * 2 * wide.width
    return masks + at_work + stem_bytes(objective, low) + targets


def loss_bytes(config: RunConfig, objective: LatentPrediction) -> float:
    """Of a token that is asked for: differences to its targets, its normalised latents, its picture's error."""
    total = 4 * 2 * config.model.width + element_bytes(config) * config.objective.predictor_width
    if config.objective.contrast:
        total += 3 * 4 * config.model.width
    if config.objective.signal:
        names = objective.student.names
        total += 4 * round(np.mean([coarse_size(objective.student.tokenizer(name).patch_shape) for name in names]))
    return float(total)


def stem_bytes(objective: LatentPrediction, low: int) -> float:
    """Of a clip: what every layer of the stems was given, and the same once more before its activation."""
    total = 0.0
    for tokenizer in map(objective.student.tokenizer, objective.student.names):
        inside = 0
        layers = list(stem_layers(tokenizer.stem.net, tokenizer.patch))
        for layer, places in layers[:-1]:
            inside += 2 * places * layer.weight.shape[0]
        total += low * len(tokenizer) * (math.prod(tokenizer.patch_shape) + inside)
    return total


def teacher_bytes(config: RunConfig, objective: LatentPrediction) -> float:
    """Of a clip: the top blocks' outputs of one view, normed beside them, and the means of both views side by side."""
    return (2.0 * config.objective.target_layers + 3) * len(objective.student.layout) * config.model.width * 4
