"""The step without numbers: forward and backward on fake tensors, every byte counted as it comes and goes."""

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from multisense.clips import Grid
from multisense.estimate.masks import Kept
from multisense.estimate.skeleton import skeleton, trained
from multisense.masking import ALONE, Mask
from multisense.run import RunConfig
from multisense.types import Batch


@dataclass(frozen=True)
class DryRun:
    """What a step of one process without sharding was seen to hold, weights and what was there before it left out."""

    forward: int
    """The most bytes at once until the loss is known: activations, targets, patches."""
    step: int
    """The most bytes at once until the gradients are known, these included."""
    saved: int
    """Bytes that autograd kept for the backward pass."""
    parameters: int
    """Numbers in the trained parameters."""
    without_gradient: tuple[str, ...]
    """Trained parameters that no gradient reached: several processes would wait for them for ever."""


class LiveBytes(TorchDispatchMode):
    """The bytes of all storages made inside and still alive, and the most there were at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        return result

    def ignore(self, tensor: Tensor) -> None:
        """One that was there before: views of it are no new bytes."""
        self.known.add(tensor.untyped_storage()._cdata)

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def dry_run(config: RunConfig, grids: Mapping[str, Grid], clips: int, kept: Kept) -> DryRun:
    """One micro-batch of `clips`, at the fullest masks that `kept` says; precision as `train` says, by CPU's autocast."""
    fakes = FakeTensorMode(allow_non_fake_inputs=True)
    objective = skeleton(config, grids)
    sensor = objective.student.layout.sensor.numpy()
    masks = [_mask(sensor, np.arange(len(sensor)), clips, kept.most)] * config.objective.masks.masks_per_clip
    for s, own in kept.alone.items():
        masks.append(replace(_mask(sensor, np.flatnonzero(sensor == s), clips, own.most), family=ALONE))
    objective.recompute_activations(config.train.checkpoint_activations)
    _fake(objective.train(), fakes)
    batch = _batch(grids, clips, fakes)
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with LiveBytes() as live:
        for tensor in (*objective.parameters(), *objective.buffers(), *batch.values.values(), *batch.valid.values()):
            live.ignore(tensor)
        half = config.train.mixed_precision != "no"
        kept_back = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with kept_back, torch.autocast("cpu", torch.bfloat16, enabled=half):
            losses = objective(batch, masks)
        forward = live.most
        losses.total.backward()
    ours = {p.untyped_storage()._cdata for p in objective.parameters()}
    return DryRun(
        forward,
        live.most,
        sum(size for key, size in saved.items() if key not in ours),
        sum(p.numel() for p in trained(objective)),
        tuple(name for name, p in objective.named_parameters() if p.requires_grad and p.grad is None),
    )


def _mask(sensor: np.ndarray, tokens: np.ndarray, clips: int, kept: int) -> Mask:
    """Of these tokens, keeps `kept`, about the same share of every sensor; only how many matters here."""
    order = np.random.default_rng(0).permutation(tokens)
    parts = [part[np.argsort(sensor[part], kind="stable")] for part in (order[:kept], order[kept:])]
    seen, columns = ({}, {})
    for where, part in zip((seen, columns), parts, strict=True):
        edges = np.searchsorted(sensor[part], np.arange(sensor.max() + 2))
        where.update({s: slice(int(a), int(b)) for s, (a, b) in enumerate(pairwise(edges)) if a < b})
    keep, target = (torch.from_numpy(part).expand(clips, -1) for part in parts)
    return Mask("block", seen, keep, target, columns)


def _batch(grids: Mapping[str, Grid], clips: int, fakes: FakeTensorMode) -> Batch:
    with fakes:
        kinds = {name: torch.uint8 if grid.dtype == "uint8" else torch.float32 for name, grid in grids.items()}
        values = {name: torch.empty(clips, grid.count, *grid.shape, dtype=kinds[name]) for name, grid in grids.items()}
        return Batch(values, {n: torch.empty(clips, g.count, dtype=torch.bool) for n, g in grids.items()})


def _fake(objective: nn.Module, fakes: FakeTensorMode) -> None:
    """Parameters and buffers as fake tensors, which have a device and a type but no numbers."""
    with fakes:
        for module in objective.modules():
            for name, old in module.named_parameters(recurse=False):
                new = nn.Parameter(torch.empty(old.shape, dtype=old.dtype), old.requires_grad)
                module.register_parameter(name, new)
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))
