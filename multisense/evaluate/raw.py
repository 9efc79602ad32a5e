"""The baseline that learned features must beat: the signals themselves, resampled, flattened and compressed by PCA.

Frames become ten colour pictures of 16x16, sound becomes log-mel energies (nobody would probe a waveform), everything
else is averaged into steps of a twentieth of the window, on the logarithmic scale where the run's sensor has one. PCA
and scaling are fitted on training windows only.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
import torchaudio
from einops import rearrange
from sklearn.decomposition import PCA

from multisense.types import Batch

FRAMES, PIXELS = 10, 16
STEPS, MELS = 20, 40
DIMENSIONS = 256
"""Of the compressed features of one sensor, at most."""
SOUND_HZ = 2000
"""A vector sampled faster than this is looked at as a spectrogram."""


def raw_features(
    batch: Batch, rates_hz: Mapping[str, float], log_scales: Mapping[str, float] | None = None
) -> dict[str, np.ndarray]:
    """{sensor: (B, D) float32} from a batch on grids of `rates_hz`; NaN where a sensor gave nothing.

    `log_scales` of a sensor: asinh(value / scale) in the place of its values.
    """
    scales = log_scales or {}
    values = {n: torch.asinh(x / scales[n]) if n in scales else x for n, x in batch.values.items()}
    return {name: _raw(values[name], batch.valid[name], rates_hz[name]) for name in values}


def _raw(values: torch.Tensor, valid: torch.Tensor, rate_hz: float) -> np.ndarray:
    if values.ndim == 5 and values.dtype == torch.uint8:
        steps, seen = _frames(values, valid)
    else:
        values = torch.where(_like(valid, values), values.float(), 0.0)
        flat = rearrange(values, "b n ... -> b n (...)")
        if flat.ndim == 3 and values.ndim <= 3 and rate_hz >= SOUND_HZ:
            flat, valid = _log_mel(flat, valid, rate_hz)
        steps, seen = _averaged(flat, valid, STEPS)
    steps = torch.where(seen[..., None], steps, torch.nan)
    return rearrange(steps, "b s d -> b (s d)").numpy().astype(np.float32)


def _like(valid: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return valid.reshape(*valid.shape, *[1] * (values.ndim - valid.ndim))


def _frames(values: torch.Tensor, valid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, N, H, W, C) uint8 -> (B, 10, 16 * 16 * C): the frames at the centres of ten equal parts of the window."""
    count, height, width = values.shape[1:4]
    steps = min(FRAMES, count)
    at = ((torch.arange(steps) + 0.5) * count / steps).long()
    frames = rearrange(values[:, at].float(), "b s h w c -> (b s) c h w")
    small = F.adaptive_avg_pool2d(frames, (min(PIXELS, height), min(PIXELS, width)))
    return rearrange(small, "(b s) c h w -> b s (c h w)", s=steps), valid[:, at]


def _log_mel(flat: torch.Tensor, valid: torch.Tensor, rate_hz: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, N, C) -> log-mel energies (B, frames of 10 ms, C * mels), with validity."""
    window, hop = int(0.025 * rate_hz), int(0.010 * rate_hz)
    spectrogram = torchaudio.transforms.MelSpectrogram(
        int(rate_hz), n_fft=max(512, 1 << (window - 1).bit_length()), win_length=window, hop_length=hop, n_mels=MELS
    )
    energies = torch.log(spectrogram(rearrange(flat, "b n c -> b c n")) + 1e-8)
    frames = energies.shape[-1]
    at = (torch.arange(frames) * hop).clamp(max=valid.shape[1] - 1)
    return rearrange(energies, "b c m t -> b t (c m)"), valid[:, at]


def _averaged(flat: torch.Tensor, valid: torch.Tensor, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, N, D) -> (B, steps, D): the mean of the valid samples in each equal part of the window."""
    count = flat.shape[1]
    steps = min(steps, count)
    part = F.one_hot(torch.arange(count) * steps // count, steps).float()
    sums = torch.einsum("ns,bnd->bsd", part, flat * valid[..., None])
    seen = torch.einsum("ns,bn->bs", part, valid.float())
    return sums / seen.clamp(min=1)[..., None], seen > 0


def compress(
    train: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray], sensors: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Standardised and PCA-compressed raw features of each sensor, at most DIMENSIONS wide, for both sets of windows."""
    both = {name: _compress(train[name], test[name]) for name in sensors}
    return {name: pair[0] for name, pair in both.items()}, {name: pair[1] for name, pair in both.items()}


def joint(features: Mapping[str, np.ndarray], sensors: Sequence[str]) -> np.ndarray:
    """All sensors side by side."""
    return np.concatenate([features[name] for name in sensors], axis=1)


def _compress(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    seen = np.isfinite(train)
    count = np.maximum(seen.sum(axis=0), 1)
    mean = np.where(seen, train, 0).sum(axis=0) / count
    std = np.sqrt((np.where(seen, train - mean, 0) ** 2).sum(axis=0) / count)
    scale = np.where(std > 0, std, np.inf)
    train, test = (np.nan_to_num((x - mean) / scale) for x in (train, test))
    components = min(DIMENSIONS, *train.shape)
    pca = PCA(components, svd_solver="randomized", random_state=0)
    pca.set_params(iterated_power=2)  # enough for components that a ridge will weigh anyway, and half the time
    pca.fit(train)
    return pca.transform(train), pca.transform(test)
