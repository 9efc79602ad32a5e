"""Samples that lie in the messages of a bag: found by the bag's own index, decoded when they are asked for."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import av
import numpy as np

from multisense.logs.base import LogError, log_error
from multisense.logs.formats.ros_messages import Vector, as_bytes, transforms
from multisense.logs.pool import POOL


class Bag(Protocol):
    """An open bag. Not for sharing between threads or across a fork."""

    topics: Mapping[str, str]
    """Type of every topic that can be decoded, as package/Type."""
    unread: Mapping[str, str]
    """Why the other topics cannot be."""
    loose: Collection[str]
    """Topics that describe themselves (JSON, protobuf): their numbers can be read whatever their type is called."""

    def messages(
        self, topics: Collection[str], start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[tuple[str, int, bytes]]:
        """(topic, bag time, message) with start_ns <= bag time < stop_ns; a narrower range keeps the order."""
        ...

    def decode(self, topic: str, raw: bytes) -> Any: ...

    def stamp_ns(self, topic: str, raw: bytes) -> int:
        """The message's own time, 0 where it has none, decoding as little as possible."""
        ...

    def close(self) -> None: ...


@contextmanager
def readable(where: str) -> Iterator[None]:
    """Make whatever a reader of bags raises a LogError: over damaged bytes they may raise anything, even asserts."""
    try:
        yield
    except LogError:
        raise
    except Exception as error:
        found = f"unreadable data ({f'{type(error).__name__}: {error}'[:300]})"
        raise log_error(where, found, "a whole recording", "Copy it again, or repair it with its own tools.") from error


@dataclass(frozen=True)
class Messages:
    """The messages of one topic, numbered in the bag's order."""

    opener: Callable[[str], Bag]
    path: str
    topic: str
    log_ns: np.ndarray
    """(M,) int64 bag times; nearly sorted, for a bag may be of several files."""

    @property
    def where(self) -> str:
        return f"{self.path}: {self.topic}"

    def between(self, first: int, last: int) -> Iterator[tuple[int, Any]]:
        """(number, message) of the messages [first, last), which the bag finds by their times."""
        if last <= first:
            return
        low, high = int(self.log_ns[first:last].min()), int(self.log_ns[first:last].max())
        numbers = np.flatnonzero((self.log_ns >= low) & (self.log_ns <= high))
        with readable(self.where):
            bag = POOL.get(self.opener, self.path)
            for number, (_, _, raw) in zip(numbers.tolist(), bag.messages([self.topic], low, high + 1), strict=True):
                if first <= number < last:
                    yield number, bag.decode(self.topic, raw)

    def message(self, number: int) -> Any:
        return next(message for _, message in self.between(number, number + 1))


@dataclass(frozen=True)
class Vectors:
    """One vector, or grid, of numbers per message."""

    messages: Messages
    numbers: np.ndarray
    """(N,) the message of every sample, increasing; the others of the topic are of another sensor."""
    convert: Callable[[Any], Vector]
    shape: tuple[int, ...]
    dtype: str

    def read(self, first: int, last: int) -> np.ndarray:
        places = {number: i for i, number in enumerate(self.numbers[first:last].tolist())}
        out = np.empty((len(places), *self.shape), self.dtype)
        with readable(self.messages.where):
            for number, message in self.messages.between(min(places, default=0), max(places, default=-1) + 1):
                if number in places:
                    out[places[number]] = _of_shape(self.convert(message)[0], self.shape, f"message {number}")
        return out


@dataclass(frozen=True)
class Pictures:
    """One picture per message."""

    messages: Messages
    convert: Callable[[Any, str], np.ndarray]
    shape: tuple[int, ...]

    def read(self, first: int, last: int) -> np.ndarray:
        return self.pick(np.arange(first, last))

    def pick(self, places: np.ndarray) -> np.ndarray:
        out, position = np.empty((len(places), *self.shape), np.uint8), _positions(places)
        with readable(self.messages.where):
            for number, message in self.messages.between(*_bounds(places)):
                if number in position:
                    image = self.convert(message, f"{self.messages.where}, message {number}")
                    out[position[number]] = _of_shape(image, self.shape, f"message {number}")
        return out


