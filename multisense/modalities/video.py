"""Video: uint8 frames (B, N, H, W, C) -> tubelets of `frames` x `patch` x `patch` pixels."""

from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor

from multisense.clips import Grid, Resample
from multisense.modalities.base import PatchTokenizer, SensorConfig, StemKind
from multisense.types import SensorInfo


class Config(SensorConfig):
    resample: ClassVar[Resample] = "nearest"

    stem: StemKind = "conv"
    size: tuple[PositiveInt, PositiveInt] | None = None
    """Height and width that frames are resized to while loading; null: as recorded."""
    frames: PositiveInt = 2
    """Frames in a tubelet."""
    patch: PositiveInt = 16
    """Height and width of a patch in pixels."""

    def grid(self, info: SensorInfo, seconds: float) -> Grid:
        return frame_grid(self, info, seconds, self.size)


class Tokenizer(PatchTokenizer):
    """Tubelet embedding (ViViT, Arnab et al. 2021)."""

    def __init__(self, config: Config, grid: Grid, width: int):
        rows, columns, channels = grid.shape
        shape, patch = (grid.count, rows, columns, channels), (config.frames, config.patch, config.patch)
        super().__init__(grid, shape, patch, width, config.stem, mean_cells=(rows, columns))

    def signal(self, values: Tensor) -> Tensor:
        return values.float()


def frame_grid(config: SensorConfig, info: SensorInfo, seconds: float, size: tuple[int, int] | None) -> Grid:
    """The grid of a sensor whose samples are frames (H, W, C)."""
    if len(info.shape) != 3:
        raise ValueError(
            f"sensors.{info.name}: kind '{config.kind}' expects frames of shape (height, width, channels), "
            f"the log holds samples of shape {info.shape}"
        )
    grid = SensorConfig.grid(config, info, seconds)
    height, width = size or info.shape[:2]
    values = {**grid.__dict__, "shape": (height, width, info.shape[2]), "size": size}
    return Grid(**values)


def example(generator: torch.Generator) -> tuple[Config, SensorInfo, Tensor]:
    """A bright square that moves over a dark 32 x 32 ground for a second at 10 frames a second."""
    info = SensorInfo("camera", "video", 10.0, (32, 32, 3), "uint8", 0.0, 1.0, 10)
    frames = torch.randint(0, 40, (10, 32, 32, 3), dtype=torch.uint8, generator=generator)
    for k in range(10):
        frames[k, 8:16, 2 * k : 2 * k + 8] = 220
    return Config(kind="video", patch=16), info, frames
