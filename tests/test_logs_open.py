"""Folders of logs of several formats: every log is opened, under a name of its own."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import vector

from multisense.logs import LogError, SensorLog, open_logs, survey_logs, write_log
from multisense.logs.recorder import LogWriter


def native(path: Path, sensor: str = "arm") -> None:
    write_log(path, {sensor: vector()})


def aloha(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["action"] = np.zeros((5, 2))
        file["observations/qpos"] = np.zeros((5, 2))


def robomimic(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for demo in ("demo_0", "demo_1"):
            file[f"data/{demo}/actions"] = np.zeros((5, 2))
            file[f"data/{demo}/obs/qpos"] = np.zeros((5, 2))


def xdf(path: Path) -> None:
    path.write_bytes(b"XDF:")  # begins as one; opening it fails


def mapped(folder: Path) -> None:
    with h5py.File(folder / "other.hdf5", "w") as file:
        file["force"] = np.zeros((5, 2))
    (folder / "multisense.yaml").write_text("log: other.hdf5\nsensors: {force: {path: force, rate_hz: 10}}\n")


def mcap(path: Path) -> None:
    writer = pytest.importorskip("mcap.writer").Writer(str(path))
    writer.start()
    channel = writer.register_channel("/force", "json", writer.register_schema("force", "jsonschema", b"{}"))
    for i in range(5):
        writer.add_message(channel, 10**9 * (i + 1), b'{"x": 1.5}', 10**9 * (i + 1))
    writer.finish()


def sensors(logs: list[SensorLog]) -> dict[str, set[str]]:
    return {log.name: set(log.sensors) for log in logs}


def test_logs_of_one_stem_do_not_hide_each_other(tmp_path: Path) -> None:
    native(tmp_path / "a.h5", "left")
    native(tmp_path / "a.hdf5", "right")
    native(tmp_path / "b.h5")
    native(tmp_path / "c.h5")
    xdf(tmp_path / "c.xdf")
    logs, errors = survey_logs(tmp_path)
    assert sensors(logs) == {"a.h5": {"left"}, "a.hdf5": {"right"}, "b": {"arm"}, "c.h5": {"arm"}}
    assert set(errors) == {"c.xdf"}


def test_foreign_files_of_one_stem_do_not_hide_each_other(tmp_path: Path) -> None:
    aloha(tmp_path / "a.h5")
    aloha(tmp_path / "a.hdf5")
    robomimic(tmp_path / "b.h5")
    robomimic(tmp_path / "b.hdf5")
    assert [log.name for log in open_logs(tmp_path)] == [
        "a.h5", "a.hdf5", "b.h5-demo_0", "b.h5-demo_1", "b.hdf5-demo_0", "b.hdf5-demo_1",
    ]  # fmt: skip


def test_native_logs_beside_those_of_other_formats_are_opened(tmp_path: Path) -> None:
    native(tmp_path / "a.h5")
    aloha(tmp_path / "b.hdf5")
    mcap(tmp_path / "c.mcap")
    xdf(tmp_path / "d.xdf")
    logs, errors = survey_logs(tmp_path)
    assert sensors(logs) == {"a": {"arm"}, "b": {"action", "qpos"}, "c": {"force"}}
    assert set(errors) == {"d"}


def test_a_native_log_and_a_foreign_one_of_its_stem_are_two(tmp_path: Path) -> None:
    native(tmp_path / "a.h5")
    mcap(tmp_path / "a.mcap")
    assert sensors(open_logs(tmp_path)) == {"a.h5": {"arm"}, "a-mcap": {"force"}}
    assert len({log.fingerprint() for log in open_logs(tmp_path)}) == 2


def test_native_logs_beside_a_mapping_are_opened(tmp_path: Path) -> None:
    native(tmp_path / "a.h5")
    mapped(tmp_path)
    assert sensors(open_logs(tmp_path)) == {"a": {"arm"}, "other": {"force"}}


def test_an_unfinished_recording_beside_a_foreign_log_is_opened(tmp_path: Path) -> None:
    mcap(tmp_path / "a.mcap")
    with LogWriter(tmp_path / "b.h5") as log:
        log.add_sensor("arm", "proprio", 100, (2,), "float32")
        log.append("arm", np.zeros((9, 2), np.float32), np.arange(9))
        log.flush()
        assert sensors(open_logs(tmp_path)) == {"a": {"force"}, "b": {"arm"}}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_beside_logs_is_not_waited_for(tmp_path: Path) -> None:
    aloha(tmp_path / "a.h5")
    os.mkfifo(tmp_path / "b.h5")
    assert [log.name for log in open_logs(tmp_path)] == ["a"]


def test_logs_of_the_folders_below_are_named_by_both(tmp_path: Path) -> None:
    for day, arm in (("monday", "left"), ("monday", "right"), ("tuesday", "left")):
        (tmp_path / day / arm).mkdir(parents=True)
        native(tmp_path / day / arm / "run_1.h5")
    (tmp_path / "monday" / "tables").mkdir()
    (tmp_path / "monday" / "tables" / "a.csv").write_text("t,x\n0,1\n1,2\n")
    (tmp_path / "monday" / ".trash").mkdir()
    native(tmp_path / "monday" / ".trash" / "run_0.h5")
    names = ["monday-left-run_1", "monday-right-run_1", "monday-tables", "tuesday-left-run_1"]
    assert [log.name for log in open_logs(tmp_path)] == names


def test_two_logs_of_one_name_below_are_an_error(tmp_path: Path) -> None:
    for folder, file in (("a", "b-c.h5"), ("a-b", "c.h5")):
        (tmp_path / folder).mkdir()
        native(tmp_path / folder / file)
    with pytest.raises(LogError, match="a second log `a-b-c`"):
        open_logs(tmp_path)


def test_a_loop_of_links_is_no_endless_search(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path)
    with pytest.raises(LogError, match="no logs"):
        open_logs(tmp_path)
