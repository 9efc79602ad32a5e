"""Which kind a sensor is: what its log says, else what its name, shape, rate and units say."""

import re
from dataclasses import dataclass

import numpy as np

from multisense.modalities import kinds
from multisense.types import SensorInfo

TOUCH_NAME = re.compile(
    r"touch|tactile|taxel|skin|gel_?sight|finger_?tip|biotac|force_?pad|(?<![a-z])(digits?|xela)(?![a-z])"
)
SOUND_NAME = re.compile(r"(?<![a-z])(mics?|audio|sound|speech)(?![a-z])|microphone|waveform")
BODY_NAME = re.compile(
    r"joint|state|pos|vel|accel|imu|gyro|mag|pose|wrench|torque|effort|force|action|command|(?<![a-z])(arm|hand|leg|ft|tf|"
    r"q|qd|ee|tcp|acc)(?![a-z])|grip|odom|twist|encoder|orientation|rotation|angle|euler|quat|transform|motor|wheel"
)
BODY_UNITS = re.compile(r"(rad|deg|degrees|°|m|mm|N ?m|A|V|g|m/s\^?2|(rad|deg|m|mm)/s(\^?2)?|T|uT|Gauss)")
TOUCH_UNITS = re.compile(r"(m?N|[kh]?Pa|taxel.*)")
SOUND_HZ = 4000.0
"""No joint or skin is read out so often, and no sound worth hearing less often."""
PICTURE_SIDE = 16
"""The least height and width of a picture; a smaller grid is taken for taxels."""
MANY_CHANNELS = 256
"""More in a vector are hardly a body's: a laser scan, or a picture laid flat."""


@dataclass(frozen=True)
class Guess:
    """A kind, or "" where no kind fits, with the reason."""

    kind: str
    why: str
    is_doubtful: bool = False


def guess_kind(info: SensorInfo) -> Guess:
    """The kind of a sensor, from what its log says of it."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", info.name).lower()
    if np.dtype(info.dtype).kind not in "biuf":
        return Guess("", f"no numbers ({info.dtype})")
    if is_picture(info) and info.dtype != "uint8":
        return Guess("", f"pictures of {info.dtype}; only 8-bit ones are read: convert them")
    if info.modality in kinds():
        return _stated(info, name)
    if is_picture(info):
        return _picture(info, name)
    if len(info.shape) <= 1 and channels(info) <= 2 and info.rate_hz >= SOUND_HZ:
        is_known = bool(SOUND_NAME.search(name)) or info.units == "full scale"
        why = f"{channels(info)} channels at {info.rate_hz:.6g} Hz"
        return Guess("audio", why, is_doubtful=not is_known)
    return _signal(info, name)


def is_picture(info: SensorInfo) -> bool:
    """Whether its samples are pictures: rows and columns, enough of them, and perhaps colours."""
    return len(info.shape) in (2, 3) and min(info.shape[:2]) >= PICTURE_SIDE


def channels(info: SensorInfo) -> int:
    """Numbers in a sample."""
    return int(np.prod(info.shape))


def _stated(info: SensorInfo, name: str) -> Guess:
    """What the log says. But data sets that know pictures and vectors only call skin by these, too."""
    if info.modality in ("video", "proprio") and TOUCH_NAME.search(name):
        return Guess("touch", f"the name says touch, the log says {info.modality}", is_doubtful=True)
    return Guess(info.modality, "the log says so")


def _picture(info: SensorInfo, name: str) -> Guess:
    if TOUCH_NAME.search(name):
        return Guess("touch", "the name says touch; its samples are pictures", is_doubtful=True)
    return Guess("video", f"8-bit samples of {by(info.shape)}", is_doubtful=info.shape[2:] != (3,))


def _signal(info: SensorInfo, name: str) -> Guess:
    if TOUCH_NAME.search(name):
        return Guess("touch", "the name says touch")
    if len(info.shape) > 1:
        return Guess("touch", f"a small grid of {by(info.shape)} numbers", is_doubtful=True)
    units = [unit.strip() for unit in re.split(r"[,;]", info.units)]
    if channels(info) > 6 and all(TOUCH_UNITS.fullmatch(unit) for unit in units):
        return Guess("touch", f"{channels(info)} channels in {info.units}", is_doubtful=True)
    if channels(info) > MANY_CHANNELS:
        return Guess("proprio", f"{channels(info)} channels are many for a body", is_doubtful=True)
    if BODY_NAME.search(name):
        return Guess("proprio", "numbers, and the name is of a body")
    if any(BODY_UNITS.fullmatch(unit) for unit in units):
        return Guess("proprio", f"numbers in {info.units}")
    return Guess("proprio", "numbers, but neither name nor unit says of what", is_doubtful=True)


def by(shape: tuple[int, ...]) -> str:
    """A shape for people: 480 x 640 x 3."""
    return " x ".join(map(str, shape)) or "1"
