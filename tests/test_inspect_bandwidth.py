"""Bandwidth against closed forms: noise cannot be compressed, a constant costs nothing, FLAC and the quantiser lose nothing."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import ArrayLog

from multisense.inspect.bandwidth import CHILD_BYTES_PER_S, WINDOWS, bandwidth, bandwidth_table, sample, windows
from multisense.inspect.bandwidth_plot import bandwidth_plot
from multisense.inspect.codecs import delta_xz_bytes, ffv1_bytes, flac, flac_bytes, quantised
from multisense.logs import Recording, open_logs, write_log

SECONDS = 20


def one(modality: str, rate_hz: float, data: np.ndarray, name: str = "x") -> ArrayLog:
    return ArrayLog("log", {name: (modality, rate_hz, np.arange(len(data)) / rate_hz, data)})


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_white_noise_of_all_bits_is_incompressible(rng: np.random.Generator, dtype: type):
    limits = np.iinfo(dtype)
    noise = rng.integers(limits.min, limits.max, (4000, 3), dtype, endpoint=True)
    assert delta_xz_bytes([quantised(noise, None)]) / noise.nbytes == pytest.approx(1, abs=0.02)


def test_noise_costs_its_entropy(rng: np.random.Generator):
    """Differences of noise of 4 bits in 16 have the entropy of a triangle: 4 bits + 0.7; xz is not far from it."""
    noise = rng.integers(0, 16, (40000, 1)).astype(np.uint16)
    bits = 8 * delta_xz_bytes([noise]) / len(noise)
    assert 4.5 < bits < 6


def test_a_constant_costs_nothing():
    assert delta_xz_bytes([quantised(np.full((50000, 6), 3.25, np.float32), None)]) < 300
    assert flac_bytes(np.full((160000, 2), 100, np.int16), 16000) / 640000 < 0.005
    assert ffv1_bytes(np.full((20, 64, 64, 3), 90, np.uint8)) / (20 * 64 * 64 * 3) < 0.02


def test_noise_defeats_flac_and_ffv1_too(rng: np.random.Generator):
    sound = rng.integers(-32768, 32767, (32000, 1), np.int16, endpoint=True)
    assert flac_bytes(sound, 16000) / sound.nbytes == pytest.approx(1, abs=0.02)
    frames = rng.integers(0, 256, (5, 64, 64, 3), np.uint8)
    assert 0.98 < ffv1_bytes(frames) / frames.nbytes < 1.25  # its colour transform adds a bit to each difference


@pytest.mark.parametrize("channels", [1, 2])
def test_flac_gives_back_every_sample(rng: np.random.Generator, channels: int):
    sound = rng.normal(0, 3000, (20001, channels)).astype(np.int16)
    packets, header = flac(sound, 16000)
    decoder = av.CodecContext.create("flac", "r")
    decoder.extradata = header
    frames = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    back = np.concatenate([frame.to_ndarray().reshape(-1, channels) for frame in frames])
    np.testing.assert_array_equal(back, sound)


def test_the_quantiser_keeps_its_resolution(rng: np.random.Generator):
    x = rng.normal(0, 5, (1000, 2))
    np.testing.assert_allclose(quantised(x, 0.01) * 0.01 + x.min(0), x, atol=0.00501)
    span = np.ptp(x, axis=0)
    np.testing.assert_allclose(quantised(x, None) * span / 65535 + x.min(0), x, atol=span.max() / 65535)
    assert quantised(np.array([[np.nan], [1.0], [np.inf]]), None).tolist() == [[0], [0], [0]]


def test_rates_of_noise(rng: np.random.Generator):
    log = one("proprio", 1000.0, rng.integers(0, 256, (SECONDS * 1000, 4), np.uint8))
    (rates,) = bandwidth([log], {"x": 10.0}, width=64).rates
    assert rates.raw == pytest.approx(4000)
    assert rates.lossless == pytest.approx(4000, rel=0.03)
    assert rates.hours == pytest.approx(SECONDS / 3600)
    assert rates.tokens == 10
    assert rates.token_bytes == 10 * 64 * 2
    assert rates.bits_per_token == pytest.approx(3200, rel=0.03)
    assert rates.active < 0.01  # noise is what this sensor is when quiet
    assert rates.child_pace == pytest.approx(4000 / CHILD_BYTES_PER_S, rel=0.03)
    assert rates.child_share == pytest.approx(4000 * SECONDS / 1.1e14, rel=0.03)
    assert rates.text_share == pytest.approx(4000 * SECONDS / 9e13, rel=0.03)


def test_active_is_the_share_of_time_with_change(rng: np.random.Generator):
    sound = 0.001 * rng.normal(size=(16000 * 8, 1))
    sound[16000 * 2 : 16000 * 4] *= 100
    (rates,) = bandwidth([one("audio", 16000.0, sound.astype(np.float32))]).rates
    assert rates.active == pytest.approx(0.25, abs=0.07)
    assert rates.codec == "FLAC (16 bit of full scale)"
    assert rates.tokens is rates.token_bytes is rates.bits_per_token is None


def test_a_coarser_resolution_costs_less(rng: np.random.Generator):
    log = one("touch", 200.0, rng.normal(0, 1, (200 * SECONDS, 5)).astype(np.float32))
    fine, coarse = (bandwidth([log], resolution={"x": step}).rates[0] for step in (1e-3, 1e-1))
    assert coarse.lossless < 0.7 * fine.lossless
    assert "0.1" in coarse.codec


def test_few_windows_of_bounded_size_are_read(rng: np.random.Generator):
    logs = [one("proprio", 100.0, np.full((100 * 50, 1), float(k))) for k in range(3)]
    found = windows(logs, "x")
    assert len(found) == WINDOWS
    assert {len(piece) for piece in found} == {200}
    assert [int(piece[0, 0]) for piece in found] == [0, 0, 1, 1, 2, 2]
    assert sample(logs, "x").raw_bytes == 3 * 5000 * 8


def test_sensors_of_one_modality_are_added_and_stored_bytes_are_those_on_disk(tmp_path: Path, rng: np.random.Generator):
    frames = rng.integers(0, 256, (40, 32, 32, 3), np.uint8)
    still = np.arange(40) / 20
    joints = rng.normal(size=(200, 4)).astype(np.float32)
    recordings = {
        "left": Recording("video", 20.0, frames, still, media="left.mp4"),
        "right": Recording("video", 20.0, frames, still, media="right.mp4"),
        "arm": Recording("proprio", 100.0, joints, np.arange(200) / 100),
    }
    write_log(tmp_path / "log.h5", recordings)
    found = bandwidth(open_logs(tmp_path))
    arm, video = found.rates
    assert video.sensors == ("left", "right")
    assert video.raw == pytest.approx(2 * frames.nbytes / 2)
    assert video.stored == pytest.approx(sum(f.stat().st_size for f in tmp_path.glob("*.mp4")) / 2)
    assert arm.stored == pytest.approx((tmp_path / "log.h5").stat().st_size / 2)
    assert set(json.loads(json.dumps(found.as_dict()))["modalities"]) == {"proprio", "video"}
    assert len(bandwidth_table(found).columns) == 1 + 2
    bandwidth_plot(found, tmp_path / "bandwidth.png")
    assert (tmp_path / "bandwidth.png").read_bytes()[1:4] == b"PNG"
