"""Is each stream what it claims to be? Whole data sets are read once, in blocks, and judged log by log and over all logs.

`dead` means exactly constant over the whole data set: a taxel nobody touched in one log, or a joint at rest, is healthy.
What is normal for a channel, such as whether it ever repeats a value, is learnt from the data set itself.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from multisense.inspect.across import across_logs, across_streams
from multisense.inspect.channels import named
from multisense.inspect.findings import Finding, Level, worst_first
from multisense.inspect.reading import left_out, recorded, unreadable
from multisense.inspect.stamps import Run, Speeds, Times
from multisense.inspect.tally import Tally, Values, tally
from multisense.logs import LogError, SensorLog, survey_logs
from multisense.types import SensorInfo

RATE_OFF = 0.01
"""Relative: clock drift is below 0.001, while a wrong nominal rate (29.97 for 30 is allowed) is off by far more."""
RATE_WRONG = 0.1
"""From here on, windows cut by the nominal rate hold the wrong number of samples: an error."""
IRREGULAR_SHARE = 0.1
"""Of the steps; above it, the sensor has jitter rather than a hiccup."""
SOUND_OFF = 0.02
"""Relative: sound whose speed changes by more from block to block has stamps that jitter; its clock does not."""
FEW_STEPS = 10
"""Below it, rates and runs mean nothing."""
RARELY = 0.05
"""Of the steps: a signal that repeats itself more rarely has a noise floor, so a long repeat is a fault."""
RARELY_STILL = 0.25
"""The same of pictures: a scene may stand still, but a camera that mostly sees no change tells nothing by a long one."""
FROZEN_S = 1.0
"""A picture or a signal with a noise floor that stays the same for so long is stuck; shorter stalls are dropped frames."""
DROPOUT_S = 0.1
"""Sound that does not change at all for so long is no pause: a microphone has a noise floor."""
DARK_S = 0.5
"""A covered or blinded camera; shorter flashes may be the scene."""
CLIP_SHARE = {"audio": 2e-4}
SIGNAL_CLIP_SHARE = 0.01
"""Of the samples, in runs of three and more at the extreme. Clipped sound is audible from a few in ten thousand; a signal
has slower samples, of which a few may agree by chance."""
CLIP_MOST = 0.5
"""A signal at its extreme for more than half of the time rests there."""
CLIP_LEVELS = 50
"""A signal of fewer quantisation steps than this reaches its extreme repeatedly without any fault."""
NOISE_TURNS = 0.1
"""Of pairs of steps: noise turns in 2 of 3, a smooth command almost never, and smooth commands have plateaus."""
CLIP_RUNS = 5
"""Noise that is cut off touches the limit again and again; a hand that is told to open rests there once or twice."""


def check(path: str | Path) -> list[Finding]:
    """Everything found in the logs at `path`, the worst first; logs that cannot be opened are findings too.

    Raises LogError only where `path` as a whole cannot be read.
    """
    logs, errors = survey_logs(path)
    return check_logs(logs, errors)


def check_logs(logs: Sequence[SensorLog], errors: Mapping[str, LogError] | None = None) -> list[Finding]:
    """`check` of logs already open, with the errors of those that did not open, by name."""
    refused = [unreadable(error, name) for name, error in (errors or {}).items()]
    findings: list[Finding] = []
    tallies: dict[str, dict[str, Tally]] = {}
    for log in logs:
        tallies[log.name] = {}
        for sensor in log.sensors:
            try:
                tallies[log.name][sensor] = tally(log, sensor)
            except LogError as error:
                refused.append(unreadable(error, log.name, sensor))
        for found in tallies[log.name].values():
            findings += _times(log.name, found)
            findings += _pictures(log.name, found)
            findings += _values(log.name, found)
        findings += across_streams(log)
        refused += recorded(log)
    findings += across_logs(logs, tallies)
    kinds = {name: info.modality for log in logs for name, info in log.sensors.items()}
    judged = (_lowered(f) if kinds.get(f.sensor) == "" else f for f in findings)
    return worst_first([*refused, *left_out(logs), *_pooled(judged)])


def _lowered(finding: Finding) -> Finding:
    """What is of no known kind may be an event or a state of the software: its rests and gaps are less of a matter."""
    return replace(finding, level="warning" if finding.level == "error" else "info")


def _pooled(findings: Iterable[Finding]) -> list[Finding]:
    """With one line a log for all the sensors that are too short to judge."""
    findings = list(findings)
    kept, few = [f for f in findings if f.kind != "few"], defaultdict(list)
    for finding in findings:
        if finding.kind == "few":
            few[finding.log].append(finding)
    for alike in few.values():
        names = ", ".join(f.sensor for f in alike[:8]) + (f" and {len(alike) - 8} more" if len(alike) > 8 else "")
        message = f"{alike[0].message}" if len(alike) == 1 else f"too few samples to judge their clocks: {names}"
        kept.append(replace(alike[0], sensor=alike[0].sensor if len(alike) == 1 else "", message=message))
    return kept


def _times(log: str, found: Tally) -> Iterator[Finding]:
    info, times = found.info, found.times
    if times.steps < FEW_STEPS:
        yield Finding("info", log, info.name, "few", f"only {info.count} samples: too few to judge their clock")
        return
    jitter = times.irregular / times.steps
    is_jittery = jitter > IRREGULAR_SHARE
    if is_jittery:
        message = f"{jitter:.0%} of the steps are irregular, expected about {times.period_s * 1e3:.4g} ms each"
        yield Finding("warning", log, info.name, "jitter", message)
    elif times.speeds is not None and (message := _uneven(times.speeds)):
        is_jittery = True
        yield Finding("warning", log, info.name, "jitter", message)
    gaps = times.long_gaps if is_jittery else times.gaps
    if gaps.count:
        longest = f"the longest {gaps.stop_s - gaps.start_s:.4g} s"
        message = f"{gaps.count} gaps, {longest}: about {gaps.lost} samples lost beside {info.count}"
        yield Finding("warning", log, info.name, "gap", message, gaps.start_s, gaps.stop_s)
    measured = _rate(times, info.rate_hz, is_jittery)
    off = abs(measured / info.rate_hz - 1)
    if off > RATE_OFF:
        level: Level = "error" if off > RATE_WRONG else "warning"
        message = f"measured {measured:.6g} Hz, expected {info.rate_hz:.6g} Hz, the nominal rate"
        yield Finding(level, log, info.name, "rate", message)


def _uneven(speeds: Speeds) -> str:
    """What is wrong with the speed of sound from block to block; "" where it is even."""
    found = speeds.measured()
    usual = np.median(found) if len(found) >= FEW_STEPS else np.nan
    share = (np.abs(found / usual - 1) > SOUND_OFF).mean() if len(found) >= FEW_STEPS else 0.0
    if share <= IRREGULAR_SHARE:
        return ""
    low, high = np.quantile(found, [0.01, 0.99])
    stamped = "were the blocks stamped when they arrived, not when they began?"
    return f"runs at {low:.0f} to {high:.0f} samples a second, expected one speed; {stamped}"


def _rate(times: Times, nominal_hz: float, is_jittery: bool) -> float:
    """Of an uneven stream the one of mean and median that is the nearer to its nominal rate: some state either."""
    mean_s = times.regular_s / max(times.steps - times.gaps.count, 1)
    if not is_jittery or mean_s <= 0:
        return 1 / times.period_s
    return min(1 / mean_s, 1 / times.period_s, key=lambda rate: abs(rate / nominal_hz - 1))


def _pictures(log: str, found: Tally) -> Iterator[Finding]:
    pictures, name = found.pictures, found.info.name
    if pictures is None:
        return
    for kind, run in (("black", pictures.black), ("white", pictures.white)):
        if run.count == pictures.count:
            yield _over("error", log, name, kind, "every frame", run)
        elif run.seconds >= DARK_S:
            yield _over("warning", log, name, kind, f"{run.count} of {pictures.count} frames", run)
    still = pictures.still
    if still.count == pictures.steps >= FEW_STEPS:
        yield _over("error", log, name, "frozen", "every frame is the same", still)
    elif _is_frozen(still, pictures.steps, FROZEN_S, RARELY_STILL):
        yield _over("warning", log, name, "frozen", "the same frame again and again", still)


def _values(log: str, found: Tally) -> Iterator[Finding]:
    values, info = found.values, found.info
    if values is None:
        return
    yield from _numbers(log, values, info)
    sound = info.modality == "audio"
    shortest = DROPOUT_S if sound else FROZEN_S
    if _is_frozen(values.still, values.steps, shortest, RARELY):
        kind = "dropout" if sound else "frozen"
        yield _over("warning", log, info.name, kind, "no channel changes at all", values.still)
    yield from _clipped(log, found)
    if sound and values.twins and (values.high > values.low).any():
        message = f"all {len(values.low)} channels are the same, sample by sample: one microphone, stored again"
        yield Finding("info", log, info.name, "twins", message)


def _numbers(log: str, values: Values, info: SensorInfo) -> Iterator[Finding]:
    """Channels that are not always a number."""
    never = values.bad == info.count
    if never.any() and not never.all():
        message = f"never a number, which some write for what they do not measure: {named(info, never)}"
        yield Finding("info", log, info.name, "nan", message)
    broken = (values.bad > 0) & (~never | never.all())
    if not broken.any():
        return
    # A motor that is switched on once has numbers at one stretch, beside channels that go on.
    is_switched = not (broken | never).all() and (values.spells[broken] == 1).all()
    told = "before and after the numbers" if is_switched else "NaN or infinite"
    message = f"{values.bad[broken].sum()} values are {told}, in {named(info, broken)}"
    start, stop = float(values.bad_from_s), float(values.bad_to_s)
    yield Finding("warning" if is_switched else "error", log, info.name, "nan", message, start, stop + 1 / info.rate_hz)


def _is_frozen(still: Run, steps: int, seconds: float, rarely: float) -> bool:
    """A long run of repeats in a stream that hardly ever repeats otherwise, and not all of it."""
    others = steps - still.longest
    is_rare = still.count - still.longest <= rarely * others
    return still.seconds >= seconds and still.longest >= FEW_STEPS <= others and is_rare


def _clipped(log: str, found: Tally) -> Iterator[Finding]:
    values, info = found.values, found.info
    if values is None or not values.count:
        return
    kind = {"audio": "clipped", "touch": "saturated"}.get(info.modality, "clipping")
    # Pressed skin is at its ceiling; at its floor it is only not touched.
    is_high = (values.at_high >= values.at_low) | (info.modality == "touch")
    at, runs = (
        np.where(is_high, *pair) for pair in ((values.at_high, values.at_low), (values.runs_high, values.runs_low))
    )
    share = at / values.count
    with np.errstate(over="ignore"):  # of absurd values
        span = np.where(values.high > values.low, values.high - values.low, 0)
    levels = span / np.minimum(values.least_step, np.finfo(float).max)
    clipped = (share >= CLIP_SHARE.get(info.modality, SIGNAL_CLIP_SHARE)) & (share < CLIP_MOST) & (levels > CLIP_LEVELS)
    if info.modality != "audio":
        clipped &= values.reversals > NOISE_TURNS * values.moves
        clipped &= runs >= CLIP_RUNS
    if clipped.any():
        message = f"up to {share[clipped].max():.2%} of the samples stuck at the extreme, in {named(info, clipped)}"
        yield Finding("warning", log, info.name, kind, message)


def _over(level: Level, log: str, sensor: str, kind: str, message: str, run: Run) -> Finding:
    return Finding(level, log, sensor, kind, f"{message}, for {run.seconds:.3g} s on end", run.start_s, run.stop_s)
