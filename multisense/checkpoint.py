"""Checkpoints: RUN/checkpoints/<step>/, safetensors in shards and a small JSON.

Each is written under a hidden name, brought to the disk and renamed, so that at every moment of a run, and of a kill or
a power cut, the last one is whole. Tensors are whole, too, however the run was sharded: a run that was trained on eight
GPUs goes on, or is used, on one.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from rich.console import Console
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from multisense.config import ConfigError
from multisense.objectives.latent import LatentPrediction
from multisense.run import Run, TrainConfig
from multisense.weights import load_strictly, open_to_readers, read_tensors, save_tensors, to_disk

SHARD = "4GB"


@dataclass(frozen=True)
class TrainingState:
    """Everything a run needs to go on as if it had never stopped, and what it was made from."""

    objective: LatentPrediction
    optimizer: torch.optim.Optimizer
    guard: nn.Module
    settings: TrainConfig
    provenance: Mapping[str, Any]


def save_checkpoint(out: Path, state: TrainingState, step: int, accelerator: Any) -> None:
    """Write RUN/checkpoints/<step> and RUN/*.safetensors (what embedding needs), then delete what need not be kept.

    Every process must call it: sharded tensors are gathered one by one, and the main process writes them.
    """
    is_main = accelerator.is_main_process
    parts = {
        "objective": _gathered(state.objective.state_dict(), is_main),
        "optimizer": _gathered(_optimizer_tensors(state), is_main),
        "guard": _gathered(state.guard.state_dict(), is_main),
    }
    if is_main:
        scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
        _write(out / "checkpoints", step, parts, {"step": step, "scaler": scaler, "provenance": state.provenance})
        save_weights(out, parts["objective"])
        _prune(out, state.settings.keep_last, state.settings.keep_every)
    accelerator.wait_for_everyone()


def save_weights(out: Path, objective: Mapping[str, Tensor]) -> None:
    """RUN/model.safetensors and predictor.safetensors, what embedding needs, from the state of an objective."""
    for name, part in (("predictor", "predictor."), ("model", "teacher.")):
        tensors = {k.removeprefix(part): v for k, v in objective.items() if k.startswith(part)}
        save_tensors(tensors, out / f"{name}.safetensors")


def _gathered(tensors: Mapping[str, Tensor], is_main: bool) -> dict[str, Tensor]:
    """Tensors on the host of the main process, nothing on the others: never two whole ones on a device."""
    kept = {}
    for name, value in tensors.items():
        gathered = whole(value)
        if is_main:
            kept[name] = gathered.to("cpu", copy=True).contiguous()  # a copy: some are views of more than they show
    return kept


def whole(value: Tensor) -> Tensor:
    """A tensor, gathered from all processes where it is sharded over them."""
    return (value.full_tensor() if isinstance(value, DTensor) else value).detach()


def _write(folder: Path, step: int, parts: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
    fresh, final = folder / f".{step:08d}.partial", folder / f"{step:08d}"
    for leftover in (fresh, final):  # of a write that was cut short, or of steps that are being taken again
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    for name, tensors in parts.items():
        save_torch_state_dict(
            dict(tensors), fresh, filename_pattern=name + "{suffix}.safetensors", max_shard_size=SHARD
        )
    (fresh / "state.json").write_text(json.dumps(state))
    for path in fresh.iterdir():
        open_to_readers(path)
        to_disk(path)
    to_disk(fresh)
    fresh.rename(final)
    to_disk(folder)


def _prune(out: Path, keep_last: int, keep_every: int | None) -> None:
    """Delete all but the last few checkpoints and, for ever, every `keep_every`-th step's."""
    for folder in checkpoints(out)[:-keep_last]:
        step = int(folder.name)
        if not (keep_every and step and step % keep_every == 0):
            # Renamed first: a kill while it is being deleted leaves no half of a checkpoint under its name.
            folder.rename(folder.with_name(f".{folder.name}.old"))
    for ending in ("partial", "old"):  # also of writes and deletions that were cut short
        for leftover in (out / "checkpoints").glob(f".*.{ending}"):
            shutil.rmtree(leftover, ignore_errors=True)  # somebody may be copying it over a network


def checkpoints(out: Path) -> list[Path]:
    """The whole checkpoints of a run, the last step's last."""
    return sorted(path.parent for path in (out / "checkpoints").glob("[0-9]*/state.json"))


def saved_step(out: Path) -> int:
    """The step of the last checkpoint of the run in `out`. Raises ConfigError where there is none."""
    return int(_last(out).name)


def _last(out: Path) -> Path:
    found = checkpoints(out)
    if not found:
        raise ConfigError(f"{out}: no checkpoint to resume from; it saves one every train.save_every steps")
    return found[-1]


def warn_if_unfinished(run: Run) -> None:
    """Say so where a run that is about to be used has not reached its last step."""
    step = saved_step(run.path) if checkpoints(run.path) else run.config.train.steps
    if step < run.config.train.steps:
        unfinished = f"{run.path} is at step {step} of {run.config.train.steps}: its training has not finished"
        Console(stderr=True).print(f"[yellow]warning:[/] {unfinished}", highlight=False, soft_wrap=True)


def load_weights(out: Path, objective: LatentPrediction, guard: nn.Module, is_main: bool) -> int:
    """Load the last checkpoint's weights into parts that are not sharded yet; returns the step to go on from.

    The main process writes RUN/*.safetensors anew: a kill may have come between the checkpoint and them.
    """
    folder = _last(out)
    load_strictly(objective, folder, "objective")
    load_strictly(guard, folder, "guard")
    if is_main:
        save_weights(out, objective.state_dict())
    return int(folder.name)


def load_optimizer(out: Path, state: TrainingState, scaler: Any) -> None:
    """Load the last checkpoint's optimizer, each process its own share of it where the parameters are sharded."""
    folder = _last(out)
    tensors = read_tensors(folder, "optimizer") if int(folder.name) else {}  # before its first step it has none
    for name, parameter in state.objective.named_parameters():
        if parameter.requires_grad:
            prefix = f"{name}:"
            own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            state.optimizer.state[parameter] = {key: _like(parameter, value) for key, value in own.items()}
    saved = json.loads((folder / "state.json").read_text())
    if scaler is not None and saved["scaler"]:
        scaler.load_state_dict(saved["scaler"])


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """A moment where its parameter is, sharded as it is; a count of steps as it is, on the parameter's device."""
    value = value.to(parameter.device)
    if isinstance(parameter, DTensor) and value.ndim:
        return distribute_tensor(value, parameter.device_mesh, parameter.placements)
    return value


def _optimizer_tensors(state: TrainingState) -> dict[str, Tensor]:
    moments = state.optimizer.state
    return {
        f"{name}:{key}": value
        for name, parameter in state.objective.named_parameters()
        for key, value in moments.get(parameter, {}).items()
    }
