"""Decoding ROS messages by the definitions that travel with them, through rosbags' own type system."""

import importlib.util
import struct
from typing import Any

from multisense.logs.base import how_to_install, log_error

HEADER, TIME = "std_msgs/msg/Header", "builtin_interfaces/msg/Time"


def require(path: str, module: str, package: str) -> None:
    """Raise LogError, which says what to install, where an optional package is missing."""
    if importlib.util.find_spec(module) is None:
        fix = how_to_install("ros")
        raise log_error(path, f"no {package} in this environment", "it, to read bags and MCAP", fix)


class RosType:
    """A message type, serialised as ROS 1 does or as CDR, which ROS 2 uses.

    `definition` is its text, with those of the types it is made of; None takes the type as the current ROS 2 has it.
    """

    def __init__(self, name: str, definition: str | None, is_ros1: bool) -> None:
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore

        self._name, self._is_ros1 = f"{name.split('/')[0]}/msg/{name.split('/')[-1]}", is_ros1
        self._store = get_typestore(Stores.LATEST if definition is None else Stores.EMPTY)
        if definition is not None:
            self._store.register(get_types_from_msg(definition, self._name))
        if self._name not in self._store.fielddefs:
            raise ValueError("its definition is not in the bag")

    def decode(self, raw: bytes) -> Any:
        read = self._store.deserialize_ros1 if self._is_ros1 else self._store.deserialize_cdr
        return read(raw, self._name)

    def stamp_ns(self, raw: bytes) -> int:
        """The stamp that a message begins with, in a header or alone, read from its first bytes; else 0."""
        fields = self._store.fielddefs[self._name][1]
        kind = fields[0][1][1] if fields else ""
        if kind not in (HEADER, TIME):
            return 0
        if self._is_ros1:
            seconds, nanoseconds = struct.unpack_from("<II", raw, 4 if kind == HEADER else 0)
        else:
            seconds, nanoseconds = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, 4)
        return seconds * 10**9 + nanoseconds
