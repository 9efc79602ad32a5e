"""Which tokens are hidden: a pure function of (token layout, config, seed, step, item).

The *structure* of a mask (its family, the context sensors, how many tokens each keeps) is drawn once per step and mask,
so that every clip keeps equally many tokens and the student's sequence stays dense; *which* tokens is drawn per clip.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from multisense.config import Config
from multisense.types import TokenLayout

FAMILIES = ("block", "cross", "causal")
ALONE = "alone"
"""Family of the masks of `MaskConfig.alone`."""


class MaskConfig(Config):
    masks_per_clip: int = Field(default=4, ge=1)
    """Masks that share one pass of the teacher."""
    block: float = Field(default=1.0, ge=0)
    """Weight of masks that hide spans of time and place in every sensor."""
    cross: float = Field(default=2.0, ge=0)
    """Weight of masks that hide whole sensors, to be predicted from the others."""
    causal: float = Field(default=0.5, ge=0)
    """Weight of masks that hide everything after a moment."""
    hide: tuple[float, float] = (0.4, 0.8)
    """Share of each sensor's tokens that a block mask hides, drawn anew for every sensor."""
    context_hide: tuple[float, float] = (0.0, 0.4)
    """Share that a cross mask hides of the sensors it keeps."""
    alone: list[str] = Field(default_factory=list)
    """Sensors that each have one mask more, by block or causal, which shows part of that sensor and nothing else. The
    rest of it is to be named from that part: its own latents, not those among all senses. The mask's whole loss, signal
    and contrast with it, comes on top of that of the others. For a sensor of which the others tell so much that it learns
    little else."""

    @model_validator(mode="after")
    def _some_family(self) -> "MaskConfig":
        if self.block + self.cross + self.causal <= 0:
            raise ValueError("one of block, cross, causal must have a positive weight")
        for low, high in (self.hide, self.context_hide):
            if not 0 <= low <= high <= 1:
                raise ValueError(f"a share to hide must be 0 <= low <= high <= 1, found ({low}, {high})")
        if len(set(self.alone)) < len(self.alone):
            raise ValueError(f"alone: expected every sensor once, found {self.alone}")
        return self


@dataclass(frozen=True)
class Mask:
    """One mask for B clips: `keep` (B, K) and `target` (B, M) index the token sequence; no index is in both."""

    family: str
    """One of FAMILIES, or ALONE."""
    seen: dict[int, slice]
    """Which columns of `keep` belong to each sensor that has kept tokens; the same for every clip."""
    keep: Tensor
    target: Tensor
    columns: dict[int, slice]
    """Which columns of `target` belong to each sensor that has hidden tokens; the same for every clip."""

    @property
    def context(self) -> tuple[int, ...]:
        """Sensors with at least one kept token."""
        return tuple(self.seen)

    @property
    def parts(self) -> list[tuple[int, int]]:
        """The kept tokens as (sensor, how many), in their order."""
        return [(sensor, own.stop - own.start) for sensor, own in self.seen.items()]

    @property
    def asked(self) -> list[tuple[int, int]]:
        """The hidden ones."""
        return [(sensor, own.stop - own.start) for sensor, own in self.columns.items()]

    def to(self, device: torch.device | str) -> "Mask":
        keep, target = self.keep.to(device, non_blocking=True), self.target.to(device, non_blocking=True)
        return replace(self, keep=keep, target=target)


def draw_masks(layout: TokenLayout, config: MaskConfig, seed: int, step: int, items: Sequence[int]) -> list[Mask]:
    """The masks of one step for the clips numbered `items` in the whole run: those of the mixture, then one for each
    sensor that is also shown alone."""
    mixture = [_draw(layout, config, (seed, step, slot), items) for slot in range(config.masks_per_clip)]
    slots = enumerate(map(layout.names.index, config.alone), config.masks_per_clip)
    return mixture + [_draw(layout, config, (seed, step, slot), items, sensor) for slot, sensor in slots]


