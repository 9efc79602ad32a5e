"""Sound in a bag: 16-bit PCM, block by block, on a clock that keeps its pitch."""

from typing import Any

import numpy as np

from multisense.logs.clock import AnchoredClock, check_anchors
from multisense.logs.foreign import Sensor, on_clock
from multisense.logs.formats.bag_index import Index
from multisense.logs.formats.bag_samples import Messages, Sound
from multisense.logs.formats.bag_times import Timed
from multisense.logs.formats.ros_messages import as_bytes, looks_coded, sound_form

PCM_RATES = (8000, 16000, 22050, 44100, 48000)
"""Rates that bytes per second can tell; 32 kHz might as well be 16 kHz in stereo."""
GAP_S = 0.05
"""Lateness that lasts and is less than this, or than a block, is jitter; more is missing sound."""
LASTS = 16
"""Blocks."""
RATE_FROM_S = 10.0
"""Of sound tell its true rate better than its name does."""


def sound_sensor(name: str, messages: Messages, item: Timed, times_s: np.ndarray, index: Index) -> tuple[Sensor, str]:
    """The sensor, and what else there is to note of it. Raises ValueError where it is not 16-bit PCM of a known rate."""
    sizes = np.array(item.part.mark, np.int64)
    first, note = messages.message(int(np.argmax(sizes > 0))), ""
    if hasattr(first, "sample_rate"):
        rate_hz, channels = sound_form(first)
    elif (info := _info(messages.topic, index)) is not None:
        rate_hz, channels = sound_form(info)
    else:
        rate_hz, channels = _measured_pcm(as_bytes(first.data), sizes, times_s), 1
        note = f"; {rate_hz:.0f} Hz measured from bytes per second, taken for 16-bit mono"
    if (sizes % (2 * channels)).any():
        raise ValueError(f"messages that are no whole number of 16-bit samples of {channels} channels")
    starts = np.concatenate([[0], np.cumsum(sizes // (2 * channels))])
    full = sizes > 0
    anchors = np.stack([starts[:-1][full].astype(np.float64), times_s[full]], 1)
    if item.on_bag_time and item.increases:
        anchors = through_arrivals(anchors, int(starts[-1]), rate_hz)
        note += "; a line through the arrivals, which jitter, anew after every gap"
    check_anchors(anchors, messages.where)
    samples = Sound(messages, starts, channels)
    clock = AnchoredClock(anchors, rate_hz, int(starts[-1]))
    return on_clock(name, clock, samples, samples.sample, "float32", modality="audio", rate_hz=rate_hz, units="1"), note


def _info(topic: str, index: Index) -> Any:
    """What a topic of the same namespace says of the sound, or the only one of the bag."""
    near = [info for other, info in index.infos.items() if other.rpartition("/")[0] == topic.rpartition("/")[0]]
    found = near or list(index.infos.values())
    return found[0] if len(found) == 1 else None


def _measured_pcm(data: bytes, sizes: np.ndarray, times_s: np.ndarray) -> float:
    """The usual rate that 16-bit mono would have, judged by bytes per second."""
    if looks_coded(data):
        raise ValueError("coded sound (such as MP3): only 16-bit PCM")
    rate = float(sizes[:-1].sum() / 2 / (times_s[-1] - times_s[0])) if len(sizes) > 1 else 0.0
    usual = min(PCM_RATES, key=lambda other: abs(other - rate))
    if abs(rate / usual - 1) > 0.02:
        raise ValueError(f"rate unknown: no AudioInfo topic, and {rate:.6g} 16-bit samples a second is no usual rate")
    return float(usual)


def through_arrivals(blocks: np.ndarray, count: int, rate_hz: float) -> np.ndarray:
    """Anchors (K, 2) of sound whose blocks, (M, 2) of (first sample, seconds), are stamped when they arrived.

    Arrivals jitter and sound does not, so between gaps it is a line through all of them, of one slope throughout. Where
    parts would then overlap, the arrivals are returned as they are.
    """
    nominal_s, late_s = blocks[:, 0] / rate_hz, blocks[:, 1] - blocks[:, 0] / rate_hz
    padded = np.append(late_s, np.full(LASTS - 1, np.inf))
    lasting_s = np.lib.stride_tricks.sliding_window_view(padded, LASTS).min(1)
    is_gap = lasting_s[1:] - late_s[:-1] > np.maximum(np.diff(nominal_s), GAP_S)
    part = np.append(0, np.cumsum(is_gap))
    prompt = (late_s - lasting_s < GAP_S).astype(float)  # the others were held up on their way
    sizes = np.bincount(part, prompt)
    x, y = (prompt * (v - (np.bincount(part, prompt * v) / sizes)[part]) for v in (nominal_s, late_s))
    slope = float(x @ y / (x @ x)) if np.ptp(nominal_s) >= RATE_FROM_S else 0.0
    offset_s = np.bincount(part, prompt * (late_s - slope * nominal_s)) / sizes
    first = np.flatnonzero(np.diff(part, prepend=-1))
    index = np.stack([blocks[first, 0], np.append(blocks[first[1:], 0], count) - 1], 1)
    seconds = index / rate_hz * (1 + slope) + offset_s[:, None]
    anchors = np.stack([index.reshape(-1), seconds.reshape(-1)], 1)
    return anchors if (np.diff(anchors, axis=0) > 0).all() else blocks
