"""Columns of time stamps: which column it is, in which unit, and whether it counts from 1970."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from multisense.logs.base import log_error
from multisense.logs.clock import FARTHEST_S

PER_SECOND = {"s": 1, "sec": 1, "secs": 1, "seconds": 1, "ms": 10**3, "us": 10**6, "µs": 10**6, "ns": 10**9}
UNIX_S = (1e9, 4.2e9)
"""Seconds since 1970 of the years 2001 to 2103: no robot has been on for so long."""
SLOWEST_STEP_S = 1000.0
"""Stamps without a unit that stand farther apart than this are not taken for seconds."""
SLOWEST_WHOLE_STEP_S = 1.0
"""The same of whole numbers, which may as well be the milliseconds of a microcontroller."""
NAME = re.compile(
    r"(?:t|times?|stamps?|timestamps?|time_?stamps?|datetime)(?:_(\w+)|\s*[\[(]\s*(\w+)\s*[\])])?", re.IGNORECASE
)


def stamp_unit(column: str) -> str | None:
    """The unit in the name of a column of stamps, "" where it has none; None where the name is of no such column."""
    match = NAME.fullmatch(column.strip())
    unit = (match[1] or match[2] or "").lower() if match else "-"
    return unit if unit in PER_SECOND or not unit else None


@dataclass(frozen=True, eq=False)
class Stamps:
    """(N,) time stamps as a file has them."""

    raw: np.ndarray
    """int64 or float64"""
    per_second: int

    @property
    def is_unix(self) -> bool:
        return len(self.raw) > 0 and UNIX_S[0] <= float(self.raw[0]) / self.per_second < UNIX_S[1]

    @property
    def first_ns(self) -> int:
        first = self.raw[0]
        if self.raw.dtype.kind == "i":
            return int(first) * (10**9 // self.per_second)
        return round(float(first) * 1e9 / self.per_second)

    def seconds(self, origin_ns: int = 0) -> np.ndarray:
        """(N,) float64 seconds after `origin_ns`; integers are subtracted as integers, which keeps their nanoseconds."""
        if self.raw.dtype.kind == "i" and origin_ns:
            return (self.raw * (10**9 // self.per_second) - origin_ns) / 1e9
        return self.raw.astype(np.float64) / self.per_second - origin_ns / 1e9


def as_stamps(raw: np.ndarray, unit: str, where: str) -> Stamps:
    """Stamps of a unit, or of the one that makes them of this century. Raises LogError where neither tells seconds."""
    if not np.isfinite(raw).all():
        raise log_error(where, "stamps that are no finite numbers", "seconds", "Leave out the rows without a stamp.")
    raw = raw.astype(np.int64 if raw.dtype.kind in "iu" else np.float64)
    if len(raw) and float(np.abs(raw.astype(np.float64)).max()) / PER_SECOND.get(unit, 10**9) > FARTHEST_S:
        fix = "Correct the unit in its name."
        raise log_error(where, f"stamps up to {np.abs(raw.astype(np.float64)).max():.6g}", "years at most", fix)
    if unit:
        return Stamps(raw, PER_SECOND[unit])
    for per_second in (10**3, 10**6, 10**9):
        if Stamps(raw, per_second).is_unix:
            return Stamps(raw, per_second)
    step = float(np.median(np.diff(raw))) if len(raw) > 1 else 0.0
    is_whole = raw.dtype.kind == "i" or bool((raw == np.round(raw)).all())
    if step > (SLOWEST_WHOLE_STEP_S if is_whole else SLOWEST_STEP_S):
        fix = "Put the unit into its name, such as time_ms or time_s."
        raise log_error(where, f"stamps {step:.6g} apart, without a unit", "seconds", fix)
    return Stamps(raw, 1)


def date_us(text: str) -> float:
    """Microseconds since 1970 of an ISO 8601 date and time, taken as UTC where it does not say. Raises ValueError."""
    when = datetime.fromisoformat(text.strip())
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return float(round((when - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1e6))
