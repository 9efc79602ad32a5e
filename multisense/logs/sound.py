"""Sound in files, read by ranges: WAV as slices of the file, everything compressed by PyAV in blocks after a seek.

A compressed track is decoded once when it is opened, which tells how many samples it really has, and where. After that
sample i is always decoded from the same packet on, so that it has one value, whatever range it is read in.
Samples are float32 of full scale 1, whatever the file keeps.
"""

import os
import struct
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO

import numpy as np
from av.error import FFmpegError

from multisense.logs.anchors import AnchorLine
from multisense.logs.base import LogError, log_error
from multisense.logs.clock import FASTEST_HZ
from multisense.logs.media import open_container
from multisense.logs.pool import POOL

BLOCK = 1 << 16
"""Samples decoded together."""
KEPT = 8
"""Decoded blocks kept per open file."""
PREROLL_S = 0.3
"""Decoded before a block and thrown away: an MP3 frame may need the ten before it, an Opus frame 80 ms."""


@dataclass(frozen=True, eq=False)
class Sound:
    """The samples of a sound file or of the sound track of a video; see `Samples`."""

    path: str
    rate_hz: float
    channels: int
    count: int
    anchors: np.ndarray
    """(K, 2) float64 of (sample index, seconds) as the file has it."""
    place: Any
    """A `_Wav`, or the (blocks, 3) int64 table of where to seek, at which stamp the block begins, and samples to skip."""

    @property
    def shape(self) -> tuple[int, ...]:
        return () if self.channels == 1 else (self.channels,)

    def read(self, first: int, last: int) -> np.ndarray:
        """(last - first,) or (last - first, channels) float32."""
        if last <= first:
            return np.empty((0, *self.shape), np.float32)
        if isinstance(self.place, _Wav):
            return self.place.read(self.path, first, last).reshape(-1, *self.shape)
        decoder = POOL.get(_Decoder, self.path)
        numbers = range(first // BLOCK, (last - 1) // BLOCK + 1)
        blocks = [decoder.block(number, self) for number in numbers]
        begin = first - numbers[0] * BLOCK
        return np.concatenate(blocks)[begin : begin + last - first].reshape(-1, *self.shape)


def open_sound(path: str) -> Sound:
    """The sound of a file. Raises LogError when there is none, or it cannot be decoded to its end."""
    found = find_sound(path)
    if found is None:
        raise log_error(path, "no sound", "a sound track", "Check what this file is.")
    return found


def find_sound(path: str) -> Sound | None:
    """The same, or None where a file that can be read has no sound in it."""
    status = os.stat(path)
    return _find(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _find(path: str, size: int, modified_ns: int) -> Sound | None:
    """Kept, since telling costs a decode of the whole track: about 5 s of one core for an hour."""
    wav = _wav(path, size)
    if wav:
        ends = np.unique([0.0, wav.count - 1.0])
        return Sound(path, wav.rate_hz, wav.channels, wav.count, np.stack([ends, ends / wav.rate_hz], 1), wav)
    try:
        with open_container(path) as container:
            return _scan(container, path) if container.streams.audio else None
    except LogError:
        raise
    except (FFmpegError, OSError, ValueError, OverflowError, AttributeError, MemoryError) as error:
        raise _undecodable(path, error) from error


def _scan(container: Any, path: str) -> Sound:
    """Decode a track, keeping of every frame only its stamp and its length."""
    stream = _one_thread(container)
    frames, rate, channels, pairs = [], 0, 0, set()
    for frame in container.decode(stream):
        rate, channels = frame.sample_rate, len(frame.layout.channels)
        pairs.add((rate, channels))
        if frame.pts is None or len(pairs) > 1:
            found = "a frame without a stamp" if frame.pts is None else f"(rate, channels) of {sorted(pairs)}"
            raise log_error(path, found, "one rate, one layout and stamps", "Convert it to WAV or FLAC.")
        frames.append((frame.pts, frame.samples))
    if not frames:
        raise log_error(path, "no sample of sound", "at least one", "Leave this file out.")
    pts, lengths = np.array(frames, np.int64).T
    starts = np.concatenate([[0], np.cumsum(lengths)])
    tick = float(stream.time_base)
    return Sound(path, float(rate), channels, int(starts[-1]), _anchors(pts * tick, starts, rate, tick),
                 _blocks(pts, starts, rate))  # fmt: skip


def _anchors(seconds: np.ndarray, starts: np.ndarray, rate: int, tick: float) -> np.ndarray:
    """Anchors within half a sample of the frames' stamps, or within the tick they are rounded to (1 ms in Matroska)."""
    line = AnchorLine(max(0.5 / rate, tick))
    last = seconds + (np.diff(starts) - 1) / rate
    gaps = np.append(seconds[1:] - last[:-1] > 1 / rate + max(0.5 / rate, tick), True)
    # Before a gap, and at the end, the last sample is a point too: without it the gap would be stretched sound.
    points = [np.stack([starts[:-1], seconds], 1), np.stack([starts[1:] - 1, last], 1)[gaps]]
    ordered = np.concatenate(points)
    index, where = np.unique(ordered[:, 0], return_index=True)
    line.add(index, ordered[where, 1])
    return line.knots()


def _blocks(pts: np.ndarray, starts: np.ndarray, rate: int) -> np.ndarray:
    begins = np.arange(0, starts[-1], BLOCK)
    frame = np.searchsorted(starts, begins, side="right") - 1
    before = np.searchsorted(starts, np.maximum(starts[frame] - PREROLL_S * rate, 0), side="right") - 1
    return np.stack([pts[before], pts[frame], begins - starts[frame]], 1)


class _Decoder:
    """An open sound track with the blocks decoded last."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()
        self._open()

    def _open(self) -> None:
        try:
            self._container = open_container(self._path)
        except (FFmpegError, OSError, ValueError) as error:
            raise _undecodable(self._path, error) from error
        self._stream = _one_thread(self._container)

    def block(self, number: int, sound: Sound) -> np.ndarray:
        """(BLOCK or fewer, channels) float32"""
        if number not in self._kept:
            seek, begin, skip = (int(value) for value in sound.place[number])
            wanted = skip + min(BLOCK, sound.count - number * BLOCK)
            block = self._decode(None if seek == sound.place[0, 0] else seek, begin, wanted)
            if len(block) < wanted:  # a container without an index may seek to somewhere else
                block = self._decode(None, begin, wanted)
            if len(block) < wanted:
                found = f"{len(block)} of {wanted} samples from stamp {begin} on"
                raise log_error(self._path, found, "what was there when it was opened", "Convert it to WAV or FLAC.")
            self._kept[number] = block[skip:]
        self._kept.move_to_end(number)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return self._kept[number]

    def _decode(self, seek: int | None, begin: int, wanted: int) -> np.ndarray:
        """At most `wanted` samples from the frame of stamp `begin` on, decoding from `seek`, or from the file's start."""
        parts, there = [np.empty((0, self._stream.channels), np.float32)], 0
        try:
            if seek is None:  # opened anew: after a seek to the start a decoder no longer trims what the encoder padded
                self.close()
                self._open()
            else:
                self._container.seek(seek, stream=self._stream)
            for frame in self._container.decode(self._stream):
                if there or frame.pts == begin:
                    parts.append(_full_scale(frame))
                    there += frame.samples
                if there >= wanted:
                    break
            return np.concatenate(parts)[:wanted]
        except (FFmpegError, OSError, ValueError, MemoryError) as error:
            raise _undecodable(self._path, error) from error

    def close(self) -> None:
        self._container.close()


def _one_thread(container: Any) -> Any:
    stream = container.streams.audio[0]
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    return stream


def _full_scale(frame: Any) -> np.ndarray:
    """(N, channels) float32 of a decoded frame."""
    planes = frame.to_ndarray()
    values = planes.T if frame.format.is_planar else planes.reshape(-1, len(frame.layout.channels))
    return _scaled(values)


def _scaled(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    half = 2.0 ** (8 * values.dtype.itemsize - 1)
    return ((values - half if values.dtype.kind == "u" else values) / half).astype(np.float32)


@dataclass(frozen=True)
class _Wav:
    """Where the samples of a WAV file lie."""

    offset: int
    count: int
    channels: int
    rate_hz: float
    width: int
    """Bytes per number"""
    is_float: bool

    def read(self, path: str, first: int, last: int) -> np.ndarray:
        file = POOL.get(_open_binary, path)
        row = self.width * self.channels
        file.seek(self.offset + first * row)
        data = file.read((last - first) * row)
        if len(data) != (last - first) * row:
            raise log_error(path, f"{len(data) // row} samples from {first} on", f"{last - first}", "Copy it again.")
        return _scaled(self._numbers(data)).reshape(-1, self.channels)

    def _numbers(self, data: bytes) -> np.ndarray:
        if self.width == 3:  # the upper three bytes of 32
            padded = np.zeros((len(data) // 3, 4), np.uint8)
            padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
            return padded.view("<i4")
        kind = "f" if self.is_float else "u" if self.width == 1 else "i"
        return np.frombuffer(data, f"<{kind}{self.width}")


def _open_binary(path: str) -> BinaryIO:
    return open(path, "rb")


def _wav(path: str, size: int) -> _Wav | None:
    """Layout of a WAV of plain numbers; None where it is something else, which PyAV may still know.

    A recording that was cut short says more bytes than there are: what is there counts.
    """
    with open(path, "rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return None
        form = None
        while len(chunk := file.read(8)) == 8:
            name, length = struct.unpack("<4sI", chunk)
            if name == b"fmt " and 16 <= length <= 1024:
                form = _wav_form(file.read(length + length % 2))
            elif name == b"data":
                there = size - file.tell() if length in (0, 0xFFFFFFFF) else min(length, size - file.tell())
                return _laid_out(form, file.tell(), there, path)
            else:
                file.seek(length + length % 2, os.SEEK_CUR)
    return None


def _wav_form(data: bytes) -> tuple[int, int, int, int]:
    """(tag, channels, rate, bits); an extensible header keeps the tag in its GUID."""
    tag, channels, rate, _, _, bits = struct.unpack("<HHIIHH", data[:16])
    return (struct.unpack("<H", data[24:26])[0] if tag == 0xFFFE and len(data) >= 40 else tag), channels, rate, bits


def _laid_out(form: tuple[int, int, int, int] | None, offset: int, there: int, path: str) -> _Wav | None:
    if form is None or form[0] not in (1, 3):
        return None
    tag, channels, rate, bits = form
    if (
        bits not in ((32, 64) if tag == 3 else (8, 16, 24, 32))
        or not 0 < channels <= 1024
        or not 0 < rate <= FASTEST_HZ
    ):
        found = f"{bits} bits, {channels} channels at {rate} Hz"
        raise log_error(path, found, "a WAV header", "It is damaged: copy it again.")
    count = there // (channels * bits // 8)
    if not count:
        raise log_error(path, "no sample of sound", "at least one", "Leave this file out.")
    return _Wav(offset, count, channels, float(rate), bits // 8, tag == 3)


def _undecodable(path: str, error: Exception) -> LogError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return log_error(path, f"undecodable sound ({reason})", "a whole sound file", "Copy or convert it again.")
