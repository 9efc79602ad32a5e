"""Weights on disk: safetensors, which execute nothing, loaded strictly."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from multisense.config import ConfigError


def read_tensors(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """Tensors of `<folder>/<name>.safetensors`, in one file or in shards. Raises ConfigError where they cannot be read."""
    files = sorted([*folder.glob(f"{name}.safetensors"), *folder.glob(f"{name}-*-of-*.safetensors")])
    if not files:
        raise ConfigError(f"{folder / name}.safetensors: no weights; the run has not saved a checkpoint yet")
    tensors = {}
    for file in files:
        try:
            tensors |= load_file(file)
        except SafetensorError as error:
            raise ConfigError(f"{file}: not readable as safetensors ({error}); it may be cut short") from error
    return tensors


def load_strictly(module: nn.Module, folder: Path, name: str) -> None:
    """Load `<folder>/<name>` into a module; every missing, unexpected or mis-shaped key is named."""
    weights, own = read_tensors(folder, name), module.state_dict()
    wrong = [f"missing {k}" for k in sorted(own.keys() - weights.keys())]
    wrong += [f"unexpected {k}" for k in sorted(weights.keys() - own.keys())]
    wrong += [
        f"{k} is {tuple(weights[k].shape)}, expected {tuple(own[k].shape)}"
        for k in sorted(own.keys() & weights.keys())
        if own[k].shape != weights[k].shape
    ]
    if wrong:
        shown = "; ".join(wrong[:6]) + (f"; and {len(wrong) - 6} more" if len(wrong) > 6 else "")
        raise ConfigError(
            f"{folder / name}.safetensors: these weights are of another model than the run's configuration: {shown}"
        )
    module.load_state_dict(weights)


def save_tensors(tensors: Mapping[str, torch.Tensor], file: Path) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    save_file({name: value.contiguous() for name, value in tensors.items()}, temporary)
    open_to_readers(temporary)
    to_disk(temporary)
    temporary.replace(file)


def open_to_readers(file: Path) -> None:
    """The mode of any other new file: safetensors lets nobody but the owner read its own."""
    mask = os.umask(0)
    os.umask(mask)
    file.chmod(0o666 & ~mask)


def to_disk(path: Path) -> None:
    """Wait until a file or folder would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
