"""A walk along the chunks of an XDF file, before pyxdf allocates what they claim."""

import struct
from dataclasses import dataclass, field
from xml.etree.ElementTree import ParseError, fromstring

from multisense.logs.base import LogError, log_error

MAGIC = b"XDF:"
BOUNDARY = bytes.fromhex("43a546dccbf5410fb30ed5467383cbe4")
FILE_HEADER, STREAM_HEADER, SAMPLES, CLOCK_OFFSET, BOUNDARY_CHUNK, STREAM_FOOTER = range(1, 7)
OF_STREAM = (STREAM_HEADER, SAMPLES, CLOCK_OFFSET, STREAM_FOOTER)
WIDTHS = {"int8": 1, "int16": 2, "int32": 4, "int64": 8, "float32": 4, "double64": 8, "string": 0}
LENGTHS = {1: "<B", 4: "<I", 8: "<Q"}
MAX_CHANNELS = 1 << 16


@dataclass
class Chunks:
    """What the whole chunks of a file hold."""

    stop: int = len(MAGIC)
    """Where the last whole chunk ends."""
    left_out: int = 0
    """Bytes after it: a chunk cut short."""
    samples: dict[int, int] = field(default_factory=dict)
    """Number of samples, by stream id."""


@dataclass(frozen=True)
class _Form:
    """How the samples of a stream are written."""

    channels: int
    width: int
    """Bytes of one value; 0 for text."""


def walk(data: bytes, path: str) -> Chunks:
    """Check every chunk of a file against its bytes. A last chunk cut short is left out.

    Raises LogError for anything that is no XDF, and for damage with whole chunks behind it.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise log_error(path, f"a file that begins with {data[:4]!r}", f"{MAGIC!r}", "Copy the file again.")
    chunks, forms = Chunks(), {}
    while chunks.stop < len(data):
        where = f"{path}: byte {chunks.stop} of {len(data)}"
        try:
            length, at = _length(data, chunks.stop)
        except (struct.error, KeyError) as error:
            _raise_unless_last(data, chunks.stop, where, "no length of a chunk", error)
            break
        if at + length > len(data):
            _raise_unless_last(data, chunks.stop, where, f"a chunk of {length} bytes", None)
            break
        _check(data[at : at + length], chunks, forms, where)
        chunks.stop = at + length
    chunks.left_out = len(data) - chunks.stop
    return chunks


def _raise_unless_last(data: bytes, at: int, where: str, found: str, cause: Exception | None) -> None:
    """A recorder that was killed leaves a chunk cut short; a boundary behind it means damage instead."""
    if BOUNDARY in data[at:]:
        raise _damaged(where, found, "whole chunks") from cause


def _check(chunk: bytes, chunks: Chunks, forms: dict[int, _Form], where: str) -> None:
    if len(chunk) < 2 or not FILE_HEADER <= (tag := chunk[0] | chunk[1] << 8) <= STREAM_FOOTER:
        raise _damaged(where, f"a chunk that begins {chunk[:2].hex()!r}", "a tag of 1 to 6")
    if tag not in OF_STREAM:
        return
    if len(chunk) < 6:
        raise _damaged(where, f"a chunk of {len(chunk)} bytes", "the id of its stream")
    stream = int.from_bytes(chunk[2:6], "little")
    if tag == STREAM_HEADER:
        if stream in forms:
            raise _damaged(where, f"a second header of stream {stream}", "one")
        forms[stream] = _form(chunk[6:], where)
    elif stream not in forms:
        raise _damaged(where, f"a chunk of stream {stream}", "its header before it")
    elif tag == CLOCK_OFFSET and len(chunk) != 22:
        raise _damaged(where, f"a clock offset of {len(chunk)} bytes", "22")
    elif tag == SAMPLES:
        count = _count_samples(chunk, forms[stream], where)
        chunks.samples[stream] = chunks.samples.get(stream, 0) + count


def _form(xml: bytes, where: str) -> _Form:
    try:
        root = fromstring(xml.decode("utf-8", "replace"))
        channels, kind = int(root.findtext("channel_count", "")), root.findtext("channel_format", "")
    except (ParseError, ValueError, RecursionError) as error:
        raise _damaged(where, f"an unreadable stream header ({error})", "XML with channel_count") from error
    if not 1 <= channels <= MAX_CHANNELS or kind not in WIDTHS:
        raise _damaged(where, f"{channels} channels of {kind!r}", f"1 to {MAX_CHANNELS}, of {sorted(WIDTHS)}")
    return _Form(channels, WIDTHS[kind])


def _count_samples(chunk: bytes, form: _Form, where: str) -> int:
    """Number of samples in a chunk, each of which lies in it, and nothing else does."""
    try:
        count, at = _length(chunk, 6)
        for done in range(count):
            if chunk[at] not in (0, 8):
                raise _damaged(where, f"a stamp of {chunk[at]} bytes in sample {done}", "0 or 8")
            at += 1 + chunk[at]
            if form.width:
                at += form.channels * form.width
            else:
                at = _after_texts(chunk, at, form.channels)
    except (struct.error, KeyError, IndexError) as error:
        raise _damaged(where, f"a chunk of {len(chunk)} bytes", "as many as its samples need") from error
    if at != len(chunk):
        raise _damaged(where, f"{count} samples in {len(chunk)} bytes", f"{at} bytes for them")
    return count


def _after_texts(chunk: bytes, at: int, count: int) -> int:
    for _ in range(count):
        length, at = _length(chunk, at)
        at += length
    return at


def _length(data: bytes, at: int) -> tuple[int, int]:
    """(a length, where what it counts begins): one byte says in how many bytes the length is written."""
    form = LENGTHS[data[at] if at < len(data) else 0]
    return struct.unpack_from(form, data, at + 1)[0], at + 1 + data[at]


def _damaged(where: str, found: str, expected: str) -> LogError:
    return log_error(where, found, expected, "The file is damaged: copy it again.")
