"""The loop, readable top to bottom. Everything random is a pure function of (seed, step, item)."""

import json
import math
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, track
from torch.utils.data import DataLoader, Sampler

from multisense.checkpoint import load_checkpoint, save_checkpoint
from multisense.clips import Grid, InMemory, TrainingClips, collate
from multisense.logs import open_logs
from multisense.logs.base import LogError, SensorLog
from multisense.masking import draw_masks
from multisense.monitors import monitor
from multisense.objectives.latent import LatentPrediction, Losses
from multisense.run import (
    RunConfig,
    TrainConfig,
    build_objective,
    check_logs,
    copy_statistics,
    create_run,
    fit_statistics,
    make_grids,
    refuse_existing,
    resume_differs,
)

console = Console(stderr=True)


def train(config: RunConfig, out: Path | str, resume: bool = False) -> Path:
    """Train `config` into the run folder `out`; with `resume`, go on from its last checkpoint. Returns the folder."""
    out, settings, logs = Path(out), config.train, training_logs(config)
    accelerator = make_accelerator(settings, out)
    grids = make_grids(config, logs)
    check_logs(config, grids, logs)
    if resume:
        resume_differs(out, config, logs)
    else:
        refuse_existing(out)
    clips = open_clips(config, grids, logs, accelerator)
    objective = build_objective(config, grids)
    if not resume:
        fit_statistics(objective.student, clips, count=min(256, max(len(clips), 16)))
        copy_statistics(objective.student, objective.teacher)
    optimizer = make_optimizer(objective, settings)
    first = load_checkpoint(out, objective, optimizer, accelerator.scaler) if resume else 0
    layout = objective.student.layout
    sampler = StepSampler(settings, first, accelerator.process_index, accelerator.num_processes)
    loader = make_loader(clips, sampler, config)
    parallel, optimizer = accelerator.prepare(objective, optimizer)
    parallel.train()
    forward = torch.compile(parallel) if settings.compile else parallel
    if not resume:  # only now, when all that could be wrong with configuration and data has been looked at
        save_checkpoint(out, objective, optimizer, 0, accelerator)
        if accelerator.is_main_process:
            create_run(out, config, grids, logs)

    metrics, batches = MetricsFile(out, accelerator, first, grids), iter(loader)
    with StopSignal() as stop, metrics.progress(settings.steps, first) as show:
        for step in range(first, settings.steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, settings)
            for part in range(settings.accumulate):
                batch = next(batches).to(accelerator.device)
                items = sampler.items(step, part)
                masks = draw_masks(layout, config.objective.masks, settings.seed, step, items)
                masks = [mask.to(accelerator.device) for mask in masks]
                with accelerator.accumulate(parallel):
                    with accelerator.autocast():
                        losses: Losses = forward(batch, masks)
                    accelerator.backward(losses.total)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(parallel.parameters(), settings.clip_norm)
                    optimizer.step()
                    optimizer.zero_grad()
            objective.update_teacher(settings.steps)

            done = step + 1
            if done % settings.log_every == 0 or done == settings.steps:
                metrics.write(done, monitor(losses, layout, accelerator), learning_rate(step, settings), settings)
            show(done)
            stopping = stop.agreed(accelerator)
            if done % settings.save_every == 0 or done == settings.steps or stopping:
                save_checkpoint(out, objective, optimizer, done, accelerator)
            if stopping:
                accelerator.print(f"stopped at step {done} by {stop.name}; go on with --resume")
                break
    accelerator.end_training()
    return out


def make_accelerator(settings: TrainConfig, out: Path) -> Accelerator:
    set_seed(settings.seed)
    accelerator = Accelerator(
        mixed_precision=settings.mixed_precision,
        gradient_accumulation_steps=settings.accumulate,
        log_with=list(settings.log_with) or None,
        project_dir=out,
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True, broadcast_buffers=False)],
    )
    share, rest = divmod(settings.batch_size, settings.accumulate * accelerator.num_processes)
    if rest or share == 0:
        raise ValueError(
            f"train.batch_size {settings.batch_size} does not divide into train.accumulate {settings.accumulate} x "
            f"{accelerator.num_processes} processes"
        )
    return accelerator


