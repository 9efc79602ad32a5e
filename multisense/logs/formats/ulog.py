"""PX4 flight logs (`.ulg`), read through pyulog: every instance of a topic is a sensor on its own microsecond stamps.

The numeric fields of a topic stand side by side as channels; a second instance of `sensor_gyro` is `sensor_gyro_1`.
Second 0 is the start of logging in the file's header, so what was last published before it has a negative time.
Pyulog recovers from damage by guessing and believes any size, so a file is first walked message by message: a tail cut
in mid-message, or left blank by a loss of power, is left out and noted; damage further in is a LogError.
"""

import contextlib
import io
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from multisense.logs.base import LogError, SensorLog, how_to_install, log_error
from multisense.logs.files import head
from multisense.logs.foreign import ForeignLog, Sensor, stamped
from multisense.logs.pool import POOL

MAGIC = b"ULog\x01\x12\x35"
HEADER = 16
"""Bytes before the first message: magic, version, start of logging in microseconds."""
DATA_BYTES = 0xFFFF
"""A message's size is 16 bits, so no topic can be wider."""
WIDTHS: dict[str, int] = {"int8_t": 1, "uint8_t": 1, "bool": 1, "char": 1, "int16_t": 2, "uint16_t": 2}
WIDTHS |= {"int32_t": 4, "uint32_t": 4, "float": 4, "int64_t": 8, "uint64_t": 8, "double": 8}
BODY = ("sensor", "vehicle", "actuator", "estimator", "battery", "esc_", "manual_control", "input_rc", "cpuload")
"""Beginnings of the names of topics that say what the vehicle feels and does: proprioception."""


def recognises(path: Path) -> bool:
    """Whether a file begins as a ULog does."""
    return head(path, len(MAGIC)) == MAGIC


def candidates(path: Path) -> dict[str, Callable[[], SensorLog]]:
    """A file is one log, named by its stem."""
    return {path.stem: partial(open_ulog, str(path))}


def open_ulog(path: str) -> ForeignLog:
    """The log of one `.ulg` file.

    Raises LogError when pyulog is missing, or the file is damaged or holds no topic with increasing stamps.
    """
    flight = POOL.get(_parse, path)
    sensors: dict[str, Sensor] = {}
    skipped: dict[str, str] = {}
    notes: dict[str, str] = {}
    for key, topic in flight.topics.items():
        name = topic.name if not topic.multi_id else f"{topic.name}_{topic.multi_id}"
        if name in sensors or name in skipped:
            name = f"{name}_id{topic.msg_id}"
        channels, text = _channels(topic)
        try:
            sensors[name] = _sensor(name, path, key, topic, channels, flight.start_us)
        except LogError as error:
            skipped[name] = error.reason
            continue
        remarks = [f"text fields {text} left out"] if text else []
        if remarks or flight.remarks:
            notes[name] = "; ".join([*remarks, *flight.remarks])
    return ForeignLog(Path(path).stem, path, sensors.values(), skipped=skipped, notes=notes)


@dataclass(frozen=True)
class _Fields:
    """Fields of one topic, side by side."""

    path: str
    key: int
    channels: tuple[str, ...]
    dtype: str

    def read(self, first: int, last: int) -> np.ndarray:
        data = POOL.get(_parse, self.path).topics[self.key].data
        return np.stack([data[name][first:last].astype(self.dtype) for name in self.channels], axis=1)


def _sensor(name: str, path: str, key: int, topic: Any, channels: tuple[str, ...], start_us: int) -> Sensor:
    where = f"{path}: {name}"
    if not channels:
        raise log_error(where, "no numeric field", "at least one beside `timestamp`", "It is no sensor.")
    # Flags stay exact beside floats: numpy takes the narrowest type that holds every field.
    dtype = str(np.result_type(*(topic.data[channel].dtype.newbyteorder("=") for channel in channels)))
    times_s = (topic.data["timestamp"].astype(np.float64) - start_us) / 1e6
    samples = _Fields(path, key, channels, dtype)
    modality = "proprio" if topic.name.startswith(BODY) else ""
    return stamped(name, times_s, samples, (len(channels),), dtype, where, modality=modality, channels=channels)


def _channels(topic: Any) -> tuple[tuple[str, ...], list[str]]:
    """(numeric fields, arrays of text) of a topic; padding is neither."""
    fields = {field.field_name: field.type_str for field in topic.field_data if "_padding" not in field.field_name}
    text = sorted({name.partition("[")[0] for name, kind in fields.items() if kind == "char"})
    return tuple(name for name, kind in fields.items() if kind != "char" and name != "timestamp"), text


class _Flight:
    """What pyulog read of a file."""

    def __init__(self, ulog: Any, remarks: Iterable[str]) -> None:
        self.start_us = int(ulog.start_timestamp)
        self.topics = dict(enumerate(ulog.data_list))
        self.remarks = tuple(remarks)

    def close(self) -> None:
        self.topics.clear()


