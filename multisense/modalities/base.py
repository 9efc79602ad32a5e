"""What every kind of sensor shares: its configuration, and patches -> tokens.

A modality is a module with `Config` (a `SensorConfig`), `Tokenizer` (a `PatchTokenizer`) and `example(generator)`, which makes
plausible input. Adding a kind is adding such a file: here, or as an installed module `multisense_<kind>`.
"""

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from pydantic import PositiveFloat
from torch import Tensor, nn

from multisense.clips import Grid, Resample
from multisense.config import Config
from multisense.layers import init_linear
from multisense.types import SensorInfo

StemKind = Literal["patch", "mlp", "conv"]


class SensorConfig(Config):
    """One sensor of a run. Sizes in time are seconds: a tokenizer must not depend on the rate somebody recorded at."""

    resample: ClassVar[Resample] = "linear"

    kind: str
    """Modality: a file of `multisense/modalities/`."""
    rate_hz: PositiveFloat | None = None
    """Rate of the grid the sensor is put on; null: the rate it was recorded at."""
    tolerance_s: PositiveFloat | None = None
    """A grid point farther than this from real data is not valid; null: 1.5 periods of the slower of log and grid."""
    stem: StemKind = "mlp"
    """patch: one linear map (large data); mlp: two layers; conv: early convolutions inside the patch (small data)."""

    def grid(self, info: SensorInfo, seconds: float) -> Grid:
        """The grid on which clips of `seconds` hold a sensor that a log describes as `info`."""
        rate = self.rate_hz or info.rate_hz
        tolerance = self.tolerance_s or 1.5 / min(rate, info.rate_hz)
        dtype = "uint8" if info.dtype == "uint8" and self.resample == "nearest" else "float32"
        count = max(round(seconds * rate), 1)
        return Grid(
            info.name,
            self.kind,
            rate,
            count,
            info.shape,
            dtype,
            self.resample,
            tolerance,
            channels=info.channels,
            units=info.units,
        )


