"""The settings of one sensor, each with its reason, and how many tokens they make."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from multisense.clips import read_clip
from multisense.config import parse
from multisense.logs.base import SensorLog
from multisense.modalities import modality
from multisense.model import ModelConfig, MultiSense
from multisense.suggest.kinds import by, is_picture
from multisense.suggest.looks import usual
from multisense.suggest.senses import Sense

PICTURE_HZ = 10.0
"""Of pictures: they change more slowly than sound and skin, and cost most."""
PICTURE_SIZE = 64
SIGNAL_HZ = 1000.0
SOUND_HZ = 48000.0
FEW_TOKENS, MANY_TOKENS = 60, 150
"""In a clip: fewer leave little to hide and predict; attention over more is slow on a laptop."""
LOOKED_AT = 8
"""Logs, and clips of each."""
BURSTS = 30.0
"""A peak so many times the quiet is a touch among silence."""
ROWS = 12
"""Where time alone makes no more tokens, the rows of a taxel grid are tokens of their own."""


@dataclass(frozen=True)
class Level:
    """How finely a clip is cut."""

    signal: int
    """Tokens in time of sound, skin and joints."""
    side: int
    """Patches along a side of a picture."""
    frames: int
    """Frames in a patch."""


LEVELS = (
    Level(20, 2, 2), Level(12, 2, 2), Level(20, 2, 4), Level(10, 2, 4), Level(20, 4, 4),
    Level(10, 1, 2), Level(5, 1, 4), Level(4, 1, 4),
)  # fmt: skip
"""The best first: 0.1 s of skin and joints taught more than 0.2 s, and a quarter of a small picture is enough."""


@dataclass(frozen=True)
class Setting:
    """A line of the configuration."""

    key: str
    value: Any
    why: str


def cut(senses: list[Sense], seconds: float) -> tuple[dict[str, list[Setting]], dict[str, str]]:
    """The settings of every sensor at the first level whose tokens are neither few nor many, else nearest to that.

    By name, too, why a kind or the model cannot take a sensor.
    """
    best, best_total = None, 0
    for level in LEVELS:
        chosen, refused, total = {}, {}, 0
        for sense in senses:
            settings = _settings(sense, seconds, level)
            try:
                count = tokens(sense, settings, seconds)
            except (ValueError, KeyError) as error:  # torch refuses some names of modules by a KeyError
                refused[sense.name] = str(error.args[0] if error.args else error)
                continue
            total += count
            chosen[sense.name] = [Setting("kind", sense.guess.kind, _kind(sense, count)), *settings]
        if best is None or _is_nearer(total, best_total):
            best, best_total = (chosen, refused), total
        if FEW_TOKENS <= total <= MANY_TOKENS:
            break
    assert best is not None
    return best


def tokens(sense: Sense, settings: list[Setting], seconds: float) -> int:
    """Tokens of a clip, as the model itself counts them. Raises what the kind and the model raise."""
    return len(_model(sense, settings, seconds).layout)


def is_ever_whole(sense: Sense, settings: list[Setting], seconds: float, logs: Sequence[SensorLog]) -> bool:
    """Whether any token of a few clips holds valid samples only: gaps and NaN may leave none. Pictures are trusted."""
    if is_picture(sense.info):
        return True
    tokenizer = _model(sense, [s for s in settings if s.key != "kind"], seconds).tokenizer(sense.name)
    having = [log for log in logs if sense.name in log.sensors]
    for log in having[:: max(len(having) // LOOKED_AT, 1)]:
        info = log.sensors[sense.name]
        for start in np.linspace(info.start_s, max(info.stop_s - seconds, info.start_s), LOOKED_AT):
            clip = read_clip(log, float(start), {sense.name: tokenizer.grid}, seconds)
            if tokenizer.token_valid(clip.valid[sense.name][None]).any():
                return True
    return False


def _model(sense: Sense, settings: list[Setting], seconds: float) -> MultiSense:
    """A small model of this sensor alone."""
    tree = {"kind": sense.guess.kind, **{setting.key: setting.value for setting in settings}}
    config = parse(modality(sense.guess.kind).Config, tree, f"sensors.{sense.name}")
    grids = {sense.name: config.grid(sense.info, seconds)}
    return MultiSense(ModelConfig(width=32, depth=1, heads=1), {sense.name: config}, grids)


def _is_nearer(total: int, other: int) -> bool:
    """Rather few tokens than many; of few the most, of many the fewest."""
    if max(total, other) <= MANY_TOKENS:
        return total > other
    return total < other


def _kind(sense: Sense, count: int) -> str:
    doubt = "doubtful: " if sense.guess.is_doubtful else ""
    return f"{doubt}{sense.guess.why}; {count} tokens a clip"


def _settings(sense: Sense, seconds: float, level: Level) -> list[Setting]:
    if is_picture(sense.info) and sense.guess.kind in ("video", "touch"):
        return _picture(sense, seconds, level)
    if sense.guess.kind == "audio":
        return _sound(sense, seconds, level)
    return _signal(sense, seconds, level)


def _picture(sense: Sense, seconds: float, level: Level) -> list[Setting]:
    rate = min(usual(sense.rate_hz), PICTURE_HZ)
    why = "as recorded" if rate < PICTURE_HZ else f"recorded at {_hertz(sense)}; more teaches little and costs most"
    height, width = (min(2 ** int(math.log2(side)), PICTURE_SIZE) for side in sense.info.shape[:2])
    patch = max(min(height, width) // level.side, 4)
    frames = max(min(level.frames, round(seconds * rate) // 2), 1)
    places = (height // patch) * (width // patch)
    found = [
        Setting("rate_hz", rate, why),
        Setting("size", [height, width], f"recorded as {_sizes(sense)}; enough to see where things are"),
        Setting("patch", patch, f"{places} places a picture"),
        Setting("frames", frames, f"{frames / rate:.3g} s in a token"),
    ]
    if sense.guess.kind == "touch":
        found.append(Setting("stem", "conv", "few logs: convolutions know that neighbouring pixels belong together"))
        found.append(Setting("background", "first", "doubtful: right where nothing touches the gel as a log begins"))
    return found


def _sizes(sense: Sense) -> str:
    return " and ".join(dict.fromkeys(by(info.shape[:2]) for info in sense.infos))


def _hertz(sense: Sense) -> str:
    low, high = (end(info.rate_hz for info in sense.infos) for end in (min, max))
    return f"{low:.4g} Hz" if high <= 1.05 * low else f"{low:.3g} to {high:.3g} Hz"


def _sound(sense: Sense, seconds: float, level: Level) -> list[Setting]:
    rate = min(sense.rate_hz, SOUND_HZ)
    mels = 64 if rate >= 8000 else 32
    step = max(round(seconds / level.signal, 2), 0.02)
    return [
        Setting("rate_hz", rate, "as recorded" if rate == sense.rate_hz else f"recorded at {_hertz(sense)}"),
        Setting("mels", mels, "bands of pitch" if mels == 64 else "bands of pitch; at this rate more would be empty"),
        Setting("patch_mels", mels, "a token is the whole spectrum of a moment"),
        Setting("patch_s", step, "seconds in a token: a knock is short"),
    ]


def _signal(sense: Sense, seconds: float, level: Level) -> list[Setting]:
    rate = min(usual(sense.rate_hz), SIGNAL_HZ)
    why = "as recorded" if rate < SIGNAL_HZ else f"recorded at {_hertz(sense)}"
    if sense.is_irregular:
        why = f"doubtful: its stamps are irregular, at a nominal {_hertz(sense)}"
    samples = max(round(seconds * rate / level.signal), 1)
    step = f"seconds in a token, {samples} sample{'s' * (samples > 1)}"
    found = [Setting("rate_hz", rate, why), Setting("patch_s", float(f"{samples / rate:.4g}"), step)]
    if sense.guess.kind == "touch":
        found += _touch(sense, round(seconds * rate) // samples)
    return found


def _touch(sense: Sense, steps: int) -> list[Setting]:
    found, seen, shape = [], sense.look, sense.info.shape
    if seen.peak > BURSTS * seen.quiet:
        scale = float(f"{10 * seen.quiet:.1g}")
        why = f"mostly below {seen.quiet:.2g}, up to {seen.peak:.2g}: asinh(x / {scale:g}) shows a brush and a blow"
        found.append(Setting("log_scale", scale, why))
    if len(shape) > 1 and shape[0] > 1 and steps <= ROWS:
        found.append(Setting("cells", [1, shape[1]], f"each of the {shape[0]} rows is a place of its own"))
    return found
