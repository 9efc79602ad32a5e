"""Which clips a step holds, and loading them: the same clips however a step is cut over micro-batches and processes."""

import signal
from collections.abc import Iterator, Mapping, Sequence

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader, Sampler

from multisense.cache import cached
from multisense.clips import Grid, InMemory, TrainingClips, collate
from multisense.logs.base import SensorLog
from multisense.run import RunConfig, TrainConfig, with_sensors

console = Console(stderr=True)


def open_clips(
    config: RunConfig, grids: Mapping[str, Grid], given: Sequence[SensorLog], accelerator: Accelerator
) -> TrainingClips:
    """The training clips; says how many logs have none of the sensors, and how many are too short to give any."""
    logs = with_sensors(config, given)
    if config.data.cache is not None:
        logs = cached(logs, grids, config.data.cache)
    if config.data.in_memory:
        shown = track(logs, "reading", console=console, transient=True, disable=not accelerator.is_main_process)
        logs = [InMemory(log, grids) for log in shown]
    length = config.train.steps * config.train.batch_size
    clips = TrainingClips(logs, grids, config.data.clip_seconds, config.train.seed, length)
    if accelerator.is_main_process:
        _say_left_out(given, logs, f"have none of the sensors {list(grids)}")
        _say_left_out(logs, clips.logs, "are shorter than a clip")
    return clips


def _say_left_out(given: Sequence[SensorLog], kept: Sequence[SensorLog], why: str) -> None:
    if others := sorted({log.name for log in given} - {log.name for log in kept}):
        said = f"{len(others)} of {len(given)} logs {why} and are not trained on: {others[:5]}"
        console.print(said, markup=False, soft_wrap=True)


class StepSampler(Sampler[list[int]]):
    """The clips of every step from `first` on, cut over micro-batches and processes."""

    def __init__(self, settings: TrainConfig, first: int, process: int, processes: int):
        self.settings, self.first, self.process, self.processes = settings, first, process, processes
        self.share = settings.batch_size // (settings.accumulate * processes)

    def items(self, step: int, part: int) -> range:
        """Numbers in the whole run of the clips of one micro-batch of this process."""
        start = step * self.settings.batch_size + (part * self.processes + self.process) * self.share
        return range(start, start + self.share)

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first, self.settings.steps):
            for part in range(self.settings.accumulate):
                yield list(self.items(step, part))

    def __len__(self) -> int:
        return (self.settings.steps - self.first) * self.settings.accumulate


def make_loader(clips: TrainingClips, sampler: StepSampler, config: RunConfig) -> DataLoader:
    workers = config.data.workers
    return DataLoader(
        clips,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_leave_stopping_to_training,
    )


def _leave_stopping_to_training(worker: int) -> None:
    """Ctrl-C and a scheduler's signals reach every process; the training process alone decides when to stop."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
