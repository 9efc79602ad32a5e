"""The optimizer and its learning rate."""

import math

import torch

from multisense.objectives.latent import LatentPrediction
from multisense.run import TrainConfig


def make_optimizer(objective: LatentPrediction, settings: TrainConfig) -> torch.optim.AdamW:
    """AdamW; no weight decay on biases, norms and other one-dimensional parameters (V-JEPA 2).

    Fused: one kernel for all leaves, no reading of step counts on the host, and a step can be skipped on the device.
    """
    trained = [p for p in objective.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.95), fused=True)


def learning_rate(step: int, settings: TrainConfig) -> float:
    """Linear warm-up, then cosine to 1 % of the peak, or constant: a pure function of the step."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.learning_rate
    done = (step - settings.warmup_steps) / max(settings.steps - settings.warmup_steps, 1)
    return settings.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
