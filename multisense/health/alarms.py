"""Alarms: what a history of measures says is wrong, in sentences. A pure function of the numbers.

A sensor has at most one alarm: the cause that stands nearest to the data. A sensor that is silent cannot be learnt, and
to be told of its collapse would lead astray.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Kind = Literal["diverging", "no average", "absent", "constant", "collapse", "noise", "no skill", "lazy"]
Row = tuple[int, Mapping[str, float]]
"""A step and what `measure` found there, or any line of health.jsonl."""

WARMUP_STEPS = 500
"""Before this many steps nothing is said of what was learnt: at 100 to 250 steps healthy runs still predict the mean."""
PATIENCE = 3
"""Measures in a row that must agree on what was learnt: one alone has sampling noise and may stand in a passing dip."""
NO_SKILL = 0.02
"""The mean target is that of the clips judged, which alone lowers a skill by 1 / (2 n), n about 40 of 64 clips for spans;
the sampling noise of 64 clips is of that size, too, and this is beyond both."""
LEARNT = 0.05
"""From here on something is learnt for certain: twice NO_SKILL, and passed early by every healthy sensor seen."""
COLLAPSED_SPREAD = 0.05
"""Of 1: healthy targets keep .2 to .9 while they are learnt; a learning rate a hundred times too large leaves .01 to .1."""
LOST_SPREAD = 0.25
"""Of the widest so far: a teacher that follows at once leaves .16 to .3; healthy targets never fell below .4 of it."""
NARROW_SPREAD = 0.5
"""Of the widest so far, where predictions are the same whatever is seen, too: one of the two alone may still be passing."""
RANK_SHARE = 0.12
"""Of the highest so far: healthy ranks fall to .25 to .45 of the untrained network's as structure is found; 61 -> 3 is .05."""
CONSTANT_ANSWER = 0.02
"""Spread of predictions, as a share of the targets': .1 to .7 where something is learnt, below .005 where all collapsed."""
CONSTANT_INPUT = 1e-3
"""Spread of the normalised signal: about 1 for one like the training clips', below 1e-6 for a constant in float32; a skin
that one clip in a hundred thousand touches is still above."""
ABSENT = 0.01
"""Share of tokens with real data: fewer than one in a hundred is not a sensor that is sometimes away."""
LAZY = 0.001
"""Relative growth of the errors of others when the sensor is shuffled; the least of a healthy sensor was .004."""
HEARD = 0.02
"""Another sensor must matter this much before one that does not can be called lazy: early on none matters."""
NO_LAG = 1e-6
"""Of the weights' norm: a teacher that averages over steps is 1e-3 to 1e-1 behind the student, one that does not, 0."""
DIVERGED = 2.0
"""Times the lowest loss so far: on fixed clips and masks a healthy loss rises to 1.3 of it as the targets get richer."""


@dataclass(frozen=True)
class Alarm:
    sensor: str
    """Name of the sensor; "" where the whole model is meant."""
    kind: Kind
    message: str
    """What was found, since when, and what to try."""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def alarms(history: Sequence[Row], warmup: int = WARMUP_STEPS, patience: int = PATIENCE) -> list[Alarm]:
    """What stands at the end of `history`, whose rows are in the order of their steps; the whole model's alarm first.

    What a model has learnt is judged from step `warmup` on, and where the last `patience` rows agree; what its data are,
    and that its loss is no number, at once.
    """
    if not history:
        return []
    ripe = [row for row in history if row[0] >= warmup]
    found = [_diverging(history, ripe) or _no_average(ripe)]
    for name in _sensors(history):
        checks = (_absent, _constant, _collapse, _noise, _no_skill, _lazy)
        each = (check(name, history, ripe, patience) for check in checks)
        found.append(next((alarm for alarm in each if alarm), None))
    return [alarm for alarm in found if alarm]


def _sensors(history: Sequence[Row]) -> list[str]:
    """Names of the sensors, in the order in which they were measured."""
    return list(
        dict.fromkeys(key.removeprefix("valid/") for _, row in history for key in row if key.startswith("valid/"))
    )


def _since(rows: Sequence[Row], holds: Callable[[Mapping[str, float]], bool], patience: int = 1) -> int | None:
    """The step since which `holds` is true of every row up to the last; None unless of `patience` rows at least."""
    streak = 0
    for _, row in reversed(rows):
        if not holds(row):
            break
        streak += 1
    return rows[-streak][0] if streak >= patience else None


def _get(row: Mapping[str, float], key: str) -> float:
    """NaN, of which no comparison is true, where a row does not have it."""
    return row.get(key, math.nan)


def best_skill(row: Mapping[str, float], sensor: str) -> float:
    """The best skill at which anything predicts the sensor; NaN where nothing was measured."""
    return max((v for k, v in row.items() if k == f"skill/{sensor}" or _ends(k) == sensor), default=math.nan)


def _ends(key: str, end: int = 1) -> str:
    """b (or a, for end 0) of the key `skill/a->b`; "" of any other key."""
    parts = key.removeprefix("skill/").split("->") if key.startswith("skill/") else []
    return parts[end] if len(parts) == 2 else ""


def _diverging(history: Sequence[Row], ripe: Sequence[Row]) -> Alarm | None:
    advice = "begin again with a smaller train.learning_rate or train.clip_norm"
    since = _since(history, lambda row: _get(row, "finite") == 0)
    if since is not None:
        return Alarm("", "diverging", f"the loss is not a number since step {since:,}: diverged; {advice}")
    lowest = min((_get(row, "loss") for _, row in ripe), default=math.nan)
    since = _since(ripe, lambda row: _get(row, "loss") > DIVERGED * lowest)
    if since is None:
        return None
    last = history[-1][1]["loss"]
    return Alarm("", "diverging", f"loss rose {lowest:.3g} -> {last:.3g} since step {since:,}: diverging; {advice}")


