"""The cache on disk: the same clips to the byte, built once by one process, and never what another log had."""

import multiprocessing
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ArrayLog, body_log, body_tree
from safetensors.numpy import load_file

from multisense import cache
from multisense.cache import Cached, cached
from multisense.clips import Grid, InMemory, pieces, read_clip
from multisense.logs import LogError, open_log
from multisense.logs.frames import resize_frames
from multisense.logs.pool import POOL
from multisense.run import make_grids, parse_config
from multisense.train import train


def small_grids(logs: list[ArrayLog]) -> dict[str, Grid]:
    tree = body_tree()
    tree["sensors"]["eye"] |= {"size": [16, 16]}
    return make_grids(parse_config(tree), logs)


def kept(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.suffix == ".safetensors")


def test_clips_are_those_in_place(tmp_path: Path):
    logs = [body_log(0, 23.0), body_log(1)]  # the first longer than the pieces in which it is decoded
    grids = small_grids(logs)
    for log, ours in zip(logs, cached(logs, grids, tmp_path), strict=True):
        assert (ours.name, ours.path, ours.fingerprint()) == (log.name, log.path, log.fingerprint())
        assert ours.sensors == InMemory(log, grids).sensors
        for start in (-0.3, 0.0, 0.77, 2.5, 40.0):
            a, b = (read_clip(some, start, grids, 1.0) for some in (log, ours))
            assert all(torch.equal(a.values[n], b.values[n]) and torch.equal(a.valid[n], b.valid[n]) for n in grids)


def test_a_native_log_with_a_video_is_kept_as_it_reads(body: Path, tmp_path: Path):
    log = open_log(body)
    eye = Grid("camera", "video", 10.0, 5, (16, 16, 3), "uint8", "nearest", 0.1, size=(16, 16))
    ear = Grid("mic", "audio", 8000.0, 4000, (), "float32", "bandlimited", 1e-3)
    grids = {"camera": eye, "mic": ear, "nose": replace(eye, name="nose")}
    (ours,) = cached([log], grids, tmp_path / "a" / "b")
    assert set(ours.sensors) == {"camera", "mic"}
    for start in (0.0, 0.123, 0.6):
        a, b = (read_clip(some, start, grids, 0.5) for some in (log, ours))
        assert all(torch.equal(a.values[n], b.values[n]) and torch.equal(a.valid[n], b.valid[n]) for n in grids)
    assert ours.labels["force"].units == "N"


