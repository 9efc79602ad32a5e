"""Embeddings of frames: the window that ends at a frame, by cutting the log there; a policy's data set with them."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ArrayLog, body_log, body_tree

from multisense.clips import collate, read_clip
from multisense.embed import embed_logs
from multisense.frames import EmbeddedFrames, embed_frames, frame_times, read_embeddings
from multisense.logs.base import LogError
from multisense.model import MultiSense
from multisense.run import Run, build_model, build_objective, make_grids, parse_config


@pytest.fixture(scope="module")
def run() -> Run:
    config = parse_config(body_tree())
    grids = make_grids(config, [body_log(0)])
    objective = build_objective(config, grids).eval()
    return Run(Path("memory"), config, grids, objective.teacher, objective, {"seed": 0})


def cut(log: ArrayLog, stop_s: float) -> ArrayLog:
    """The log as it was when the sample at `stop_s` had just been taken."""
    kept = {n: (m, r, t[t <= stop_s + 1e-12], d[t <= stop_s + 1e-12]) for n, (m, r, t, d) in log.streams.items()}
    return replace(log, streams=kept)


def jittered(number: int) -> ArrayLog:
    """A body on stamps that are on nobody's grid, of an hour of the day."""
    log, rng = body_log(number), np.random.default_rng(number)
    streams = {n: (m, r, 3600.0 + t + rng.uniform(0, 0.3 / r, len(t)), d) for n, (m, r, t, d) in log.streams.items()}
    return replace(log, streams=streams)


@pytest.mark.parametrize("make", [body_log, jittered])
def test_the_window_of_a_frame_is_what_the_log_held_when_it_was_taken(run, make):
    log = make(1)
    found = embed_frames(run, [log])
    times = log.streams["eye"][2]
    np.testing.assert_array_equal(found.ends_s["body-001"], times)
    for row, frame in enumerate(times):
        reach = 1.0 - 1 / 8000 + 2e-12  # the last point of the finest grid, the sound's, is the frame's time
        clip = read_clip(cut(log, frame), frame - reach, run.grids, 5.0)
        expected = run.model.embed(collate([clip]))
        np.testing.assert_allclose(found.fused["body-001"][row], expected.fused[0].numpy(), atol=1e-5)
        assert found.valid["body-001"][row] == any(bool(v[0]) for v in expected.valid.values())
    assert not found.valid["body-001"][0]
    assert found.valid["body-001"][9:].all()


def test_nothing_after_a_frame_reaches_its_embedding(run):
    log, frame = body_log(2, seconds=2.0), 13
    before = embed_frames(run, [log]).fused["body-002"]
    for name, (kind, rate, times, data) in log.streams.items():
        noise, later = data.copy(), times > log.streams["eye"][2][frame] + 1e-12
        noise[later] = 255 - data[later] if data.dtype == np.uint8 else 3 - data[later]
        changed = replace(log, streams={**log.streams, name: (kind, rate, times, noise)})
        after = embed_frames(run, [changed]).fused["body-002"]
        np.testing.assert_array_equal(after[: frame + 1], before[: frame + 1], err_msg=name)
        assert not np.array_equal(after[frame + 1 :], before[frame + 1 :]), name


def test_the_frame_itself_is_seen_where_all_share_its_clock():
    """As in a LeRobot data set; a camera slower than another sensor is seen as in any clip, less than a period late."""
    log = body_log(2)
    kind, _, times, data = log.streams["arm"]
    log = replace(log, streams={"eye": log.streams["eye"], "arm": (kind, 10.0, times[::10], data[::10])})
    tree = body_tree()
    tree["sensors"] = {name: tree["sensors"][name] for name in ("eye", "arm")}
    config = parse_config(tree)
    model = build_model(config, make_grids(config, [log]), seed=0).eval()
    before = embed_frames(model, [log]).fused["body-002"]
    for name, (kind, rate, times, data) in log.streams.items():
        noise = data.copy()
        noise[17] = 255 - data[17] if data.dtype == np.uint8 else 3 - data[17]
        changed = replace(log, streams={**log.streams, name: (kind, rate, times, noise)})
        after = embed_frames(model, [changed]).fused["body-002"]
        assert [row for row in range(30) if not np.array_equal(after[row], before[row])] == list(range(17, 27)), name


