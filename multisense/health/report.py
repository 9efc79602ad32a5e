"""`multisense health`: a trained run on held-out logs, beside what it wrote of itself while it was trained."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from multisense.checkpoint import checkpoints, saved_step, warn_if_unfinished
from multisense.health.alarms import Alarm, Row, alarms
from multisense.health.clips import HeldOut, held_out
from multisense.health.measure import Health, measure
from multisense.health.table import print_health
from multisense.logs.base import SensorLog
from multisense.logs.open import open_logs
from multisense.run import Run, TrainConfig, build_objective, check_logs, open_run, read_lines
from multisense.statistics import copy_statistics

FILE = "health.jsonl"
"""In the run's folder: one line per measure while it was trained, {"step": ..., measure: number, ...}."""


@dataclass(frozen=True)
class Report:
    """What was measured of a run on logs, and the alarms that stand: on these logs, or at the end of its training."""

    run: Run
    logs: str
    clips: int
    step: int
    values: Health
    alarms: list[Alarm]

    def as_dict(self) -> dict[str, Any]:
        return {
            "run": str(self.run.path),
            "logs": self.logs,
            "clips": self.clips,
            "step": self.step,
            "health": self.values,
            "alarms": [alarm.as_dict() for alarm in self.alarms],
            "provenance": self.run.provenance,
        }


def health_report(run: Path, logs: str | Path) -> Report:
    """Measure the run in folder `run` on the logs at the path `logs`.

    Spread and rank are compared with those of the same network before its first step. Where the run has a health.jsonl,
    alarms that stand at its end are told, too. Raises ConfigError or LogError where run and logs cannot be read, or do
    not fit together.
    """
    opened = open_run(run, device="cuda" if torch.cuda.is_available() else "cpu")
    warn_if_unfinished(opened)
    return measured(opened, open_logs(logs), str(logs))


def measured(run: Run, logs: Sequence[SensorLog], where: str) -> Report:
    """`health_report` of an open run on open logs, which are called `where`."""
    check_logs(run.config, run.grids, logs)
    held = held_out(logs, run.grids, run.config.data.clip_seconds)
    step = saved_step(run.path) if checkpoints(run.path) else run.config.train.steps
    values = measure(run.objective, held)
    del values["lag"]  # a run keeps its teacher alone, so that nothing is known of it here
    warmup = warmup_steps(run.config.train)
    standing = alarms([(0, _at_start(run, held)), (step, values)], warmup, patience=1)
    told = {(alarm.sensor, alarm.kind) for alarm in standing}
    before = alarms(read_history(run.path), warmup)
    standing += [alarm for alarm in before if (alarm.sensor, alarm.kind) not in told]
    return Report(run, where, len(held), step, values, standing)


def show_health(run: Path, logs: str | Path, console: Console, as_json: bool) -> int:
    """Print `health_report`; returns the exit status, 1 where an alarm stands."""
    report = health_report(run, logs)
    if as_json:
        print(json.dumps(report.as_dict(), indent=1))
    else:
        console.print(f"{run} at step {report.step:,} on {report.clips} clips of {logs}", highlight=False)
        print_health(report.values, report.alarms, console)
        if report.step < (ripe := warmup_steps(report.run.config.train)):
            console.print(
                f"too early to judge what was learnt: before step {ripe:,} no alarm is raised for it", highlight=False
            )
    return int(bool(report.alarms))


def warmup_steps(settings: TrainConfig) -> int:
    """From which step on a run is expected to have learnt something: a quarter of it, after the rate's own warm-up."""
    return max(settings.steps // 4, 2 * settings.warmup_steps)


def read_history(run: Path) -> list[Row]:
    """The measures of a run while it was trained; none where it wrote none."""
    return [(int(row.pop("step")), row) for row in read_lines(run / FILE)]


def _at_start(run: Run, held: HeldOut) -> Health:
    objective = build_objective(run.config, run.grids)
    copy_statistics(run.model, objective.student)
    copy_statistics(run.model, objective.teacher)
    return measure(objective.to(run.model.time_s.device), held)
