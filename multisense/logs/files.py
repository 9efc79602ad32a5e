"""Names and hashes of the files that make up a log."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath


def fingerprint_files(paths: Iterable[str], part: str = "") -> str:
    """16 hex digits of the names, sizes and modification times of the files; their contents are not read.

    `part` tells apart logs that share their files.
    """
    digest = hashlib.sha256(part.encode())
    for path in sorted(paths):
        status = os.stat(path)
        digest.update(f"{Path(path).name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def stays_inside(name: str) -> bool:
    """Whether a relative file name cannot leave the folder it is resolved in, on any platform."""
    parts = PureWindowsPath(name)  # splits at both kinds of slash
    return bool(parts.parts) and not (parts.drive or parts.root or ".." in parts.parts)
