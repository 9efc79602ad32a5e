"""Which sensors of some logs can be learnt from, and why the others cannot."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from multisense.clips import span
from multisense.logs.base import LogError, SensorLog
from multisense.suggest.kinds import Guess, by, guess_kind, is_picture
from multisense.suggest.looks import Look, look
from multisense.types import SensorInfo

LEAST_SHARE = 0.25
"""Of the logs: a sensor in fewer is rarely beside the others it should be predicted from."""
WORTH = 1.5
"""A sensor is left out where the others have so many times more time together without it."""
CLIP_S = 2.0
"""Long enough for a grasp or a blow and what follows, short enough for attention over all its tokens."""
CLIP_SHARE = 0.75
"""Of the logs hold a clip; and of a shorter log it takes this share, so that clips of one log differ."""
SLOW_SAMPLES = 10
"""Where even the fastest sensor gives fewer in CLIP_S, the clip is longer."""
LEAST_SAMPLES = 4
"""In a clip: a sensor with fewer says nothing of what happens in it."""


@dataclass(frozen=True)
class Sense:
    """A sensor that is worth its place, over all logs."""

    name: str
    infos: tuple[SensorInfo, ...]
    """Of every log that has it."""
    guess: Guess
    look: Look

    @property
    def info(self) -> SensorInfo:
        return self.infos[0]

    @property
    def rate_hz(self) -> float:
        """As recorded, in the middle of the logs; of irregular stamps, what nine steps in ten keep up with."""
        nominal = float(np.median([info.rate_hz for info in self.infos]))
        return 1 / self.look.step_s if self.is_irregular else nominal

    @property
    def is_irregular(self) -> bool:
        return self.guess.kind != "audio" and self.look.step_s > 1.5 / min(info.rate_hz for info in self.infos)


def find_senses(logs: Sequence[SensorLog], others: Sequence[SensorLog]) -> tuple[list[Sense], dict[str, str]]:
    """The usable sensors of the training logs, and by name why each other is not; `others` are logs to be embedded."""
    senses, left_out = [], {}
    for name in dict.fromkeys(name for log in logs for name in log.sensors):
        found = _judge(name, logs, others)
        if isinstance(found, Sense):
            senses.append(found)
        else:
            left_out[name] = found
    senses, apart = _together(senses, logs)
    return senses, left_out | apart


def _judge(name: str, logs: Sequence[SensorLog], others: Sequence[SensorLog]) -> Sense | str:
    """The sensor, or why it is left out; the cheapest questions first."""
    infos = tuple(log.sensors[name] for log in logs if name in log.sensors)
    if len(infos) < LEAST_SHARE * len(logs):
        return f"in {len(infos)} of {len(logs)} logs only"
    guess = guess_kind(infos[0])
    if not guess.kind:
        return guess.why
    differs = _differs([*infos, *(log.sensors[name] for log in others if name in log.sensors)])
    if differs:
        return differs
    try:
        seen = look(logs, name)
    except LogError as error:
        return f"cannot be read: {error}"
    if not seen.finite:
        return "every sample has a channel that is NaN or infinite"
    if not seen.varies:
        return "constant wherever it was looked at"
    return Sense(name, infos, guess, seen)


def _differs(infos: Sequence[SensorInfo]) -> str:
    """What a model cannot bring together: pictures may differ in size, and no other sample in shape."""
    shapes = Counter(info.shape[2:] if is_picture(info) else info.shape for info in infos)
    if len(shapes) > 1:
        return f"its samples differ between logs: {' and '.join(by(shape) for shape in shapes)}"
    for what in ("units", "channels"):
        values = list(dict.fromkeys(getattr(info, what) for info in infos if getattr(info, what)))
        if len(values) > 1:
            return f"its {what} differ between logs: {values[0]} and {values[1]}"
    kinds = {info.dtype == "uint8" for info in infos}
    return "bytes in some logs and wider numbers in others" if is_picture(infos[0]) and len(kinds) > 1 else ""


def _together(senses: list[Sense], logs: Sequence[SensorLog]) -> tuple[list[Sense], dict[str, str]]:
    """The sensors less those that cost the others most of their common time, such as one that starts last."""
    left_out: dict[str, str] = {}
    while len(senses) > 1:
        now = sum(lengths(senses, logs))
        without = [sum(lengths([other for other in senses if other is not one], logs)) for one in senses]
        best = int(np.argmax(without))
        if without[best] <= WORTH * now:
            break
        dropped = senses[best]
        senses = [one for one in senses if one is not dropped]
        left_out[dropped.name] = f"the others have {without[best]:.4g} s together, with it {now:.4g} s"
    return senses, left_out


def lengths(senses: Iterable[Sense], logs: Sequence[SensorLog]) -> list[float]:
    """Seconds for which the sensors are there together, of every log that has any of them."""
    names = [sense.name for sense in senses]
    spans = [span(log, names) for log in logs if any(name in log.sensors for name in names)]
    return [max(stop - start, 0.0) for start, stop in spans]


def clip_seconds(senses: Sequence[Sense], logs: Sequence[SensorLog]) -> tuple[float, str]:
    """The length of a clip in seconds, and why."""
    fastest = max(sense.rate_hz for sense in senses)
    wanted = max(CLIP_S, SLOW_SAMPLES / fastest)
    usual = float(np.quantile(lengths(senses, logs), 1 - CLIP_SHARE))
    if usual >= wanted - 1e-3:
        why = "a grasp or a blow and what follows" if wanted == CLIP_S else f"the fastest sensor has {fastest:.3g} Hz"
        return round(wanted, 3), why
    why = f"three logs in four have their sensors together for {usual:.3g} s; shorter, so that clips of a log differ"
    digit = 10.0 ** np.floor(np.log10(max(CLIP_SHARE * usual, 1e-3)) + 1e-9)
    digit = min(digit, 0.1)
    return round(float(np.floor(CLIP_SHARE * usual / digit + 1e-9) * digit), 6), why


def without_slow(senses: Sequence[Sense], seconds: float) -> tuple[list[Sense], dict[str, str]]:
    """The sensors less those that hardly have a sample in a clip."""
    slow = {
        sense.name: f"{sense.rate_hz:.3g} Hz is too slow for clips of {seconds:g} s"
        for sense in senses
        if sense.rate_hz * seconds < LEAST_SAMPLES - 1e-6
    }
    return [sense for sense in senses if sense.name not in slow], slow
