"""The loop, readable top to bottom. Everything random is a pure function of (seed, step, item)."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from torch import Tensor, nn

from multisense.checkpoint import (
    TrainingState,
    load_optimizer,
    load_weights,
    save_checkpoint,
    saved_step,
    whole,
)
from multisense.clips import Grid
from multisense.masking import Mask, draw_masks
from multisense.monitors import monitor
from multisense.objectives.latent import Losses
from multisense.run import (
    RunConfig,
    TrainConfig,
    build_objective,
    check_logs,
    create_run,
    given_logs,
    holds_run,
    make_grids,
    provenance,
    read_run,
    refuse_existing,
    resume_differs,
    with_sensors,
    write_run,
)
from multisense.statistics import copy_statistics, fit_statistics
from multisense.train.data import StepSampler, make_loader, open_clips
from multisense.train.guard import SpikeGuard, make_guard
from multisense.train.optimizer import learning_rate, make_optimizer
from multisense.train.progress import MetricsFile
from multisense.train.stop import StopSignal, requeue_job
from multisense.train.watch import Watch
from multisense.types import Batch, TokenLayout


def train(
    config: RunConfig, out: Path | str, resume: bool = False, allow_changes: bool = False, requeue: bool = False
) -> Path:
    """Train `config` into the run folder `out`; with `resume`, go on from its last checkpoint. Returns the folder.

    Raises ConfigError where a run is there and `resume` is not given, or where it was made with another configuration or
    other data, naming the difference; `allow_changes` goes on with the new ones. `requeue` goes on if a run is there, and
    begins else; told to stop, it asks Slurm to run the job again. Logs with none of the sensors are left out, which is said.
    """
    out, settings, given = Path(out), config.train, given_logs(config)
    logs = with_sensors(config, given)
    resume = resume or (requeue and holds_run(out))
    accelerator = make_accelerator(settings, out)
    grids = make_grids(config, given)
    check_logs(config, grids, logs)
    changes = resume_differs(out, config, logs, allow_changes) if resume else refuse_existing(out)
    for change in changes:
        accelerator.print(f"changed since the run began: {change}")
    clips = open_clips(config, grids, given, accelerator)
    objective, guard = build_objective(config, grids), make_guard(settings)
    if not resume:
        fit_statistics(objective.student, clips, count=min(256, max(len(clips), 16)))
        copy_statistics(objective.student, objective.teacher)
    first = load_weights(out, objective, guard, accelerator.is_main_process) if resume else 0
    state = TrainingState(objective, make_optimizer(objective, settings), guard, settings, provenance(config, logs))
    layout = objective.student.layout  # on the host, where masks are drawn
    sampler = StepSampler(settings, first, accelerator.process_index, accelerator.num_processes)
    loader = make_loader(clips, sampler, config)
    parallel, optimizer = accelerator.prepare(objective, state.optimizer)
    guard.to(accelerator.device)
    if resume:
        load_optimizer(out, state, accelerator.scaler)
        write_changes(out, config, grids, state, changes, accelerator)
    else:  # only now, when all that could be wrong with configuration and data has been looked at
        save_checkpoint(out, state, 0, accelerator)
        if accelerator.is_main_process:
            create_run(out, config, grids, state.provenance)
        accelerator.wait_for_everyone()
    step = Step(config, state, accelerator, parallel.train(), optimizer, layout, sampler, iter(loader))

    metrics, watch = MetricsFile(out, accelerator, first, grids), Watch(config, logs, grids, out, first, accelerator)
    with StopSignal() as stop, metrics.progress(settings.steps, first) as show:
        for done in range(first + 1, settings.steps + 1):
            losses = step.take(done - 1)
            if done % settings.log_every == 0 or done == settings.steps:
                metrics.write(done, step.monitored(losses), settings)
                guard.refuse_to_go_on(
                    settings.skip_most, f"{out}: step {done}; its last checkpoint is {saved_step(out)}"
                )
            show(done)
            stopping = stop.agreed()
            if done % settings.save_every == 0 or done == settings.steps or stopping:
                save_checkpoint(out, state, done, accelerator)
            if settings.health_every and done % settings.health_every == 0:
                watch.look(done, objective)
            if stopping and done < settings.steps:
                say_stopped(f"stopped at step {done} by {stop.name or 'another process'}", requeue, accelerator)
                break
    accelerator.end_training()
    return out


def write_changes(
    out: Path,
    config: RunConfig,
    grids: Mapping[str, Grid],
    state: TrainingState,
    changes: Sequence[str],
    accelerator: Accelerator,
) -> None:
    """Let the run's folder say with what it goes on, and what it was before; what was usual then is no measure now."""
    if changes:
        assert isinstance(state.guard, SpikeGuard)
        state.guard.forget()
        if accelerator.is_main_process:
            write_run(out, config, grids, {**state.provenance, "before": read_run(out)[2]})
    accelerator.wait_for_everyone()


