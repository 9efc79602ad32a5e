"""Touch: vectors (B, N, C), taxel grids (B, N, H, W[, C]), or frames of a gel camera less its no-contact frame."""

from typing import Literal

import torch
from einops import rearrange
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from multisense.clips import Grid
from multisense.modalities.base import PatchTokenizer, SensorConfig, samples
from multisense.modalities.video import frame_grid
from multisense.types import SensorInfo


class Config(SensorConfig):
    patch_s: PositiveFloat = 0.1
    """Seconds in a token (vectors and taxel grids)."""
    cells: tuple[PositiveInt, PositiveInt] | None = None
    """Taxels (rows, columns) in a token; null: the whole grid."""
    log_scale: PositiveFloat | None = None
    """Compress values as asinh(value / log_scale), in the sensor's unit: light touches then count beside blows."""
    frames: PositiveInt = 2
    """Frames in a token (gel cameras)."""
    patch: PositiveInt = 16
    """Height and width of a patch in pixels (gel cameras)."""
    size: tuple[PositiveInt, PositiveInt] | None = None
    """Height and width that gel camera frames are resized to."""
    background: Literal["none", "first"] = "first"
    """Gel cameras: subtract the log's first frame, which must show no contact, or nothing (Sparsh, Higuera et al. 2024)."""

    def grid(self, info: SensorInfo, seconds: float) -> Grid:
        if self._is_camera(info):
            camera = frame_grid(self, info, seconds, self.size)
            return Grid(**{**camera.__dict__, "dtype": "uint8", "resample": "nearest", "background": self.background})
        if len(info.shape) not in (1, 2, 3):
            raise ValueError(
                f"sensors.{info.name}: kind 'touch' expects vectors (channels,), taxel grids (rows, columns[, channels]) or "
                f"uint8 frames (height, width, 3); the log holds {info.dtype} samples of shape {info.shape}"
            )
        return super().grid(info, seconds)

    def _is_camera(self, info: SensorInfo) -> bool:
        """Frames are bytes and hold at least one patch; a taxel grid is smaller, or not bytes."""
        return info.dtype == "uint8" and len(info.shape) == 3 and min(self.size or info.shape[:2]) >= self.patch


class Tokenizer(PatchTokenizer):
    def __init__(self, config: Config, grid: Grid, width: int):
        rows, columns, channels = (1, 1, *grid.shape) if len(grid.shape) == 1 else (*grid.shape, 1)[:3]
        height, width_cells = config.cells or (rows, columns)
        patch = (samples(config.patch_s, grid.rate_hz), height, width_cells)
        if grid.resample == "nearest":
            patch = (config.frames, config.patch, config.patch)
        super().__init__(grid, (grid.count, rows, columns, channels), patch, width, config.stem, one_unit=True)
        self.is_camera = grid.resample == "nearest"
        self.log_scale = config.log_scale

    def signal(self, values: Tensor) -> Tensor:
        if self.is_camera:
            return values.float()
        values = values.float() if self.log_scale is None else torch.asinh(values.float() / self.log_scale)
        if values.ndim == 3:
            return rearrange(values, "b n c -> b n 1 1 c")
        return values if values.ndim == 5 else values[..., None]


def example(generator: torch.Generator) -> tuple[Config, SensorInfo, Tensor]:
    """A 4 x 4 pad that is pressed in one corner during the second half of a second, at 100 Hz."""
    values = 0.01 * torch.randn(100, 4, 4, 3, generator=generator)
    values[50:, :2, :2, 0] += torch.linspace(0, 2, 50)[:, None, None]
    return Config(kind="touch"), SensorInfo("pad", "touch", 100.0, (4, 4, 3), "float32", 0.0, 1.0, 100), values
