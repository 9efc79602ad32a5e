"""Bare `.mcap` files: messages of ROS 1, ROS 2, JSON and protobuf, by the schemas inside. Read in place through mcap.

A file is a log; a folder of files is many. JSON and protobuf messages of a known type name (`foxglove.CompressedImage`,
`sensor_msgs/JointState`) are read as that type, all others as the numbers in them, side by side. Topics become sensors
as `multisense.logs.formats.bags` says. A ROS 2 bag folder, with its `metadata.yaml`, is read by `multisense.logs.formats.ros`.
"""

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

from multisense.logs.base import LogError, SensorLog, log_error
from multisense.logs.files import head
from multisense.logs.formats.bag_index import KNOWN
from multisense.logs.formats.bag_samples import readable
from multisense.logs.formats.bags import bag_log
from multisense.logs.formats.ros_messages import SOUND_INFO, short_type, stamp_ns
from multisense.logs.formats.ros_types import RosType, require

MAGIC = b"\x89MCAP0\r\n"


def recognises(path: Path) -> bool:
    """Whether `path` is an MCAP file, or a folder of them that is no ROS 2 bag."""
    return bool(_files(path))


def candidates(path: Path) -> dict[str, Callable[[], SensorLog]]:
    """The files at `path`, by name, not opened yet."""
    files = _files(path)
    names = [file.stem for file in files]
    return {f.stem if names.count(f.stem) == 1 else f.name: partial(open_mcap, f) for f in files}


def open_mcap(path: Path) -> SensorLog:
    """Open one file.

    Raises LogError when it is damaged, has no index (as after a crash), or holds no sensor.
    """
    require(str(path), "mcap", "mcap")
    return bag_log(open_bag, str(path), path.stem, [str(path)])


def open_bag(path: str) -> "McapBag":
    return McapBag(path)


class McapBag:
    """An open file, for the pool."""

    def __init__(self, path: str) -> None:
        self.path = path
        with ExitStack() as stack:
            self._file = stack.enter_context(open(path, "rb"))
            with readable(path):
                self._open()
            self._opened = stack.pop_all()

    def _open(self) -> None:
        from mcap.reader import SeekingReader

        size = os.fstat(self._file.fileno()).st_size
        self._reader = SeekingReader(self._file, validate_crcs=True, record_size_limit=size)
        summary = self._reader.get_summary()
        if summary is None or not summary.chunk_indexes:
            fix = "Write one: `mcap recover`, or `mcap sort`."
            raise log_error(self.path, "no index of chunks", "an indexed file", fix)
        channels: dict[str, list[Any]] = {}
        for channel in summary.channels.values():
            channels.setdefault(channel.topic, []).append(channel)
        self._decoders: dict[str, Decoder] = {}
        unread: dict[str, str] = {}
        for topic, alike in channels.items():
            if len({(channel.schema_id, channel.message_encoding) for channel in alike}) > 1:
                unread[topic] = "messages of more than one schema"
                continue
            schema = summary.schemas.get(alike[0].schema_id)
            decoder = _decoder(self.path, alike[0].message_encoding, schema)
            if isinstance(decoder, str):
                unread[topic] = decoder
            else:
                self._decoders[topic] = decoder
        self.unread: Mapping[str, str] = unread
        self.topics: Mapping[str, str] = {topic: decoder.kind for topic, decoder in self._decoders.items()}
        self.loose: Collection[str] = [topic for topic, d in self._decoders.items() if not isinstance(d, RosDecoder)]

    def messages(
        self, topics: Collection[str], start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[tuple[str, int, bytes]]:
        for _, channel, message in self._reader.iter_messages(
            list(topics), starting_at=start_ns, ending_before=stop_ns
        ):
            yield channel.topic, message.log_time, message.data

    def decode(self, topic: str, raw: bytes) -> Any:
        return self._decoders[topic].decode(raw)

    def stamp_ns(self, topic: str, raw: bytes) -> int:
        return self._decoders[topic].stamp_ns(raw)

    def close(self) -> None:
        self._opened.close()


class Decoder(Protocol):
    """How the messages of one topic are decoded."""

    kind: str
    """Their type, as package/Type."""

    def decode(self, raw: bytes) -> Any: ...

    def stamp_ns(self, raw: bytes) -> int: ...


class RosDecoder(RosType):
    def __init__(self, schema: Any) -> None:
        super().__init__(schema.name, schema.data.decode(), schema.encoding == "ros1msg")
        self.kind = short_type(schema.name)


class JsonDecoder:
    def __init__(self, schema: Any) -> None:
        self.kind = short_type(schema.name) if schema else "JSON"

    def decode(self, raw: bytes) -> Any:
        return json.loads(raw, object_hook=lambda fields: SimpleNamespace(**fields))

    def stamp_ns(self, raw: bytes) -> int:
        return stamp_ns(self.decode(raw))


class ProtobufDecoder:
    def __init__(self, schema: Any) -> None:
        from mcap_protobuf.decoder import DecoderFactory

        self.kind = short_type(schema.name)
        self._decode = DecoderFactory().decoder_for("protobuf", schema)

    def decode(self, raw: bytes) -> Any:
        return self._decode(raw) if self._decode else None

    def stamp_ns(self, raw: bytes) -> int:
        return stamp_ns(self.decode(raw))


def _decoder(path: str, encoding: str, schema: Any) -> Decoder | str:
    """The decoder of a channel, or the reason why there is none. Raises LogError where a package is missing."""
    kind = schema.encoding if schema else ""
    which = f"{schema.name if schema else 'no schema'} ({encoding or 'no encoding'}, schema in {kind or 'none'})"
    try:
        if (encoding, kind) in (("ros1", "ros1msg"), ("cdr", "ros2msg")):
            if short_type(schema.name) not in (*KNOWN, SOUND_INFO):  # such as a service, whose schema is no message
                return f"{short_type(schema.name)}: a type that is not read"
            require(path, "rosbags", "rosbags")
            return RosDecoder(schema)
        if (encoding, kind) == ("protobuf", "protobuf"):
            require(path, "mcap_protobuf", "mcap-protobuf-support")
            return ProtobufDecoder(schema)
    except LogError:
        raise
    except Exception as error:  # a schema is foreign text, whose parsers may raise anything
        return f"{which}: a schema that cannot be parsed ({error})"[:300]
    return JsonDecoder(schema) if encoding == "json" else f"{which}: an encoding that is not read"


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return [] if (path / "metadata.yaml").exists() else sorted(file for file in path.iterdir() if _is_mcap(file))
    return [path] if _is_mcap(path) else []


def _is_mcap(path: Path) -> bool:
    return not path.name.startswith(".") and head(path, len(MAGIC)) == MAGIC
