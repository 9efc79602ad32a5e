"""The normalisation of every sensor, fitted once on training clips and kept in the model's buffers."""

import torch
from torch.utils.data import Dataset

from multisense.clips import collate
from multisense.logs.base import LogError
from multisense.model import MultiSense
from multisense.types import Batch


def copy_statistics(source: MultiSense, target: MultiSense) -> None:
    for name in source.names:
        target.tokenizer(name).mean.copy_(source.tokenizer(name).mean)
        target.tokenizer(name).std.copy_(source.tokenizer(name).std)


@torch.no_grad()
def fit_statistics(model: MultiSense, clips: Dataset, count: int = 256, chunk: int = 16) -> None:
    """Fit each tokenizer's normalisation on the first `count` training clips, over valid samples only.

    Raises LogError for a sensor that is constant, or never finite and present, over all of them.
    """
    moments: dict[str, list[torch.Tensor]] = {name: [] for name in model.names}
    bursts: dict[str, list[torch.Tensor]] = {name: [] for name in model.names}
    for start in range(0, count, chunk):
        batch = collate([clips[i] for i in range(start, start + chunk)])
        for name in model.names:
            signal = _known_signal(model, name, batch)
            known = signal.isfinite().double(), signal.nan_to_num(), signal.nan_to_num().square()
            moments[name].append(torch.stack([part.sum((0, 1)) for part in known]))
            bursts[name].append(_burst(signal, model.tokenizer(name).std.shape))
    for name in model.names:
        n, total, squares = torch.stack(moments[name]).sum(0)
        if not (n > 0).all():
            raise LogError(
                f"sensors.{name}: no valid sample in {count} training clips (all NaN, or never present together with the "
                f"other sensors); check the sensor or remove it from the configuration"
            )
        tokenizer = model.tokenizer(name)
        mean = _pool_cells(total / n, tokenizer.mean.shape)
        std = _pool_cells(squares / n - 2 * mean * total / n + mean**2, tokenizer.std.shape).clamp(min=0).sqrt()
        std = torch.maximum(std, torch.stack(bursts[name]).nanmedian(0).values)
        axes = (0, 1, 2) if std.shape[2] == 1 else (0, 1)
        quiet = 1e-6 * mean.abs().amax(axes, keepdim=True).clamp(min=1e-6)
        if not (std > quiet).any():
            raise LogError(
                f"sensors.{name}: constant (every channel stays at {mean.flatten()[0]:.6g}) over {count} training clips; a "
                f"dead sensor cannot be learnt from: remove it from the configuration"
            )
        tokenizer.mean.copy_(mean)
        tokenizer.std.copy_(torch.where(std > quiet, std, 1.0))


def _pool_cells(values: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Values (H, W, C) averaged down to `shape`, each of whose sides is 1 or as it was."""
    axes = [axis for axis in (0, 1, 2) if shape[axis] == 1]
    return values.mean(axes, keepdim=True) if axes else values


def _known_signal(model: MultiSense, name: str, batch: Batch) -> torch.Tensor:
    """A sensor's signal (B, N, H, W, C), NaN where it is not valid."""
    signal = model.tokenizer(name).signal(batch.values[name]).double()
    valid = batch.valid[name]
    steps = torch.arange(signal.shape[1]) * valid.shape[1] // signal.shape[1]
    return torch.where(valid[:, steps, None, None, None], signal, torch.nan)


def _burst(signal: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """A fifth of how far the farthest thousandth of the values of a chunk lie from their mean, per cell of `shape`.

    A skin that is touched now and then has the deviation of its silence; in units of that a touch would be so large that
    layer norms leave nothing of how large. For a Gaussian signal this is .66 of the deviation and does nothing.
    """
    rows = (signal - signal.nanmean((0, 1))).flatten(0, 1)
    for axis, cells in enumerate(shape, start=1):
        if cells == 1:
            rows = rows.movedim(axis, 1).flatten(0, 1).unsqueeze(axis)
    rows = rows[torch.randint(len(rows), (50_000,), generator=torch.Generator().manual_seed(0))].movedim(0, -1)
    return rows.abs().nanquantile(0.999, dim=-1) / 5
