"""A folder of native logs, opened without opening its files: from what was read of each the last time."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from multisense.logs.native import Header, NativeLog
from multisense.logs.remember import Memory, stamp_of
from multisense.types import SensorInfo


class FolderIndex:
    """The headers of the native logs of one folder. A log that changed, or whose media did, is read again."""

    def __init__(self, folder: Path):
        self._folder, self._memory, self._asked = folder, Memory("logs", folder), []

    def names(self) -> list[str]:
        """Of the logs, where the folder held nothing else and has gained and lost no file; otherwise none."""
        names = self._memory.recall(".", stamp_of(os.path.realpath(self._folder)))
        is_list = isinstance(names, list) and all(
            isinstance(name, str) and name == os.path.basename(name) for name in names
        )
        return names if is_list else []

    def open(self, file: Path) -> NativeLog:
        """As `NativeLog`, which it opens where it does not know the file. Labels are read when they are asked for."""
        self._asked.append(file.name)
        stamp = stamp_of(os.path.realpath(file) if os.path.islink(file) else str(file))
        facts = self._memory.recall(file.name, stamp)
        header = None if facts is None else _header(facts, file.parent)
        if header is not None:
            return NativeLog(file, header)
        log = NativeLog(file)
        facts = _facts(log.header, file.parent)
        if facts is not None:
            self._memory.keep(file.name, stamp, facts)
        return log

    def save(self, count: int) -> None:
        """Keep what was read; and the names, if all of the `count` logs in the folder were asked for here."""
        if len(self._asked) == count and self._asked != self.names():
            self._memory.keep(".", stamp_of(os.path.realpath(self._folder)), self._asked)
        self._memory.save()


def _facts(header: Header, folder: Path) -> dict[str, Any] | None:
    """A header as JSON; None of a log that is being recorded, or with attributes that JSON does not know."""
    media = {sensor: os.path.relpath(path, folder) for sensor, path in header.media.items()}
    facts = {
        "attributes": header.attributes,
        "media": {sensor: [name, stamp_of(str(folder / name))] for sensor, name in media.items()},
        "sensors": [asdict(info) for info in header.sensors.values()],
    }
    is_plain = all(isinstance(value, (str, int, float)) for value in header.attributes.values())
    return facts if is_plain and not header.attributes.get("recording") else None


def _header(facts: dict[str, Any], folder: Path) -> Header | None:
    """A header from JSON; None where its media are others now, or it is not of the form that `_facts` gives."""
    try:
        media = {sensor: str(folder / name) for sensor, (name, _) in facts["media"].items()}
        if any(stamp_of(media[sensor]) != stamp for sensor, (_, stamp) in facts["media"].items()):
            return None
        infos = [
            SensorInfo(**{**info, "shape": tuple(info["shape"]), "channels": tuple(info["channels"])})
            for info in facts["sensors"]
        ]
        return Header(dict(facts["attributes"]), media, {info.name: info for info in infos})
    except (OSError, KeyError, TypeError, ValueError, AttributeError):  # read the log itself, which says what is wrong
        return None
