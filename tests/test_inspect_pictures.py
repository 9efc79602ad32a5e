"""Streams drawn: what cannot be drawn is passed over, and a long film is not held for ten thumbnails."""

import base64
import io
import re

import numpy as np
import pytest
from conftest import ArrayLog
from PIL import Image

from multisense.inspect.pictures import drawn_as, recording
from multisense.types import SensorInfo, Stream


def test_channels_without_numbers_are_drawn_without_a_warning():
    rng, t = np.random.default_rng(0), np.arange(300) / 100
    arm, pad, sound = rng.normal(size=(300, 3)), rng.normal(size=(300, 4, 4, 1)), rng.normal(size=24000)
    arm[:, 1], arm[5, 0], pad[100:], sound[9000:] = np.nan, np.inf, np.nan, np.nan
    streams = {"arm": arm, "motors": arm[:, 1:2], "pad": pad}
    log = ArrayLog("log", {n: ("", 100.0, t, data) for n, data in streams.items()})
    log.streams = {**log.streams, "mic": ("audio", 8000.0, np.arange(24000) / 8000, sound)}
    drawn = recording(log, list(log.sensors))
    assert "nan," not in drawn
    assert ",nan" not in drawn
    assert drawn.count("<polyline") == 4


def test_of_a_film_only_the_pictures_shown_are_read(monkeypatch: pytest.MonkeyPatch):
    t = np.delete(np.arange(300) / 30, slice(90, 150))  # 2 s of 10 are missing: two of ten thumbnails
    levels = np.arange(240, dtype=np.uint8)
    log = ArrayLog(
        "log", {"eye": ("video", 30.0, t, np.zeros((240, 32, 32, 3), np.uint8) + levels[:, None, None, None])}
    )
    read, whole = ArrayLog.read, []

    def counted(self: ArrayLog, *span: object) -> Stream:
        whole.append(read(self, *span))
        return whole[-1]

    monkeypatch.setattr(ArrayLog, "read", counted)
    drawn = recording(log, ["eye"], 10.0)
    assert max(len(stream.data) for stream in whole) <= 3
    assert drawn.count("<image") == 8


@pytest.mark.parametrize(
    ("shape", "dtype", "rate_hz", "modality", "drawn"),
    [
        ((48, 64, 3), "uint8", 30, "", "frames"),
        ((48, 64, 1), "uint8", 30, "video", "frames"),
        ((8, 8, 3), "uint8", 30, "video", "frames"),
        ((48, 64, 1), "uint16", 30, "video", "taxels"),
        ((48, 64, 2), "uint8", 30, "video", "taxels"),
        ((48, 64, 3), "uint8", 30, "touch", "frames"),
        ((4, 4, 3), "uint8", 100, "touch", "taxels"),
        ((4, 4, 3), "float32", 100, "", "taxels"),
        ((4, 4), "uint8", 100, "", "taxels"),
        ((16,), "float32", 4000, "touch", "traces"),
        ((), "int16", 16000, "", "sound"),
        ((2,), "float32", 1000, "audio", "sound"),
        ((6,), "float32", 4000, "proprio", "traces"),
        ((4, 4), "float64", 100, "proprio", "traces"),
        ((), "float64", 10, "", "traces"),
    ],
)
def test_a_sensor_is_drawn_as_its_modality_is_and_else_as_its_samples_are(shape, dtype, rate_hz, modality, drawn):
    assert drawn_as(SensorInfo("x", modality, rate_hz, shape, dtype, 0.0, 1.0, 1)) == drawn


def test_a_grid_without_vectors_and_single_numbers_are_drawn():
    t = np.arange(60) / 20
    grid = np.zeros((60, 4, 6))
    grid[30:, 1, 2] = -3.0
    streams = {"pad": ("touch", 20.0, t, grid), "knob": ("proprio", 20.0, t, np.sin(t))}
    drawn = recording(ArrayLog("log", streams), ["pad", "knob"])
    assert "4x6 taxels" in drawn
    assert "1 channel<" in drawn
    pixels = first_picture(drawn)
    assert pixels.shape == (24, 60, 3)
    lit = np.argwhere((pixels != pixels[0, 0]).any(axis=2))
    assert set(lit[:, 0]) == {1 * 6 + 2}
    assert set(lit[:, 1]) == set(range(30, 60))


def first_picture(drawn: str) -> np.ndarray:
    """The first picture (H, W, 3) in a drawing."""
    found = re.search(r"data:image/png;base64,([^\"]+)", drawn)
    assert found
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(found[1]))).convert("RGB"))
