"""A bag of messages as a log, whatever the kind of bag.

A topic is a sensor named after it (`/camera/image_raw` -> `camera_image_raw`); a topic of transforms is one sensor per
child frame. A sensor's time is its messages' own stamp (`header.stamp`), or the bag's time where there is none or it is
zero; `ForeignLog.notes` says which, and `ForeignLog.skipped` why a topic is no sensor.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from multisense.logs.base import LogError
from multisense.logs.clock import AnchoredClock, check_anchors
from multisense.logs.foreign import ForeignLog, Sensor, on_clock, stamped
from multisense.logs.formats.bag_index import Index, Part, Track, index_bag
from multisense.logs.formats.bag_samples import (
    Bag,
    Messages,
    Packets,
    Pictures,
    Poses,
    Sound,
    Vectors,
    decode_packets,
    readable,
)
from multisense.logs.formats.ros_messages import (
    MODALITIES,
    PICTURES,
    SOUNDS,
    TRANSFORMS,
    VARYING,
    VECTORS,
    VIDEOS,
    as_bytes,
    looks_coded,
    numbers,
    sound_form,
    transform,
    transforms,
    video_codec,
)
from multisense.logs.pool import POOL

HOUR_NS = 3600 * 10**9
PCM_RATES = (8000, 16000, 22050, 44100, 48000)
"""Rates that bytes per second can tell; 32 kHz might as well be 16 kHz in stereo."""


@dataclass(frozen=True)
class Timed:
    """A sensor to be, and when its samples were taken."""

    track: Track
    frame: str
    part: Part
    bag_ns: np.ndarray
    own_ns: np.ndarray
    times_ns: np.ndarray
    note: str

    @property
    def key(self) -> str:
        return f"{self.track.topic}/{self.frame}" if self.frame else self.track.topic


def bag_log(opener: Callable[[str], Bag], path: str, name: str, files: Iterable[str]) -> ForeignLog:
    """The log of a bag, which `opener(path)` opens; `files` are all that it consists of.

    Raises LogError when the bag is damaged, or no topic in it is a sensor.
    """
    with readable(path):
        bag = POOL.get(opener, path)
        index = index_bag(bag)
    timed = _increasing(_one_epoch(_timed(index)), index.skipped)
    origin = min((int(item.times_ns[0]) for item in timed), default=0)
    sensors, notes = [], {}
    for item, sensor_name in zip(timed, _names([item.key for item in timed]), strict=True):
        messages = Messages(opener, path, item.track.topic, np.array(item.track.log_ns, np.int64))
        try:
            with readable(messages.where):
                sensor, note = _sensor(sensor_name, messages, item, (item.times_ns - origin) / 1e9, index)
        except LogError as error:
            index.skipped[item.key] = str(error)
        else:
            sensors.append(sensor)
            notes[sensor_name] = item.note + note
    return ForeignLog(name, path, sensors, files=files, skipped=index.skipped, notes=notes)


# Times


def _timed(index: Index) -> list[Timed]:
    found = []
    for track in index.tracks.values():
        if track.refused or not track.parts:
            index.skipped[track.topic] = f"{track.kind}: {track.refused or 'no messages'}"
            continue
        log_ns = np.array(track.log_ns, np.int64)
        for frame, part in track.parts.items():
            bag_ns, own_ns = log_ns[np.array(part.number)], np.array(part.stamp_ns, np.int64)
            has_stamps = bool((own_ns > 0).all())
            note = "header.stamp" if has_stamps else "bag time: no header.stamp, or one that is zero"
            found.append(Timed(track, frame, part, bag_ns, own_ns, own_ns if has_stamps else bag_ns, note))
    return found


def _one_epoch(timed: list[Timed]) -> list[Timed]:
    """Where stamps are of clocks that began at different times, the bag's time takes the place of the far ones."""
    gaps = [int(np.median(item.times_ns - item.bag_ns)) for item in timed]
    if not gaps or max(gaps) - min(gaps) <= HOUR_NS:
        return timed
    return [
        replace(item, times_ns=item.bag_ns, note=f"bag time: header.stamp is of another clock, {gap / 1e9:.0f} s away")
        if abs(gap) > HOUR_NS
        else item
        for item, gap in zip(timed, gaps, strict=True)
    ]


def _increasing(timed: list[Timed], skipped: dict[str, str]) -> list[Timed]:
    good = []
    for item in timed:
        step = np.diff(item.times_ns)
        if (step <= 0).any():
            at = int(np.argmax(step <= 0))
            found = f"message {at + 1} is stamped {step[at] / 1e9:.9g} s after the one before it"
            skipped[item.key] = f"times that do not increase ({item.note}): {found}"
        else:
            good.append(item)
    return good


def _names(keys: list[str]) -> list[str]:
    names: list[str] = []
    for key in keys:
        name = re.sub(r"\W+", "_", key).strip("_") or "topic"
        clashes = (f"{name}_{i}" for i in range(2, len(keys) + 2))
        names.append(name if name not in names else next(other for other in clashes if other not in names))
    return names


# Sensors


def _sensor(name: str, messages: Messages, item: Timed, times_s: np.ndarray, index: Index) -> tuple[Sensor, str]:
    """The sensor, and what else there is to note of it."""
    kind, where = item.track.kind, messages.where
    modality = MODALITIES.get(kind, "")
    if kind in PICTURES:
        image = PICTURES[kind](_message(messages), where)
        pictures = Pictures(messages, PICTURES[kind], image.shape)
        return stamped(name, times_s, pictures, image.shape, "uint8", where, modality="video"), ""
    if kind in VIDEOS:
        return _video(name, messages, item, times_s)
    if kind in SOUNDS:
        return _sound(name, messages, item, times_s, index)
    if kind in TRANSFORMS:
        places = np.stack([np.array(item.part.number), np.array(item.part.mark)], 1)
        poses = Poses(messages, places, transform)
        _, channels = transform(transforms(_message(messages, int(places[0, 0])))[int(places[0, 1])])
        return stamped(name, times_s, poses, (7,), "float64", where, modality="proprio", channels=channels), ""
    convert = VECTORS.get(kind) or VARYING.get(kind, numbers)
    values, channels = convert(_message(messages))
    vectors = Vectors(messages, convert, values.shape, str(values.dtype))
    info = {"modality": modality, "channels": channels}
    return stamped(name, times_s, vectors, values.shape, str(values.dtype), where, **info), ""


def _message(messages: Messages, number: int = 0) -> Any:
    return next(message for _, message in messages.between(number, number + 1))


def _video(name: str, messages: Messages, item: Timed, times_s: np.ndarray) -> tuple[Sensor, str]:
    keys = np.flatnonzero(item.part.mark)
    if not len(keys):
        raise ValueError("no keyframe with which decoding could begin")
    begin = int(keys[0])
    first = _message(messages, begin)
    codec = video_codec(first)
    images = list(decode_packets(codec, [(begin, as_bytes(first.data))]))
    if not images:
        raise ValueError(f"a first keyframe that {codec} cannot decode")
    shape = images[0][1].shape
    packets = Packets(messages, begin, keys - begin, codec, shape)
    sensor = stamped(name, times_s[begin:], packets, shape, "uint8", messages.where, modality="video")
    return sensor, f"; {begin} frames before the first keyframe cannot be decoded" if begin else ""


def _sound(name: str, messages: Messages, item: Timed, times_s: np.ndarray, index: Index) -> tuple[Sensor, str]:
    sizes = np.array(item.part.mark, np.int64)
    first, note = _message(messages, int(np.argmax(sizes > 0))), ""
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
