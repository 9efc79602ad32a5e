"""Proprioception: joint position, velocity, torque, pose, wrench or IMU, (B, N) or (B, N, C) -> one token per stretch."""

import math
from typing import ClassVar

import torch
from einops import rearrange
from pydantic import PositiveFloat
from torch import Tensor

from multisense.clips import Grid, Resample
from multisense.modalities.base import PatchTokenizer, SensorConfig, samples
from multisense.types import SensorInfo


class Config(SensorConfig):
    resample: ClassVar[Resample] = "linear"

    patch_s: PositiveFloat = 0.1
    """Seconds in a token."""

    def grid(self, info: SensorInfo, seconds: float) -> Grid:
        if len(info.shape) > 1:
            raise ValueError(
                f"sensors.{info.name}: kind 'proprio' expects vectors (channels,) or single numbers, the log holds samples of "
                f"shape {info.shape}"
            )
        return super().grid(info, seconds)


class Tokenizer(PatchTokenizer):
    def __init__(self, config: Config, grid: Grid, width: int):
        patch = (samples(config.patch_s, grid.rate_hz), 1, 1)
        super().__init__(grid, (grid.count, 1, 1, math.prod(grid.shape)), patch, width, config.stem)

    def signal(self, values: Tensor) -> Tensor:
        return rearrange(values.float(), "b n ... -> b n 1 1 (...)")


def example(generator: torch.Generator) -> tuple[Config, SensorInfo, Tensor]:
    """Three joints that swing at their own pace for a second at 100 Hz, with a little encoder noise."""
    time = torch.arange(100) / 100
    swing = torch.stack([torch.sin(2 * torch.pi * f * time) for f in (0.5, 1.0, 2.0)], dim=1)
    values = swing + 0.01 * torch.randn(100, 3, generator=generator)
    return Config(kind="proprio"), SensorInfo("arm", "proprio", 100.0, (3,), "float32", 0.0, 1.0, 100), values
