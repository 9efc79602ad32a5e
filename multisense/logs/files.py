"""Names and hashes of the files that make up a log."""

import hashlib
import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path, PureWindowsPath

from multisense.logs.remember import Memory

BLOCK = 1 << 22
"""Bytes read at once;"""
MOST_BLOCKS = 64
"""of a file with more blocks so many are read, evenly spaced from its beginning to its end."""
LONGEST_NAME = 1024
_DIGESTS: dict[str, Memory] = {}
"""Of the contents of files, by folder."""


def fingerprint_files(paths: Iterable[str], part: str = "") -> str:
    """16 hex digits of the files' names, sizes and contents (above 256 MB, of blocks): the same wherever they lie.

    `part` tells apart logs that share their files.
    """
    digest = hashlib.sha256(part.encode(errors="surrogatepass"))
    for path in sorted(paths, key=lambda path: Path(path).name):
        status = os.stat(path)
        digest.update(f"{Path(path).name} {status.st_size} ".encode(errors="surrogatepass"))
        digest.update(_contents(str(path), status.st_size, status.st_mtime_ns))
    return digest.hexdigest()[:16]


def keep_digests() -> None:
    """Keep what was computed of the contents of files for other processes: those of a data set take long to read."""
    for memory in _DIGESTS.values():
        memory.save()


@lru_cache(maxsize=1 << 16)
def _contents(path: str, size: int, modified_ns: int) -> bytes:
    """Digest of a file's contents; read again only when its size or time of modification is another."""
    folder, name = os.path.split(os.path.abspath(path))
    memory = _DIGESTS.get(folder) or _DIGESTS.setdefault(folder, Memory("digests-2", folder))
    known = memory.recall(name, [size, modified_ns])
    if isinstance(known, str) and len(known) == 64:
        return bytes.fromhex(known)
    digest = _read(path, size)
    memory.keep(name, [size, modified_ns], digest.hex())
    return digest


def _read(path: str, size: int) -> bytes:
    digest, blocks = hashlib.sha256(), -(-size // BLOCK)
    places = range(0, size, BLOCK)
    if blocks > MOST_BLOCKS:
        places = [(size - BLOCK) * k // (MOST_BLOCKS - 1) for k in range(MOST_BLOCKS)]
    with open(path, "rb") as file:
        for place in places:
            file.seek(place)
            digest.update(file.read(BLOCK))
    return digest.digest()


def head(path: Path, count: int) -> bytes:
    """The first bytes of a file; none where there is no readable file. A pipe is none: it would wait for its writer."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(count)
    except OSError:
        return b""


def stays_inside(name: str) -> bool:
    """Whether a relative file name is one that files can have, and cannot leave its folder, on any platform."""
    parts = PureWindowsPath(name)  # splits at both kinds of slash
    is_name = "\0" not in name and len(name) <= LONGEST_NAME and all(len(part) <= 255 for part in parts.parts)
    return is_name and bool(parts.parts) and not (parts.drive or parts.root or ".." in parts.parts)