def _parse(path: str) -> _Flight:
    try:
        from pyulog import ULog
    except ImportError as error:
        fix = how_to_install("ulog")
        raise log_error(path, "no pyulog in this environment", "it, to read ULog", fix) from error
    data = Path(path).read_bytes()
    stop = _walk(data, path)
    try:
        # Pyulog prints what it finds wrong; `file_corruption` says the same.
        with contextlib.redirect_stdout(io.StringIO()):
            ulog = ULog(io.BytesIO(data[:stop]))
    except Exception as error:  # it unpacks whatever a file says, so anything may come of it
        reason = f"{type(error).__name__}: {error}"[:200]
        raise log_error(path, f"an unreadable ULog ({reason})", "one that pyulog can read", "Copy it again.") from error
    return _Flight(ulog, _remarks(ulog, len(data) - stop))


def _remarks(ulog: Any, left_out: int) -> Iterable[str]:
    if left_out:
        yield f"the file's last {left_out} bytes hold no whole message and were left out"
    if ulog.file_corruption:
        yield "pyulog found damaged messages in the file and left them out"
    if ulog.dropouts:
        lost = sum(dropout.duration for dropout in ulog.dropouts) / 1000
        yield f"the logger reports {len(ulog.dropouts)} dropouts, {lost:.3g} s in all"


def _walk(data: bytes, path: str) -> int:
    """Where the last whole message ends. Raises LogError for damage before the tail, and for absurd topics."""
    if len(data) < HEADER or data[: len(MAGIC)] != MAGIC:
        raise log_error(path, "no ULog header", f"{HEADER} bytes that begin with 'ULog'", "Copy the file again.")
    formats: dict[str, list[tuple[str, int, str]]] = {}
    topics: set[str] = set()
    at = HEADER
    for start, kind, size in _messages(data, path):
        at = start + 3 + size
        _collect(kind, data[start + 3 : at], formats, topics, f"{path}: byte {start}")
    for topic in sorted(topics):
        _check_topic(topic, formats, f"{path}: {topic}")
    return at


def _messages(data: bytes, path: str) -> Iterator[tuple[int, str, int]]:
    """Where each whole message begins, of which kind it is and how many bytes it holds, up to a blank tail."""
    at = HEADER
    for stop in [*_appended(data, path), len(data)]:
        while at + 3 <= stop:
            size, kind = struct.unpack_from("<HB", data, at)
            if not size or not chr(kind).isascii() or not chr(kind).isupper():
                if any(data[at:]):
                    found = f"no message at byte {at} of {len(data)}"
                    raise log_error(path, found, "one message after the other", "Copy the file again.")
                return
            if at + 3 + size > stop:
                break
            yield at, chr(kind), size
            at += 3 + size
        if stop < len(data):
            at = stop


def _appended(data: bytes, path: str) -> list[int]:
    """Where data was appended after a crash; what lies before it may end in mid-message."""
    size, kind = struct.unpack_from("<HB", data, HEADER) if len(data) >= HEADER + 3 else (0, 0)
    if chr(kind) != "B" or size < 40 or len(data) < HEADER + 3 + size:
        return []
    offsets = [offset for offset in struct.unpack_from("<3Q", data, HEADER + 3 + 16) if offset]
    if offsets != sorted(offsets) or any(not HEADER + 3 + size <= offset <= len(data) for offset in offsets):
        raise log_error(path, f"appended data at {offsets}", f"places in its {len(data)} bytes", "Copy it again.")
    return offsets


def _collect(
    kind: str, message: bytes, formats: dict[str, list[tuple[str, int, str]]], topics: set[str], where: str
) -> None:
    if kind == "A":
        topics.add(message[3:].decode("utf-8", "ignore"))
    if kind == "F":
        name, _, fields = message.decode("utf-8", "ignore").partition(":")
        formats[name] = [_field(field, where) for field in fields.split(";") if field]


def _field(text: str, where: str) -> tuple[str, int, str]:
    """(type, how many, name) of `float[3] position`."""
    kind, _, name = text.partition(" ")
    kind, _, many = kind.partition("[")
    count = many.rstrip("]") or "1"
    if not name or not count.isdecimal() or len(count) > 5:
        raise log_error(where, f"the field {text[:80]!r}", "a type, a size and a name", "Copy the file again.")
    return kind, int(count), name


def _check_topic(topic: str, formats: dict[str, list[tuple[str, int, str]]], where: str) -> None:
    """Raise LogError unless a topic has its stamp, and fits in a message however its types are nested."""
    if not any(kind == "uint64_t" and name == "timestamp" for kind, _, name in formats.get(topic, [])):
        raise log_error(where, "no field `uint64_t timestamp`", "it, in every topic", "Copy the file again.")
    widths: dict[str, int] = {**WIDTHS}

    def width(kind: str, inside: tuple[str, ...]) -> int:
        if kind not in widths:
            if kind not in formats or kind in inside or len(inside) > 32:
                raise log_error(where, f"the type {kind[:80]!r}", "a type defined before", "Copy the file again.")
            widths[kind] = sum(many * width(part, (*inside, kind)) for part, many, _ in formats[kind])
        return widths[kind]

    if width(topic, ()) > DATA_BYTES:
        raise log_error(where, f"samples of {widths[topic]} bytes", f"at most {DATA_BYTES}", "Copy the file again.")
