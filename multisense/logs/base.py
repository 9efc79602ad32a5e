"""What every log looks like from outside, and the errors it may raise."""

from collections.abc import Mapping
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from multisense.types import Label, SensorInfo, Stream

Kind = Literal["unreadable", "stamps", "backward", "duplicate", "apart", "frames", "rate"]
"""What is wrong: stamps that are no times, run backwards, come twice or are of another clock; not as many of them as of
samples; a rate that nothing can have; else only that it cannot be read."""


class LogError(ValueError):
    """A log that cannot be read as it claims to be: says which file, what was found, what was expected and the fix."""

    def __init__(self, message: str, kind: Kind = "unreadable", sensor: str = "") -> None:
        """`sensor` is the one that is at fault; "" where it is the whole log, or whoever catches it knows."""
        super().__init__(message)
        self.kind: Kind = kind
        self.sensor = sensor

    @property
    def reason(self) -> "Reason":
        return Reason(str(self), self.kind)


class Reason(str):
    """Why a reader left something out: a text that knows whether that is a fault, and of which kind."""

    kind: Kind

    def __new__(cls, text: str, kind: Kind) -> "Reason":
        reason = super().__new__(cls, text)
        reason.kind = kind
        return reason

    def __getnewargs__(self) -> tuple[str, Kind]:
        return str(self), self.kind


@runtime_checkable
class SensorLog(Protocol):
    """One recording, read in place: every stream at its own rate, on its own stamps in seconds of the log's clock."""

    name: str
    """Short and unique within its data set; names the log in results."""
    path: str
    sensors: Mapping[str, SensorInfo]

    @property
    def labels(self) -> Mapping[str, Label]:
        """Ground truth, by name."""
        ...

    def read(self, sensor: str, start_s: float, stop_s: float) -> Stream:
        """The samples of `sensor` with start_s <= time < stop_s; empty where there are none."""
        ...

    def fingerprint(self) -> str:
        """A short hash that changes when the data may have (names, sizes, modification times)."""
        ...


@runtime_checkable
class Picks(Protocol):
    """What a log may have besides: single samples read without those between them, such as a video's frames."""

    def times(self, sensor: str, start_s: float, stop_s: float) -> np.ndarray:
        """(N,) float64: the times of the samples that `read` would give, fetching none."""
        ...

    def pick(self, sensor: str, start_s: float, stop_s: float, places: np.ndarray) -> Stream:
        """Of the samples that `read` would give those at `places`, which are distinct and increasing."""
        ...


def log_error(
    where: str, found: str, expected: str, fix: str, *, kind: Kind = "unreadable", sensor: str = ""
) -> LogError:
    """A LogError in the one form they all have. `where` starts with the file, then the place in it."""
    return LogError(f"{where}: found {found}; expected {expected}. {fix}", kind, sensor)


def how_to_install(extra: str) -> str:
    """The fix where a library that only some formats need is missing."""
    return f"Install multisense's extra `{extra}`: pip install -e '.[{extra}]' in its source folder."
