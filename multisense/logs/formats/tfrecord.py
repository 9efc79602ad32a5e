"""TFRecord files and the `tf.train.Example`s in them, without TensorFlow.

A record is its length (8 bytes), a checksum of the length, the data and a checksum of the data. An Example is a map from
names to lists of bytes, float32 or int64; what is kept of a list is where its values lie, so that one image or a few
rows are read without the rest. The message is walked level by level, to a fixed depth and a bounded number of fields.
"""

import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from multisense.logs.base import LogError, log_error
from multisense.logs.formats.crc32c import BLOCK, crc32c, masked

HEAD, FOOT = 12, 4
"""Bytes before a record's data (length and its checksum) and after it (checksum of the data)."""
MAX_FIELDS = 1 << 19
"""Fields that are walked in one record; a longer one is refused before it costs minutes."""
FIX = "The file is damaged or cut short: copy it again."

Kind = Literal["bytes", "float", "int"]
KINDS: dict[int, Kind] = {1: "bytes", 2: "float", 3: "int"}
VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Feature:
    """One list of an Example: `spans` are the (begin, end) in the file of its values, or of packed runs of them."""

    kind: Kind
    spans: tuple[tuple[int, int], ...]


def record_offsets(path: str) -> list[int]:
    """Where each record begins. The walk ends at the first damaged head; its offset is the last one given, so that
    `Shard.data` says what is wrong when that record is asked for. Raises LogError where the file cannot be read."""
    try:
        with open(path, "rb") as file:
            size, offset, offsets = os.fstat(file.fileno()).st_size, 0, []
            while offset < size:
                offsets.append(offset)
                file.seek(offset)
                length = _length(file.read(HEAD))
                if length is None:
                    break
                offset += HEAD + length + FOOT
            return offsets
    except OSError as error:
        raise log_error(path, f"an unreadable file ({error.strerror})", "a TFRecord file", FIX) from error


class Shard:
    """An open TFRecord file, mapped and not loaded."""

    def __init__(self, path: str) -> None:
        self.path = path
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise log_error(path, "an empty file", "TFRecords", FIX)
            self.bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def close(self) -> None:
        self.bytes.close()

    def data(self, offset: int) -> tuple[int, int]:
        """(begin, end) of the data of the record at `offset`; LogError where its head is damaged or it is cut short."""
        length = _length(self.bytes[offset : offset + HEAD])
        if length is None:
            raise log_error(f"{self.path}: byte {offset}", "a wrong checksum", "the head of a TFRecord", FIX)
        if offset + HEAD + length + FOOT > len(self.bytes):
            found = f"a record of {length} bytes in a file of {len(self.bytes)}"
            raise log_error(f"{self.path}: byte {offset}", found, "a whole record", FIX)
        return offset + HEAD, offset + HEAD + length

    def entries(self, offset: int) -> dict[str, tuple[int, int]]:
        """Where each list of the Example at `offset` lies, by name. Raises LogError where it is no Example."""
        walk = _Walk(self.bytes, f"{self.path}: record at byte {offset}")
        found: dict[str, tuple[int, int]] = {}
        for begin, end in walk.inside(*self.data(offset), 1):  # Example.features
            for entry in walk.inside(begin, end, 1):  # one entry of the map
                keys, values = list(walk.inside(*entry, 1)), list(walk.inside(*entry, 2))
                if keys and values:
                    found[walk.text(*keys[-1])] = values[-1]
        return found

    def feature(self, entry: tuple[int, int]) -> Feature:
        """One list, by where it lies. Raises LogError where there is no such list."""
        return _Walk(self.bytes, f"{self.path}: byte {entry[0]}").feature(*entry)

    def check(self, offset: int) -> None:
        """Raise LogError unless the checksum of the record's data is right. Looked at once per process."""
        status = os.stat(self.path)
        _check_data(self.path, offset, status.st_mtime_ns, status.st_size)

    def floats(self, feature: Feature, first: int, last: int) -> np.ndarray:
        """Values [first, last) of a float list, float32."""
        if len(feature.spans) == 1:  # as TensorFlow writes them: one packed run
            begin = feature.spans[0][0] + 4 * first
            return np.frombuffer(self.bytes[begin : begin + 4 * (last - first)], "<f4").astype(np.float32)
        runs = [np.frombuffer(self.bytes[begin:end], "<f4") for begin, end in feature.spans]
        return np.concatenate([np.empty(0, "<f4"), *runs])[first:last].astype(np.float32)

    def ints(self, feature: Feature) -> np.ndarray:
        """All values of an int list, int64."""
        runs = [_varints(np.frombuffer(self.bytes[begin:end], np.uint8)) for begin, end in feature.spans]
        return np.concatenate([np.empty(0, np.int64), *runs])

    def texts(self, feature: Feature) -> list[str]:
        return [self.bytes[begin:end].decode("utf-8", "replace") for begin, end in feature.spans]

    def count(self, feature: Feature) -> int:
        """Number of values of a list."""
        if feature.kind == "bytes":
            return len(feature.spans)
        if feature.kind == "float":
            return sum(end - begin for begin, end in feature.spans) // 4
        return sum(int((np.frombuffer(self.bytes[begin:end], np.uint8) < 0x80).sum()) for begin, end in feature.spans)


