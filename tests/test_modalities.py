"""Every kind of sensor, in the package or outside it, keeps one contract."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ArrayLog

from multisense.clips import read_clip
from multisense.config import ConfigError
from multisense.modalities import kinds, modality
from multisense.modalities.base import PatchTokenizer, SensorConfig
from multisense.types import SensorInfo

THERMAL = '''
"""Thermal images: float (B, N, H, W) kelvin -> patches of 4 x 4 pixels in one frame."""

import torch

from multisense.modalities.base import PatchTokenizer, SensorConfig
from multisense.types import SensorInfo


class Config(SensorConfig):
    patch: int = 4


class Tokenizer(PatchTokenizer):
    def __init__(self, config, grid, width):
        super().__init__(grid, (grid.count, *grid.shape, 1), (1, config.patch, config.patch), width, config.stem)

    def signal(self, values):
        return values[..., None]


def example(generator):
    info = SensorInfo("heat", "thermal", 5.0, (8, 8), "float32", 0.0, 1.0, 5)
    return Config(kind="thermal"), info, 300 + torch.randn(5, 8, 8, generator=generator)
'''


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A kind in one file that the package knows nothing of."""
    (tmp_path / "multisense_thermal.py").write_text(THERMAL)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("multisense_thermal", None)


def made(kind: str, width: int = 24, **changes: object) -> tuple[PatchTokenizer, torch.Tensor, torch.Tensor]:
    """A kind's example as (tokenizer, values (1, N, ...), valid (1, N)), through the grid of a one-second clip."""
    module = modality(kind)
    config, info, values = module.example(torch.Generator().manual_seed(0))
    config = module.Config(**{**config.model_dump(), **changes})
    times = np.arange(info.count) / info.rate_hz
    log = ArrayLog("log", {info.name: (kind, info.rate_hz, times, values.numpy())})
    assert log.sensors[info.name] == info
    grid = config.grid(info, 1.0)
    clip = read_clip(log, 0.0, {info.name: grid}, 1.0)
    torch.manual_seed(0)
    return module.Tokenizer(config, grid, width), clip.values[info.name][None], clip.valid[info.name][None]


def check_contract(kind: str) -> None:
    tokenizer, values, valid = made(kind)
    assert isinstance(tokenizer, PatchTokenizer)
    assert valid.all()
    tokens = tokenizer(torch.cat([values, values]))
    assert tokens.shape == (2, len(tokenizer), 24)
    assert torch.isfinite(tokens).all()
    assert torch.equal(tokens[0], tokens[1])

    time, place = tokenizer.layout()
    assert time.shape == (len(tokenizer),)
    assert place.shape == (len(tokenizer), 2)
    assert 0 < time.min() <= time.max() < 1
    assert 0 < place.min() <= place.max() < 1
    assert len({(*row, t) for row, t in zip(place.tolist(), time.tolist(), strict=True)}) == len(tokenizer)

    assert tokenizer.token_valid(valid).all()
    assert tokenizer.token_valid(valid).shape == (1, len(tokenizer))
    assert not tokenizer.token_valid(torch.zeros_like(valid)).any()
    tokens.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in tokenizer.parameters())


@pytest.mark.parametrize(("kind", "stem"), [("video", "conv"), ("video", "mlp"), ("touch", "mlp"), ("audio", "mlp")])
def test_tokens_are_as_large_as_normalised_patches(kind: str, stem: str):
    # A stem that starts a hundredth as loud leaves its sensor unheard beside the others (as torch's default convolutions do).
    torch.manual_seed(0)
    tokenizer = made(kind, width=128, stem=stem)[0]
    patches = torch.randn(64, 1, *tokenizer.patch_shape)
    assert 0.4 < tokenizer.stem(patches).square().mean().sqrt() < 2.5


@pytest.mark.parametrize("kind", kinds())
def test_every_kind_keeps_the_contract(kind: str):
    check_contract(kind)


def test_a_kind_from_outside_the_package_keeps_it_too(outside: None):
    assert "thermal" not in kinds()
    check_contract("thermal")


def test_the_kinds_are_the_files():
    assert kinds() == ["audio", "proprio", "touch", "video"]


@pytest.mark.parametrize("stem", ["patch", "mlp", "conv"])
@pytest.mark.parametrize("kind", kinds())
def test_every_stem_sees_its_own_patch_only(kind: str, stem: str):
    if stem == "conv" and kind in ("audio", "proprio"):
        with pytest.raises(
            ValueError, match=r"stem 'conv' needs patches whose sides are multiples of 4, found .* use stem 'mlp'"
        ):
            made(kind, stem=stem)
        return
    tokenizer, values, _ = made(kind, stem=stem)
    patches = tokenizer.patches(values)
    other = patches.clone()
    other[:, 1] += 1
    before, after = tokenizer.stem(patches), tokenizer.stem(other)
    rest = [i for i in range(len(tokenizer)) if i != 1]
    assert torch.equal(before[:, rest], after[:, rest])
    assert not torch.equal(before[:, 1], after[:, 1])