class Stem(nn.Module):
    """Patches (B, T, t, h, w, C) -> tokens (B, T, D), each patch on its own.

    Patches never see each other here, so that a hidden token cannot reach the student through a convolution's border.
    `conv` is the early-convolution stem of Xiao et al. (2021) inside one patch, the t samples stacked on channels.
    """

    def __init__(self, patch: tuple[int, int, int], channels: int, width: int, kind: StemKind):
        super().__init__()
        t, h, w = patch
        size = t * h * w * channels
        if kind == "patch":
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(size, width))
        elif kind == "mlp":
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(size, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        else:
            self.net = _convolutions(t * channels, (h, w), width)
        self.net.apply(init_linear).apply(_init_convolution)

    def forward(self, patches: Tensor) -> Tensor:
        flat = rearrange(patches, "b n t h w c -> (b n) (t c) h w")
        return rearrange(self.net(flat), "(b n) d -> b n d", n=patches.shape[1])


def _init_convolution(module: nn.Module) -> None:
    """Deviation 2 / sqrt(fan in), zero bias: as a GELU halves a small signal, it keeps its size through each layer. By
    torch's default, tokens would leave four layers a hundredth of the size of the other sensors'."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=2 / math.sqrt(module.weight[0].numel()))
        assert module.bias is not None
        nn.init.zeros_(module.bias)


def _convolutions(channels: int, size: tuple[int, int], width: int) -> nn.Sequential:
    """4 x 4 pixels at once, then 3 x 3 convolutions of stride 2 while both sides halve, channels doubling up to the width.

    Starting at a quarter of the resolution costs a quarter of the usual 3 x 3 start, most of which is memory traffic.
    """
    h, w = size
    if h % 4 or w % 4:
        raise ValueError(f"stem 'conv' needs patches whose sides are multiples of 4, found {h} x {w}; use stem 'mlp'")
    wide = max(width // 4, 16)
    layers: list[nn.Module] = [nn.Conv2d(channels, wide, 4, 4), nn.GELU()]
    h, w = h // 4, w // 4
    while h % 2 == 0 and w % 2 == 0:
        layers += [nn.Conv2d(wide, min(2 * wide, width), 3, 2, padding=1), nn.GELU()]
        h, w, wide = h // 2, w // 2, min(2 * wide, width)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(wide * h * w, width))


class PatchTokenizer(nn.Module):
    """Values (B, N, *sample) -> tokens (B, T, D): signal -> normalise -> patches over (time, y, x) -> stem.

    A kind says how its values become a signal (B, N', H, W, C), and the patch (t, h, w) in samples of that signal.
    """

    def __init__(
        self,
        grid: Grid,
        signal_shape: tuple[int, int, int, int],
        patch: tuple[int, int, int],
        width: int,
        stem: StemKind,
        mean_cells: tuple[int, int] = (1, 1),
        std_cells: tuple[int, int] = (1, 1),
        one_unit: bool = False,
    ):
        super().__init__()
        n, h, w, c = signal_shape
        if n < patch[0] or h % patch[1] or w % patch[2]:
            raise ValueError(
                f"sensors.{grid.name}: a clip gives a signal of {n} x {h} x {w} (time, height, width), which patches of "
                f"{patch[0]} x {patch[1]} x {patch[2]} do not fit; choose patches that divide it, or a longer clip"
            )
        self.grid, self.patch, self.lattice = grid, patch, (n // patch[0], h // patch[1], w // patch[2])
        self.patch_shape = (*patch, c)
        self.stem = Stem(patch, c, width, stem)
        # One mean and deviation per channel; per row where rows are different things (mel bands), and a mean per pixel
        # where a camera may stand still, so that what never changes is not most of what there is to see. Channels of one
        # unit share a deviation: of a channel that is hardly ever used, its own would be that of its noise.
        self.register_buffer("mean", torch.zeros(*mean_cells, c))
        self.register_buffer("std", torch.ones(*std_cells, 1 if one_unit else c))

        steps = torch.arange(self.lattice[0] + 1) * self.token_seconds() * grid.rate_hz
        self.register_buffer("edges", steps.round().long().clamp(max=grid.count), persistent=False)

    mean: Tensor
    std: Tensor
    edges: Tensor
    """(N + 1,) first samples of the tokens' steps, and the end of the last."""

    def signal(self, values: Tensor) -> Tensor:
        """Values as recorded -> float signal (B, N', H, W, C) before normalisation."""
        raise NotImplementedError(f"{type(self).__module__}.Tokenizer must define signal()")

    def __len__(self) -> int:
        return self.lattice[0] * self.lattice[1] * self.lattice[2]

    def layout(self) -> tuple[Tensor, Tensor]:
        """Centre times (T,) in seconds from the clip's start, and places (T, 2) in [0, 1]."""
        n, h, w = self.lattice
        centre = (torch.arange(n, dtype=torch.float64) + 0.5) * self.token_seconds()
        y, x = (torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w
        time = repeat(centre.float(), "n -> (n h w)", h=h, w=w)
        grid = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1)
        return time, repeat(grid, "h w two -> (n h w) two", n=n)

    def token_seconds(self) -> float:
        """How long one token lasts."""
        return self.patch[0] / self.grid.rate_hz

    def patches(self, values: Tensor) -> Tensor:
        """Normalised patches (B, T, t, h, w, C): no parameter is in them, so that student and teacher can share them."""
        n, h, w = self.lattice
        t, p, q = self.patch
        signal = torch.addcmul(-self.mean / self.std, self.signal(values)[:, : n * t], 1 / self.std)
        return rearrange(signal, "b (n t) (h p) (w q) c -> b (n h w) t p q c", n=n, t=t, h=h, p=p, w=w, q=q)

    def forward(self, values: Tensor) -> Tensor:
        return self.stem(self.patches(values))

    def token_valid(self, valid: Tensor) -> Tensor:
        """Validity (B, N) of samples -> (B, T) of tokens: a token holds real data only."""
        _, h, w = self.lattice
        missing = F.pad((~valid).cumsum(1), (1, 0))[:, self.edges]
        return repeat(missing[:, 1:] == missing[:, :-1], "b n -> b (n h w)", h=h, w=w)


def samples(seconds: float, rate_hz: float) -> int:
    """How many samples a patch of `seconds` holds, at least one."""
    return max(round(seconds * rate_hz), 1)
