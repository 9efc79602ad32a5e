"""Are the clocks of the sensors together? Offsets and drifts found from what the streams hold.

For two sensors the whitened cross-covariance C(lag) of their activity (activity.py) is pooled over all logs. What any two
logs share, because every recording begins alike, is its mean over mismatched logs (the shift predictor of spike-train
analysis: Perkel, Gerstein and Moore, 1967) and is taken off. The lag is where |C|^2, the sum of squared canonical
correlations, peaks. An answer is given only where two probes (how much happens, how suddenly more) agree, the peak stands
above those of mismatched logs, and it stays put when logs are left out. Everything else is "undetermined".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from multisense.inspect.activity import PROBES, RATE_HZ, Segment, segments
from multisense.logs.base import SensorLog

MAX_LAG_S = 0.6
AGREE_S = 0.015
"""Two probes that differ by more look at different events."""
CLEAR = 1.5
"""A peak counts when it is so many times the highest of the mismatched logs."""
MISMATCHES = 40
FOLDS = 8
MAX_ERROR_S = 0.005
LONGEST_S = 300.0
"""Of one log so much is looked at."""


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


@dataclass(frozen=True)
class Offset:
    """The clock of one sensor beside the reference's, over a whole data set."""

    sensor: str
    late_s: float
    """Its stamps are so much later than the events, by the reference's clock; NaN: undetermined."""
    error_s: float
    drift_ppm: float
    """Its clock gains so many microseconds a second; NaN: undetermined, as in logs shorter than a minute."""
    confidence: float
    reason: str = ""

    @property
    def is_determined(self) -> bool:
        return bool(np.isfinite(self.late_s))


@dataclass(frozen=True)
class Alignment:
    reference: str
    offsets: Mapping[str, Offset]
    lags: tuple[Lag, ...]
    """Of every pair of sensors, from which the offsets are put together."""
    middle_s: float
    """How far into its log the middle of what was looked at lies, where an offset holds if the clock drifts."""


def find_offsets(
    logs: Sequence[SensorLog], reference: str | None = None, sensors: Sequence[str] | None = None
) -> Alignment:
    """Offset and drift of every sensor that all `logs` have, against `reference` (by default the fastest proprio sensor).

    All logs are taken to share one offset per sensor. Sensors need not agree with the reference directly: a mic may be
    tied to the skin, and the skin to the arm. Raises ValueError where fewer than two sensors are in all logs.
    """
    names = [n for n in logs[0].sensors if all(n in log.sensors for log in logs)] if logs else []
    names = [n for n in names if sensors is None or n in sensors]
    if len(names) < 2:
        raise ValueError(f"sensors in all {len(logs)} logs: {names}; comparing clocks needs two")
    if reference is not None and reference not in names:
        raise ValueError(f"reference '{reference}' is not in every log; there are {names}")
    joints = [n for n in names if logs[0].sensors[n].modality == "proprio"]
    reference = reference or max(joints or names[:1], key=lambda n: logs[0].sensors[n].rate_hz)
    found = [s for i, log in enumerate(logs) for s in segments(i, log, names, LONGEST_S)]
    lags = tuple(lag_between(a, b, found) for a, b in combinations(names, 2))
    early, late = _halves(found)
    slopes = [_drift(lag, early, late) for lag in lags]
    offsets = {n: _offset(n, reference, lags, slopes) for n in names if n != reference}
    begin = [min(log.sensors[n].start_s for n in names) for log in logs]
    middle = [s.start_s + s.count / RATE_HZ / 2 - begin[s.log] for s in found]
    return Alignment(reference, offsets, lags, float(np.mean(middle)) if middle else 0.0)


def lag_between(first: str, second: str, found: Sequence[Segment]) -> Lag:
    """The lag of one pair of sensors, pooled over segments of many logs."""
    if len(found) < FOLDS:
        return Lag(first, second, np.nan, np.nan, 0.0, f"{len(found)} stretches of data, fewer than {FOLDS}")
    peaks = [_peak(first, second, found, probe) for probe in PROBES]
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


def _peak(first: str, second: str, found: Sequence[Segment], probe: str) -> _Peak:
    x, y = (_spectra([s.features[name][probe] for s in found]) for name in (first, second))
    count = len(found)
    folds = np.array_split(np.arange(count), FOLDS)
    parts = np.stack([_covariance(x[f], y[f]) for f in folds]) / count
    turns = np.unique(np.linspace(1, count - 1, min(MISMATCHES, count - 1)).round().astype(int))
    mismatched = np.stack([_covariance(x, np.roll(y, turn, axis=0)) for turn in turns]) / count
    alike = mismatched.mean(axis=0)
    true = parts.sum(axis=0) - alike
    lag, height = _highest(true)
    scale = count / (count - count / FOLDS)
    without = [_highest((parts.sum(axis=0) - part) * scale - alike)[0] for part in parts]
    error = np.sqrt((FOLDS - 1) / FOLDS * ((np.array(without) - np.mean(without)) ** 2).sum())
    chance = max(_highest(one - alike)[1] for one in mismatched)
    return _Peak(lag, float(error), height, chance)


