"""The attentive probe: a learned query looks at frozen tokens, and a linear map reads what it found.

A vector pooled by mean and maximum has lost what a few tokens hold; a query can go and find it. As the attentive pooling
of V-JEPA (Bardes et al. 2024, section 4; CaiT, Touvron et al. 2021) without its MLP, which a few dozen logs do not feed.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from multisense.evaluate.windows import Target
from multisense.layers import init_linear

HEADS = 4
STEPS, BATCH, RATE, DECAY = 300, 64, 3e-3, 0.05
CHECK_EVERY = 20
HELD_OUT = 0.2
"""Share of the training logs by which the moment to stop is chosen; below five logs all are trained on to the end."""


class AttentivePool(nn.Module):
    """Tokens (B, T, D), valid (B, T) -> (B, outputs)."""

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.heads = math.gcd(HEADS, width)
        self.query = nn.Parameter(torch.randn(width))  # from near zero it takes twice the steps to look anywhere
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.keys = nn.Linear(width, 2 * width)
        self.mix = nn.Linear(width, width)
        self.read = nn.Linear(width, outputs)
        self.apply(init_linear)

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        empty = F.pad(self.before(tokens), (0, 0, 1, 0))  # attention rests on it where no token is valid
        k, v = rearrange(self.keys(empty), "b t (two h e) -> two b h t e", two=2, h=self.heads)
        q = rearrange(self.query.expand(len(tokens), -1), "b (h e) -> b h 1 e", h=self.heads)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=F.pad(valid, (1, 0), value=True)[:, None, None])
        return self.read(self.after(self.query + self.mix(rearrange(seen, "b h 1 e -> b (h e)"))))


@dataclass(frozen=True)
class _Task:
    """What is asked of the probe: y (N,) numbers of classes with their weights, or (N, D) standardised quantities."""

    y: Tensor
    class_weights: Tensor | None

    @property
    def outputs(self) -> int:
        return self.y.shape[1] if self.class_weights is None else len(self.class_weights)

    def loss(self, said: Tensor, rows: Tensor) -> Tensor:
        if self.class_weights is None:
            return F.mse_loss(said, self.y[rows])
        return F.cross_entropy(said, self.y[rows], self.class_weights)


def attend(target: Target, train: np.ndarray, test: np.ndarray, train_log: np.ndarray, seed: int = 0) -> np.ndarray:
    """Train on the training windows where the target is present, predict every test window; a pure function of `seed`.

    train (N, T, D) and test (M, T, D) tokens, NaN where one is absent; train_log (N,) number of the log of each training
    window -> (M,) classes or (M, ...).
    """
    here = target.present
    x, x_test, y = torch.from_numpy(train[here]), torch.from_numpy(test), target.values[here]
    mean, std = y.mean(axis=0), y.std(axis=0)
    classes, number = np.unique(y, return_inverse=True)
    task = _class_task(number) if target.is_class else _quantity_task((y - mean) / np.where(std > 0, std, 1))
    said = _said(_trained(task, x, train_log[here], seed), x_test).double().numpy()
    if target.is_class:
        return classes[said.argmax(axis=1)]
    return said.reshape(len(said), *y.shape[1:]) * std + mean


def _class_task(number: np.ndarray) -> _Task:
    counts = np.bincount(number)
    return _Task(torch.from_numpy(number), torch.from_numpy(len(number) / (len(counts) * counts)).float())


def _quantity_task(y: np.ndarray) -> _Task:
    return _Task(torch.from_numpy(y).float().reshape(len(y), -1), None)


def _trained(task: _Task, x: Tensor, log: np.ndarray, seed: int) -> AttentivePool:
    """The probe after STEPS steps, or as it was when it knew the held-out logs best."""
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(np.unique(log))
    held = np.isin(log, numbers[: int(HELD_OUT * len(numbers))])
    fit, check = (torch.from_numpy(np.flatnonzero(rows)) for rows in (~held, held))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = AttentivePool(x.shape[-1], task.outputs)
    optimizer = torch.optim.AdamW(probe.parameters(), RATE, weight_decay=DECAY)
    best, kept = math.inf, probe.state_dict()
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min((step + 1) / 20, 0.5 + 0.5 * math.cos(math.pi * step / STEPS))
        rows = fit[torch.from_numpy(rng.integers(len(fit), size=min(BATCH, len(fit))))]
        optimizer.zero_grad()
        task.loss(probe(*_tokens(x[rows])), rows).backward()
        optimizer.step()
        if len(check) and (step + 1) % CHECK_EVERY == 0 and (loss := _loss(probe, task, x, check)) < best:
            best, kept = loss, {name: value.clone() for name, value in probe.state_dict().items()}
    if len(check):
        probe.load_state_dict(kept)
    return probe


def _tokens(x: Tensor) -> tuple[Tensor, Tensor]:
    valid = x[..., 0].isfinite()
    return x.float().nan_to_num(), valid


def _loss(probe: AttentivePool, task: _Task, x: Tensor, rows: Tensor) -> float:
    return float(task.loss(_said(probe, x[rows]), rows))


@torch.no_grad()
def _said(probe: AttentivePool, x: Tensor) -> Tensor:
    return torch.cat([probe(*_tokens(part)) for part in x.split(4 * BATCH)])
