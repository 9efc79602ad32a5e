"""How many tokens the masks keep: the expectation and the most, in closed form over what `masking` draws at random."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from multisense.masking import MaskConfig
from multisense.types import TokenLayout

QUANTILES = (np.arange(2000) + 0.5) / 2000
"""A uniform draw is replaced by so many equally likely values; counts are whole numbers, so the error is about 1 in 2,000."""
Moments = tuple[np.ndarray, float]
"""Mean number of kept tokens of each sensor (S,), and mean square of their sum."""


@dataclass(frozen=True)
class Kept:
    """Of one mask. The rest of the T tokens is hidden, and predicted."""

    per_sensor: np.ndarray
    """(S,) mean"""
    square: float
    """Mean square of the tokens kept of all sensors: attention costs by it."""
    most: int
    """The fullest mask that can be drawn: memory must hold it."""
    alone: Mapping[int, "Kept"] = field(default_factory=dict)
    """The same of the masks that show one sensor alone, by the sensor's number; `per_sensor` is then (1,)."""

    @property
    def mean(self) -> float:
        return float(self.per_sensor.sum())


def kept_tokens(layout: TokenLayout, config: MaskConfig) -> Kept:
    """Over the families by their weights, the shares they hide and the sensors they keep."""
    time, sensor = layout.time_s.numpy(), layout.sensor.numpy()
    times = [time[sensor == s] for s in range(len(layout.names))]
    last = float(time.max())
    apart = [layout.names.index(name) for name in config.alone]
    return replace(_kept(times, last, config), alone={s: _kept([times[s]], last, config) for s in apart})


def _kept(times: list[np.ndarray], last: float, config: MaskConfig) -> Kept:
    """Of sensors with tokens at `times`; `last`: the time of the last token of all sensors."""
    counts = np.array([len(t) for t in times])
    weights = {"block": config.block, "cross": config.cross if len(counts) > 1 else 0.0, "causal": config.causal}
    if not sum(weights.values()):
        weights["block"] = 1.0
    share = {family: weight / sum(weights.values()) for family, weight in weights.items() if weight}
    moments = {"block": _block(counts, config), "cross": _cross(counts, config), "causal": _causal(times, last)}
    most = {
        "block": sum(int(_kept_of_block(n, np.array(config.hide[0]))) for n in counts),
        "cross": _fullest_cross(counts, config),
        "causal": int(_before(times, np.array([0.75 * last])).sum()),
    }
    return Kept(
        np.sum([share[f] * moments[f][0] for f in share], axis=0),
        float(sum(share[f] * moments[f][1] for f in share)),
        max(most[f] for f in share),
    )


def _kept_of_block(tokens: int, hidden: np.ndarray) -> np.ndarray:
    """A block hides at least one token of a sensor and keeps at least one."""
    return np.round((1 - hidden) * tokens).clip(1, max(tokens - 1, 1))


def _kept_of_context(tokens: int, hidden: np.ndarray) -> np.ndarray:
    """A sensor that a cross mask keeps; hidden whole where the share is 1."""
    return np.where(hidden == 1, 0, np.round((1 - hidden) * tokens).clip(1))


def _uniform(low: float, high: float) -> np.ndarray:
    return low + (high - low) * QUANTILES


def _block(counts: np.ndarray, config: MaskConfig) -> Moments:
    """Every sensor draws its own share."""
    kept = [_kept_of_block(n, _uniform(*config.hide)) for n in counts]
    mean = np.array([k.mean() for k in kept])
    return mean, float(mean.sum() ** 2 + sum(k.var() for k in kept))


def _cross(counts: np.ndarray, config: MaskConfig) -> Moments:
    """Of S sensors any 1 to S - 1 are kept, as likely; then each of them draws its share."""
    kept = [_kept_of_context(n, _uniform(*config.context_hide)) for n in counts]
    mean, square = (np.array([(k**power).mean() for k in kept]) for power in (1, 2))
    sizes, total = np.arange(1, max(len(counts), 2)), len(counts)
    one = float(sizes.mean() / total)
    two = float((sizes * (sizes - 1)).mean() / (total * max(total - 1, 1)))
    return one * mean, float(one * square.sum() + two * (mean.sum() ** 2 - (mean**2).sum()))


def _fullest_cross(counts: np.ndarray, config: MaskConfig) -> int:
    kept = [int(_kept_of_context(n, np.array(config.context_hide[0]))) for n in counts]
    return sum(kept) - min(kept)


def _causal(times: list[np.ndarray], last: float) -> Moments:
    kept = _before(times, _uniform(0.25, 0.75) * last)
    return kept.mean(0), float((kept.sum(1) ** 2).mean())


def _before(times: list[np.ndarray], moments_s: np.ndarray) -> np.ndarray:
    """Tokens of each sensor before each of the moments, (len(moments_s), S); at least one."""
    return np.stack([np.searchsorted(np.sort(t), moments_s).clip(1) for t in times], axis=1)
