"""Are the clocks of the sensors together? Offsets and drifts over a data set, put together from the lags of pairs."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import median_high

import numpy as np

from multisense.inspect.activity import STRETCH_S, Stretch, stretches
from multisense.inspect.lags import FOLDS, Lag, Spectra, earlier, lag_between, spectra
from multisense.logs.base import SensorLog, log_error

LONGEST_S = 300.0
"""Of one log so much is looked at,"""
LONGEST_TOTAL_S = 3600.0
"""and of many together so much, but a stretch of each."""
LEAST_COVER = 0.5
"""A sensor that lasts less of what the others last would leave hardly any time in which all can be compared."""
MIN_DRIFT_SPAN_S = 60.0
DRIFT_PASSES = 4
SIGMAS = 3.0
"""What is off by so many of its errors is off."""
COMMAND = re.compile(r"(?<![a-z])(actions?|commands?|cmds?|goals?|targets?|set_?points?|desired|ctrl)(?![a-z])")
"""Names of what a body was told to do, which happens before it does it: no fault of a clock."""


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
    drift_error_ppm: float = np.nan

    @property
    def is_determined(self) -> bool:
        return bool(np.isfinite(self.late_s))

    @property
    def is_off(self) -> bool:
        """Whether the lateness is more than its error may feign; False where it is undetermined."""
        return abs(self.late_s) > SIGMAS * self.error_s

    @property
    def is_command(self) -> bool:
        return is_command(self.sensor)

    @property
    def is_drifting(self) -> bool:
        """Whether the drift is more than its error may feign; False where it is undetermined."""
        return abs(self.drift_ppm) > SIGMAS * self.drift_error_ppm


@dataclass(frozen=True)
class Alignment:
    reference: str
    offsets: Mapping[str, Offset]
    lags: tuple[Lag, ...]
    """Of every pair of sensors, from which the offsets are put together."""
    middle_s: float
    """How far into its log the middle of what was looked at lies, where an offset holds if the clock drifts."""


def is_command(sensor: str) -> bool:
    """Whether a sensor, by its name, holds what the body was told to do."""
    return bool(COMMAND.search(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", sensor).lower()))


def find_offsets(
    logs: Sequence[SensorLog], reference: str | None = None, sensors: Sequence[str] | None = None
) -> Alignment:
    """Offset and drift of every sensor that all `logs` have, against `reference` (by default the fastest proprio sensor
    that is no command).

    All logs are taken to share one offset per sensor. Sensors need not agree with the reference directly: a mic may be
    tied to the skin, and the skin to the arm. Raises ValueError where fewer than two sensors are in all logs, LogError
    where one has another shape in some logs or cannot be read.
    """
    names = [n for n in logs[0].sensors if all(n in log.sensors for log in logs)] if logs else []
    names = [n for n in names if sensors is None or n in sensors]
    if len(names) < 2:
        raise ValueError(f"sensors in all {len(logs)} logs: {names}; comparing clocks needs two")
    if reference is not None and reference not in names:
        raise ValueError(f"reference '{reference}' is not in every log; there are {names}")
    _check_shapes(logs, names)
    compared = [n for n in names if n == reference or _lasts(n, logs, names)]
    reference = reference or _reference(logs[0], compared)
    longest_s = min(LONGEST_S, max(LONGEST_TOTAL_S / len(logs), STRETCH_S))
    found = [s for i, log in enumerate(logs) for s in stretches(i, log, compared, longest_s)]
    known = {n: spectra(logs, n, found) for n in compared} if len(found) >= FOLDS else {}
    since_s = np.array([s.start_s - min(logs[s.log].sensors[n].start_s for n in compared) for s in found])
    pairs = [_compare(a, b, known, since_s) for a, b in combinations(compared, 2)]
    lags, slopes = tuple(lag for lag, _ in pairs), [slope for _, slope in pairs]
    chains = _chains(reference, lags, slopes)
    offsets = {n: _offset(n, chains.get(n), lags) for n in names if n != reference}
    return Alignment(reference, offsets, lags, _middle(found, since_s))


def _reference(log: SensorLog, names: Sequence[str]) -> str:
    measured = [n for n in names if not is_command(n)] or names
    joints = [n for n in measured if log.sensors[n].modality == "proprio"]
    return max(joints or measured[:1], key=lambda n: log.sensors[n].rate_hz)


def _check_shapes(logs: Sequence[SensorLog], names: Sequence[str]) -> None:
    for name in names:
        usual, _ = Counter(log.sensors[name].shape for log in logs).most_common(1)[0]
        for log in logs:
            if log.sensors[name].shape != usual:
                found = f"samples of shape {log.sensors[name].shape}"
                raise log_error(f"{log.path}: {name}", found, f"{usual}, as in most logs", "Leave out the log.")


def _lasts(name: str, logs: Sequence[SensorLog], names: Sequence[str]) -> bool:
    """Whether a sensor covers enough of most logs; a topic of three messages would end the comparison of all others."""

    def covers(log: SensorLog) -> bool:
        seconds = {n: log.sensors[n].stop_s - log.sensors[n].start_s for n in names}
        return seconds[name] >= LEAST_COVER * median_high(seconds.values())

    return 2 * sum(map(covers, logs)) >= len(logs)


def _middle(found: Sequence[Stretch], since_s: np.ndarray) -> float:
    return float(np.mean(since_s + [s.length_s / 2 for s in found])) if found else 0.0


@dataclass(frozen=True)
class _Slope:
    ppm: float
    error_ppm: float


def _compare(first: str, second: str, known: Mapping[str, Spectra], since_s: np.ndarray) -> tuple[Lag, _Slope]:
    """The lag of two sensors in the middle, and by which the second gains on the first.

    Drift blurs the peak it is read from, and between two lags of the grid a peak is known less well than on one: what was
    found is taken out, and the rest looked for again.
    """
    every = np.arange(len(since_s))
    lag, slope = lag_between(first, second, known, every), _Slope(0.0, 0.0)
    late_s = lag.lag_s
    for _ in range(DRIFT_PASSES):
        further = _drift(lag, known, since_s)
        slope = _Slope(slope.ppm + further.ppm, further.error_ppm)
        if not np.isfinite(slope.ppm):
            break
        gained_s = lag.lag_s + further.ppm * 1e-6 * (since_s - since_s.mean())
        known = {first: known[first], second: earlier(known[second], gained_s)}
        lag = lag_between(first, second, known, every)
        late_s += lag.lag_s
    return replace(lag, lag_s=late_s), slope


def _drift(lag: Lag, known: Mapping[str, Spectra], since_s: np.ndarray) -> _Slope:
    """By which `second` gains on `first`, from the lags of the first and the last third; NaN where they do not tell."""
    unknown, longest_s = _Slope(np.nan, np.nan), since_s.max(initial=0.0)
    early, late = np.flatnonzero(since_s < longest_s / 3), np.flatnonzero(since_s > longest_s * 2 / 3)
    if not lag.is_determined or not len(early) or not len(late):
        return unknown
    span_s = since_s[late].mean() - since_s[early].mean()
    if span_s < MIN_DRIFT_SPAN_S:
        return unknown
    a, b = (lag_between(lag.first, lag.second, known, part) for part in (early, late))
    return _Slope((b.lag_s - a.lag_s) / span_s * 1e6, np.hypot(a.error_s, b.error_s) / span_s * 1e6)


@dataclass(frozen=True)
class _Chain:
    """What lies between the reference and a sensor, summed over the lags on the way."""

    late_s: float = 0.0
    variance: float = 0.0
    drift_ppm: float = 0.0
    drift_variance: float = 0.0
    confidence: float = 1.0

    def on(self, lag: Lag, slope: _Slope, sign: int) -> "_Chain":
        return _Chain(
            self.late_s + sign * lag.lag_s,
            self.variance + lag.error_s**2,
            self.drift_ppm + sign * slope.ppm,
            self.drift_variance + slope.error_ppm**2,
            min(self.confidence, lag.confidence),
        )


def _chains(reference: str, lags: Sequence[Lag], slopes: Sequence[_Slope]) -> dict[str, _Chain]:
    """The most certain chain of determined lags from the reference to every sensor that one leads to."""
    chains = {reference: _Chain()}
    for _ in lags:
        for lag, slope in zip(lags, slopes, strict=True):
            for here, there, sign in ((lag.first, lag.second, 1), (lag.second, lag.first, -1)):
                if not lag.is_determined or here not in chains:
                    continue
                further = chains[here].on(lag, slope, sign)
                if there not in chains or further.variance < chains[there].variance:
                    chains[there] = further
    return chains


def _offset(name: str, chain: _Chain | None, lags: Sequence[Lag]) -> Offset:
    if chain is not None:
        errors = float(np.sqrt(chain.variance)), float(np.sqrt(chain.drift_variance))
        return Offset(name, chain.late_s, errors[0], chain.drift_ppm, chain.confidence, drift_error_ppm=errors[1])
    tried = [lag for lag in lags if name in (lag.first, lag.second)]
    reasons = [f"{lag.first}-{lag.second}: {lag.reason}" for lag in tried]
    short = f"it lasts less than {LEAST_COVER:.0%} of what the others last"
    best = max((lag.confidence for lag in tried), default=0.0)
    return Offset(name, np.nan, np.nan, np.nan, best, "; ".join(reasons) or short)