def test_full_windows_are_those_of_multisense_embed_where_they_hold_the_same(run, tmp_path):
    """Without sound the finest grids are of 100 Hz: the window [s, s + 1) is that of the last moment, s + 0.99."""
    tree = body_tree()
    del tree["sensors"]["ear"]
    config = parse_config(tree)
    model = build_model(config, make_grids(config, [body_log(0)]), seed=0).eval()
    log = body_log(3)
    kind, rate, times, data = log.streams["eye"]
    log = replace(log, streams={**log.streams, "eye": (kind, rate, times + 0.09, data)})
    found = embed_frames(model, [log])
    row = 9
    assert found.ends_s["body-003"][row] == pytest.approx(0.99)
    clip = read_clip(log, 0.0, model.grids, 1.0)
    np.testing.assert_allclose(found.fused["body-003"][row], model.embed(collate([clip])).fused[0], atol=1e-5)


def test_a_file_keeps_them_and_only_what_is_new_is_computed(run, body_logs, tmp_path, monkeypatch):
    fresh = embed_frames(run, body_logs[:2])
    embed_frames(run, body_logs[:1], tmp_path / "frames.h5")
    seen = []
    embed = MultiSense.embed
    monkeypatch.setattr(MultiSense, "embed", lambda *args: seen.append(args[1]) or embed(*args))
    kept = embed_frames(run, body_logs[:2], tmp_path / "frames.h5")
    assert {name for batch in seen for name in batch.logs} == {"body-001"}
    for name in ("body-000", "body-001"):
        for ours, theirs in ((fresh.ends_s, kept.ends_s), (fresh.fused, kept.fused), (fresh.valid, kept.valid)):
            np.testing.assert_array_equal(ours[name], theirs[name])
    again = read_embeddings(tmp_path / "frames.h5")
    np.testing.assert_array_equal(again.fused["body-000"], fresh.fused["body-000"])
    with pytest.raises(ValueError, match="was made with other settings"):
        embed_logs(run, body_logs[:1], tmp_path / "frames.h5")
    with pytest.raises(ValueError, match=r"sensors: \['eye', .* there, \['arm'\] asked for"):
        embed_frames(run, body_logs[:1], tmp_path / "frames.h5", sensors=["arm"])


def test_frames_of_other_logs_stay_in_a_file(run, body_logs, tmp_path):
    embed_frames(run, body_logs[:2], tmp_path / "frames.h5")
    added = embed_frames(run, body_logs[2:3], tmp_path / "frames.h5")
    assert list(added.fused) == ["body-002"]
    found, whole = read_embeddings(tmp_path / "frames.h5"), embed_frames(run, body_logs[:3])
    assert list(found.fused) == ["body-000", "body-001", "body-002"]
    for name, rows in whole.fused.items():
        np.testing.assert_array_equal(found.fused[name], rows)


def test_of_windows_a_frame_gets_the_last_that_had_ended(run, body_logs, tmp_path):
    embed_logs(run, body_logs[:1], tmp_path / "out.h5", stride_s=0.25)
    found = read_embeddings(tmp_path / "out.h5")
    starts = np.arange(9) * 0.25
    for frame in np.arange(30) / 10:
        ended = [row for row, start in enumerate(starts) if start + 1.0 <= frame + 1e-9]
        fused, is_there = found.at("body-000", float(np.float32(frame)))
        assert is_there == bool(ended)
        assert np.array_equal(fused, found.fused["body-000"][ended[-1]] if ended else np.zeros(256))


