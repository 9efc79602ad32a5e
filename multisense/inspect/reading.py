"""What readers and recorders know to be wrong before a sample is looked at."""

from collections.abc import Iterator, Sequence

from multisense.inspect.findings import Finding
from multisense.inspect.info import UNFINISHED, said_dropped
from multisense.logs import LogError, NativeLog, SensorLog
from multisense.logs.base import Reason
from multisense.logs.media import open_video
from multisense.logs.pool import POOL

BY_DESIGN = ("bookkeeping",)
"""Reasons for leaving something out that are worth no word."""


def unreadable(error: LogError, log: str, sensor: str = "") -> Finding:
    """What a reader refused."""
    return Finding("error", log, sensor or error.sensor, error.kind, str(error))


def left_out(logs: Sequence[SensorLog]) -> Iterator[Finding]:
    """What readers left out: once for the data set where all logs agree, else log by log."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for log in logs:
        for name, reason in getattr(log, "skipped", {}).items():
            if reason not in BY_DESIGN:
                reasons.setdefault((name, reason), []).append(log.name)
    for (name, reason), where in reasons.items():
        kind = reason.kind if isinstance(reason, Reason) else "unreadable"
        for log in [""] if len(where) == len(logs) > 1 else where:
            if kind == "unreadable":  # a type that is not read, for one: no fault of the data
                yield Finding("info", log, name, "skipped", f"left out: {reason}")
            else:
                yield Finding("error", log, name, kind, f"left out: {reason}")


def recorded(log: SensorLog) -> Iterator[Finding]:
    """Of a native log: samples that its recorder lost, an end that is missing, and frames without stamps."""
    if not isinstance(log, NativeLog):
        return
    for name in log.dropped:
        yield Finding("warning", log.name, name, "dropped", f"{said_dropped(log, name)}: the disk was too slow")
    if log.attributes.get("recording"):
        yield Finding("info", log.name, "", "unfinished", UNFINISHED)
    else:
        yield from _surplus_frames(log)


def _surplus_frames(log: NativeLog) -> Iterator[Finding]:
    """Frames beyond the stamps: a lost stamp shifts all later frames. Too few are refused on read."""
    for name, video in log.media.items():
        try:
            frames = len(POOL.get(open_video, video).times_s)
        except LogError:  # reported by the pass over its frames
            continue
        if frames > log.sensors[name].count:
            message = f"{frames} frames in {video} for {log.sensors[name].count} times, expected a time for every frame"
            yield Finding("error", log.name, name, "frames", message)
