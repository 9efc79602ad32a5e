"""What is in some logs, told without reading their data."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from multisense.logs.base import SensorLog
from multisense.logs.native import NativeLog
from multisense.types import SensorInfo

UNFINISHED = "still being recorded, or its recorder was killed: it ends with what was flushed last"
WIDEST_NAME = 20
"""Of a sensor, in a table: what is longer is broken."""
OFF_RATE = 0.05
"""A measured rate that differs by so much of the nominal one is shown beside it."""
SHOWN_LOGS = 40
"""More are counted, not listed, in a table; `as_dict` has all."""


@dataclass(frozen=True)
class SensorFacts:
    """One sensor of one log."""

    sensor: str
    modality: str
    shape: tuple[int, ...]
    """Of one sample."""
    dtype: str
    rate_hz: float
    """Nominal."""
    measured_hz: float | None
    """Samples over time, so gaps lower it; None for a single sample."""
    units: str
    channels: tuple[str, ...]
    count: int
    hours: float
    bytes: int
    """Of the samples as `read` returns them, frames decoded."""
    note: str = ""
    """What the reader had to decide, such as which of two time stamps it took, and what the recorder lost."""


@dataclass(frozen=True)
class LogFacts:
    """One log."""

    log: str
    path: str
    hours: float
    """From its first sample to its last, whichever sensors they are of."""
    bytes: int
    stored_bytes: int | None
    """On disk, media files included; None where several logs share their files."""
    sensors: tuple[SensorFacts, ...]
    skipped: Mapping[str, str]
    """What in the files is no sensor, and why."""
    note: str = ""
    """Whether it is whole."""


@dataclass(frozen=True)
class DatasetFacts:
    """Some logs, as `info` finds them."""

    logs: tuple[LogFacts, ...]

    @property
    def hours(self) -> float:
        return sum(log.hours for log in self.logs)

    @property
    def bytes(self) -> int:
        return sum(log.bytes for log in self.logs)

    @property
    def stored_bytes(self) -> int:
        """On disk; files shared by several logs counted once."""
        return sum(file.stat().st_size for path in {log.path for log in self.logs} for file in log_files(path))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON: `logs`, and `total` with hours, bytes, stored_bytes, logs and sensors."""
        total = {
            "logs": len(self.logs),
            "sensors": len({s.sensor for log in self.logs for s in log.sensors}),
            "hours": self.hours,
            "bytes": self.bytes,
            "stored_bytes": self.stored_bytes,
        }
        return {"logs": [asdict(log) for log in self.logs], "total": total}


def info(logs: Sequence[SensorLog]) -> DatasetFacts:
    """The facts of `logs`, from what they know without reading data."""
    paths = [log.path for log in logs]
    return DatasetFacts(tuple(_log_facts(log, shares_files=paths.count(log.path) > 1) for log in logs))


def sample_bytes(sensor: SensorInfo) -> int:
    """Bytes of one sample as `read` returns it."""
    return math.prod(sensor.shape) * np.dtype(sensor.dtype).itemsize


def measured_hz(sensor: SensorInfo) -> float | None:
    """Samples per second between the first stamp and the last; None for a single sample."""
    seconds = sensor.stop_s - 1 / sensor.rate_hz - sensor.start_s
    return (sensor.count - 1) / seconds if sensor.count > 1 and seconds > 0 else None


def log_files(path: str) -> list[Path]:
    """The files at a log's path: a folder's, or a file and those named after it (`<log>.camera.mp4`)."""
    place = Path(path)
    if place.is_dir():
        return sorted(file for file in place.rglob("*") if file.is_file())
    if not place.is_file():
        return []
    return sorted(file for file in place.parent.iterdir() if file == place or file.name.startswith(f"{place.stem}."))


def _log_facts(log: SensorLog, shares_files: bool) -> LogFacts:
    notes: Mapping[str, str] = getattr(log, "notes", {})
    if isinstance(log, NativeLog):
        notes = {name: said_dropped(log, name) for name in log.dropped}
    sensors = tuple(_sensor_facts(sensor, notes.get(name, "")) for name, sensor in log.sensors.items())
    start = min(sensor.start_s for sensor in log.sensors.values())
    stop = max(sensor.stop_s for sensor in log.sensors.values())
    return LogFacts(
        log=log.name,
        path=log.path,
        hours=(stop - start) / 3600,
        bytes=sum(sensor.bytes for sensor in sensors),
        stored_bytes=None if shares_files else sum(file.stat().st_size for file in log_files(log.path)),
        sensors=sensors,
        skipped=dict(getattr(log, "skipped", {})),
        note=UNFINISHED if isinstance(log, NativeLog) and log.attributes.get("recording") else "",
    )


def said_dropped(log: NativeLog, sensor: str) -> str:
    """How much its recorder left out of a sensor."""
    count = log.dropped[sensor]
    return f"{count} samples left out while recording ({count / (count + log.sensors[sensor].count):.1%})"