@pytest.mark.parametrize("kind", kinds())
def test_a_missing_sample_takes_the_token_that_holds_it(kind: str):
    tokenizer, _, valid = made(kind)
    hole = valid.shape[1] // 2
    valid[0, hole] = False
    gone = ~tokenizer.token_valid(valid)[0]
    at = hole / tokenizer.grid.rate_hz
    time, _ = tokenizer.layout()
    heard = 0.0125 if kind == "audio" else 0.0  # half a window of the spectrum reaches into the neighbours
    expected = (time - at - 0.5 / tokenizer.grid.rate_hz).abs() < tokenizer.token_seconds() / 2 + heard
    assert torch.equal(gone, expected)
    assert gone.any()


def test_a_patch_is_the_pixels_that_its_place_says():
    tokenizer, values, _ = made("video", patch=8, frames=2)
    time, place = tokenizer.layout()
    patches = tokenizer.patches(values)
    for i in (0, 7, 33, len(tokenizer) - 1):
        k, y, x = round(time[i].item() * 10 - 1), round(place[i, 0].item() * 32 - 4), round(place[i, 1].item() * 32 - 4)
        assert torch.equal(patches[0, i], values[0, k : k + 2, y : y + 8, x : x + 8].float())


def test_patches_are_normalised_by_what_was_fitted():
    tokenizer, values, _ = made("proprio")
    plain = tokenizer.patches(values)
    tokenizer.mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    tokenizer.std.copy_(torch.tensor([0.5, 2.0, 4.0]))
    expected = (plain - torch.tensor([1.0, 2.0, 3.0])) / torch.tensor([0.5, 2.0, 4.0])
    torch.testing.assert_close(tokenizer.patches(values), expected, atol=1e-5, rtol=1e-5)


