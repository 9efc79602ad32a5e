"""Audio: waveform (B, N) or (B, N, C) -> log-mel patches, or stretches of the waveform itself."""

from typing import ClassVar

import torch
from einops import rearrange
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import max_pool1d
from torchaudio.transforms import MelSpectrogram

from multisense.clips import Grid, Resample
from multisense.modalities.base import PatchTokenizer, SensorConfig, samples
from multisense.types import SensorInfo

FLOOR = 1e-6
"""Mel power added before the logarithm: below 16-bit noise."""


class Config(SensorConfig):
    resample: ClassVar[Resample] = "bandlimited"

    waveform: bool = False
    """Tokens straight from the waveform instead of a mel spectrogram."""
    window_s: PositiveFloat = 0.025
    hop_s: PositiveFloat = 0.010
    mels: PositiveInt = 64
    patch_mels: PositiveInt = 16
    """Mel bands in a patch; equal to `mels`: a token is the whole spectrum."""
    patch_s: PositiveFloat = 0.16
    """Seconds in a patch."""

    def grid(self, info: SensorInfo, seconds: float) -> Grid:
        if len(info.shape) > 1:
            raise ValueError(
                f"sensors.{info.name}: kind 'audio' expects samples of shape () or (channels,), the log holds {info.shape}"
            )
        return super().grid(info, seconds)


class Tokenizer(PatchTokenizer):
    """Log-mel patches (AST, Gong et al. 2021): natural logarithm of mel power, HTK mels up to half the rate."""

    def __init__(self, config: Config, grid: Grid, width: int):
        channels = grid.shape[0] if grid.shape else 1
        self.hop = samples(config.hop_s, grid.rate_hz)
        frames = grid.count // self.hop
        if config.waveform:
            shape, patch = (grid.count, 1, 1, channels), (samples(config.patch_s, grid.rate_hz), 1, 1)
            self.hop = 1
        else:
            shape = (frames, config.mels, 1, channels)
            patch = (samples(config.patch_s, grid.rate_hz / self.hop), config.patch_mels, 1)
        super().__init__(grid, shape, patch, width, config.stem, (shape[1], 1), (shape[1], 1))
        self.mel = None if config.waveform else _mel(config, grid.rate_hz, self.hop)
        self.reach = 0 if config.waveform else samples(config.window_s / 2, grid.rate_hz)

    def token_seconds(self) -> float:
        return self.patch[0] * self.hop / self.grid.rate_hz

    def token_valid(self, valid: Tensor) -> Tensor:
        """As for every kind; but a spectrum hears half a window beyond its token on either side."""
        if self.reach == 0:
            return super().token_valid(valid)
        missing = max_pool1d((~valid).float()[:, None], 2 * self.reach + 1, stride=1, padding=self.reach)
        return super().token_valid(missing[:, 0] == 0)

    def signal(self, values: Tensor) -> Tensor:
        sound = values if values.ndim == 3 else values[..., None]
        if self.mel is None:
            return rearrange(sound, "b n c -> b n 1 1 c")
        frames = self.grid.count // self.hop
        power = self.mel(rearrange(sound, "b n c -> b c n"))[..., :frames]
        return rearrange((power + FLOOR).log(), "b c m n -> b n m 1 c")


def _mel(config: Config, rate_hz: float, hop: int) -> MelSpectrogram:
    window = samples(config.window_s, rate_hz)
    n_fft = 1 << (window - 1).bit_length()
    return MelSpectrogram(
        round(rate_hz), n_fft=n_fft, win_length=window, hop_length=hop, n_mels=config.mels, f_min=20.0, center=True
    )


def example(generator: torch.Generator) -> tuple[Config, SensorInfo, Tensor]:
    """A second of stereo noise with a decaying 1 kHz strike in the middle, at 16 kHz."""
    time = torch.arange(16000) / 16000
    strike = torch.where(time > 0.5, torch.exp(-20 * (time - 0.5)) * torch.sin(2 * torch.pi * 1000 * time), 0.0)
    sound = 0.01 * torch.randn(16000, 2, generator=generator) + strike[:, None]
    return Config(kind="audio"), SensorInfo("mic", "audio", 16000.0, (2,), "float32", 0.0, 1.0, 16000), sound
