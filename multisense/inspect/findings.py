"""What a check has to say: one record for each thing that is wrong, or may be."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

Level = Literal["error", "warning", "info"]
STYLES: dict[Level, str] = {"error": "bold red", "warning": "yellow", "info": "dim"}
ORDER = list(STYLES)


@dataclass(frozen=True)
class Finding:
    """An error makes data unusable or wrong, a warning makes them doubtful, an info is worth knowing."""

    level: Level
    log: str
    """Name of the log; "" where the whole data set is meant."""
    sensor: str
    """Name of the sensor; "" where the whole log is meant."""
    kind: str
    """One word for what it is, such as `gap` or `clipped`."""
    message: str
    """What was found and what was expected, in units."""
    start_s: float | None = None
    """From when, on the log's clock; None where it has no time."""
    stop_s: float | None = None

    def as_dict(self) -> dict[str, str | float | None]:
        return asdict(self)


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Errors, then warnings, then infos; by log and sensor within each."""
    return sorted(findings, key=lambda f: (ORDER.index(f.level), f.log, f.sensor, f.kind, f.start_s or 0.0))


def has_errors(findings: Iterable[Finding]) -> bool:
    return any(finding.level == "error" for finding in findings)


def findings_table(findings: Iterable[Finding]) -> Table:
    """One row for each finding, the worst first. Where and what share a column: names are long and terminals narrow."""
    table = Table(title="findings", box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for column in ("level", "kind"):
        table.add_column(column, no_wrap=True)
    table.add_column("log, sensor, seconds: what", overflow="fold")
    for f in worst_first(findings):
        when = "" if f.start_s is None or f.stop_s is None else f"{f.start_s:.2f} - {f.stop_s:.2f} s"
        where = ", ".join(part for part in (f.log or "all logs", f.sensor, when) if part)
        table.add_row(f.level, f.kind, Text(f"{where}: {f.message}"), style=STYLES[f.level])
    return table