def say_stopped(text: str, requeue: bool, accelerator: Accelerator) -> None:
    accelerator.print(f"{text}; go on with --resume")
    if requeue and accelerator.is_main_process:
        accelerator.print(requeue_job())


class Step:
    """One optimizer step: its micro-batches, its gradient, the guard's judgement, the teacher."""

    def __init__(
        self,
        config: RunConfig,
        state: TrainingState,
        accelerator: Accelerator,
        parallel: nn.Module,
        optimizer: Any,
        layout: TokenLayout,
        sampler: StepSampler,
        batches: Iterator[Batch],
    ):
        self.config, self.state, self.accelerator, self.layout = config, state, accelerator, layout
        self.parallel, self.optimizer, self.sampler, self.batches = parallel, optimizer, sampler, batches
        assert isinstance(state.guard, SpikeGuard)
        self.guard = state.guard
        self.forward = torch.compile(parallel) if config.train.compile else parallel

    def take(self, number: int) -> list[Losses]:
        """Take step `number`; the losses of its micro-batches. Nothing in it waits for the device."""
        settings, accelerator = self.config.train, self.accelerator
        for group in self.state.optimizer.param_groups:
            group["lr"] = learning_rate(number, settings)
        losses: list[Losses] = []
        for part in range(settings.accumulate):
            batch = next(self.batches).to(accelerator.device)
            masks = self.masks(number, part)
            with accelerator.accumulate(self.parallel):
                with accelerator.autocast():
                    losses.append(self.forward(batch, masks))
                accelerator.backward(losses[-1].total)
                if accelerator.sync_gradients:
                    skip = self.judge(losses)
                self.optimizer.step()
                self.optimizer.zero_grad()
        self.state.objective.update_teacher(settings.steps, skip)
        return losses

    def masks(self, number: int, part: int) -> list[Mask]:
        settings = self.config.train
        items = self.sampler.items(number, part)
        masks = draw_masks(self.layout, self.config.objective.masks, settings.seed, number, items)
        return [mask.to(self.accelerator.device) for mask in masks]

    def judge(self, losses: Sequence[Losses]) -> Tensor:
        """Clip the gradient, and tell the optimizer whether the guard wants this step skipped."""
        norm = self.accelerator.clip_grad_norm_(self.parallel.parameters(), self.config.train.clip_norm)
        loss = torch.stack([part.total.detach() for part in losses]).mean()
        skip = self.guard.judge(torch.as_tensor(self.accelerator.reduce(loss, "mean")), whole(torch.as_tensor(norm)))
        self.state.optimizer.found_inf = skip  # pyright: ignore[reportAttributeAccessIssue]
        return skip

    def monitored(self, losses: Sequence[Losses]) -> dict[str, float]:
        """Metrics of the step just taken."""
        values = monitor(losses, self.layout, self.accelerator)
        rate = float(self.state.optimizer.param_groups[0]["lr"])
        return values | {"skipped": float(self.guard.skipped), "learning_rate": rate}


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