def open_clips(
    config: RunConfig, grids: Mapping[str, Grid], logs: Sequence[SensorLog], accelerator: Accelerator
) -> TrainingClips:
    """The training clips; says how many logs are too short to give any."""
    if config.data.in_memory:
        shown = track(logs, "reading", console=console, transient=True, disable=not accelerator.is_main_process)
        logs = [InMemory(log, grids) for log in shown]
    length = config.train.steps * config.train.batch_size
    clips = TrainingClips(logs, grids, config.data.clip_seconds, config.train.seed, length)
    short = sorted({log.name for log in logs} - {log.name for log in clips.logs})
    if short and accelerator.is_main_process:
        console.print(f"{len(short)} of {len(logs)} logs are shorter than a clip and not trained on: {short[:5]}")
    return clips


def training_logs(config: RunConfig) -> list[SensorLog]:
    """The logs of `data.train` less the held-out ones."""
    logs = open_logs(config.data.train)
    unknown = sorted(set(config.data.hold_out) - {log.name for log in logs})
    if unknown:
        raise LogError(
            f"data.hold_out: {unknown} are not logs of {config.data.train}; it has {[log.name for log in logs][:20]}"
        )
    kept = [log for log in logs if log.name not in config.data.hold_out]
    if not kept:
        raise LogError(f"data.hold_out: leaves none of the {len(logs)} logs of {config.data.train} to train on")
    return kept


def make_optimizer(objective: LatentPrediction, settings: TrainConfig) -> torch.optim.AdamW:
    """AdamW; no weight decay on biases, norms and other one-dimensional parameters (V-JEPA 2)."""
    trained = [p for p in objective.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.95))


def learning_rate(step: int, settings: TrainConfig) -> float:
    """Linear warm-up, then cosine to 1 % of the peak, or constant: a pure function of the step."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.learning_rate
    done = (step - settings.warmup_steps) / max(settings.steps - settings.warmup_steps, 1)
    return settings.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


class StepSampler(Sampler[list[int]]):
    """The clips of every step from `first` on, cut over micro-batches and processes: the same clips whatever the cut."""

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
        worker_init_fn=_ignore_interrupt,
    )


def _ignore_interrupt(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; the training process alone decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class StopSignal:
    """SIGTERM and SIGINT ask the loop to save and stop; a second one ends the process as usual."""

    def __init__(self) -> None:
        self.name = ""
        self.before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def __enter__(self) -> "StopSignal":
        for number in self.before:
            signal.signal(number, self._hear)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: Any) -> None:
        self.name = signal.Signals(number).name
        signal.signal(number, signal.SIG_DFL)

    def agreed(self, accelerator: Accelerator) -> bool:
        """Whether any process has heard a signal: all must stop at the same step."""
        if accelerator.num_processes == 1:
            return bool(self.name)
        heard = torch.tensor(float(bool(self.name)), device=accelerator.device)
        return float(torch.as_tensor(accelerator.reduce(heard, "sum"))) > 0


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
            whole = [line for line in self.path.read_text().splitlines(keepends=True) if line.endswith("\n")]
            self.path.write_text("".join(line for line in whole if json.loads(line)["step"] <= first))
        accelerator.init_trackers("tracking")

    def write(self, step: int, values: Mapping[str, float], rate: float, settings: TrainConfig) -> None:
        now = time.perf_counter()
        speed = (step - self.last_step) * settings.batch_size / (now - self.clock)
        self.clock, self.last_step = now, step
        clips = step * settings.batch_size
        seen = {"hours_seen": clips * self.clip_hours, "bytes_seen": float(clips * self.clip_bytes)}
        values = {**values, "learning_rate": rate, "clips_per_second": speed, **seen}
        self.accelerator.log(values, step=step)
        self.latest = (
            f"loss {values['loss']:.3f}  skill {values['skill']:+.2f}  rank {values['rank']:.0f}  {speed:.0f} clips/s"
        )
        if self.accelerator.is_main_process:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, **{k: round(v, 6) for k, v in values.items()}}) + "\n")

    def progress(self, steps: int, first: int) -> "ShownProgress":
        return ShownProgress(self, steps, first)


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
