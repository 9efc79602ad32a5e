"""What `multisense info`, `check` and `align` print."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from multisense.inspect.align import Alignment, find_offsets
from multisense.inspect.bandwidth import bandwidth, bandwidth_table
from multisense.inspect.bandwidth_plot import bandwidth_plot
from multisense.inspect.clocks import clock_findings, clock_table, comparable
from multisense.inspect.correct import apply_offsets
from multisense.inspect.findings import Finding, findings_table, has_errors
from multisense.inspect.info import counted, info, info_tables
from multisense.inspect.page import write_check_page
from multisense.inspect.streams import check_logs
from multisense.logs.base import LogError, SensorLog
from multisense.logs.open import open_logs, survey_logs


def show_info(
    path: str,
    console: Console,
    as_json: bool,
    with_bandwidth: bool,
    picture: Path | None,
    tokens: Mapping[str, float],
    width: int,
) -> int:
    """Print the facts of the logs at `path`; an unreadable log is named, and does not hide the others.

    Returns the exit status, 1 where no log can be read.
    """
    logs, errors = survey_logs(path)
    facts = info(logs)
    rates = bandwidth(logs, tokens, width) if with_bandwidth else None
    if rates is not None and picture is not None:
        bandwidth_plot(rates, picture)
    if as_json:
        tree = facts.as_dict() | {"errors": {name: str(error) for name, error in errors.items()}}
        tree |= {"bandwidth": rates.as_dict()} if rates is not None else {}
        print(json.dumps(tree, indent=1))
        return int(not logs)
    for table in [*(info_tables(facts) if logs else []), *([bandwidth_table(rates)] if rates is not None else [])]:
        console.print(table)
    for name, error in errors.items():
        console.print(f"unreadable: {name}: {error}", markup=False, highlight=False)
    return int(not logs)


def show_check(path: str, console: Console, html: Path | None, clocks: bool) -> int:
    """Print what is wrong with the logs at `path`; returns the exit status, 1 where there are errors."""
    logs, errors = survey_logs(path)
    findings = check_logs(logs, errors)
    console.print(findings_table(findings) if findings else f"{counted(logs)}: nothing found in the streams")
    alignment = _compared(logs, findings, console) if clocks else None
    if alignment is not None:
        console.print(clock_table(alignment))
        if off := clock_findings(alignment):
            console.print(findings_table(off))
            findings += off
    if html is not None:
        write_check_page(html, path, logs, findings, alignment)
        console.print(f"Page: {html}")
    return int(has_errors(findings))


def _compared(logs: Sequence[SensorLog], findings: Sequence[Finding], console: Console) -> Alignment | None:
    """None, with a word why, where there are no clocks to compare."""
    sound, sensors = comparable(logs, findings)
    if not sound or len(sensors) < 2:
        console.print(
            f"clocks not compared: sensors without errors, in {counted(sound)}: {len(sensors)}, of two needed"
        )
        return None
    try:
        return find_offsets(sound, sensors=sensors)
    except LogError as error:
        console.print(f"clocks not compared: {error}", markup=False, highlight=False)
        return None


def show_align(path: str, console: Console, reference: str | None, sensors: Sequence[str] | None, apply: bool) -> None:
    """Print the clocks of the logs at `path`; where asked, record what was determined."""
    logs = open_logs(path)
    alignment = find_offsets(logs, reference, sensors)
    console.print(clock_table(alignment))
    if apply:
        corrected = apply_offsets(logs, alignment, sensors or ())
        nothing = "nothing to correct: no clock is off by more than its error"
        console.print(f"recorded in {counted(logs)} for: {', '.join(corrected)}" if corrected else nothing)
