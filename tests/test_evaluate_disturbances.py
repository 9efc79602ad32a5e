"""Each disturbance against what it should be by other means: closed forms, other libraries, the log read by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import ArrayLog, body_log
from scipy.ndimage import gaussian_filter
from test_embed import make_run

from multisense.clips import Grid, Windows, collate, read_clip
from multisense.embed import embed_subsets
from multisense.evaluate.disturbances import (
    DISTURBANCES,
    Disturbance,
    Gauge,
    Scale,
    Surroundings,
    View,
    sense,
)
from multisense.run import Run
from multisense.types import Batch

BY_NAME = {disturbance.name: disturbance for disturbance in DISTURBANCES}


@pytest.fixture(scope="module")
def run() -> Run:
    return make_run()


def scene(grids: dict[str, Grid], logs: list[ArrayLog], name: str, stride_s: float = 0.5) -> tuple[Batch, View]:
    """All windows of some logs as one batch, and one sensor of it."""
    seconds = next(iter(grids.values())).seconds
    windows = Windows(logs, grids, seconds, stride_s)
    batch = collate([windows[i] for i in range(len(windows))])
    gauge = Gauge(grids[name])
    gauge.add(batch.values[name], batch.valid[name])
    around = Surroundings(grids[name], windows, gauge.scale, seed=3)
    return batch, View(around, range(len(windows)), batch.values[name], batch.valid[name])


def bits(x: torch.Tensor) -> bytes:
    return x.contiguous().numpy().tobytes()


def vectors(log: int, seconds: float, missing: tuple[float, float] = (9e9, 9e9)) -> ArrayLog:
    """A log whose sensor `arm` gives its own time, and `log` beside it, less what is missing."""
    times = np.arange(round(100 * seconds)) / 100
    times = times[(times < missing[0]) | (times >= missing[1])]
    data = np.stack([times, np.full_like(times, log)], 1).astype(np.float32)
    return ArrayLog(f"log-{log}", {"arm": ("proprio", 100.0, times, data)})


ARM = Grid("arm", "proprio", 100.0, 100, (2,), "float32", "linear", 0.015)
GEL = Grid("gel", "touch", 10.0, 10, (32, 32, 3), "uint8", "nearest", 0.15, "first")


def test_which_sense_a_sensor_is(run):
    found = {name: sense(grid) for name, grid in run.grids.items()}
    assert found == {"eye": "pictures", "ear": "sound", "pad": "skin", "arm": "numbers"}
    assert sense(GEL) == "pictures"


@pytest.mark.parametrize("disturbance", DISTURBANCES, ids=lambda d: d.name)
def test_strength_0_changes_nothing_to_the_bit(run, disturbance: Disturbance):
    logs = [body_log(n) for n in range(3)]
    logs[1].streams = {n: s for n, s in logs[1].streams.items() if n == "arm"}  # a log that lacks some
    befallen = [name for name, grid in run.grids.items() if sense(grid) in disturbance.senses]
    assert befallen
    for name in befallen:
        batch, view = scene(run.grids, logs, name)
        same, worse = (disturbance.disturb(batch, view, s) for s in (0.0, disturbance.strengths[-1]))
        assert same.complete == batch.complete
        for sensor in batch.values:
            assert bits(same.values[sensor]) == bits(batch.values[sensor])
            assert bits(same.valid[sensor]) == bits(batch.valid[sensor])
            if sensor != name:
                assert worse.values[sensor] is batch.values[sensor]
        assert worse.values[name].dtype == batch.values[name].dtype
        assert worse.values[name].shape == batch.values[name].shape
        assert bits(worse.values[name]) != bits(batch.values[name])


def test_what_is_not_valid_stays_0_under_noise():
    batch, view = scene({"arm": ARM}, [vectors(0, 3, (0.5, 0.8)), vectors(1, 3)], "arm")
    worse = BY_NAME["noise"].disturb(batch, view, 1.0)
    assert not worse.complete
    assert (~worse.valid["arm"]).any()
    assert not worse.values["arm"][~worse.valid["arm"]].any()


def test_the_scale_is_that_of_valid_samples(run):
    logs = [body_log(n) for n in range(3)]
    for name, axes in {"arm": (0, 1), "pad": None, "eye": None}.items():
        batch, view = scene(run.grids, logs, name)
        values = batch.values[name].double().numpy()
        np.testing.assert_allclose(view.around.scale.spread.numpy(), values.std(axis=axes), rtol=1e-5)
        assert view.around.scale.peak == pytest.approx(np.abs(values).max())
    gauge = Gauge(ARM)
    values = torch.randn(4, 100, 2)
    values[:, 50:] = torch.nan
    for part in values.split(2):
        gauge.add(part, torch.isfinite(part[..., 0]))
    np.testing.assert_allclose(gauge.scale.spread, values[:, :50].numpy().std((0, 1)), rtol=1e-5)


# --- what needs the log


def test_an_offset_is_the_log_read_at_another_time(run):
    logs = [body_log(n) for n in range(2)]
    for name, grid in run.grids.items():
        batch, view = scene(run.grids, logs, name)
        late = BY_NAME["offset"].disturb(batch, view, 300.0)
        for i, (number, start) in enumerate(view.places()):
            moved = start + 0.3 if start <= 1.5 else start - 0.3  # logs of 3 s, windows of 1 s
            clip = read_clip(logs[number], moved, {name: grid}, 1.0)
            assert torch.equal(late.values[name][i], clip.values[name])
            assert late.valid[name][i].all()


def test_an_offset_of_a_sensor_that_gives_its_own_time_is_read_off_it():
    _, view = scene({"arm": ARM}, [vectors(0, 3)], "arm")
    values, valid = BY_NAME["offset"].act(view, 200.0)
    own = np.array([0.0, 0.5, 1.0, 1.5, 2.0])[:, None] + np.arange(100) / 100
    shift = np.array([0.2, 0.2, 0.2, 0.2, -0.2])[:, None]
    np.testing.assert_allclose(values[..., 0], own + shift, atol=1e-5)
    assert valid.all()


def test_an_offset_for_which_the_log_has_no_room_masks_what_is_missing():
    _, view = scene({"arm": ARM}, [vectors(0, 1.0)], "arm")
    values, valid = BY_NAME["offset"].act(view, 200.0)
    known = valid[0].numpy()
    assert known[:80].all()
    assert not known[82:].any()  # up to the grid's tolerance
    np.testing.assert_allclose(values[0, :80, 0], 0.2 + np.arange(80) / 100, atol=1e-5)


def test_a_swapped_sensor_is_that_of_one_other_log_in_windows_of_the_same_number():
    _, view = scene({"arm": ARM}, [vectors(n, 3) for n in range(7)], "arm")
    values, valid = BY_NAME["swapped"].act(view, 1.0)
    assert valid.all()
    before, after = (x[:, 0].reshape(7, 5, 2) for x in (view.values, values))
    np.testing.assert_array_equal(after[..., 0], before[..., 0])
    assert (after[..., 1] == after[:, :1, 1]).all()
    givers = after[:, 0, 1].tolist()
    assert sorted(givers) == list(range(7))
    assert all(giver != own for own, giver in enumerate(givers))


def test_a_vector_at_half_its_rate_is_interpolated_between_every_second_sample():
    rng = np.random.default_rng(0)
    times, data = np.arange(200) / 100, rng.normal(size=(200, 2)).astype(np.float32)
    log = ArrayLog("random", {"arm": ("proprio", 100.0, times, data)})
    _, view = scene({"arm": ARM}, [log], "arm")
    values, valid = BY_NAME["slower"].act(view, 1.0)
    wanted = view.around.windows.index[0][1] + np.arange(100) / 100
    for channel in (0, 1):
        expected = np.interp(wanted[:99], times[:100:2], data[:100:2, channel])
        np.testing.assert_allclose(values[0, :99, channel], expected, atol=1e-5)
    assert valid.all()


def test_pictures_at_half_their_rate_come_twice(run):
    _, view = scene(run.grids, [body_log(0)], "eye")
    values, _ = BY_NAME["slower"].act(view, 1.0)
    first = values[0].float()
    kept = view.values[0, ::2].float()
    assert torch.equal(first[::2], kept)
    assert all(torch.equal(first[k], kept[k // 2]) or torch.equal(first[k], kept[k // 2 + 1]) for k in range(1, 9, 2))


def test_sound_at_half_its_rate_has_lost_its_upper_half_and_nothing_else(run):
    t = np.arange(16000) / 8000
    tones = {f: np.sin(2 * np.pi * f * t).astype(np.float32) for f in (500, 3000)}
    for f, tone in tones.items():
        _, view = scene({"ear": run.grids["ear"]}, [ArrayLog("tone", {"ear": ("audio", 8000.0, t, tone)})], "ear")
        values, _ = BY_NAME["slower"].act(view, 1.0)
        middle = slice(200, -200)
        expected = view.values[:, middle] if f == 500 else torch.zeros_like(view.values[:, middle])
        assert (values[:, middle] - expected).abs().max() < 0.02


# --- what acts on the samples


def test_a_sensor_dropped_mid_clip_is_its_second_half_masked(run):
    logs = [body_log(n) for n in range(2)]
    for name in run.model.names:
        batch, view = scene(run.grids, logs, name)
        half = run.grids[name].count // 2
        valid = batch.valid[name].clone()
        valid[:, half:] = False
        values = batch.values[name].clone()
        values[:, half:] = 0
        masked = replace(
            batch, values={**batch.values, name: values}, valid={**batch.valid, name: valid}, complete=False
        )
        names = run.model.names
        here = embed_subsets(run.model, BY_NAME["dropped"].disturb(batch, view, 0.5), [names])[names]
        np.testing.assert_array_equal(here, embed_subsets(run.model, masked, [names])[names])
        gone = embed_subsets(run.model, BY_NAME["dropped"].disturb(batch, view, 1.0), [names])[names]
        without = run.model.embed(batch.only([n for n in names if n != name])).fused.numpy()
        np.testing.assert_allclose(gone, without, atol=1e-5)


def test_frozen_frames_repeat_the_last_one_before(run):
    _, view = scene(run.grids, [body_log(0)], "eye")
    values, _ = BY_NAME["frozen"].act(view, 0.5)
    assert torch.equal(values[:, :5], view.values[:, :5])
    assert (values[:, 5:] == view.values[:, 4:5]).all()
    assert (BY_NAME["frozen"].act(view, 1.0)[0] == view.values[:, :1]).all()


def test_noise_has_the_deviation_asked_for_and_is_each_windows_own(run):
    batch, view = scene(run.grids, [body_log(n) for n in range(4)], "arm")
    noise = [BY_NAME["noise"].act(view, level)[0] - view.values for level in (0.5, 1.0)]
    np.testing.assert_allclose(noise[0].std((0, 1)), 0.5 * batch.values["arm"].std((0, 1)), rtol=0.1)
    torch.testing.assert_close(2 * noise[0], noise[1], atol=1e-5, rtol=1e-3)
    assert (noise[0][0] - noise[0][1]).abs().max() > 0.1
    alone = replace(view, items=[5], values=view.values[5:6], valid=view.valid[5:6])
    assert torch.equal(BY_NAME["noise"].act(alone, 0.5)[0][0], (view.values + noise[0])[5])


def test_gain_is_in_decibels_and_a_gel_cameras_rest_stays(run):
    _, view = scene(run.grids, [body_log(0)], "pad")
    doubled, _ = BY_NAME["gain"].act(view, 20 * np.log10(2))
    torch.testing.assert_close(doubled, 2 * view.values)
    frames = torch.full((1, 10, 32, 32, 3), 128, dtype=torch.uint8)
    frames[0, 5:] = 100
    gel = View(
        Surroundings(GEL, view.around.windows, Scale(torch.tensor(1.0), 1.0), 0), [0], frames, frames[..., 0, 0, 0] > 0
    )
    stronger, _ = BY_NAME["gain"].act(gel, 20 * np.log10(2))
    assert (stronger[0, :5] == 128).all()
    assert (stronger[0, 5:] == 72).all()


def test_blur_is_scipys(run):
    _, view = scene(run.grids, [body_log(0)], "eye")
    values, _ = BY_NAME["blur"].act(view, 0.05)
    picture = view.values[0, 3].double().numpy()
    expected = gaussian_filter(picture, (1.6, 1.6, 0), mode="nearest", truncate=3.2)
    assert np.abs(values[0, 3].double().numpy() - expected).max() < 1.0


def test_dead_taxels_are_zero_the_same_in_every_window_and_more_of_them_include_the_few(run):
    _, view = scene(run.grids, [body_log(n) for n in range(2)], "pad")
    few, many = ((BY_NAME["dead"].act(view, share)[0] == 0).all(-1) for share in (0.25, 0.5))
    for dead, count in ((few, 4), (many, 8)):
        assert (dead == dead[:1, :1]).all()
        assert dead[0, 0].sum() == count
    assert (many | ~few).all()
    alive = BY_NAME["dead"].act(view, 0.25)[0][~few]
    assert torch.equal(alive, view.values[~few])


def test_a_saturated_microphone_is_clipped_at_its_level(run):
    _, view = scene(run.grids, [body_log(n) for n in range(2)], "ear")
    level = float(view.values.abs().max()) / 10
    clipped, _ = BY_NAME["saturated"].act(view, 20.0)
    np.testing.assert_allclose(clipped, np.clip(view.values.numpy(), -level, level), rtol=1e-5)
    assert (clipped.abs() > 0.999 * level).float().mean() > 0.1
