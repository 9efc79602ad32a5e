"""What is counted in a stream and how it is judged, on streams made for one question each."""

import math
from pathlib import Path

import numpy as np
import pytest
from conftest import ArrayLog

from multisense.inspect.findings import Finding, has_errors
from multisense.inspect.stamps import Gaps, Run
from multisense.inspect.streams import check, check_logs
from multisense.inspect.tally import blocks, tally
from multisense.logs.base import log_error
from multisense.types import Stream


def alone(modality: str, rate_hz: float, times_s: np.ndarray, data: np.ndarray) -> list[Finding]:
    return check_logs([ArrayLog("log", {"it": (modality, rate_hz, times_s, data)})])


def test_a_start_that_stutters_does_not_hide_a_gap_where_blocks_are_small(monkeypatch: pytest.MonkeyPatch):
    """At 1080p a block is one picture; the first step is 100 ms here, the others 33 ms, and 10 pictures are lost."""
    monkeypatch.setattr(blocks, "__defaults__", (1, -math.inf, math.inf))
    rng = np.random.default_rng(0)
    t = np.delete(np.concatenate([[0], 0.1 + np.arange(89) / 30]), slice(50, 60))
    found = alone("video", 30.0, t, rng.integers(0, 255, (80, 32, 32, 3), np.uint8))
    assert [f.kind for f in found] == ["gap"]
    assert found[0].message.startswith("2 gaps, the longest 0.3667 s")


def sound_in_blocks(late_s: float, rate_hz: float = 16000.0) -> np.ndarray:
    """Stamps of 10 s of sound in blocks of 512, each stamped up to about so late, straight lines between."""
    rng, starts = np.random.default_rng(0), np.arange(0, 160001, 512)
    return np.interp(np.arange(160000), starts, 5000 + starts / rate_hz + np.abs(rng.normal(0, late_s, len(starts))))


@pytest.mark.parametrize(("late_s", "kinds"), [(4e-3, ["jitter"]), (5e-5, [])])
def test_sound_stamped_on_arrival_has_jitter(late_s: float, kinds: list[str]):
    sound = np.random.default_rng(0).normal(size=160000)
    assert [f.kind for f in alone("audio", 16000.0, sound_in_blocks(late_s), sound)] == kinds


def test_a_rate_that_is_the_median_of_jittering_stamps_is_no_wrong_rate():
    """As a reader measures it; the mean of the steps is another."""
    steps = np.tile([0.216, 0.216, 0.12, 0.216, 0.21], 12)
    found = alone("", 1 / 0.216, np.cumsum(steps), np.random.default_rng(0).normal(size=(60, 2)))
    assert [(f.level, f.kind) for f in found] == [("info", "jitter")]


def test_a_channel_that_is_switched_on_and_off_beside_others_is_no_error():
    x = np.random.default_rng(0).normal(size=(200, 3))
    x[:80, 1] = x[150:, 1] = np.nan
    assert [(f.level, f.kind) for f in alone("proprio", 100.0, np.arange(200) / 100, x)] == [("warning", "nan")]
    x[100, 1] = np.nan
    assert [(f.level, f.kind) for f in alone("proprio", 100.0, np.arange(200) / 100, x)] == [("error", "nan")]
    x[:80] = np.nan
    assert [(f.level, f.kind) for f in alone("proprio", 100.0, np.arange(200) / 100, x)] == [("error", "nan")]


def test_a_topic_of_few_messages_is_not_apart_from_the_others():
    rng, t = np.random.default_rng(0), 10 + np.arange(200) / 100
    log = ArrayLog("log", {n: ("proprio", 100.0, t, rng.normal(size=(200, 2))) for n in ("arm", "hand")})
    log.streams = {**log.streams, "home": ("", 1.0, np.array([0.0, 2.0]), np.zeros((2, 1)))}
    assert [(f.level, f.kind) for f in check_logs([log])] == [("info", "few")]


def test_a_sensor_of_no_known_kind_that_cannot_be_read_is_an_error_all_the_same():
    class Damaged(ArrayLog):
        def read(self, sensor: str, start_s: float, stop_s: float) -> Stream:
            raise log_error("x", "damage", "none", "Copy it again.")

    t = np.arange(50) / 100
    found = check_logs([Damaged("x", {"odd": ("", 100.0, t, np.zeros((50, 1)))})])
    assert [(f.level, f.sensor, f.kind) for f in found] == [("error", "odd", "unreadable")]


def test_blocks_give_every_sample_once_whatever_their_size(body_logs: list[ArrayLog]):
    log = body_logs[0]
    for name, sensor in log.sensors.items():
        pieces = list(blocks(log, sensor, block_bytes=1000))
        assert len(pieces) > 3
        np.testing.assert_array_equal(np.concatenate([p.data for p in pieces]), log.streams[name][3])


def test_block_size_does_not_change_what_is_counted(body_logs: list[ArrayLog], monkeypatch: pytest.MonkeyPatch):
    whole = tally(body_logs[0], "pad").values
    monkeypatch.setattr(blocks, "__defaults__", (4000, -math.inf, math.inf))
    pieces = tally(body_logs[0], "pad").values
    assert whole is not None
    assert pieces is not None
    assert (whole.count, whole.steps, whole.still.count) == (pieces.count, pieces.steps, pieces.still.count)
    for field_ in ("low", "high", "repeats", "least_step"):
        np.testing.assert_array_equal(getattr(whole, field_), getattr(pieces, field_))


def test_a_run_goes_on_over_blocks():
    holds, t = np.array([0, 1, 1, 0, 1, 1, 1, 1, 0, 1], bool), np.arange(10.0)
    for cuts in ([], [5], [2, 5, 6], list(range(1, 10))):
        run = Run()
        for piece in np.split(np.arange(10), cuts):
            run.add(holds[piece], t[piece], t[piece] + 1)
        assert (run.count, run.longest, run.start_s, run.stop_s) == (7, 4, 4.0, 8.0)


def test_lost_samples_are_counted():
    gaps = Gaps(1.75)
    gaps.add(np.array([0.0, 1, 2, 5, 6, 8]), 1.0)
    assert (gaps.count, gaps.lost, gaps.start_s, gaps.stop_s) == (2, 3, 2.0, 5.0)


def test_a_real_flight_gives_no_error(realdata: Path):
    pytest.importorskip("pyulog", reason="PX4 logs need multisense[ulog]")
    assert not has_errors(check(realdata / "px4_ulog"))
