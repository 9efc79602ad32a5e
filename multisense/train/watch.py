"""Watching a run's health while it trains: every so many steps on the same held-out clips, alarms in plain words."""

import json
from collections.abc import Sequence
from pathlib import Path

from accelerate import Accelerator
from rich.markup import escape
from torch.distributed.tensor import DTensor

from multisense.clips import Grid
from multisense.health import Alarm, HeldOut, alarms, held_out, measure
from multisense.health.report import FILE, read_history, warmup_steps
from multisense.logs import open_logs
from multisense.logs.base import SensorLog
from multisense.objectives.latent import LatentPrediction
from multisense.run import RunConfig, check_logs, write_atomically
from multisense.train.data import console

FATAL = ("collapse", "diverging")


class HealthError(ValueError):
    """A run that `train.on_collapse: stop` ended."""


class Watch:
    """Measures a run's health; keeps RUN/health.jsonl and says each alarm once, when it begins to stand.

    Every process measures, the main one writes: parts of the objective look at all processes.
    """

    def __init__(
        self,
        config: RunConfig,
        logs: Sequence[SensorLog],
        grids: dict[str, Grid],
        out: Path,
        first: int,
        accelerator: Accelerator,
    ):
        self.config, self.path, self.accelerator = config, out / FILE, accelerator
        self.history = [row for row in read_history(out) if row[0] <= first]
        self.standing: list[Alarm] = []
        self.logs, self.grids = logs, grids
        self.held: HeldOut | None = None
        self.is_possible = True
        if accelerator.is_main_process and self.path.exists():  # steps after the checkpoint are measured again
            lines = [json.dumps({"step": step, **values}) + "\n" for step, values in self.history]
            write_atomically(self.path, "".join(lines))

    def _held_out(self) -> HeldOut | None:
        """Clips of the logs that are not trained on; of the training logs where none are set apart."""
        data, logs = self.config.data, self.logs
        try:
            if data.test is not None:
                logs = open_logs(data.test)
            elif data.hold_out:
                logs = [log for log in open_logs(data.train) if log.name in data.hold_out]
            else:
                self._say("no logs are held out: health is measured on clips of the training logs")
            check_logs(self.config, self.grids, logs)
            return held_out(logs, self.grids, data.clip_seconds)
        except ValueError as error:
            self._say(f"health is not measured: {escape(str(error))}")
            return None

    def look(self, step: int, objective: LatentPrediction) -> None:
        """Measure at `step`. Raises HealthError where it collapses or diverges and `train.on_collapse` is "stop"."""
        if self.is_possible and self.held is None:
            self.held = None if self._is_sharded(objective) else self._held_out()
            self.is_possible = self.held is not None
        if self.held is None:
            return
        values = {name: round(value, 6) for name, value in measure(objective, self.held).items()}
        self.history.append((step, values))
        if self.accelerator.is_main_process:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
        self._tell(step)

    def _is_sharded(self, objective: LatentPrediction) -> bool:
        sharded = any(isinstance(parameter, DTensor) for parameter in objective.parameters())
        if sharded:
            self._say(
                "health is not measured live on a sharded model: run `multisense health RUN LOGS` on its checkpoints"
            )
        return sharded

    def _tell(self, step: int) -> None:
        before = {(alarm.sensor, alarm.kind) for alarm in self.standing}
        self.standing = alarms(self.history, warmup_steps(self.config.train))
        for alarm in self.standing:
            if (alarm.sensor, alarm.kind) not in before:
                self._say(f"[bold yellow]alarm[/] at step {step:,}: {escape(alarm.message)}")
        fatal = [alarm for alarm in self.standing if alarm.kind in FATAL]
        if fatal and self.config.train.on_collapse == "stop":
            found = "; ".join(alarm.message for alarm in fatal)
            raise HealthError(
                f"stopped at step {step:,}, as train.on_collapse asks: {found}. Go on all the same with --resume --allow-changes "
                f"train.on_collapse=warn"
            )

    def _say(self, text: str) -> None:
        if self.accelerator.is_main_process:
            console.print(text, highlight=False, soft_wrap=True)
