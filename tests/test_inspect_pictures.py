"""Streams drawn: what cannot be drawn is passed over, and a long film is not held for ten thumbnails."""

import numpy as np
import pytest
from conftest import ArrayLog

from multisense.inspect.pictures import recording
from multisense.types import Stream


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
