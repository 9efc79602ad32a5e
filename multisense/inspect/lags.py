"""By how much one sensor of a data set is stamped later than another, found from what both hold.

For two sensors the whitened cross-covariance C(lag) of their activity (activity.py) is pooled over all logs. What any two
logs share, because every recording begins alike, is its mean over mismatched logs (the shift predictor of spike-train
analysis: Perkel, Gerstein and Moore, 1967) and is taken off. The lag is where |C|^2, the sum of squared canonical
correlations, peaks. An answer is given only where two probes (how much happens, how suddenly more) agree, the peak stands
above those of mismatched logs, and it stays put when logs are left out. Everything else is "undetermined".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from multisense.inspect.activity import PROBES, RATE_HZ, Stretch, activity
from multisense.logs.base import SensorLog

MAX_LAG_S = 0.6
AGREE_S = 0.015
"""Two probes that differ by more look at different events."""
CLEAR = 1.5
"""A peak counts when it is so many times the highest of the mismatched logs."""
MISMATCHES = 40
FOLDS = 8
MAX_ERROR_S = 0.005
FINEST_S = 0.0005
"""Where a peak lies between two lags of the grid is known no better, however often it is seen."""
COMPONENTS = 6
"""Of a sensor's channels; the cost grows with the square, and more of them hold noise rather than events."""


@dataclass(frozen=True)
class Lag:
    """How much later `second` is stamped than `first`: by `lag_s`, give or take `error_s`; NaN where undetermined."""

    first: str
    second: str
    lag_s: float
    error_s: float
    confidence: float
    """1 - (highest peak of mismatched logs) / peak, the lesser of the two probes; 0 and below is chance."""
    reason: str = ""
    """Why it is undetermined."""

    @property
    def is_determined(self) -> bool:
        return bool(np.isfinite(self.lag_s))


Spectra = Mapping[str, np.ndarray]
"""probe -> (frequencies, L, F) complex64, of L stretches"""


def spectra(logs: Sequence[SensorLog], sensor: str, found: Sequence[Stretch]) -> Spectra:
    """What happens in one sensor, ready to be compared. Reads its data; raises LogError where they cannot be read."""
    happened = [activity(logs[stretch.log], sensor, stretch) for stretch in found]
    return {probe: _spectra([one[probe] for one in happened]) for probe in PROBES}


def earlier(of: Spectra, by_s: np.ndarray) -> Spectra:
    """What it would be, had every stretch been stamped earlier by so much, (L,)."""
    count = len(of[PROBES[0]])
    hertz = np.arange(count) * RATE_HZ / (2 * (count - 1))
    turn = np.exp(2j * np.pi * hertz[:, None] * by_s).astype(np.complex64)[..., None]
    return {probe: spectrum * turn for probe, spectrum in of.items()}


def lag_between(first: str, second: str, of: Mapping[str, Spectra], which: np.ndarray) -> Lag:
    """The lag of one pair of the sensors in `of`, pooled over the stretches `which` (indices)."""
    if len(which) < FOLDS:
        return Lag(first, second, np.nan, np.nan, 0.0, f"{len(which)} stretches of data, fewer than {FOLDS}")
    peaks = [_peak(of[first][probe][:, which], of[second][probe][:, which]) for probe in PROBES]
    confidence = min(1 - p.chance / max(p.height, 1e-30) for p in peaks)
    best = max(peaks, key=lambda p: p.height / max(p.chance, 1e-30))
    unclear = [probe for probe, p in zip(PROBES, peaks, strict=True) if not p.height > CLEAR * p.chance]
    reason = ""
    if unclear:
        reason = f"{' and '.join(unclear)} agree(s) no more than in mismatched logs"
    elif np.ptp([p.lag_s for p in peaks]) > AGREE_S:
        reason = f"the probes disagree: {', '.join(f'{p.lag_s * 1e3:.0f} ms' for p in peaks)}"
    elif abs(best.lag_s) > MAX_LAG_S - 2 / RATE_HZ:
        reason = f"the lag is beyond the {MAX_LAG_S} s that are searched"
    elif best.error_s > MAX_ERROR_S:
        reason = f"the lag moves by {best.error_s * 1e3:.0f} ms when logs are left out"
    lag = np.nan if reason else best.lag_s
    return Lag(first, second, lag, np.nan if reason else best.error_s, confidence, reason)


@dataclass(frozen=True)
class _Peak:
    lag_s: float
    error_s: float
    height: float
    chance: float


def _peak(x: np.ndarray, y: np.ndarray) -> _Peak:
    """x (frequencies, L, Fx) and y (frequencies, L, Fy) of the same stretches"""
    count = x.shape[1]
    folds = np.array_split(np.arange(count), FOLDS)
    x = np.conj(x)
    parts = np.stack([_covariance(x[:, f], y[:, f]) for f in folds]) / count
    turns = np.unique(np.linspace(1, count - 1, min(MISMATCHES, count - 1)).round().astype(int))
    mismatched = np.stack([_covariance(x, np.roll(y, turn, axis=1)) for turn in turns]) / count
    alike = mismatched.mean(axis=0)
    true = parts.sum(axis=0) - alike
    lag, height = _highest(true)
    scale = count / (count - count / FOLDS)
    without = [_highest((parts.sum(axis=0) - part) * scale - alike)[0] for part in parts]
    error = np.sqrt((FOLDS - 1) / FOLDS * ((np.array(without) - np.mean(without)) ** 2).sum() + FINEST_S**2)
    chance = max(_highest(one - alike)[1] for one in mismatched)
    return _Peak(lag, float(error), height, chance)


def _spectra(features: Sequence[np.ndarray]) -> np.ndarray:
    """(n // 2 + 1, L, F) spectra of (T, F) features, whitened over all stretches and padded against wrapping round."""
    centred = [f - f.mean(axis=0) for f in features]
    rows = np.concatenate(centred)
    spread = rows.std(axis=0)
    kept = spread > 1e-9
    if not kept.any():
        kept[:1], spread = True, np.ones_like(spread)
    rows = rows[:, kept] / spread[kept]
    values, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
    values, vectors = values[-COMPONENTS:], vectors[:, -COMPONENTS:]  # eigh puts the largest last
    whiten = vectors / np.sqrt(np.maximum(values, 0) + 0.1)  # the ridge keeps twins from shouting down the rest
    length = max(len(f) for f in features)
    size = 1 << int(np.ceil(np.log2(length + MAX_LAG_S * RATE_HZ + 1)))
    return np.stack(
        [np.fft.rfft((f[:, kept] / spread[kept]) @ whiten, size, axis=0) / np.sqrt(length) for f in centred], axis=1
    )


def _covariance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(lags, Fx, Fy) sums over stretches of x(t) y(t + lag), lag from -MAX_LAG_S to MAX_LAG_S; x is conjugate."""
    reach = round(MAX_LAG_S * RATE_HZ)
    full = np.fft.irfft(np.matmul(x.transpose(0, 2, 1), y), axis=0)
    return np.concatenate([full[-reach:], full[: reach + 1]])


def _highest(covariance: np.ndarray) -> tuple[float, float]:
    """(lag in s, height) of the peak of the sum of squares, between the grid's lags by a parabola."""
    power = (covariance.astype(np.float64) ** 2).sum(axis=(1, 2))
    top = int(power.argmax())
    shift = 0.0
    if 0 < top < len(power) - 1:
        before, here, after = power[top - 1 : top + 2]
        shift = float((before - after) / (2 * (before - 2 * here + after) - 1e-30))
    return (top + shift) / RATE_HZ - MAX_LAG_S, float(power[top])
