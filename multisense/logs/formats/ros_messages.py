"""ROS and Foxglove messages as samples: one small function per type, whatever the encoding a message came in.

A message is any object with the fields of its type as attributes: what rosbags decodes, a protobuf, or a JSON object
made a namespace. What a function cannot use it refuses with a ValueError that says why.
"""

import base64
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from multisense.logs.foreign import decode_image

Vector = tuple[np.ndarray, tuple[str, ...]]
"""Numbers side by side, (C,) or a grid, and the names of the channels: C of them, or none."""

ENCODINGS = {
    "rgb8": (3, (0, 1, 2)), "bgr8": (3, (2, 1, 0)), "rgba8": (4, (0, 1, 2)), "bgra8": (4, (2, 1, 0)),
    "mono8": (1, (0, 0, 0)), "8UC1": (1, (0, 0, 0)),
}  # fmt: skip
"""Raw image encodings: bytes per pixel, and which of them are red, green and blue."""
CODECS = {"h264": "h264", "h265": "hevc", "hevc": "hevc"}


def short_type(name: str) -> str:
    """'package/Type' of 'package/msg/Type', 'package.Type' and the like; foxglove_msgs are foxglove's."""
    parts = re.split(r"[/.]", name)
    return f"{parts[0].removesuffix('_msgs') if parts[0] == 'foxglove_msgs' else parts[0]}/{parts[-1]}"


def stamp_ns(message: Any) -> int:
    """The message's own time in nanoseconds, 0 where it has none: `header.stamp` of ROS, `timestamp` of Foxglove."""
    header = getattr(message, "header", None)
    time = getattr(message, "timestamp", None) if header is None else getattr(header, "stamp", None)
    seconds = _first(time, "sec", "secs", "seconds")
    return 0 if seconds is None else int(seconds) * 10**9 + int(_first(time, "nanosec", "nsec", "nsecs", "nanos") or 0)


def _first(message: Any, *fields: str) -> Any:
    return next((getattr(message, field) for field in fields if hasattr(message, field)), None)


def as_bytes(data: Any) -> bytes:
    """The bytes of a `uint8[]` or `bytes` field, which JSON writes as base64."""
    return base64.b64decode(data, validate=True) if isinstance(data, str) else bytes(data)


# Vectors


def joint_state(message: Any) -> Vector:
    """Position, velocity and effort side by side; those that the robot does not report are left out."""
    names, columns, channels = list(message.name), [], []
    for field in ("position", "velocity", "effort"):
        values = np.asarray(getattr(message, field), np.float64)
        if names and len(values) not in (0, len(names)):
            raise ValueError(f"{field} of {len(values)} for {len(names)} joints")
        columns.append(values)
        channels += [f"{names[i] if names else i}.{field}" for i in range(len(values))]
    return np.concatenate(columns), tuple(channels)


def imu(message: Any) -> Vector:
    """Angular velocity, linear acceleration, and orientation unless its covariance says there is none (REP 145)."""
    fields = ["angular_velocity", "linear_acceleration"]
    has_orientation = message.orientation_covariance[0] != -1
    return _parts(message, [*fields, "orientation"] if has_orientation else fields)


def wrench(message: Any) -> Vector:
    return _parts(message.wrench, ["force", "torque"])


def pose(message: Any) -> Vector:
    return _parts(message.pose, ["position", "orientation"])


def transform(message: Any) -> Vector:
    """Of a geometry_msgs/TransformStamped, or of a foxglove.FrameTransform, which has no `transform` in between."""
    return _parts(getattr(message, "transform", message), ["translation", "rotation"])


def _parts(message: Any, fields: list[str]) -> Vector:
    values, channels = [], []
    for field in fields:
        axes = "xyzw" if field in ("orientation", "rotation") else "xyz"
        values += [getattr(getattr(message, field), axis) for axis in axes]
        channels += [f"{field}.{axis}" for axis in axes]
    return np.array(values, np.float64), tuple(channels)


def multi_array(message: Any) -> Vector:
    """A grid (H, W, C) where the layout names two or three dimensions that fit the data, else (C,)."""
    data = np.asarray(message.data)
    sizes = tuple(int(dim.size) for dim in message.layout.dim)
    if len(sizes) in (2, 3) and math.prod(sizes) == len(data):
        return data.reshape(*sizes, *(1,) * (3 - len(sizes))), ()
    return data, ()


def numbers(message: Any) -> Vector:
    """Every number of a message of no known type, in the order of its fields; channels are named by their path."""
    found = [item for field, value in _fields(message) if field not in ("header", "timestamp")
             for item in _numbers(field, value)]  # fmt: skip
    return np.array([value for _, value in found], np.float64), tuple(name for name, _ in found)


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, (int, float)):
        yield name, float(value)
    elif not isinstance(value, (str, bytes)) and hasattr(value, "__len__"):
        items = list(value)
        if all(isinstance(item, (int, float)) for item in items):
            yield from ((f"{name}[{i}]", float(item)) for i, item in enumerate(items))
    else:
        for field, item in _fields(value):
            yield from _numbers(f"{name}.{field}", item)


def _fields(message: Any) -> list[tuple[str, Any]]:
    if not hasattr(message, "DESCRIPTOR"):
        return list(vars(message).items()) if hasattr(message, "__dict__") else []
    # A protobuf gives a default for an absent message, for ever deeper where a type contains itself.
    absent = [
        f for f in message.DESCRIPTOR.fields if f.message_type and not f.is_repeated and not message.HasField(f.name)
    ]
    return [(f.name, getattr(message, f.name)) for f in message.DESCRIPTOR.fields if f not in absent]


