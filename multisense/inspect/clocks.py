"""Clocks beside one another, for people: what can be compared, what is off, and a table."""

from collections import Counter
from collections.abc import Sequence

from rich.box import SIMPLE
from rich.table import Table

from multisense.inspect.align import Alignment, Offset
from multisense.inspect.findings import Finding
from multisense.logs.base import SensorLog

OFF_S = 0.01
"""A clock that is off by more is worth a warning: a touch and its sound fall into different windows of the features."""
CLOCK_KINDS = ("offset", "drift")
HARMLESS = ("nan",)
"""Errors of streams whose times can be compared all the same."""


def comparable(logs: Sequence[SensorLog], findings: Sequence[Finding]) -> tuple[list[SensorLog], list[str]]:
    """The logs and sensors whose clocks can be compared: without errors, of one shape, every sensor in every log.

    A sensor that is missing or at fault in half of the logs is left out; else the logs in which it is.
    """
    wrong = {(f.log, f.sensor) for f in findings if f.level == "error" and f.kind not in HARMLESS}
    good: dict[str, set[str]] = {}
    for name in dict.fromkeys(name for log in logs for name in log.sensors):
        shapes = {log.name: log.sensors[name].shape for log in logs if name in log.sensors}
        usual, _ = Counter(shapes.values()).most_common(1)[0]
        good[name] = {log for log, shape in shapes.items() if shape == usual and not wrong & {(log, name), ("", name)}}
    sensors = [name for name, holders in good.items() if 2 * len(holders) > len(logs)]
    return [log for log in logs if all(log.name in good[name] for name in sensors)], sensors


def clock_findings(alignment: Alignment) -> list[Finding]:
    """A warning for every clock that is certainly off, or certainly runs off within a log."""
    found = []
    for offset in alignment.offsets.values():
        late_s = offset.late_s
        if offset.is_command:  # leads by as much as the body is slow
            continue
        if offset.is_off and abs(late_s) > OFF_S:
            word = "late" if late_s > 0 else "early"
            message = f"stamped {show_late(offset, signed=False)} too {word} beside {alignment.reference}"
            found.append(Finding("warning", "", offset.sensor, "offset", f"{message}; `multisense align` corrects it"))
        end_s = offset.drift_ppm * 1e-6 * 2 * alignment.middle_s
        if offset.is_drifting and abs(end_s) > OFF_S:
            message = f"its clock gains {show_drift(offset)} on that of {alignment.reference}"
            found.append(Finding("warning", "", offset.sensor, "drift", f"{message}, {end_s * 1e3:.0f} ms in a log"))
    return found


def clock_table(alignment: Alignment) -> Table:
    """One row a sensor: how late it is stamped against the reference."""
    table = Table(title=f"clocks against {alignment.reference}", box=SIMPLE, padding=(0, 1, 0, 0), show_edge=False)
    for column in ("sensor", "late by", "drift", "confidence", "remark"):
        table.add_column(column)
    for offset in alignment.offsets.values():
        confidence = f"{max(offset.confidence, 0):.2f}"
        remark = offset.reason or ("a command leads what it causes: left as it is" if offset.is_command else "")
        table.add_row(offset.sensor, show_late(offset), show_drift(offset), confidence, remark)
    return table


def show_late(offset: Offset, signed: bool = True) -> str:
    """0.25 s -> '+250.0 ± 0.2 ms'."""
    if not offset.is_determined:
        return "undetermined"
    late = f"{offset.late_s * 1e3:+.1f}" if signed else f"{abs(offset.late_s) * 1e3:.1f}"
    return f"{late} ± {offset.error_s * 1e3:.1f} ms"


def show_drift(offset: Offset) -> str:
    """'+100 ± 3 ppm', or '-' where it is unknown."""
    known = offset.drift_ppm == offset.drift_ppm
    return f"{offset.drift_ppm:+.0f} ± {offset.drift_error_ppm:.0f} ppm" if known else "-"