def test_a_file_is_one_that_safetensors_reads(tmp_path: Path):
    log = body_log(0)
    grids = small_grids([log])
    cached([log], grids, tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    arrays = load_file(file)
    assert set(arrays) == {f"{n}/{what}" for n in grids for what in ("times_s", "data")}
    for name, (_, _, times, data) in log.streams.items():
        np.testing.assert_array_equal(arrays[f"{name}/times_s"], times)
        np.testing.assert_array_equal(arrays[f"{name}/data"], resize_frames(data, grids[name].size))


def test_numbers_keep_their_types_and_stand_aligned(tmp_path: Path):
    times = np.arange(7) / 10
    kinds = ["uint8", "int16", ">f4", "float64", "bool", "int64", "float16"]
    streams = {k: ("proprio", 10.0, times, (np.arange(21) % 5).reshape(7, 3).astype(k)) for k in kinds}
    log = ArrayLog("many", streams)
    grids = {k: Grid(k, "proprio", 10.0, 5, (3,), k, "linear", 0.1) for k in kinds}
    (ours,) = cached([log], grids, tmp_path)
    for kind in kinds:
        found = ours.read(kind, 0.1, 0.4)
        assert found.data.dtype == np.dtype(kind).newbyteorder("=")
        assert found.data.flags.aligned
        np.testing.assert_array_equal(found.data, streams[kind][3][1:4])


def test_it_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    logs = [body_log(n) for n in range(3)]
    grids = small_grids(logs)
    cached(logs, grids, tmp_path)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.safetensors")}
    monkeypatch.setattr(ArrayLog, "read", None)
    slower = {n: replace(grid, rate_hz=grid.rate_hz / 2, count=grid.count // 2) for n, grid in grids.items()}
    assert len(cached(logs, slower, tmp_path)) == 3  # another rate needs no other file
    assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.safetensors")} == before


def test_other_data_other_sizes_and_other_clocks_have_files_of_their_own(tmp_path: Path):
    log = body_log(0)
    grids = small_grids([log])
    cached([log], grids, tmp_path)
    changed = replace(log, streams=body_log(1).streams)
    changed.fingerprint = lambda: "changed"  # pyright: ignore[reportAttributeAccessIssue]
    (ours,) = cached([changed], grids, tmp_path)
    np.testing.assert_array_equal(ours.read("arm", 0, 9).data, changed.streams["arm"][3])
    moved = replace(log, streams={n: (m, r, t + 0.5, d) for n, (m, r, t, d) in log.streams.items()})
    (ours,) = cached([moved], grids, tmp_path)
    assert ours.read("arm", -9, 9).times_s[0] == 0.5
    cached([log], grids | {"eye": replace(grids["eye"], size=(8, 8), shape=(8, 8, 3))}, tmp_path)
    assert len(kept(tmp_path)) == 4


def test_a_build_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    logs = [body_log(n) for n in range(3)]
    grids = small_grids(logs)
    done: list[str] = []

    def dies(log: ArrayLog, grid: Grid):
        if log.name == "body-001" and grid.name == "pad":
            raise KeyboardInterrupt
        done.append(log.name)
        return pieces(log, grid)

    monkeypatch.setattr(cache, "pieces", dies)
    with pytest.raises(KeyboardInterrupt):
        cached(logs, grids, tmp_path)
    assert [name.partition("-s")[0][:8] for name in kept(tmp_path)] == ["body-000"]
    assert list(tmp_path.glob(".*.partial"))
    monkeypatch.setattr(cache, "pieces", lambda log, grid: done.append(log.name) or pieces(log, grid))
    done.clear()
    cached(logs, grids, tmp_path)
    assert set(done) == {"body-001", "body-002"}
    assert not list(tmp_path.glob(".*.partial"))


def build(folder: Path, turns: "multiprocessing.Queue[int]") -> None:
    logs = [body_log(n) for n in range(4)]

    def counted(log: ArrayLog, grid: Grid):
        turns.put(os.getpid())
        return pieces(log, grid)

    cache.pieces = counted
    cached(logs, small_grids(logs), folder)


def test_one_of_several_processes_builds_and_the_others_wait(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    turns = context.Queue()
    processes = [context.Process(target=build, args=(tmp_path, turns)) for _ in range(3)]
    for process in processes:
        process.start()
    builders = [turns.get(timeout=60) for _ in range(16)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(set(builders)) == 1
    assert turns.empty()
    assert len(kept(tmp_path)) == 4


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_a_damaged_file_is_told(tmp_path: Path, size: int):
    log = body_log(0)
    (ours,) = cached([log], small_grids([log]), tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(LogError, match="expected a file of the cache"):
        ours.read("arm", 0, 1)


def test_a_log_that_holds_less_than_it_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    log = body_log(0)
    read = ArrayLog.read
    monkeypatch.setattr(ArrayLog, "read", lambda self, sensor, a, b: read(self, sensor, a, min(b, 2.0)))
    with pytest.raises(LogError, match=r"memory:body-000: eye: found 20 samples; expected 30"):
        cached([log], small_grids([log]), tmp_path)
    assert not kept(tmp_path)


def test_it_pickles_and_opens_nothing_before_it_reads(tmp_path: Path):
    POOL.close()
    logs = [body_log(n) for n in range(3)]
    ours = pickle.loads(pickle.dumps(cached(logs, small_grids(logs), tmp_path)))
    assert len(POOL) == 0
    assert isinstance(ours[2], Cached)
    np.testing.assert_array_equal(ours[2].read("pad", 0, 9).data, logs[2].streams["pad"][3])


def test_training_from_the_cache_is_training_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body_logs: list[ArrayLog]
):
    monkeypatch.setattr("multisense.train.loop.given_logs", lambda config: body_logs)
    weights = []
    for name, settings in (("place", {}), ("cache", {"cache": str(tmp_path / "kept")})):
        tree = body_tree(steps=2, save_every=2)
        tree["data"] |= settings
        run = train(parse_config(tree), tmp_path / name)
        weights.append((run / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert len(kept(tmp_path / "kept")) == len(body_logs)
