"""What every log looks like from outside, and the errors it may raise."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np

from multisense.types import Label, SensorInfo, Stream


class LogError(ValueError):
    """A log that cannot be read as it claims to be: says which file, what was found, what was expected and the fix."""


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


def log_error(where: str, found: str, expected: str, fix: str) -> LogError:
    """A LogError in the one form they all have. `where` starts with the file, then the place in it."""
    return LogError(f"{where}: found {found}; expected {expected}. {fix}")