class Standin:
    """Items as LeRobotDataset gives them."""

    def __init__(self, logs: list[ArrayLog]):
        self.rows = [(episode, i) for episode, log in enumerate(logs) for i in range(len(frame_times(log)))]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int) -> dict:
        episode, frame = self.rows[item]
        return {
            "episode_index": torch.tensor(episode),
            "frame_index": torch.tensor(frame),
            "timestamp": torch.tensor(frame / 10, dtype=torch.float32),
            "observation.state": torch.zeros(3),
        }


def episodes(count: int = 3) -> list[ArrayLog]:
    return [replace(body_log(n), name=f"episode_{n:06d}") for n in range(count)]


def test_a_policy_gets_each_frame_with_its_embedding(run):
    logs = episodes()
    embeddings = embed_frames(run, logs)
    data = EmbeddedFrames(Standin(logs), embeddings)
    assert len(data) == 90
    for item in (0, 29, 30, 47, 89):
        frame = data[item]
        row = embeddings.fused[f"episode_{item // 30:06d}"][item % 30]
        assert frame["observation.environment_state"].dtype == torch.float32
        assert bool(frame["observation.environment_state_is_pad"]) == (item % 30 == 0)
        if item % 30:
            np.testing.assert_array_equal(frame["observation.environment_state"].numpy(), row)
    loader = torch.utils.data.DataLoader(data, batch_size=16, num_workers=0)
    batch = next(iter(loader))
    assert batch["observation.environment_state"].shape == (16, 256)
    assert batch["observation.state"].shape == (16, 3)
    assert data.feature == {"dtype": "float32", "shape": (256,), "names": None}
    there = np.concatenate([embeddings.fused[log.name][embeddings.valid[log.name]] for log in logs])
    np.testing.assert_allclose(data.stats["std"], there.std(0), atol=1e-6)
    assert data.stats["count"].tolist() == [len(there)]
    assert np.isfinite(data.stats["min"]).all()


def test_what_does_not_fit(run, tmp_path):
    logs = episodes(1)
    embeddings = embed_frames(run, logs)
    with pytest.raises(ValueError, match=r"no embeddings of episode_000001; there are those of 1 logs"):
        EmbeddedFrames(Standin(episodes(2)), embeddings)[40]
    with pytest.raises(ValueError, match=r"frames have a 'observation\.state' of their own"):
        EmbeddedFrames(Standin(logs), embeddings, key="observation.state")[0]
    with pytest.raises(ValueError, match=r"sensors: no \['nose'\]"):
        embed_frames(run, logs, sensors=["nose"])
    with pytest.raises(ValueError, match="two logs are named"):
        embed_frames(run, logs * 2)
    with pytest.raises(LogError, match="expected some of the sensors"):
        embed_frames(run, [ArrayLog("other", {"nose": logs[0].streams["arm"]})])
    (tmp_path / "other.h5").write_text("no embeddings")
    with pytest.raises(ValueError, match="not a file of embeddings"):
        read_embeddings(tmp_path / "other.h5")


def test_a_real_lerobot_root(tmp_path: Path):
    """Videos, vectors and images as LeRobot writes them; its frames are the rows."""
    pytest.importorskip("pyarrow")
    from test_logs_lerobot import FPS, LENGTHS, write_v3

    from multisense.logs import open_logs

    write_v3(tmp_path)
    logs = open_logs(tmp_path)
    sensors = {"front": {"kind": "video", "patch": 32}, "state": {"kind": "proprio", "patch_s": 0.2}}
    tree = {**body_tree(), "sensors": sensors, "data": {"train": str(tmp_path), "clip_seconds": 0.4}}
    config = parse_config(tree)
    model = build_model(config, make_grids(config, logs), seed=0).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = embed_frames(model, logs)
    for episode, length in enumerate(LENGTHS):
        name = f"episode_{episode:06d}"
        np.testing.assert_allclose(found.ends_s[name], np.arange(length) / FPS, atol=1e-6)
        row = length - 1
        clip = read_clip(logs[episode], found.ends_s[name][row] - 0.3, model.grids, 0.31)
        np.testing.assert_allclose(found.fused[name][row], model.embed(collate([clip])).fused[0], atol=1e-5)