def _no_average(ripe: Sequence[Row]) -> Alarm | None:
    since = _since(ripe, lambda row: _get(row, "lag") < NO_LAG)
    if since is None:
        return None
    text = f"the teacher is the student itself since step {since:,}: targets follow the predictions at once and may collapse"
    return Alarm("", "no average", f"{text}; raise objective.ema_share")


def _absent(name: str, history: Sequence[Row], ripe: Sequence[Row], patience: int) -> Alarm | None:
    since = _since(history, lambda row: _get(row, f"valid/{name}") < ABSENT)
    if since is None:
        return None
    text = f"`{name}`: no finite data in the held-out clips since step {since:,}: absent, or all NaN; look at them with"
    return Alarm(name, "absent", f"{text} `multisense check`, or take the sensor out of the configuration")


def _constant(name: str, history: Sequence[Row], ripe: Sequence[Row], patience: int) -> Alarm | None:
    since = _since(history, lambda row: _get(row, f"input/{name}") < CONSTANT_INPUT)
    if since is None:
        return None
    text = (
        f"`{name}`: its signal is the same in all held-out clips since step {since:,}: constant, though it varied when"
    )
    return Alarm(name, "constant", f"{text} training began; look for a dead sensor with `multisense check`")


def _collapse(name: str, history: Sequence[Row], ripe: Sequence[Row], patience: int) -> Alarm | None:
    widest, highest = (
        max((row[f"{what}/{name}"] for _, row in history if f"{what}/{name}" in row), default=math.nan)
        for what in ("spread", "rank")
    )

    def holds(row: Mapping[str, float]) -> bool:
        spread, rank = _get(row, f"spread/{name}"), _get(row, f"rank/{name}")
        says_one_thing = _get(row, f"prediction_spread/{name}") < CONSTANT_ANSWER
        lost = spread < max(COLLAPSED_SPREAD, (NARROW_SPREAD if says_one_thing else LOST_SPREAD) * widest)
        return lost or rank < RANK_SHARE * highest

    since = _since(ripe, holds, patience)
    if since is None:
        return None
    row = ripe[-1][1]
    text = (
        f"`{name}`: {_fallen('spread', widest, row, name)}, {_fallen('rank', highest, row, name)} since step {since:,}"
    )
    says = _get(row, f"prediction_spread/{name}")
    same = "; predictions are the same whatever is seen" if says < CONSTANT_ANSWER else ""
    remedy = "try objective.contrast or objective.signal above 0, a larger objective.ema_share, a smaller train.learning_rate"
    return Alarm(name, "collapse", f"{text}{same}: collapse; {remedy}")


def _fallen(what: str, best: float, row: Mapping[str, float], name: str) -> str:
    return f"targets' {what} {best:.2g} -> {_get(row, f'{what}/{name}'):.2g}"


def _noise(name: str, history: Sequence[Row], ripe: Sequence[Row], patience: int) -> Alarm | None:
    def holds(row: Mapping[str, float]) -> bool:
        says = max((v for k, v in row.items() if _ends(k, 0) == name), default=math.nan)
        skills = [best_skill(row, other) for other in _sensors([(0, row)]) if other != name]
        others = max((skill for skill in skills if math.isfinite(skill)), default=math.nan)
        return best_skill(row, name) < NO_SKILL and says < NO_SKILL and others > LEARNT

    since = _since(ripe, holds, patience)
    if since is None:
        return None
    text = f"`{name}`: nothing predicts it, not even the rest of itself, and it predicts nothing since step {since:,}, while"
    advice = "listen to it, compare its clock with `multisense align`, or take it out of the configuration"
    return Alarm(name, "noise", f"{text} other sensors are predicted: noise, or of another time; {advice}")


def _no_skill(name: str, history: Sequence[Row], ripe: Sequence[Row], patience: int) -> Alarm | None:
    since = _since(ripe, lambda row: best_skill(row, name) < NO_SKILL, patience)
    if since is None:
        return None
    row = ripe[-1][1]
    text = f"`{name}`: predictions no better than the mean since step {since:,} (skill {best_skill(row, name):+.2f})"
    if _get(row, f"prediction_spread/{name}") < CONSTANT_ANSWER:
        return Alarm(
            name, "no skill", f"{text}, the same whatever is seen; try objective.contrast or objective.signal above 0"
        )
    return Alarm(
        name, "no skill", f"{text} on held-out clips; try more logs, a smaller model, or more steps if loss still falls"
    )


def _lazy(name: str, history: Sequence[Row], ripe: Sequence[Row], patience: int) -> Alarm | None:
    def holds(row: Mapping[str, float]) -> bool:
        heard = max((v for k, v in row.items() if k.startswith("importance/")), default=math.nan)
        return abs(_get(row, f"importance/{name}")) < LAZY and heard > HEARD

    since = _since(ripe, holds, patience)
    if since is None:
        return None
    text = (
        f"`{name}`: with another clip's {name} the others are predicted as well as with their own since step {since:,}:"
    )
    advice = "a larger objective.masks.cross makes sensors answer for others; or it adds nothing to what the others say"
    return Alarm(name, "lazy", f"{text} not listened to; {advice}")