VECTORS: dict[str, Callable[[Any], Vector]] = {
    "sensor_msgs/Imu": imu,
    "geometry_msgs/WrenchStamped": wrench,
    "geometry_msgs/PoseStamped": pose,
    "foxglove/PoseInFrame": pose,
}
"""Types whose messages all have the same channels."""
VARYING: dict[str, Callable[[Any], Vector]] = {
    "sensor_msgs/JointState": joint_state,
    "std_msgs/Float32MultiArray": multi_array,
    "std_msgs/Float64MultiArray": multi_array,
}
"""Types whose messages may have other channels every time."""
JOINTS = ("sensor_msgs/JointState",)
"""Types whose messages name what they are of."""
MODALITIES = {"geometry_msgs/WrenchStamped": "touch"} | dict.fromkeys(
    ("sensor_msgs/Imu", "sensor_msgs/JointState", "geometry_msgs/PoseStamped", "foxglove/PoseInFrame"), "proprio"
)


# Transforms


def transforms(message: Any) -> list[Any]:
    """The stamped transforms of a message of any of the TRANSFORMS."""
    return list(message.transforms) if hasattr(message, "transforms") else [message]


TRANSFORMS = (
    "tf2_msgs/TFMessage",
    "tf/tfMessage",
    "geometry_msgs/TransformStamped",
    "foxglove/FrameTransforms",
    "foxglove/FrameTransform",
)


# Pictures


def raw_image(message: Any, where: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a sensor_msgs/Image or foxglove.RawImage."""
    if message.encoding not in ENCODINGS:
        raise ValueError(f"encoding '{message.encoding}': only {', '.join(ENCODINGS)} are pictures of 8 bits")
    size, order = ENCODINGS[message.encoding]
    data, height, width, step = as_bytes(message.data), message.height, message.width, message.step
    if not (height > 0 and 0 < width * size <= step and len(data) == height * step):
        raise ValueError(f"{len(data)} bytes for {height} rows of {step} bytes and {width} pixels at {where}")
    rows = np.frombuffer(data, np.uint8).reshape(height, step)
    return rows[:, : width * size].reshape(height, width, size)[:, :, order]


def compressed_image(message: Any, where: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a sensor_msgs/CompressedImage or foxglove.CompressedImage."""
    if re.search(r"compressedDepth|16UC1|32FC1", message.format):
        raise ValueError(f"format '{message.format}': depth, not a picture of 8 bits")
    return decode_image(as_bytes(message.data), where)


PICTURES: dict[str, Callable[[Any, str], np.ndarray]] = {
    "sensor_msgs/Image": raw_image,
    "foxglove/RawImage": raw_image,
    "sensor_msgs/CompressedImage": compressed_image,
    "foxglove/CompressedImage": compressed_image,
}


# Video

VIDEOS = ("foxglove/CompressedVideo",)


def video_codec(message: Any) -> str:
    """FFmpeg's name of the codec."""
    if message.format not in CODECS:
        raise ValueError(f"video format '{message.format}': only {', '.join(CODECS)}")
    return CODECS[message.format]


def starts_group(codec: str, packet: bytes) -> bool:
    """Whether an Annex B packet can be decoded without those before it: parameter sets or an intra picture lead it."""
    at = packet.find(b"\0\0\1")
    while 0 <= at < len(packet) - 3:
        unit = packet[at + 3]
        kind = unit & 0x1F if codec == "h264" else unit >> 1 & 0x3F
        if kind in ((5, 7) if codec == "h264" else (*range(16, 22), 32, 33)):
            return True
        if kind in range(1, 5) if codec == "h264" else kind < 16:
            return False
        at = packet.find(b"\0\0\1", at + 3)
    return False


# Sound

SOUNDS = ("audio_common_msgs/AudioData", "audio_common_msgs/AudioDataStamped", "foxglove/RawAudio")
SOUND_INFO = "audio_common_msgs/AudioInfo"
CONTAINERS = (b"ID3", b"RIFF", b"OggS", b"fLaC")
"""How coded sound begins."""


def looks_coded(data: bytes) -> bool:
    """Whether bytes of sound are of a container, or so full of MPEG layer III frame heads that they are no PCM."""
    return (
        data.startswith(CONTAINERS)
        or sum(map(data.count, (b"\xff\xfb", b"\xff\xf3", b"\xff\xf2"))) > len(data) / 2000 + 1
    )


def sound_form(message: Any) -> tuple[float, int]:
    """(rate_hz, channels) that a message of type AudioInfo or foxglove.RawAudio states, of 16-bit PCM and no other."""
    coding = getattr(message, "coding_format", "") or "wave"
    sample = _first(message, "sample_format", "format")
    if coding.lower() not in ("wave", "wav", "pcm", "raw") or sample.lower() not in ("s16le", "pcm-s16"):
        raise ValueError(f"sound coded as '{coding}', samples '{sample}': only 16-bit PCM (wave, S16LE)")
    rate, channels = int(message.sample_rate), int(_first(message, "channels", "number_of_channels"))
    if not (0 < rate <= 10**7 and 0 < channels <= 256):
        raise ValueError(f"sound of {rate} Hz and {channels} channels")
    return float(rate), channels
