"""Checkpoints: safetensors and a small JSON, written beside and renamed, so that a killed run leaves a whole one."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from multisense.config import ConfigError
from multisense.objectives.latent import LatentPrediction
from multisense.run import Run, load_strictly, save_module


def save_checkpoint(out: Path, objective: LatentPrediction, optimizer: Any, step: int, accelerator: Any) -> None:
    """Write RUN/checkpoint (everything `--resume` needs) and RUN/*.safetensors (what embedding needs)."""
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        fresh, final = out / ".checkpoint.new", out / "checkpoint"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        save_module(objective, fresh / "objective.safetensors")
        save_file(_optimizer_tensors(objective, optimizer), fresh / "optimizer.safetensors")
        scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
        (fresh / "state.json").write_text(json.dumps({"step": step, "scaler": scaler}))
        _swap(fresh, final)
        save_module(objective.predictor, out / "predictor.safetensors")
        save_module(objective.teacher, out / "model.safetensors")
    accelerator.wait_for_everyone()


def _swap(fresh: Path, final: Path) -> None:
    """Put `fresh` in the place of `final`; at every moment one of `final`, `final`.old is whole."""
    old = final.with_name(".checkpoint.old")
    if final.exists():  # else an earlier swap was cut short, and `old` is the one that is whole
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
    fresh.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def saved_step(out: Path) -> int:
    """The step of the last checkpoint of the run in `out`. Raises ConfigError where there is none."""
    return int(json.loads((_last(out) / "state.json").read_text())["step"])


def warn_if_unfinished(run: Run) -> None:
    """Say so where a run that is about to be used has not reached its last step."""
    step = saved_step(run.path) if (run.path / "checkpoint").is_dir() else run.config.train.steps
    if step < run.config.train.steps:
        unfinished = f"{run.path} is at step {step} of {run.config.train.steps}: its training has not finished"
        Console(stderr=True).print(f"[yellow]warning:[/] {unfinished}", highlight=False, soft_wrap=True)


def _last(out: Path) -> Path:
    folder = next((f for f in (out / "checkpoint", out / ".checkpoint.old") if (f / "state.json").exists()), None)
    if folder is None:
        raise ConfigError(f"{out}: no checkpoint to resume from; it saves one every train.save_every steps")
    return folder


def load_checkpoint(
    out: Path, objective: LatentPrediction, optimizer: torch.optim.Optimizer, scaler: Any = None
) -> int:
    """Load the last checkpoint into the parts; returns the step to go on from."""
    folder = _last(out)
    load_strictly(objective, folder / "objective.safetensors")
    try:
        tensors = load_file(folder / "optimizer.safetensors")
    except (FileNotFoundError, SafetensorError) as error:
        raise ConfigError(f"{folder / 'optimizer.safetensors'}: cannot be read ({error})") from error
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            prefix = f"{name}:"
            optimizer.state[parameter] = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    state = json.loads((folder / "state.json").read_text())
    if scaler is not None and state["scaler"]:
        scaler.load_state_dict(state["scaler"])
    return int(state["step"])


def _optimizer_tensors(objective: LatentPrediction, optimizer: Any) -> dict[str, torch.Tensor]:
    state = optimizer.state
    return {
        f"{name}:{key}": value.detach().cpu().contiguous()
        for name, parameter in objective.named_parameters()
        for key, value in state.get(parameter, {}).items()
    }
