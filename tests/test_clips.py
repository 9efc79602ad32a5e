"""Every sensor lands on its own grid, exactly, from inside the window only, and what is missing is masked."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ArrayLog, body_log, body_tree
from torch.utils.data import DataLoader

from multisense.clips import (
    Grid,
    InMemory,
    Resample,
    Rolling,
    TrainingClips,
    Windows,
    _nearest,
    collate,
    read_clip,
    span,
    window_starts,
)
from multisense.logs import open_log
from multisense.logs.base import LogError
from multisense.logs.frames import resize_frames
from multisense.logs.media import PyavVideo
from multisense.run import RunConfig, make_grids, parse_config
from multisense.types import Batch, Stream

BOOT = 1.7e9
"""Seconds of a clock that counts from 1970: float32 has a step of 128 s here."""


def grid(resample: Resample, rate: float, count: int, shape: tuple[int, ...] = (), dtype: str = "float32") -> Grid:
    return Grid("s", "some", rate, count, shape, dtype, resample, tolerance_s=0.06)


def one(times: np.ndarray, data: np.ndarray, rate: float, name: str = "log") -> ArrayLog:
    return ArrayLog(name, {"s": ("some", rate, times, data)})


def clip(log: ArrayLog, grid: Grid, start: float) -> tuple[torch.Tensor, torch.Tensor]:
    found = read_clip(log, start, {"s": grid}, grid.seconds)
    return found.values["s"], found.valid["s"]


@pytest.mark.parametrize("boot", [0.0, BOOT])
@pytest.mark.parametrize(("recorded", "wanted"), [(100.0, 100.0), (250.0, 90.0), (33.3, 71.0)])
def test_a_straight_line_is_recovered_exactly_at_any_rates(recorded: float, wanted: float, boot: float):
    times = boot + np.arange(math.ceil(4 * recorded)) / recorded
    slope, offset = np.array([3.0, -1.0]), np.array([0.5, 2.0])
    line = (times - boot)[:, None] * slope + offset
    values, valid = clip(one(times, line, recorded), grid("linear", wanted, round(2 * wanted), (2,)), boot + 1.2345)
    truth = (1.2345 + np.arange(len(values)) / wanted)[:, None] * slope + offset
    inner = slice(
        math.ceil(wanted / recorded), -math.ceil(wanted / recorded)
    )  # beyond the outer samples nothing is known
    np.testing.assert_allclose(values[inner].numpy(), truth[inner], atol=3e-6)
    assert valid.all()


def test_jittered_stamps_are_believed():
    rng = np.random.default_rng(0)
    times = np.arange(300) / 100 + rng.uniform(-0.004, 0.004, 300)
    values, valid = clip(one(times, 5 * times[:, None], 100.0), grid("linear", 80.0, 80, (1,)), 1.0)
    np.testing.assert_allclose(values[2:-2, 0], 5 * (1 + np.arange(80) / 80)[2:-2], atol=1e-5)
    assert valid.all()


def test_frames_are_the_nearest_ones():
    # Frame k of 30 fps holds the number k: at 10 fps from 1.01 s on, grid points lie 0.3 frames after frames 30, 33, ...
    frames = np.arange(90, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    values, valid = clip(one(np.arange(90) / 30, frames, 30.0), grid("nearest", 10.0, 10, (4, 4, 3), "uint8"), 1.01)
    assert values.dtype == torch.uint8
    # The frame at 1.0 s lies before the clip, so that the first point takes frame 31.
    assert values[:, 0, 0, 0].tolist() == [31, 33, 36, 39, 42, 45, 48, 51, 54, 57]
    assert valid.all()


def test_only_the_frames_of_the_grid_are_decoded_and_each_once(body: Path, monkeypatch: pytest.MonkeyPatch):
    log, asked = open_log(body), []
    frames = PyavVideo.frames
    monkeypatch.setattr(
        PyavVideo, "frames", lambda video, indices: asked.append(list(indices)) or frames(video, indices)
    )
    slow = Grid("camera", "video", 5.0, 4, (64, 64, 3), "uint8", "nearest", 0.1)
    values = read_clip(log, 0.1, {"camera": slow}, 0.8).values["camera"]
    assert asked.pop() == [2, 6, 10, 14]  # of 20 frames a second
    np.testing.assert_allclose(values.float().mean((1, 2, 3)), [8, 24, 40, 56], atol=1.4)
    fast = replace(slow, rate_hz=60.0, count=12)
    assert read_clip(log, 0.12, {"camera": fast}, 0.2).valid["camera"].all()
    assert asked.pop() == [3, 4, 5, 6]


@pytest.mark.parametrize("seed", range(8))
def test_the_nearest_sample_is_found_however_steady_the_stamps(seed: int):
    rng = np.random.default_rng(seed)
    wanted = np.arange(3000) / 100
    jitter, shift = rng.choice([0, 1e-9, 0.2, 0.9]), rng.choice([0.0, 0.25, 0.5, 0.75, -3.3, 40.0]) / 100
    times = np.cumsum(rng.uniform(1 - jitter, 1 + jitter, rng.integers(2, 3100))) / 100 + shift
    for some in (times, times[rng.random(len(times)) < 0.9], times[:1]):
        found = _nearest(some, wanted)
        best = np.abs(some[None] - wanted[:, None]).min(1)
        np.testing.assert_allclose(np.abs(some[found] - wanted), best, rtol=0, atol=1e-12)


def test_sound_is_resampled_band_limited():
    # 1 kHz must come through as itself; 20 kHz lies above the new Nyquist rate of 8 kHz and must not fold to 4 kHz.
    times = np.arange(48_000) / 48_000
    tone, above = np.sin(2 * np.pi * 1000 * times), np.sin(2 * np.pi * 20_000 * times)
    sound = np.stack([tone, above], 1).astype(np.float32)
    values, valid = clip(one(times, sound, 48_000.0), grid("bandlimited", 16_000.0, 8_000, (2,)), 0.25)
    truth = np.sin(2 * np.pi * 1000 * (0.25 + np.arange(8_000) / 16_000))
    middle = slice(100, -100)
    assert np.abs(values[middle, 0].numpy() - truth[middle]).max() < 2e-3
    assert values[middle, 1].abs().max() < 2e-2
    assert valid.all()


def test_sound_at_its_own_rate_is_untouched():
    sound = np.random.default_rng(0).normal(size=16_000).astype(np.float32)
    values, valid = clip(
        one(BOOT + np.arange(16_000) / 8_000, sound, 8_000.0), grid("bandlimited", 8_000.0, 8_000), BOOT + 0.5
    )
    assert torch.equal(values, torch.from_numpy(sound[4_000:12_000]))
    assert valid.all()


def test_sound_whose_clock_drifts_is_put_back_on_the_grid():
    # 1 % fast: over a second the stamps run 80 samples away from their nominal places.
    times = np.arange(9_000) / 8_080
    values, _ = clip(one(times, np.sin(2 * np.pi * 50 * times), 8_000.0), grid("bandlimited", 8_000.0, 8_000), 0.1)
    truth = np.sin(2 * np.pi * 50 * (0.1 + np.arange(8_000) / 8_000))
    assert np.abs(values.numpy() - truth)[10:-10].max() < 1.01 * np.pi * 50 / 8_000  # half a sample


POISON = {"nearest": np.uint8(255), "linear": np.float32("nan"), "bandlimited": np.float32("nan")}


@pytest.mark.parametrize("wanted", [250.0, 100.0, 50.0])
@pytest.mark.parametrize("resample", ["nearest", "linear", "bandlimited"])
def test_nothing_outside_the_window_reaches_a_clip(resample: Resample, wanted: float):
    times = np.arange(400) / 100
    rng = np.random.default_rng(0)
    shape = (4, 4, 3) if resample == "nearest" else (2,)
    data = rng.integers(0, 100, (400, *shape)).astype(POISON[resample].dtype)
    start = 1.0045  # between samples, so that the first and the last grid points have neighbours outside
    inside = (times >= start) & (times < start + 2)
    poisoned = np.where(inside.reshape(-1, *[1] * len(shape)), data, POISON[resample])
    where = grid(resample, wanted, round(2 * wanted), shape, str(data.dtype))
    clean = clip(one(times, data, 100.0), where, start)
    values, valid = clip(one(times, poisoned, 100.0), where, start)
    assert torch.equal(values, clean[0])
    assert torch.equal(valid, clean[1])
    assert valid.all()
    if resample == "nearest":
        assert values.max() < 100


@pytest.mark.parametrize("resample", ["nearest", "linear", "bandlimited"])
def test_a_gap_is_masked_and_only_the_gap(resample: Resample):
    times = np.arange(300) / 100
    keep = (times < 1.3) | (times >= 1.7)
    shape = (4, 4, 3) if resample == "nearest" else (2,)
    data = np.full((300, *shape), 7, np.uint8 if resample == "nearest" else np.float32)
    log = one(times[keep], data[keep], 100.0)
    values, valid = clip(log, grid(resample, 100.0, 200, shape, str(data.dtype)), 0.5)
    wanted = 0.5 + np.arange(200) / 100
    to_data = np.abs(times[keep][None] - wanted[:, None]).min(1)
    sure = np.abs(to_data - 0.06) > 1e-6
    assert (valid.numpy() == (to_data <= 0.06))[sure].all()
    assert 20 < (~valid).sum() < 40
    assert torch.allclose(values[valid].float(), torch.tensor(7.0))
    assert (values[~valid] == 0).all()


@pytest.mark.parametrize("resample", ["linear", "bandlimited"])
def test_a_nan_is_masked_and_does_not_stay(resample: Resample):
    data = np.ones((200, 2), np.float32)
    data[50, 1], data[120, 0] = np.nan, np.inf
    values, valid = clip(one(np.arange(200) / 100, data, 100.0), grid(resample, 100.0, 200, (2,)), 0.0)
    assert torch.isfinite(values).all()
    assert not valid[50]
    assert not valid[120]
    assert valid.sum() >= 196


def test_a_sensor_that_ends_early_or_is_absent_is_masked():
    log = ArrayLog("log", {"s": ("some", 100.0, np.arange(100) / 100, np.ones((100, 1)))})
    other = replace(grid("nearest", 10.0, 20, (4, 4, 3), "uint8"), name="eye")
    found = read_clip(log, 0.5, {"s": grid("linear", 100.0, 200, (1,)), "eye": other}, 2.0)
    assert found.valid["s"][:50].all()
    assert not found.valid["s"][60:].any()
    assert found.values["eye"].dtype == torch.uint8
    assert found.values["eye"].shape == (20, 4, 4, 3)
    assert not found.valid["eye"].any()
    late = read_clip(log, 5.0, {"s": grid("linear", 100.0, 200, (1,))}, 2.0)
    assert not late.valid["s"].any()


@pytest.mark.parametrize("resample", ["linear", "bandlimited"])
def test_a_single_sample_is_no_trap(resample: Resample):
    values, valid = clip(one(np.array([0.5]), np.array([[3.0]]), 100.0), grid(resample, 100.0, 100, (1,)), 0.0)
    assert valid.sum() in (11, 12, 13)  # within 0.06 s, up to the rounding of the two outermost
    assert (values[valid] == 3).all()


def test_a_gel_camera_is_seen_less_its_first_frame():
    rng = np.random.default_rng(0)
    rest = rng.integers(50, 150, (4, 4, 3), dtype=np.uint8)
    frames = np.stack([rest + np.uint8(k) for k in range(40)])
    where = replace(grid("nearest", 10.0, 10, (4, 4, 3), "uint8"), background="first")
    values, _ = clip(one(2.0 + np.arange(40) / 10, frames, 10.0), where, 4.0)
    assert (values == 128 + torch.arange(20, 30)[:, None, None, None]).all()
    dark = np.stack([rest, np.zeros_like(rest)])
    values, _ = clip(one(np.arange(2) / 10, dark, 10.0), replace(where, count=2), 0.0)
    assert torch.equal(values[1], 128 - torch.from_numpy(rest).clamp(max=128))


def test_frames_are_resized_by_area():
    # Each 2 x 2 block holds a mean and two pixels above, two below it: halving the size leaves a smooth ramp.
    ramp = np.repeat(np.repeat(np.arange(0, 160, 10), 2)[None, :, None], 32, 0) * np.ones((1, 1, 3))
    checker = np.where((np.indices((32, 32)).sum(0) % 2)[..., None], 20, -20)
    frames = np.repeat((ramp + 40 + checker)[None], 20, 0).astype(np.uint8)
    where = replace(grid("nearest", 10.0, 10, (16, 16, 3), "uint8"), size=(16, 16))
    values, _ = clip(one(np.arange(20) / 10, frames, 10.0), where, 0.0)
    assert values.shape == (10, 16, 16, 3)
    truth = torch.arange(0, 160, 10)[None, :, None] + 40
    assert (values[0, 1:-1, 1:-1].int() - truth[:, 1:-1]).abs().max() <= 2


def test_frames_are_resized_alike_singly_and_together_and_as_in_float32():
    frames = np.random.default_rng(0).integers(0, 256, (7, 48, 64, 3), dtype=np.uint8)
    small = resize_frames(frames, (20, 24))
    assert np.array_equal(small, np.concatenate([resize_frames(frames[k : k + 1], (20, 24)) for k in range(7)]))
    exact = torch.nn.functional.interpolate(
        torch.from_numpy(frames).permute(0, 3, 1, 2).float(), (20, 24), mode="bilinear", antialias=True
    )
    assert np.abs(small - exact.permute(0, 2, 3, 1).numpy()).max() <= 1


def test_windows_lie_inside_what_every_sensor_covers():
    log = ArrayLog("log", {
        "a": ("proprio", 100.0, BOOT + np.arange(500) / 100, np.zeros((500, 1))),
        "b": ("proprio", 10.0, BOOT + 1 + np.arange(50) / 10, np.zeros((50, 1))),
    })  # fmt: skip
    assert span(log, ["a", "b"]) == pytest.approx((BOOT + 1, BOOT + 5), abs=1e-5)
    np.testing.assert_allclose(window_starts(log, 2.0, 0.5, ["a", "b"]) - BOOT, [1.0, 1.5, 2.0, 2.5, 3.0], atol=1e-5)
    np.testing.assert_allclose(window_starts(log, 4.0, 0.5, ["a", "b"]) - BOOT, [1.0], atol=1e-5)
    assert len(window_starts(log, 4.5, 0.5, ["a", "b"])) == 0
    with pytest.raises(LogError, match=r"memory:log: none of the sensors \['c'\] is in this log; it has \['a', 'b'\]"):
        span(log, ["c"])


def test_windows_of_several_logs_come_in_order(body_config: RunConfig):
    logs = [body_log(0, 2.0), body_log(1, 3.0)]
    windows = Windows(logs, make_grids(body_config, logs), 1.0, 0.5)
    found = [(windows[i].log, round(windows[i].start_s, 6)) for i in range(len(windows))]
    assert found == [("body-000", s) for s in (0, 0.5, 1)] + [("body-001", s) for s in (0, 0.5, 1, 1.5, 2)]


def clips_of(seconds: list[float], clip_seconds: float = 1.0, seed: int = 0) -> TrainingClips:
    logs = [one(np.arange(round(s * 100)) / 100, np.zeros((round(s * 100), 1)), 100.0, f"{s:g}") for s in seconds]
    return TrainingClips(logs, {"s": grid("linear", 100.0, 100, (1,))}, clip_seconds, seed, 1000)


def test_a_clip_longer_than_every_log_is_told():
    with pytest.raises(LogError, match=r"data.clip_seconds is 5.0 but the longest of 2 logs .* only 3.000 s: choose"):
        clips_of([2.0, 3.0], 5.0)


def test_logs_that_are_too_short_are_not_visited():
    assert {clips_of([0.5, 2.0]).draw(i)[0] for i in range(20)} == {0}
    assert clips_of([0.5, 2.0]).logs[0].name == "2"


def test_an_epoch_visits_every_log_in_proportion_to_its_length():
    clips = clips_of([2.0, 2.0, 2.0, 8.0])
    for epoch in range(3):
        visits = [clips.logs[clips.draw(7 * epoch + i)[0]].name for i in range(7)]
        assert sorted(visits) == ["2", "2", "2", "8", "8", "8", "8"]
    assert [clips.draw(i)[0] for i in range(7)] != [clips.draw(7 + i)[0] for i in range(7)]


def test_windows_are_spread_over_the_whole_log():
    starts = np.array([clips_of([5.0]).draw(i)[1] for i in range(500)])
    assert 0 <= starts.min() < 0.1
    assert 3.9 < starts.max() <= 4.0
    assert np.abs(np.histogram(starts, 4, (0, 4))[0] - 125).max() < 45


def test_an_item_is_a_pure_function_of_seed_and_number():
    a, b = clips_of([2.0, 3.0]), clips_of([2.0, 3.0])
    backwards = [b.draw(i) for i in reversed(range(30))][::-1]
    assert [a.draw(i) for i in range(30)] == backwards
    assert [a.draw(i) for i in range(30)] != [clips_of([2.0, 3.0], seed=1).draw(i) for i in range(30)]


def test_workers_do_not_change_a_batch(body_config: RunConfig):
    logs = [body_log(n) for n in range(3)]
    clips = TrainingClips(logs, make_grids(body_config, logs), 1.0, 0, 12)

    def batches(workers: int) -> list[Batch]:
        return list(DataLoader(clips, batch_size=4, num_workers=workers, collate_fn=collate))

    for here, there in zip(batches(0), batches(2), strict=True):
        assert (here.logs, here.starts_s) == (there.logs, there.starts_s)
        assert all(torch.equal(here.values[n], there.values[n]) for n in here.values)
        assert all(torch.equal(here.valid[n], there.valid[n]) for n in here.valid)


def test_a_log_in_memory_reads_the_same(body_config: RunConfig):
    log = body_log(0, 23.0)  # longer than the pieces in which it is decoded
    grids = make_grids(body_config, [log])
    grids["nose"] = grid("linear", 10.0, 10, (1,))
    kept = InMemory(log, grids)
    assert list(kept.sensors) == ["eye", "ear", "pad", "arm"]
    assert kept.fingerprint() == log.fingerprint()
    for sensor in kept.sensors:
        for window in ((0.55, 1.2), (-math.inf, math.inf), (9.95, 10.05)):
            ours, theirs = kept.read(sensor, *window), log.read(sensor, *window)
            assert np.array_equal(ours.times_s, theirs.times_s)
            assert np.array_equal(ours.data, theirs.data)


def test_a_log_in_memory_holds_frames_at_the_size_of_the_grid():
    tree = body_tree()
    tree["sensors"]["eye"] |= {"size": [16, 16]}
    log = body_log(0)
    grids = make_grids(parse_config(tree), [log])
    kept = InMemory(log, grids)
    assert kept.sensors["eye"].shape == (16, 16, 3)
    ours, theirs = (read_clip(some, 0.5, grids, 1.0).values["eye"] for some in (kept, log))
    assert torch.equal(ours, theirs)


def test_overlapping_windows_read_every_sample_once(body_config: RunConfig, monkeypatch: pytest.MonkeyPatch):
    tree = body_tree()
    tree["sensors"]["eye"] |= {"size": [16, 16]}
    tree["sensors"]["pad"] |= {"rate_hz": 50}
    log = body_log(0)
    grids = make_grids(parse_config(tree), [log])
    rolling, asked = Rolling(log, grids), []
    read = ArrayLog.read

    def counted(self: ArrayLog, sensor: str, start_s: float, stop_s: float) -> Stream:
        stream = read(self, sensor, start_s, stop_s)
        asked.extend((sensor, t) for t in stream.times_s)
        return stream

    starts = [0.0, 0.25, 0.5, 0.97, 1.0, 2.0, 0.5, 1.5]  # on, by pieces and by a whole; back; on again
    expected = [read_clip(log, start, grids, 1.0) for start in starts]
    monkeypatch.setattr(ArrayLog, "read", counted)
    for start, clip in zip(starts, expected, strict=True):
        if start == 0.5 and asked[-1:] and asked[-1][1] > 2:
            assert len(asked) == len(set(asked)), "no sample is read twice while the windows go on"
        ours = read_clip(rolling, start, grids, 1.0)
        assert all(torch.equal(ours.values[n], clip.values[n]) for n in grids)
        assert all(torch.equal(ours.valid[n], clip.valid[n]) for n in grids)


@pytest.mark.parametrize("fraction", [0.1, 0.4, 0.6, 0.9])
def test_hiss_is_as_loud_wherever_in_a_sample_a_clip_begins(fraction: float):
    rate = 16000
    noise = np.random.default_rng(0).normal(size=(rate, 1)).astype(np.float32)
    log = ArrayLog("hiss", {"ear": ("audio", float(rate), np.arange(rate) / rate, noise)})
    grid = Grid("ear", "audio", float(rate), rate // 2, (1,), "float32", "bandlimited", tolerance_s=1e-3)
    heard = read_clip(log, 0.25 + fraction / rate, {"ear": grid}, 0.5).values["ear"][:, 0].numpy()
    high = np.abs(np.fft.rfft(heard))[rate // 4 * 3 // 4 :]
    true = np.abs(np.fft.rfft(noise[rate // 4 : rate // 4 * 3, 0]))[rate // 4 * 3 // 4 :]
    assert np.mean(high**2) == pytest.approx(np.mean(true**2), rel=0.02)
