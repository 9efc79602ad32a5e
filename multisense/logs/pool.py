"""Open files and decoders, kept by the thread that reads them: bounded, least recently used closed first.

A log object holds paths and plain values only, so it pickles; what it needs open it asks for here at every read. A
forked worker starts with an empty pool, because a decoder's threads and file positions do not survive a fork.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from multisense.logs.base import log_error


class Closable(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=Closable)


class Pool(threading.local):
    """At most `capacity` open things per thread of a process; a file that changed on disk is opened anew."""

    def __init__(self, capacity: int = 16) -> None:
        self.capacity = capacity
        self._owner = os.getpid()
        self._open: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._inherited: list[Any] = []

    def __len__(self) -> int:
        return len(self._open) if self._owner == os.getpid() else 0

    def get(self, opener: Callable[[str], T], path: str) -> T:
        """`opener(path)`, or the one already open.

        Raises LogError when there is no such file, and whatever `opener` raises.
        """
        self._forget_parent()
        key = (opener, path, *_version(path))
        if key in self._open:
            self._open.move_to_end(key)
            return self._open[key]
        while len(self._open) >= self.capacity:
            self._open.popitem(last=False)[1].close()
        self._open[key] = opener(path)
        return self._open[key]

    def close(self) -> None:
        """Close everything this thread has open."""
        self._forget_parent()
        while self._open:
            self._open.popitem()[1].close()

    def _forget_parent(self) -> None:
        if self._owner == os.getpid():
            return
        # Kept, not closed: a destructor may wait for threads that exist in the parent only.
        self._inherited.append(self._open)
        self._open = OrderedDict()
        self._owner = os.getpid()


def _version(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise log_error(path, "no readable file", "a file", f"Was it moved or deleted? ({error.strerror})") from error
    return status.st_mtime_ns, status.st_size


POOL = Pool()
