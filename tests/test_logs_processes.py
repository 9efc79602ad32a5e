"""Open files, forked workers, and writers that are killed."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import camera, vector
from torch.utils.data import DataLoader, Dataset

from multisense.logs import LogError, SensorLog, open_log, open_logs, write_log
from multisense.logs.pool import POOL, Pool
from multisense.types import Label


def test_the_pool_keeps_few_and_closes_the_least_recent() -> None:
    closed: list[str] = []

    class Handle:
        def __init__(self, path: str) -> None:
            self.path = path

        def close(self) -> None:
            closed.append(Path(self.path).name)

    pool, folder = Pool(capacity=2), Path(__file__).parent
    a, b, c = (str(folder / name) for name in ("conftest.py", "test_logs.py", "test_logs_media.py"))
    first = pool.get(Handle, a)
    pool.get(Handle, b)
    assert pool.get(Handle, a) is first
    pool.get(Handle, c)
    assert (closed, len(pool)) == (["test_logs.py"], 2)
    pool.close()
    assert len(pool) == 0


def test_a_forked_child_opens_its_own_and_closes_none_of_its_parents() -> None:
    class Handle:
        def __init__(self, path: str) -> None:
            self.opened_by = os.getpid()

        def close(self) -> None:
            assert self.opened_by == os.getpid()

    def child() -> None:
        assert len(pool) == 0
        assert pool.get(Handle, __file__).opened_by == os.getpid()
        pool.close()

    pool = Pool(capacity=2)
    parents = pool.get(Handle, __file__)
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert pool.get(Handle, __file__) is parents


def test_many_logs_stay_within_the_capacity(tmp_path: Path) -> None:
    for number in range(20):
        write_log(tmp_path / f"{number:02d}.h5", {"arm": vector(), "camera": camera(4)})
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0
    POOL.close()
    for log in open_logs(tmp_path) * 2:
        log.read("arm", 0, 1)
        log.read("camera", 0, 1)
        assert len(POOL) <= POOL.capacity == 16
    if before:
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 16


def test_a_file_written_anew_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "log.h5"
    for count in (10, 20):
        write_log(path, {"arm": vector(count)})
        assert len(open_log(path).read("arm", 0, 1).data) == count
        path.unlink()


def read_all(log: SensorLog) -> list[np.ndarray]:
    return [log.read(name, 0.1, 0.7).data for name in log.sensors]


class LogItems(Dataset):
    """One log, read three times."""

    def __init__(self, log: SensorLog) -> None:
        self.log = log

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> list[np.ndarray]:
        return read_all(self.log)


@pytest.mark.parametrize(("method", "workers"), [("fork", 2), ("spawn", 1)])
def test_workers_read_what_the_parent_reads(body: Path, method: str, workers: int) -> None:
    log = open_log(body)
    expected = read_all(log)  # leaves files open in the parent before the workers start
    loader = DataLoader(LogItems(log), batch_size=None, num_workers=workers, multiprocessing_context=method)
    for found in [*loader, read_all(log)]:
        for item, wanted in zip(found, expected, strict=True):
            np.testing.assert_array_equal(item, wanted)


def test_a_log_pickles_small_and_reads_after(body: Path) -> None:
    log = open_log(body)
    read_all(log)
    copy = pickle.loads(pickle.dumps(log))
    assert len(pickle.dumps(log)) < 10_000
    np.testing.assert_array_equal(copy.read("arm", 0, 1).data, log.read("arm", 0, 1).data)


ENDLESS_WRITER = """
import itertools, sys
import numpy as np
from multisense.logs import Recording, write_log
noise = np.random.default_rng(0).integers(0, 255, (40, 128, 128, 3), dtype=np.uint8)
camera = Recording("video", 20, noise, np.arange(40) / 20, media="camera.mp4")
touch = Recording("touch", 20, np.repeat(noise, 20, axis=0), np.arange(800) / 400)
for number in itertools.count():
    write_log(f"{sys.argv[1]}/{number:03d}.h5", {"camera": camera, "touch": touch})
    print("written", flush=True)
"""


@pytest.mark.slow
def test_a_killed_writer_leaves_no_half_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ENDLESS_WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]) as process:
        assert process.stdout is not None
        for _ in range(3):
            process.stdout.readline()
        while process.poll() is None and not list(tmp_path.glob("*003.h5*")):  # the fourth log, under either name
            time.sleep(0.001)
        process.kill()
    logs = open_logs(tmp_path)
    assert [log.name for log in logs] in (["000", "001", "002"], ["000", "001", "002", "003"])
    for log in logs:
        assert log.read("touch", -1, 9).data.shape == (800, 128, 128, 3)
        assert log.read("camera", -1, 9).data.shape == (40, 128, 128, 3)


def test_a_failed_write_leaves_no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("multisense.logs.native_write.write_label", full)
    with pytest.raises(OSError, match="No space left"):
        write_log(tmp_path / "log.h5", {"arm": vector(), "camera": camera()}, [Label("x", np.array(1.0))])
    assert not (tmp_path / "log.h5").exists()
    with pytest.raises(LogError, match="no logs"):
        open_logs(tmp_path)