class _Walk:
    """Steps through the fields of protobuf messages; every length is checked against the message that holds it."""

    def __init__(self, data: mmap.mmap, where: str) -> None:
        self._data, self._where, self._left = data, where, MAX_FIELDS

    def inside(self, begin: int, end: int, number: int) -> Iterator[tuple[int, int]]:
        """(begin, end) of each length-delimited field `number` of the message at [begin, end)."""
        for field, wire, start, stop in self._fields(begin, end):
            if field == number and wire == DELIMITED:
                yield start, stop

    def feature(self, begin: int, end: int) -> Feature:
        """The last list set in a Feature, as a oneof is read."""
        kind, spans = KINDS[1], ()
        for field, wire, start, stop in self._fields(begin, end):
            if field in KINDS and wire == DELIMITED:
                kind = KINDS[field]
                spans = tuple(
                    (a, b) for n, w, a, b in self._fields(start, stop) if n == 1 and self._fits(kind, w, b - a)
                )
        return Feature(kind, spans)

    def text(self, begin: int, end: int) -> str:
        if end - begin > 1000:
            raise self._error(f"a name of {end - begin} bytes", "at most 1000")
        return self._data[begin:end].decode("utf-8", "replace")

    def _fits(self, kind: Kind, wire: int, size: int) -> bool:
        """Whether a value may be of this wire type: packed runs, or single numbers."""
        if wire == DELIMITED and (kind != "float" or size % 4 == 0):
            return True
        if (kind, wire) in (("float", FIXED32), ("int", VARINT)):
            return True
        raise self._error(f"{size} bytes of wire type {wire} in a list of {kind}", "values of that kind")

    def _fields(self, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """(field number, wire type, begin, end) of the fields of one message."""
        while begin < end:
            self._left -= 1
            if self._left < 0:
                raise self._error(f"more than {MAX_FIELDS} fields", "the steps of one episode")
            tag, begin = self._varint(begin, end)
            wire, start = tag & 7, begin
            if wire == VARINT:
                begin = self._varint(begin, end)[1]
            elif wire == DELIMITED:
                size, start = self._varint(begin, end)
                begin = start + size
            elif wire in (FIXED32, FIXED64):
                begin += 4 if wire == FIXED32 else 8
            else:
                raise self._error(f"wire type {wire}", "a tf.train.Example")
            if begin > end:
                raise self._error(f"a field that ends {begin - end} bytes after its message", "a tf.train.Example")
            yield tag >> 3, wire, start, begin

    def _varint(self, begin: int, end: int) -> tuple[int, int]:
        value = 0
        for at in range(begin, min(end, begin + 10)):
            byte = self._data[at]
            value |= (byte & 0x7F) << 7 * (at - begin)
            if byte < 0x80:
                return value, at + 1
        raise self._error("a number without an end", "a tf.train.Example")

    def _error(self, found: str, expected: str) -> LogError:
        return log_error(self._where, found, expected, FIX)


def _length(head: bytes) -> int | None:
    """Length of a record's data, from its first 12 bytes; None where the checksum is wrong."""
    if len(head) < HEAD:
        return None
    length, checksum = struct.unpack("<QI", head)
    return length if masked(crc32c(head[:8])) == checksum else None


@lru_cache(maxsize=1 << 16)
def _check_data(path: str, offset: int, modified_ns: int, size: int) -> None:
    shard = Shard(path)
    begin, end = shard.data(offset)
    crc = 0
    for start in range(begin, end, BLOCK):
        crc = crc32c(shard.bytes[start : min(start + BLOCK, end)], crc)
    (checksum,) = struct.unpack("<I", shard.bytes[end : end + FOOT])
    shard.close()
    if masked(crc) != checksum:
        raise log_error(f"{path}: record at byte {offset}", "a wrong checksum", "undamaged data", FIX)


def _varints(run: np.ndarray) -> np.ndarray:
    """The base-128 numbers in a run of bytes, as int64; a last one without an end is left out."""
    ends = np.flatnonzero(run < 0x80)
    begins = np.concatenate([[0], ends[:-1] + 1])[: len(ends)]
    values = np.zeros(len(ends), np.uint64)
    for place in range(10):
        inside = begins + place <= ends
        digit = run[np.minimum(begins + place, ends)].astype(np.uint64) & np.uint64(0x7F)
        values |= np.where(inside, digit << np.uint64(7 * place), np.uint64(0))
    return values.astype(np.int64)


def is_head(head: bytes) -> bool:
    """Whether these 12 bytes begin a TFRecord."""
    return _length(head) is not None