def _draw(
    layout: TokenLayout,
    config: MaskConfig,
    number: tuple[int, int, int],
    items: Sequence[int],
    alone: int | None = None,
) -> Mask:
    """The mask `number` (seed, step, slot): of all sensors, or of the one `alone`."""
    time, place, sensor = layout.time_s.numpy(), layout.place.numpy(), layout.sensor.numpy()
    position = np.column_stack([time / max(float(time.max()), 1e-9), place])
    (seed, step, slot), shown = number, range(len(layout.names)) if alone is None else (alone,)
    structure = np.random.default_rng([seed, 3, step, slot])
    family = _family(config, structure, len(shown))
    hidden = dict(zip(shown, _shares(family, config, structure, len(shown)), strict=True))
    moment = structure.uniform(0.25, 0.75)
    orders = np.stack([
        _order(family, position, sensor, moment, np.random.default_rng([seed, 4, step, slot, item])) for item in items
    ])  # fmt: skip
    mask = _cut(family, orders, sensor, hidden, time, moment)
    return mask if alone is None else replace(mask, family=ALONE)


def _family(config: MaskConfig, rng: np.random.Generator, sensors: int) -> str:
    weights = np.array([config.block, config.cross if sensors > 1 else 0.0, config.causal])
    if weights.sum() == 0:
        return "block"
    return FAMILIES[rng.choice(3, p=weights / weights.sum())]


def _shares(family: str, config: MaskConfig, rng: np.random.Generator, sensors: int) -> np.ndarray:
    """Share of each sensor's tokens that is hidden. Fractions per sensor, never one pool: four joint tokens matter."""
    if family == "block":
        return rng.uniform(*config.hide, size=sensors)
    if family == "cross":
        kept = rng.permutation(sensors)[: rng.integers(1, sensors)]
        shares = np.ones(sensors)
        shares[kept] = rng.uniform(*config.context_hide, size=len(kept))
        return shares
    return np.zeros(sensors)


def _order(
    family: str, position: np.ndarray, sensor: np.ndarray, moment: float, rng: np.random.Generator
) -> np.ndarray:
    """A score per token (T,); the highest are hidden. Nearness to two random centres makes blocks of time x place."""
    if family == "causal":
        return position[:, 0]
    score = np.empty(len(position))
    for s in np.unique(sensor):
        own = sensor == s
        # Centres are places where the sensor has tokens: one without a place would else be far from every centre.
        centres = position[rng.choice(np.flatnonzero(own), size=2)]
        distance = np.abs(position[own, None] - centres[None]) * (1.5, 1.0, 1.0)
        score[own] = -distance.max(-1).min(-1) + 1e-3 * rng.uniform(size=own.sum())
    return score


def _cut(
    family: str, orders: np.ndarray, sensor: np.ndarray, hidden: Mapping[int, float], time: np.ndarray, moment: float
) -> Mask:
    keep, target, seen, columns, width, across = [], [], {}, {}, 0, 0
    for s, share in hidden.items():
        own = np.flatnonzero(sensor == s)
        ranked = own[np.argsort(orders[:, own], axis=1, kind="stable")]
        kept = _kept(family, share, time[own], moment * time.max())
        keep.append(np.sort(ranked[:, :kept], axis=1))
        target.append(np.sort(ranked[:, kept:], axis=1))
        if kept:
            seen[s] = slice(across, across + kept)
            across += kept
        if kept < len(own):
            columns[s] = slice(width, width + len(own) - kept)
            width += len(own) - kept
    keep, target = (torch.from_numpy(np.concatenate(part, axis=1)) for part in (keep, target))
    return Mask(family, seen, keep, target, columns)


def _kept(family: str, share: float, time: np.ndarray, moment: float) -> int:
    """How many tokens of a sensor stay: none of a hidden sensor, else at least one; a block hides at least one, too."""
    if family == "causal":
        return max(int((time < moment).sum()), 1)
    if share == 1.0:
        return 0
    kept = max(round((1 - share) * len(time)), 1)
    return max(min(kept, len(time) - 1), 1) if family == "block" else kept
