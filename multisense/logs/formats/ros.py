"""ROS 1 bags (`.bag`), and ROS 2 bags: a folder with `metadata.yaml`, or a bare `.db3`. Read in place through rosbags.

A bag is a log; a folder of bags is many. Bags without definitions of their messages (ROS 2 before Iron, in SQLite) are
read by the definitions of the current ROS 2. Topics become sensors as `multisense.logs.formats.bags` says.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from multisense.logs.base import LogError, SensorLog, log_error
from multisense.logs.files import head
from multisense.logs.formats.bag_index import KNOWN
from multisense.logs.formats.bag_samples import readable
from multisense.logs.formats.bags import bag_log
from multisense.logs.formats.ros_messages import SOUND_INFO, short_type
from multisense.logs.formats.ros_types import RosType, require

ROS1, SQLITE, TABLE = b"#ROSBAG V", b"SQLite format 3\0", b"CREATE TABLE messages"
LOOK_AT = 1 << 16
"""Bytes of a file that tell whether it is a bag."""
METADATA_BYTES, METADATA_VALUES = 1 << 20, 1 << 16
"""A larger metadata.yaml is not one that a recorder wrote, and would take minutes to parse."""


def recognises(path: Path) -> bool:
    """Whether `path` is a bag, or a folder that holds some."""
    return _is_bag(path) or (path.is_dir() and any(_is_bag(entry) for entry in path.iterdir()))


def candidates(path: Path) -> dict[str, Callable[[], SensorLog]]:
    """The bags at `path`, by name, not opened yet."""
    bags = [path] if _is_bag(path) else sorted(entry for entry in path.iterdir() if _is_bag(entry))
    names = [bag.name if bag.is_dir() else bag.stem for bag in bags]
    unique = [name if names.count(name) == 1 else bag.name for name, bag in zip(names, bags, strict=True)]
    return dict(sorted((name, partial(open_ros, bag)) for name, bag in zip(unique, bags, strict=True)))


def open_ros(path: Path) -> SensorLog:
    """Open one bag.

    Raises LogError when it is damaged, has no index, is compressed as a whole, or holds no sensor.
    """
    require(str(path), "rosbags", "rosbags")
    if not path.is_dir():
        return bag_log(open_bag, str(path), path.stem, [str(path)])
    metadata = path / "metadata.yaml"
    with readable(str(metadata)):
        if metadata.stat().st_size > METADATA_BYTES:
            raise ValueError(f"larger than {METADATA_BYTES} bytes")
        text = metadata.read_text()
        if sum(map(text.count, ",:[{\n")) > METADATA_VALUES:
            raise ValueError(f"more than {METADATA_VALUES} values")
    if re.search(r"compression_mode:\s*['\"]?file", text, re.IGNORECASE):
        fix = "Decompress it once: ros2 bag convert."
        raise log_error(str(metadata), "files compressed as a whole", "a bag that can be read in place", fix)
    entries = sorted(path.iterdir())
    odd = [entry.name for entry in entries if not (entry.is_file() or entry.is_dir())]
    if odd:  # opening a pipe would wait for its writer
        raise log_error(str(path), f"{odd}, no files", "files", "Copy the bag again.")
    return bag_log(open_bag, str(path), path.name, [str(entry) for entry in entries if entry.is_file()])


def open_bag(path: str) -> "RosBag":
    return RosBag(path)


class RosBag:
    """An open bag, for the pool."""

    loose: Collection[str] = ()

    def __init__(self, path: str) -> None:
        from rosbags import rosbag1, rosbag2

        # Not rosbags' AnyReader: one definition that it cannot parse, such as a service's, costs it the whole bag.
        self._is_ros1 = head(Path(path), LOOK_AT).startswith(ROS1)
        with readable(path):
            self._reader = rosbag1.Reader(path) if self._is_ros1 else rosbag2.Reader(path)
            self._reader.open()
        self._types: dict[str, RosType] = {}
        kinds: dict[str, str] = {}
        unread: dict[str, str] = {}
        for connection in self._reader.connections:
            topic, kind = connection.topic, short_type(connection.msgtype)
            if kinds.setdefault(topic, kind) != kind:
                unread[topic] = f"messages of two types, {kinds[topic]} and {kind}"
            elif kind not in (*KNOWN, SOUND_INFO):
                unread[topic] = f"{kind}: a type that is not read"
            elif topic not in self._types and topic not in unread:
                try:
                    with readable(topic):
                        self._types[topic] = self._type(connection)
                except LogError as error:
                    unread[topic] = f"{kind}: {error}"
        self.unread: Mapping[str, str] = unread
        self.topics: Mapping[str, str] = {topic: kinds[topic] for topic in self._types if topic not in unread}

    def _type(self, connection: Any) -> RosType:
        form = connection.msgdef.format.name
        if form not in ("MSG", "NONE"):
            raise ValueError(f"a definition written in {form}")
        return RosType(connection.msgtype, connection.msgdef.data if form == "MSG" else None, self._is_ros1)

    def messages(
        self, topics: Collection[str], start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[tuple[str, int, bytes]]:
        connections = [connection for connection in self._reader.connections if connection.topic in topics]
        for connection, log_ns, raw in self._reader.messages(connections, start_ns, stop_ns):
            yield connection.topic, log_ns, raw

    def decode(self, topic: str, raw: bytes) -> Any:
        return self._types[topic].decode(raw)

    def stamp_ns(self, topic: str, raw: bytes) -> int:
        return self._types[topic].stamp_ns(raw)

    def close(self) -> None:
        self._reader.close()


def _is_bag(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    if path.is_dir():
        return b"rosbag2_bagfile_information" in head(path / "metadata.yaml", LOOK_AT)
    start = head(path, LOOK_AT)
    return start.startswith(ROS1) or (start.startswith(SQLITE) and TABLE in start)
