"""Embeddings on disk: what is written, what an interrupted or changed run leaves, what is refused."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import body_log, body_tree

from multisense.clips import Windows, collate
from multisense.embed import ahead, embed_logs, embed_subsets, read_settings, weights_fingerprint
from multisense.evaluate.table import subsets
from multisense.logs import Recording, write_log
from multisense.logs.base import LogError
from multisense.run import Run, build_objective, make_grids, parse_config
from multisense.train import train

CPU2 = Path(__file__).parent.parent / "configs/accelerate/cpu2.yaml"


def make_run(sensors: Sequence[str] | None = None, weights: str = "shared") -> Run:
    tree = body_tree()
    tree["model"]["weights"] = weights
    config = parse_config(
        {**tree, "sensors": {n: s for n, s in tree["sensors"].items() if n in (sensors or tree["sensors"])}}
    )
    grids = make_grids(config, [body_log(0)])
    objective = build_objective(config, grids).eval()
    return Run(Path("memory"), config, grids, objective.teacher, objective, {"seed": 0})


@pytest.fixture(scope="module")
def run() -> Run:
    return make_run()


def read(path: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def test_a_group_per_log_holds_what_the_model_says_of_each_window(run, body_logs, tmp_path):
    report = embed_logs(run, body_logs[:2], tmp_path / "out.h5", stride_s=0.5)
    found = read(tmp_path / "out.h5")
    assert report.windows == {"body-000": 5, "body-001": 5}
    assert not (tmp_path / "out.h5.parts").exists()
    windows = Windows(body_logs[1:2], run.grids, 1.0, 0.5)
    expected = run.model.embed(collate([windows[i] for i in range(5)]))
    np.testing.assert_allclose(found["body-001/fused"], expected.fused.numpy(), atol=1e-5)
    np.testing.assert_allclose(found["body-001/per_time"], expected.per_time.numpy(), atol=1e-5)
    np.testing.assert_allclose(found["body-001/per_sensor/ear"], expected.per_sensor["ear"].numpy(), atol=1e-5)
    assert found["body-001/starts_s"].tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert len(found["body-001/times_s"]) == found["body-001/per_time"].shape[1]
    assert found["body-001/valid/eye"].all()
    with h5py.File(tmp_path / "out.h5") as file:
        assert json.loads(str(file.attrs["provenance"])) == {"seed": 0}
        assert file["body-001"].attrs["log"] == "body-001"
    assert read_settings(tmp_path / "out.h5")["weights"] == weights_fingerprint(run.model)


def test_a_sensor_left_out_cannot_reach_the_embedding(run, body_logs, tmp_path):
    embed_logs(run, body_logs[:1], tmp_path / "a.h5", sensors=["arm", "pad"])
    kind, rate, times, frames = body_logs[0].streams["eye"]
    body_logs[0].streams = {**body_logs[0].streams, "eye": (kind, rate, times, 255 - frames)}
    embed_logs(run, body_logs[:1], tmp_path / "b.h5", sensors=["arm", "pad"])
    a, b = read(tmp_path / "a.h5"), read(tmp_path / "b.h5")
    assert set(a) == {f"body-000/{n}" for n in ("starts_s", "times_s", "fused", "per_time")} | {
        f"body-000/{what}/{n}" for what in ("per_sensor", "valid") for n in ("arm", "pad")
    }
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize("weights", ["shared", "per_sensor"])
def test_subsets_at_once_are_the_embeddings_of_each_subset(body_logs, weights: str):
    run = make_run(weights=weights)
    windows = Windows(body_logs[:3], run.grids, 1.0, 1.0)
    clips = [windows[i] for i in range(6)]
    clips[2].valid["eye"][:] = False
    batch = collate(clips)
    found = embed_subsets(run.model, batch, subsets(run.model.names))
    assert len(found) == 15
    for subset, fused in found.items():
        expected = run.model.embed(batch, subset).fused.numpy()
        if subset == ("eye",):
            assert np.isnan(fused[2]).all()
            fused, expected = np.delete(fused, 2, axis=0), np.delete(expected, 2, axis=0)
        np.testing.assert_allclose(fused, expected, atol=1e-5)


def test_a_stopped_embedding_goes_on_where_it_was_and_ends_the_same(run, body_logs, tmp_path, monkeypatch):
    embed_logs(run, body_logs[:4], tmp_path / "straight.h5")
    broken = body_logs[2].read
    body_logs[2].read = lambda *args: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        embed_logs(run, body_logs[:4], tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()
    assert len(list((tmp_path / "out.h5.parts").glob("*.h5"))) == 2
    body_logs[2].read = broken
    seen = []
    monkeypatch.setattr(type(run.model), "embed", _spy(type(run.model).embed, seen))
    embed_logs(run, body_logs[:4], tmp_path / "out.h5")
    assert {name for batch in seen for name in batch.logs} == {"body-002", "body-003"}
    a, b = read(tmp_path / "straight.h5"), read(tmp_path / "out.h5")
    assert list(a) == list(b)
    assert all((a[name] == b[name]).all() for name in a)


def _spy(embed, seen):
    def spying(self, batch, sensors=None):
        seen.append(batch)
        return embed(self, batch, sensors)

    return spying


def test_more_logs_and_changed_logs_are_added_to_a_finished_file(run, body_logs, tmp_path):
    out = tmp_path / "out.h5"
    embed_logs(run, body_logs[:2], out)
    before = read(out)
    changed = body_log(7)
    changed.name = "body-001"
    changed.fingerprint = lambda: "changed"
    embed_logs(run, [body_logs[0], changed, body_logs[2]], out)
    after = read(out)
    assert (after["body-000/fused"] == before["body-000/fused"]).all()
    assert (after["body-001/fused"] != before["body-001/fused"]).any()
    assert "body-002/fused" in after


def test_logs_that_are_not_given_again_stay_in_the_file(run, body_logs, tmp_path):
    def refuse(*args):
        raise LogError("cut short")

    out = tmp_path / "out.h5"
    embed_logs(run, body_logs[:2], out, quarantined={"x": "not HDF5", "body-002": "no such file"})
    before = read(out)
    assert list(embed_logs(run, [body_logs[2]], out).windows) == ["body-002"]
    with h5py.File(out) as file:
        assert list(file) == ["body-000", "body-001", "body-002"]
        assert json.loads(str(file.attrs["quarantined"])) == {"x": "not HDF5"}
    after = read(out)
    assert all((after[name] == values).all() for name, values in before.items())

    changed = body_log(1)
    changed.fingerprint, changed.read = lambda: "changed", refuse
    embed_logs(run, [changed], out)
    with h5py.File(out) as file:
        assert list(file) == ["body-000", "body-002"]  # what was embedded of it is of what it was
        assert json.loads(str(file.attrs["quarantined"])) == {"x": "not HDF5", "body-001": "cut short"}


def test_logs_that_another_call_was_killed_over_are_kept(run, body_logs, tmp_path):
    def stop(*args):
        raise KeyboardInterrupt

    body_logs[1].read = stop
    with pytest.raises(KeyboardInterrupt):
        embed_logs(run, body_logs[:2], tmp_path / "out.h5")
    embed_logs(run, body_logs[2:3], tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5") as file:
        assert sorted(file) == ["body-000", "body-002"]


def test_shards_together_are_the_whole(run, body_logs, tmp_path):
    embed_logs(run, body_logs[:3], tmp_path / "one.h5")
    for number in range(2):
        assert not embed_logs(run, body_logs[:3], tmp_path / "two.h5", shard=(number, 2)).complete
    assert embed_logs(run, body_logs[:3], tmp_path / "two.h5").complete
    one, two = read(tmp_path / "one.h5"), read(tmp_path / "two.h5")
    assert list(one) == list(two)
    assert all((one[name] == two[name]).all() for name in one)


def test_an_unreadable_log_is_quarantined_and_named(run, body_logs, tmp_path):
    def refuse(*args):
        raise LogError("body-001.h5: data is cut short")

    body_logs[1].read = refuse
    report = embed_logs(run, body_logs[:3], tmp_path / "out.h5", quarantined={"x": "not HDF5"})
    assert report.quarantined == {"x": "not HDF5", "body-001": "body-001.h5: data is cut short"}
    assert list(report.windows) == ["body-000", "body-002"]
    assert "quarantined body-001: body-001.h5: data is cut short" in str(report)
    with h5py.File(tmp_path / "out.h5") as file:
        assert json.loads(str(file.attrs["quarantined"])) == report.quarantined


def test_a_log_shorter_than_a_clip_has_a_group_without_windows(run, tmp_path):
    assert embed_logs(run, [body_log(0, seconds=0.5)], tmp_path / "out.h5").windows == {"body-000": 0}


def test_what_cannot_be_embedded_is_refused_with_the_reason(run, body_logs, tmp_path):
    out = tmp_path / "out.h5"
    with pytest.raises(ValueError, match=r"window of 2\.0 s: .* trained on clips of 1\.0 s .* use --window 1\.0"):
        embed_logs(run, body_logs, out, window_s=2.0)
    with pytest.raises(ValueError, match="stride of 0 s: expected a positive number"):
        embed_logs(run, body_logs, out, stride_s=0)
    with pytest.raises(ValueError, match=r"no sensor \['nose'\] in memory; it was trained on \['eye', 'ear'"):
        embed_logs(run, body_logs, out, sensors=["nose"])
    with pytest.raises(ValueError, match=r"two logs are named \['body-000'\]"):
        embed_logs(run, [body_logs[0], body_logs[0]], out)
    deaf = [replace(log, streams={n: s for n, s in log.streams.items() if n != "ear"}) for log in body_logs]
    with pytest.raises(LogError, match=r"none of the \d logs has \['ear'\]. To embed without: --sensors eye,pad,arm"):
        embed_logs(run, deaf, out)
    kind, rate, times, joints = body_logs[0].streams["arm"]
    body_logs[0].streams = {**body_logs[0].streams, "arm": (kind, rate, times, joints[:, :2])}
    with pytest.raises(LogError, match=r"sensor 'arm' has shape \(2,\), the run was made for \(3,\)"):
        embed_logs(run, body_logs, out)
    assert list(tmp_path.iterdir()) == []


def test_a_file_made_otherwise_is_left_alone(run, body_logs, tmp_path):
    out = tmp_path / "out.h5"
    embed_logs(run, body_logs[:1], out)
    with pytest.raises(ValueError, match=r"other settings \(stride_s: 0\.5 there, 0\.25 asked for\)"):
        embed_logs(run, body_logs[:1], out, stride_s=0.25)
    other = make_run()
    with torch.no_grad():
        next(iter(other.model.parameters())).add_(1)
    with pytest.raises(ValueError, match="weights: "):
        embed_logs(replace(other, path=run.path), body_logs[:1], out)
    out.write_text("my notes")
    with pytest.raises(ValueError, match="exists and is not a file of embeddings"):
        embed_logs(run, body_logs[:1], out)
    assert out.read_text() == "my notes"


KILLED = """
import os, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from conftest import body_log
from test_embed import make_run
from multisense.embed import embed_logs
logs = [body_log(n) for n in range(3)]
logs[1].read = lambda *args: os.kill(os.getpid(), 9)
embed_logs(make_run(), logs, Path({out!r}))
"""


@pytest.mark.slow
def test_a_killed_process_leaves_only_whole_logs(run, body_logs, tmp_path):
    out = tmp_path / "out.h5"
    code = KILLED.format(tests=str(Path(__file__).parent), out=str(out))
    died = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert died.returncode == -9, died.stderr.decode()
    assert not out.exists()
    assert embed_logs(run, body_logs[:3], out).windows == {"body-000": 5, "body-001": 5, "body-002": 5}


def test_what_is_made_ahead_comes_in_order_and_its_errors_too():
    assert list(ahead(iter(range(5)))) == list(range(5))

    def spoilt():
        yield 1
        raise LogError("cut short")

    items = ahead(spoilt())
    assert next(items) == 1
    with pytest.raises(LogError, match="cut short"):
        next(items)


@pytest.mark.slow
def test_processes_together_write_what_one_writes(body_logs, tmp_path):
    """Launched as Accelerate launches them; the gathered file is that of one process, byte for byte but for its order of
    writing."""
    for log in body_logs[:3]:
        recordings = {n: Recording(m, rate, data, times) for n, (m, rate, times, data) in log.streams.items()}
        write_log(tmp_path / "logs" / f"{log.name}.h5", recordings)
    tree = body_tree(steps=1)
    tree["data"]["train"] = str(tmp_path / "logs")
    train(parse_config(tree), tmp_path / "run")
    program = ["-m", "multisense", "embed", str(tmp_path / "run"), str(tmp_path / "logs"), "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(CPU2)]
    for name, before in (("one.h5", []), ("two.h5", launch)):
        command = [sys.executable, *before, *program, str(tmp_path / name)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert "15 windows of 3 logs" in done.stdout
    one, two = read(tmp_path / "one.h5"), read(tmp_path / "two.h5")
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert not (tmp_path / "two.h5.parts").exists()