def _spectra(features: Sequence[np.ndarray]) -> np.ndarray:
    """(L, n // 2 + 1, F) spectra of the features, whitened over all segments and padded against wrapping round."""
    centred = [f - f.mean(axis=0) for f in features]
    rows = np.concatenate(centred)
    spread = rows.std(axis=0)
    kept = spread > 1e-9
    if not kept.any():
        kept[:1], spread = True, np.ones_like(spread)
    rows = rows[:, kept] / spread[kept]
    values, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
    whiten = vectors / np.sqrt(np.maximum(values, 0) + 0.1)  # the ridge keeps twins from shouting down the rest
    length = max(len(f) for f in features)
    size = 1 << int(np.ceil(np.log2(length + MAX_LAG_S * RATE_HZ + 1)))
    return np.stack(
        [np.fft.rfft((f[:, kept] / spread[kept]) @ whiten, size, axis=0) / np.sqrt(length) for f in centred]
    )


def _covariance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(lags, Fx, Fy) sums over segments of x(t) y(t + lag), lag from -MAX_LAG_S to MAX_LAG_S."""
    reach = round(MAX_LAG_S * RATE_HZ)
    pair = np.matmul(np.conj(x).transpose(1, 2, 0), y.transpose(1, 0, 2))
    full = np.fft.irfft(pair, axis=0)
    return np.concatenate([full[-reach:], full[: reach + 1]])


def _highest(covariance: np.ndarray) -> tuple[float, float]:
    """(lag in s, height) of the peak of the sum of squares, between the grid's lags by a parabola."""
    power = (covariance**2).sum(axis=(1, 2))
    top = int(power.argmax())
    shift = 0.0
    if 0 < top < len(power) - 1:
        before, here, after = power[top - 1 : top + 2]
        shift = float((before - after) / (2 * (before - 2 * here + after) - 1e-30))
    return (top + shift) / RATE_HZ - MAX_LAG_S, float(power[top])


def _halves(found: Sequence[Segment]) -> tuple[list[Segment], list[Segment]]:
    """Segments of the first and of the last third of their logs."""
    longest = max((s.start_s for s in found), default=0.0)
    return [s for s in found if s.start_s < longest / 3], [s for s in found if s.start_s > longest * 2 / 3]


MIN_DRIFT_SPAN_S = 60.0


def _drift(lag: Lag, early: Sequence[Segment], late: Sequence[Segment]) -> float:
    """ppm by which `second` gains on `first`, from the lags of early and late segments; NaN where they do not tell."""
    if not lag.is_determined or not early or not late:
        return np.nan
    span = np.mean([s.start_s for s in late]) - np.mean([s.start_s for s in early])
    if span < MIN_DRIFT_SPAN_S:
        return np.nan
    ends = [lag_between(lag.first, lag.second, part) for part in (early, late)]
    return float((ends[1].lag_s - ends[0].lag_s) / span * 1e6)


def _offset(name: str, reference: str, lags: Sequence[Lag], slopes: Sequence[float]) -> Offset:
    """By the most certain chain of determined lags from the reference to `name`."""
    chains = {reference: (0.0, 0.0, 0.0, 1.0)}  # late_s, variance, drift, confidence
    for _ in lags:
        for lag, slope in zip(lags, slopes, strict=True):
            if not lag.is_determined:
                continue
            for here, there, sign in ((lag.first, lag.second, 1), (lag.second, lag.first, -1)):
                if here not in chains:
                    continue
                late, variance, drift, confidence = chains[here]
                step = (
                    late + sign * lag.lag_s,
                    variance + lag.error_s**2,
                    drift + sign * slope,
                    min(confidence, lag.confidence),
                )
                if there not in chains or step[1] < chains[there][1]:
                    chains[there] = step
    if name not in chains:
        reasons = [f"{lag.first}-{lag.second}: {lag.reason}" for lag in lags if name in (lag.first, lag.second)]
        best = max((lag.confidence for lag in lags if name in (lag.first, lag.second)), default=0.0)
        return Offset(name, np.nan, np.nan, np.nan, best, "; ".join(reasons))
    late, variance, drift, confidence = chains[name]
    return Offset(name, late, float(np.sqrt(variance)), drift, confidence)