def _sensor_facts(sensor: SensorInfo, note: str) -> SensorFacts:
    return SensorFacts(
        sensor=sensor.name,
        modality=sensor.modality,
        shape=tuple(sensor.shape),
        dtype=sensor.dtype,
        rate_hz=sensor.rate_hz,
        measured_hz=measured_hz(sensor),
        units=sensor.units,
        channels=sensor.channels,
        count=sensor.count,
        hours=(sensor.stop_s - sensor.start_s) / 3600,
        bytes=sensor.count * sample_bytes(sensor),
        note=note,
    )


def info_tables(facts: DatasetFacts) -> list[Table]:
    """Sensors over all logs, logs, and, where there are any, what was skipped and decided."""
    tables = [_sensor_table(facts), _log_table(facts)]
    remarks = _remarks(facts.logs)
    if remarks:
        table = _table("skipped and decided")
        for column in ("what", "logs", "remark"):
            table.add_column(column, overflow="fold")
        for (name, remark), count in remarks.items():
            table.add_row(name, str(count), remark)
        tables.append(table)
    return tables


def _sensor_table(facts: DatasetFacts) -> Table:
    table = _table("sensors")
    longest = max((len(sensor.sensor) for log in facts.logs for sensor in log.sensors), default=0)
    table.add_column("sensor", overflow="fold", min_width=min(longest, WIDEST_NAME))
    table.add_column("modality", no_wrap=True)
    table.add_column("sample")
    for column in ("Hz", "logs", "time", "bytes"):
        table.add_column(column, justify="right")
    table.add_column("units", max_width=12)
    groups: dict[str, list[SensorFacts]] = defaultdict(list)
    for log in facts.logs:
        for sensor in log.sensors:
            groups[sensor.sensor].append(sensor)
    for name, group in sorted(groups.items()):
        table.add_row(
            name,
            _each(s.modality or "?" for s in group),
            _each(f"{' x '.join(map(str, s.shape)) or '1'} {s.dtype}" for s in group),
            _rates(group),
            str(len(group)),
            show_hours(sum(s.hours for s in group)),
            show_bytes(sum(s.bytes for s in group)),
            _each(s.units for s in group),
        )
    return table


def _log_table(facts: DatasetFacts) -> Table:
    table = _table("logs")
    table.add_column("log", overflow="fold")
    for column in ("sensors", "time", "bytes", "on disk"):
        table.add_column(column, justify="right")
    for log in facts.logs[:SHOWN_LOGS]:
        stored = "shared" if log.stored_bytes is None else show_bytes(log.stored_bytes)
        table.add_row(log.log, str(len(log.sensors)), show_hours(log.hours), show_bytes(log.bytes), stored)
    if len(facts.logs) > SHOWN_LOGS:
        table.add_row(f"... {len(facts.logs) - SHOWN_LOGS} more", "", "", "", "")
    table.add_section()
    total = (counted(facts.logs), "", show_hours(facts.hours))
    table.add_row(*total, show_bytes(facts.bytes), show_bytes(facts.stored_bytes), style="bold")
    return table


def _remarks(logs: Iterable[LogFacts]) -> dict[tuple[str, str], int]:
    """How many logs say the same thing of the same sensor, or of themselves."""
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for log in logs:
        for name, reason in log.skipped.items():
            counts[name, f"skipped: {reason}"] += 1
        if log.note:
            counts[log.log, log.note] += 1
        for sensor in log.sensors:
            if sensor.note:
                counts[sensor.sensor, sensor.note] += 1
    return dict(counts)


def _table(title: str) -> Table:
    """Narrow enough for 80 columns."""
    return Table(title=title, box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)


def counted(logs: Sequence[SensorLog] | Sequence[LogFacts]) -> str:
    """'1 log', '12 logs'."""
    return f"{len(logs)} log{'s' * (len(logs) != 1)}"


def show_hours(hours: float) -> str:
    """0.02 -> '72 s'."""
    seconds = 3600 * hours
    return f"{seconds:.3g} s" if seconds < 180 else f"{seconds / 60:.3g} min" if seconds < 7200 else f"{hours:.4g} h"


def show_bytes(count: float) -> str:
    """1536 -> '1.54 kB'."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB"


def _each(values: Iterable[str]) -> str:
    return " / ".join(dict.fromkeys(values))


def _rates(group: Sequence[SensorFacts]) -> str:
    """Nominal rates, and in brackets the measured ones where samples are missing or too many."""
    nominal = _range([s.rate_hz for s in group])
    measured = [(s.measured_hz, s.rate_hz) for s in group if s.measured_hz is not None]
    is_off = any(abs(found / said - 1) > OFF_RATE for found, said in measured)
    return f"{nominal} ({_range([found for found, _ in measured])})" if is_off else nominal


def _range(values: Sequence[float]) -> str:
    if not values:
        return "-"
    low, high = (f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" for value in (min(values), max(values)))
    return low if low == high else f"{low} - {high}"
