"""Folders of native logs, opened without opening its files: from what was read of each the last time."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from multisense.logs.native import Header, NativeLog
from multisense.logs.remember import Memory, stamp_of
from multisense.types import SensorInfo

KIND = "logs-1"
"""The number rises with what a header is made of and what is refused: nothing that older code found is then believed."""


class FolderIndex:
    """The headers of the native logs in and below a folder. A log that changed, or whose media did, is read again."""

    def __init__(self, folder: Path):
        self._folder, self._memory = folder, Memory(KIND, folder)

    def open(self, file: Path) -> NativeLog:
        """As `NativeLog`, which it opens where it does not know the file. Labels are read when they are asked for."""
        try:
            stamp = stamp_of(os.path.realpath(file) if os.path.islink(file) else str(file))
        except OSError:  # gone since the folder was listed
            return NativeLog(file)
        name = str(file.relative_to(self._folder))
        facts = self._memory.recall(name, stamp)
        header = None if facts is None else _header(facts, file.parent)
        if header is not None:
            return NativeLog(file, header)
        log = NativeLog(file)
        facts = _facts(log.header, file.parent)
        if facts is not None:
            self._memory.keep(name, stamp, facts)
        return log

    def save(self) -> None:
        """Keep what was read, for other processes."""
        self._memory.save()


def _facts(header: Header, folder: Path) -> dict[str, Any] | None:
    """A header as JSON; None of a log that is being recorded, or with attributes that JSON does not know."""
    media = {sensor: os.path.relpath(path, folder) for sensor, path in header.media.items()}
    facts = {
        "attributes": header.attributes,
        "media": {sensor: [name, stamp_of(str(folder / name))] for sensor, name in media.items()},
        "sensors": [asdict(info) for info in header.sensors.values()],
        "dropped": header.dropped,
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
        return Header(dict(facts["attributes"]), {info.name: info for info in infos}, media, dict(facts["dropped"]))
    except (OSError, KeyError, TypeError, ValueError, AttributeError):  # read the log itself, which says what is wrong
        return None
