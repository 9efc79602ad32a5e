"""What a run says while it trains: metrics.jsonl, the trackers and the progress bar, from the main process."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from multisense.clips import Grid
from multisense.run import TrainConfig, read_lines, write_atomically
from multisense.train.data import console


class MetricsFile:
    """metrics.jsonl, the trackers and the progress bar, from the main process."""

    def __init__(self, out: Path, accelerator: Accelerator, first: int, grids: Mapping[str, Grid]):
        self.clip_hours = max(grid.seconds for grid in grids.values()) / 3600
        self.clip_bytes = sum(grid.bytes for grid in grids.values())
        self.path, self.accelerator, self.latest = out / "metrics.jsonl", accelerator, ""
        self.clock, self.last_step = time.perf_counter(), first
        if accelerator.is_main_process and self.path.exists():
            # A resumed run writes the steps after its checkpoint again; the old lines of those steps go.
            # A line that a kill cut short goes, too.
            kept = [row for row in read_lines(self.path) if row["step"] <= first]
            write_atomically(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        accelerator.init_trackers("tracking")

    def write(self, step: int, values: Mapping[str, float], settings: TrainConfig) -> None:
        now = time.perf_counter()
        speed = (step - self.last_step) * settings.batch_size / (now - self.clock)
        self.clock, self.last_step = now, step
        clips = step * settings.batch_size
        seen = {"hours_seen": clips * self.clip_hours, "bytes_seen": float(clips * self.clip_bytes)}
        values = {**values, "clips_per_second": speed, **seen}
        self.accelerator.log(values, step=step)
        self.latest = (
            f"loss {values['loss']:.3f}  skill {values['skill']:+.2f}  rank {values['rank']:.0f}  {speed:.0f} clips/s"
        )
        if self.accelerator.is_main_process:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, **{k: number(v) for k, v in values.items()}}) + "\n")

    def progress(self, steps: int, first: int) -> "ShownProgress":
        return ShownProgress(self, steps, first)


def number(value: float) -> float | None:
    """As JSON has it, which knows no NaN."""
    return round(value, 6) if math.isfinite(value) else None


class ShownProgress:
    def __init__(self, metrics: MetricsFile, steps: int, first: int):
        self.metrics = metrics
        columns: Sequence[Any] = (
            TextColumn("train"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[latest]}"), TimeRemainingColumn()
        )  # fmt: skip
        self.bar = Progress(*columns, console=console, disable=not metrics.accelerator.is_main_process)
        self.task = self.bar.add_task("train", total=steps, completed=first, latest="")

    def __enter__(self):
        self.bar.start()
        return lambda done: self.bar.update(self.task, completed=done, latest=self.metrics.latest)

    def __exit__(self, *error: object) -> None:
        self.bar.stop()