@dataclass(frozen=True)
class Poses:
    """The transforms of one child frame, which share their messages with those of other frames."""

    messages: Messages
    places: np.ndarray
    """(N, 2) of (message, place in it)"""
    convert: Callable[[Any], Vector]

    def read(self, first: int, last: int) -> np.ndarray:
        places = self.places[first:last]
        if not len(places):
            return np.empty((0, 7))
        rows, wanted = [], iter([*places.tolist(), None])
        at = next(wanted)
        with readable(self.messages.where):
            for number, message in self.messages.between(int(places[0, 0]), int(places[-1, 0]) + 1):
                while at and at[0] == number:
                    rows.append(self.convert(transforms(message)[at[1]])[0])
                    at = next(wanted)
        return np.stack(rows)


@dataclass(frozen=True)
class Packets:
    """One coded picture per message, decoded from the keyframe before the first that is asked for."""

    messages: Messages
    begin: int
    """Number of the first sample's message, a keyframe."""
    keys: np.ndarray
    """Samples that are keyframes, increasing, the first of them 0."""
    codec: str
    shape: tuple[int, ...]

    def read(self, first: int, last: int) -> np.ndarray:
        return self.pick(np.arange(first, last))

    def pick(self, places: np.ndarray) -> np.ndarray:
        out, missing = np.empty((len(places), *self.shape), np.uint8), _positions(places)
        first, last = _bounds(places)
        key = int(self.keys[np.searchsorted(self.keys, first, side="right") - 1])
        with readable(self.messages.where):
            between = self.messages.between(self.begin + key, self.begin + last) if missing else ()
            packets = ((number - self.begin, as_bytes(message.data)) for number, message in between)
            for sample, image in decode_packets(self.codec, packets):
                if sample in missing:
                    out[missing.pop(sample)] = _of_shape(image, self.shape, f"frame {sample}")
        if missing:
            found = f"a packet {min(missing)} that {self.codec} cannot decode"
            raise log_error(self.messages.where, found, "a frame in every message", "Leave this sensor out.")
        return out


def decode_packets(codec: str, packets: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, np.ndarray]]:
    """(number, (H, W, 3) uint8 RGB) of numbered packets, of which the first is a keyframe."""
    context: Any = av.CodecContext.create(codec, "r")
    context.thread_count = 1
    for number, data in packets:
        packet = av.Packet(data)
        packet.pts = packet.dts = number
        yield from _pictures(context.decode(packet))
    yield from _pictures(context.decode(None))


def _pictures(frames: Iterable[Any]) -> Iterator[tuple[int, np.ndarray]]:
    return ((frame.pts, frame.to_ndarray(format="rgb24")) for frame in frames if not frame.is_corrupt)


@dataclass(frozen=True)
class Sound:
    """16-bit samples, as many in a message as there happened to be; read as float32 in [-1, 1)."""

    messages: Messages
    starts: np.ndarray
    """(M + 1,) first sample of every message, and their total."""
    channels: int

    def read(self, first: int, last: int) -> np.ndarray:
        one, two = np.searchsorted(self.starts, [first, last - 1], side="right") if last > first else (1, 0)
        blocks = [as_bytes(message.data) for _, message in self.messages.between(int(one) - 1, int(two))]
        with readable(self.messages.where):
            block = np.frombuffer(b"".join(blocks), "<i2").astype(np.float32) / 32768
            begin = first - int(self.starts[one - 1])
            return block.reshape(-1, *self.sample)[begin : begin + last - first]

    @property
    def sample(self) -> tuple[int, ...]:
        return () if self.channels == 1 else (self.channels,)


def _positions(places: np.ndarray) -> dict[int, int]:
    """Where in the answer each wanted sample goes."""
    return {place: i for i, place in enumerate(places.tolist())}


def _bounds(places: np.ndarray) -> tuple[int, int]:
    """[first, last) of increasing places."""
    return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)


def _of_shape(value: np.ndarray, shape: tuple[int, ...], which: str) -> np.ndarray:
    if value.shape != shape:
        raise ValueError(f"{which} of shape {value.shape} where the first is {shape}")
    return value