def mel_by_hand(sound: np.ndarray, rate: int, window: int, hop: int, mels: int) -> np.ndarray:
    """Log-mel by numpy alone: periodic Hann, power of a centred STFT, triangles on the HTK mel scale from 20 Hz."""
    n_fft = 1 << (window - 1).bit_length()
    hann = np.zeros(n_fft)
    hann[(n_fft - window) // 2 :][:window] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    padded = np.pad(sound, n_fft // 2, mode="reflect")
    frames = np.stack([padded[k * hop : k * hop + n_fft] for k in range(len(sound) // hop)])
    power = np.abs(np.fft.rfft(frames * hann)) ** 2
    low, high = (2595 * math.log10(1 + f / 700) for f in (20, rate / 2))
    corners = 700 * (10 ** (np.linspace(low, high, mels + 2) / 2595) - 1)
    frequency = np.linspace(0, rate / 2, n_fft // 2 + 1)
    rising = (frequency[:, None] - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - frequency[:, None]) / (corners[2:] - corners[1:-1])
    return np.log(power @ np.maximum(0, np.minimum(rising, falling)) + 1e-6)


def test_the_mel_spectrogram_agrees_with_numpy():
    tokenizer, values, _ = made("audio", mels=40, patch_mels=40)
    ours = tokenizer.signal(values)[0, :, :, 0].detach().numpy()
    assert ours.shape == (100, 40, 2)
    for channel in range(2):
        by_hand = mel_by_hand(values[0, :, channel].double().numpy(), 16_000, 400, 160, 40)
        np.testing.assert_allclose(ours[..., channel], by_hand, atol=2e-3)


def test_a_strike_is_loud_at_its_time_and_pitch():
    tokenizer, values, _ = made("audio", mels=40, patch_mels=40)
    signal = tokenizer.signal(values)[0, :, :, 0, 0]
    assert 48 <= signal.mean(1).argmax() <= 52
    mel = signal[55].argmax().item()
    centres = 700 * (10 ** (np.linspace(*(2595 * math.log10(1 + f / 700) for f in (20, 8000)), 42) / 2595) - 1)[1:-1]
    assert abs(centres[mel] - 1000) < 100


def test_sound_as_waveform():
    tokenizer, values, _ = made("audio", waveform=True, patch_s=0.1)
    assert len(tokenizer) == 10
    assert torch.equal(tokenizer.patches(values).reshape(1, 16_000, 2), values)


def test_touch_as_vector_grid_and_gel_camera():
    module = modality("touch")
    tokenizer, _, _ = made("touch", cells=(2, 2))
    assert tokenizer.lattice == (10, 2, 2)
    vector = SensorInfo("skin", "touch", 100.0, (60,), "float64", 0.0, 1.0, 100)
    config = module.Config(kind="touch")
    tokenizer = module.Tokenizer(config, config.grid(vector, 1.0), 24)
    assert tokenizer(torch.zeros(2, 100, 60)).shape == (2, 10, 24)

    gel = SensorInfo("gel", "touch", 30.0, (32, 48, 3), "uint8", 0.0, 1.0, 30)
    config = module.Config(kind="touch", rate_hz=10, size=(16, 32))
    grid = config.grid(gel, 1.0)
    assert (grid.resample, grid.background, grid.dtype, grid.shape) == ("nearest", "first", "uint8", (16, 32, 3))
    tokenizer = module.Tokenizer(config, grid, 24)
    assert tokenizer(torch.zeros(2, 10, 16, 32, 3, dtype=torch.uint8)).shape == (2, 10, 24)


def test_a_bare_grid_is_a_grid_of_one_channel_and_a_number_a_vector_of_one():
    values = torch.randn(2, 100, 4, 6, generator=torch.Generator().manual_seed(0))
    for kind, flat, full in (("touch", values, values[..., None]), ("proprio", values[..., 0, 0], values[..., 0, :1])):
        module = modality(kind)
        config = module.Config(kind=kind)
        tokenizers = [
            module.Tokenizer(
                config, config.grid(SensorInfo("s", kind, 100.0, shape, "float32", 0.0, 1.0, 100), 1.0), 24
            )
            for shape in (tuple(flat.shape[2:]), tuple(full.shape[2:]))
        ]
        assert torch.equal(tokenizers[0].patches(flat), tokenizers[1].patches(full))


def test_touch_on_a_log_scale_keeps_light_touches():
    tokenizer, values, _ = made("touch", log_scale=0.1)
    torch.testing.assert_close(tokenizer.signal(values)[0, 60], torch.asinh(values[0, 60] / 0.1))
    assert tokenizer.signal(torch.full((1, 1, 4, 4, 3), 0.001)).max() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    ("kind", "shape", "text"),
    [
        ("video", (3,), r"sensors.s: kind 'video' expects frames of shape .* samples of shape \(3,\)"),
        (
            "audio",
            (4, 4),
            r"sensors.s: kind 'audio' expects samples of shape \(\) or \(channels,\), the log holds \(4, 4\)",
        ),
        ("proprio", (4, 4, 3), r"sensors.s: kind 'proprio' expects vectors \(channels,\)"),
        ("touch", (2, 4, 4, 3), r"sensors.s: kind 'touch' expects vectors"),
    ],
)
def test_a_sensor_of_another_shape_is_told(kind: str, shape: tuple[int, ...], text: str):
    info = SensorInfo("s", kind, 100.0, shape, "float32", 0.0, 1.0, 100)
    with pytest.raises(ValueError, match=text):
        modality(kind).Config(kind=kind).grid(info, 1.0)


def test_patches_that_do_not_fit_are_told():
    with pytest.raises(
        ValueError, match=r"sensors.camera: a clip gives a signal of 10 x 32 x 32 .* 2 x 12 x 12 do not fit"
    ):
        made("video", patch=12)
    with pytest.raises(ValueError, match=r"sensors.arm: .* or a longer clip"):
        made("proprio", patch_s=1.5)


def test_sizes_in_seconds_do_not_depend_on_the_recorded_rate():
    config, info, _ = modality("proprio").example(torch.Generator())
    counts = []
    for rate in (50.0, 100.0, 500.0):
        grid = config.grid(replace(info, rate_hz=rate), 2.0)
        counts.append(len(modality("proprio").Tokenizer(config, grid, 8)))
    assert counts == [20, 20, 20]


def test_tolerance_follows_the_slower_of_log_and_grid():
    info = SensorInfo("s", "proprio", 100.0, (3,), "float32", 0.0, 1.0, 100)
    assert SensorConfig(kind="proprio").grid(info, 1.0).tolerance_s == pytest.approx(0.015)
    assert SensorConfig(kind="proprio", rate_hz=10).grid(info, 1.0).tolerance_s == pytest.approx(0.15)
    assert SensorConfig(kind="proprio", rate_hz=1000).grid(info, 1.0).tolerance_s == pytest.approx(0.015)
    assert SensorConfig(kind="proprio", tolerance_s=0.5).grid(info, 1.0).tolerance_s == 0.5


def test_an_unknown_kind_is_told_with_the_nearest():
    with pytest.raises(ConfigError) as caught:
        modality("vidio", "sensors.eye.kind")
    assert str(caught.value).startswith("sensors.eye.kind: unknown modality 'vidio'; did you mean 'video'?")
    assert "importable module 'multisense_vidio' with Config, Tokenizer and example" in str(caught.value)
    with pytest.raises(ConfigError, match=r"expected the name of a modality, found '../evil'"):
        modality("../evil")


def test_base_is_no_kind():
    with pytest.raises(ConfigError, match="unknown modality 'base'"):
        modality("base")


def test_channels_of_touch_share_one_deviation():
    # A shear that is hardly ever felt would else be its own noise at full size.
    tokenizer, values, _ = made("touch")
    assert tokenizer.mean.shape[-1] == values.shape[-1]
    assert tokenizer.std.shape[-1] == 1


def test_a_valid_sound_token_holds_nothing_of_a_gap():
    tokenizer, values, valid = made("audio")
    gap = slice(7000, 9600)
    valid[0, gap], cut = False, values.clone()
    cut[0, gap] = 0
    there = tokenizer.token_valid(valid)[0]
    assert 0 < there.sum() < len(there)
    torch.testing.assert_close(tokenizer.patches(cut)[0, there], tokenizer.patches(values)[0, there])
