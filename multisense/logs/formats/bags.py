"""A bag of messages as a log, whatever the kind of bag.

A topic is a sensor named after it (`/camera/image_raw` -> `camera_image_raw`); a topic of transforms is one sensor per
child frame, and a topic on which several publish joints is one per publisher, named after the first of its joints. When
samples were taken, `bag_times` decides; `ForeignLog.notes` says how, and `ForeignLog.skipped` why a topic is no sensor.
"""

import re
from collections.abc import Callable, Iterable

import numpy as np

from multisense.logs.base import LogError
from multisense.logs.foreign import ForeignLog, Sensor, stamped
from multisense.logs.formats.bag_index import Index, index_bag
from multisense.logs.formats.bag_samples import (
    Bag,
    Messages,
    Packets,
    Pictures,
    Poses,
    Vectors,
    decode_packets,
    readable,
)
from multisense.logs.formats.bag_sound import sound_sensor
from multisense.logs.formats.bag_times import Timed, timed_parts
from multisense.logs.formats.ros_messages import (
    MODALITIES,
    PICTURES,
    SOUNDS,
    TRANSFORMS,
    VARYING,
    VECTORS,
    VIDEOS,
    as_bytes,
    numbers,
    transform,
    transforms,
    video_codec,
)
from multisense.logs.pool import POOL


def bag_log(opener: Callable[[str], Bag], path: str, name: str, files: Iterable[str]) -> ForeignLog:
    """The log of a bag, which `opener(path)` opens; `files` are all that it consists of.

    Raises LogError when the bag is damaged, or no topic in it is a sensor.
    """
    with readable(path):
        bag = POOL.get(opener, path)
        index = index_bag(bag)
    timed = timed_parts(index)
    origin = min((int(item.times_ns[0]) for item in timed if item.increases), default=0)
    sensors, notes = [], {}
    for item, sensor_name in zip(timed, _names([item.key for item in timed]), strict=True):
        messages = Messages(opener, path, item.track.topic, np.array(item.track.log_ns, np.int64))
        try:
            with readable(messages.where):
                sensor, note = _sensor(sensor_name, messages, item, (item.times_ns - origin) / 1e9, index)
        except LogError as error:
            index.skipped[item.key] = error.reason
        else:
            sensors.append(sensor)
            notes[sensor_name] = item.note + note
    return ForeignLog(name, path, sensors, files=files, skipped=index.skipped, notes=notes)


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
        image = PICTURES[kind](messages.message(0), where)
        pictures = Pictures(messages, PICTURES[kind], image.shape)
        return stamped(name, times_s, pictures, image.shape, "uint8", where, modality="video"), ""
    if kind in VIDEOS:
        return _video(name, messages, item, times_s)
    if kind in SOUNDS:
        return sound_sensor(name, messages, item, times_s, index)
    if kind in TRANSFORMS:
        places = np.stack([np.array(item.part.number), np.array(item.part.mark)], 1)
        poses = Poses(messages, places, transform)
        _, channels = transform(transforms(messages.message(int(places[0, 0])))[int(places[0, 1])])
        return stamped(name, times_s, poses, (7,), "float64", where, modality="proprio", channels=channels), ""
    convert = VECTORS.get(kind) or VARYING.get(kind, numbers)
    numbers_of = np.array(item.part.number, np.int64)
    values, channels = convert(messages.message(int(numbers_of[0])))
    vectors = Vectors(messages, numbers_of, convert, values.shape, str(values.dtype))
    info = {"modality": modality, "channels": channels}
    return stamped(name, times_s, vectors, values.shape, str(values.dtype), where, **info), ""


def _video(name: str, messages: Messages, item: Timed, times_s: np.ndarray) -> tuple[Sensor, str]:
    keys = np.flatnonzero(item.part.mark)
    if not len(keys):
        raise ValueError("no keyframe with which decoding could begin")
    begin = int(keys[0])
    first = messages.message(begin)
    codec = video_codec(first)
    images = list(decode_packets(codec, [(begin, as_bytes(first.data))]))
    if not images:
        raise ValueError(f"a first keyframe that {codec} cannot decode")
    shape = images[0][1].shape
    packets = Packets(messages, begin, keys - begin, codec, shape)
    sensor = stamped(name, times_s[begin:], packets, shape, "uint8", messages.where, modality="video")
    return sensor, f"; {begin} frames before the first keyframe cannot be decoded" if begin else ""
