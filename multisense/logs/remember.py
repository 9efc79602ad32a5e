"""What was found out about the files of a folder, kept between runs in the user's cache directory.

MULTISENSE_CACHE (~/.cache/multisense)/KIND/<hash of the folder's path>.json   {file: [stamp, facts]}

It saves work and nothing else: a damaged file is as good as none, one that cannot be written is let be, and a fact
counts only while the stamp of its file is the same.
"""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

YOUNG_S = 2.0
"""A file changed so recently may change again without another stamp."""


def cache_folder() -> Path:
    """Where multisense keeps what it can make anew."""
    return Path(os.environ.get("MULTISENSE_CACHE") or os.path.expanduser("~/.cache/multisense"))


def stamp_of(path: str) -> list[int]:
    """[size, time of modification in ns] of what lies at a path itself, which may be a link. Raises OSError."""
    status = os.lstat(path)
    return [status.st_size, status.st_mtime_ns]


class Memory:
    """Facts of one kind about files in and below one folder, by their names within it."""

    def __init__(self, kind: str, folder: str | Path):
        name = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:32]
        self._file = cache_folder() / kind / f"{name}.json"
        self._known = _read(self._file)
        self._is_new = False

    def recall(self, name: str, stamp: list[int]) -> Any:
        """What was kept about a file; None where it has changed since, or nothing was."""
        entry = self._known.get(name)
        return entry[1] if isinstance(entry, list) and len(entry) == 2 and entry[0] == stamp else None

    def keep(self, name: str, stamp: list[int], facts: Any) -> None:
        """Remember facts, which JSON must know, about a file that has not just been changed."""
        if time.time() - stamp[1] / 1e9 > YOUNG_S:
            self._known[name] = [stamp, facts]
            self._is_new = True

    def save(self) -> None:
        """Write what is new. Of processes that do so at once the last one is believed."""
        if not self._is_new:
            return
        fresh = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_text(json.dumps(self._known))
            fresh.replace(self._file)
        except OSError:  # no place to keep it: then it is found out again
            return
        self._is_new = False


def _read(file: Path) -> dict[str, Any]:
    try:
        known = json.loads(file.read_bytes())
    except (OSError, ValueError):  # not there, or damaged: written anew
        return {}
    return known if isinstance(known, dict) else {}
