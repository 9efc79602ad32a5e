"""What only shows beside others: between the streams of a log, and between the logs of a data set."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import median_high, median_low

import numpy as np

from multisense.inspect.channels import named
from multisense.inspect.findings import Finding, Level
from multisense.inspect.tally import Tally, Values
from multisense.logs.base import SensorLog
from multisense.types import SensorInfo

END_S = 0.5
"""Recorders start and stop their sensors within a few tenths of a second."""
END_PERIODS = 3
"""Slow sensors cannot be expected to end more exactly than this."""
NOISE_REPEATS, NOISE_TURNS = 0.5, 0.1
"""A channel that in every other log repeats its value in fewer of the steps, and turns in more of its moves, has a noise
floor: it is never constant for a whole log, even where the noise is no larger than its quantisation."""
FEW_STEPS = 10
"""Below it rates, runs and ends mean nothing: an event is no stream."""
FORMS: dict[str, Level] = {"shape": "error", "dtype": "warning", "units": "warning", "rate_hz": "warning"}
"""What a sensor should have in common in all logs; clips of several shapes cannot be in one batch."""


def across_streams(log: SensorLog) -> Iterator[Finding]:
    """Late starts, missing tails, or no time that all sensors share."""
    sensors = [info for info in log.sensors.values() if info.count > FEW_STEPS]
    if len(sensors) < 2:
        return
    last, first = max(sensors, key=lambda info: info.start_s), min(sensors, key=lambda info: info.stop_s)
    if last.start_s >= first.stop_s:
        yield _no_overlap(log.name, sensors, last, first)
        return
    for info in sensors:
        allowed = max(END_S, END_PERIODS / info.rate_hz)
        others = [other for other in sensors if other is not info]
        start, stop = median_low(o.start_s for o in others), median_high(o.stop_s for o in others)
        if info.start_s - start > allowed:
            message = f"starts {info.start_s - start:.3g} s after the others"
            yield Finding("warning", log.name, info.name, "late", message, start, info.start_s)
        if stop - info.stop_s > allowed:
            message = f"ends {stop - info.stop_s:.3g} s before the others"
            yield Finding("warning", log.name, info.name, "tail", message, info.stop_s, stop)


def _no_overlap(log: str, sensors: list[SensorInfo], last: SensorInfo, first: SensorInfo) -> Finding:
    """Blames the one of the two that is farther from the rest."""
    middle = median_low((info.start_s + info.stop_s) / 2 for info in sensors)
    odd = max((first, last), key=lambda info: abs((info.start_s + info.stop_s) / 2 - middle))
    message = (
        f"no common time: '{first.name}' ends at {first.stop_s:.3f} s, before '{last.name}' starts at "
        f"{last.start_s:.3f} s; expected one clock and one origin for all"
    )
    return Finding("error", log, odd.name, "apart", message)


def across_logs(logs: Sequence[SensorLog], tallies: Mapping[str, Mapping[str, Tally]]) -> Iterator[Finding]:
    """Sensors that are missing or of another form in some logs; channels that are dead in all, or in some only."""
    names = list(dict.fromkeys(name for log in logs for name in log.sensors))
    for name in names:
        holders = [log for log in logs if name in log.sensors]
        if 2 * len(holders) > len(logs):  # a sensor of few logs is an extra, not missing from the rest
            for log in logs:
                if name not in log.sensors:
                    message = f"not in this log, but in {len(holders)} of {len(logs)}"
                    yield Finding("warning", log.name, name, "missing", message)
        yield from _forms(name, holders)
        yield from _dead(name, {log.name: tallies[log.name][name] for log in holders if name in tallies[log.name]})


def _forms(name: str, logs: Sequence[SensorLog]) -> Iterator[Finding]:
    """Logs whose sensor is of another shape, dtype, unit or nominal rate than in most."""
    for what, level in FORMS.items():
        values = {log.name: getattr(log.sensors[name], what) for log in logs}
        usual, _ = Counter(values.values()).most_common(1)[0]
        for log, value in values.items():
            if value != usual:
                message = f"{what} {value!r}, expected {usual!r} as in most logs"
                yield Finding(level, log, name, "form", message)


def _dead(name: str, tallies: Mapping[str, Tally]) -> Iterator[Finding]:
    of_values = {log: found for log, found in tallies.items() if found.values is not None and found.values.steps}
    shapes = {found.info.shape for found in of_values.values()}
    if len(shapes) != 1 or sum(found.info.count for found in of_values.values()) < FEW_STEPS:
        return
    values = [found.values for found in of_values.values() if found.values is not None]
    constant = np.stack([v.high <= v.low for v in values])
    never_moved = constant.all(0) & (np.min([v.low for v in values], 0) == np.max([v.high for v in values], 0))
    found = next(iter(of_values.values()))
    sound = found.info.modality == "audio"
    if never_moved.any():
        message = f"exactly constant in all {len(values)} logs: {named(found.info, never_moved)}"
        level = "error" if never_moved.all() else "warning"
        yield Finding(level, "", name, "silent" if sound else "dead", message)
    for k, log in enumerate(of_values):
        stuck = constant[k] & ~never_moved
        if not sound:
            stuck &= _has_noise(values[:k] + values[k + 1 :], constant.shape[1])
        if stuck.any():
            message = f"exactly constant in this log, but not in others: {named(found.info, stuck)}"
            level = "error" if stuck.all() else "warning"
            yield Finding(level, log, name, "silent" if sound else "stuck", message)


def _has_noise(others: Sequence[Values], channels: int) -> np.ndarray:
    """(C,) whether a channel has a noise floor in each of the other logs that are long enough to tell."""
    told = [v for v in others if v.steps >= FEW_STEPS]
    noisy = [(v.repeats <= NOISE_REPEATS * v.steps) & (v.reversals > NOISE_TURNS * v.moves) for v in told]
    return np.all(noisy, axis=0) if told else np.zeros(channels, bool)
