"""The index of a folder: logs open from it as they do from their files, and never as they were."""

import json
import os
import pickle
import shutil
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import camera, microphone, vector

from multisense.logs import LogError, NativeLog, open_logs, survey_logs, write_log
from multisense.logs import native as native_module
from multisense.logs.files import fingerprint_files, keep_digests
from multisense.logs.index import KIND
from multisense.logs.pool import POOL
from multisense.types import Label

OLD = time.time() - 3600


def age(folder: Path, seconds: float = OLD) -> None:
    for file in folder.iterdir():
        os.utime(file, (seconds, seconds))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    for number in range(3):
        labels = [Label("kind", np.array(number), None, "unique", ("a", "b", "c"))]
        recordings = {"arm": vector(50 + number, channels=("l", "r"), units="rad"), "camera": camera()}
        write_log(tmp_path / "logs" / f"{number}.h5", recordings, labels, "a test", {"start_unix": 1.7e9})
    write_log(tmp_path / "logs" / "3.h5", {"mic": microphone()})
    age(tmp_path / "logs")
    return tmp_path / "logs"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the logs that are opened from now on."""
    names: list[str] = []
    really = native_module._opened

    def counted(path: str):
        names.append(Path(path).name)
        return really(path)

    monkeypatch.setattr(native_module, "_opened", counted)
    return names


def test_logs_open_from_the_index_as_from_their_files(folder: Path, opened: list[str]) -> None:
    first, again, plain = open_logs(folder), open_logs(folder), [NativeLog(folder / f"{n}.h5") for n in range(4)]
    assert opened == [f"{n}.h5" for n in range(4)] * 2
    for a, b, c in zip(first, again, plain, strict=True):
        b = pickle.loads(pickle.dumps(b))
        assert isinstance(a, NativeLog)
        assert (a.sensors, a.header, a.source, a.name, a.path) == (b.sensors, b.header, b.source, b.name, b.path)
        assert (c.sensors, c.header) == (b.sensors, b.header)
        assert a.fingerprint() == b.fingerprint()
        for sensor in a.sensors:
            np.testing.assert_array_equal(a.read(sensor, 0.1, 0.6).data, b.read(sensor, 0.1, 0.6).data)
    assert opened == [f"{n}.h5" for n in range(4)] * 2
    assert int(again[2].labels["kind"].data) == 2
    assert opened[8:] == ["2.h5"]


def test_what_changed_is_read_again(folder: Path, opened: list[str]) -> None:
    open_logs(folder)
    (folder / "1.h5").unlink()
    write_log(folder / "1.h5", {"arm": vector(70)})
    os.utime(folder / "1.h5", (OLD + 1, OLD + 1))
    (folder / "2.h5").rename(folder / "4.h5")
    opened.clear()
    counts = {log.name: log.sensors["arm"].count for log in open_logs(folder) if "arm" in log.sensors}
    assert counts == {"0": 50, "1": 70, "4": 52}
    assert opened == ["1.h5", "4.h5"]
    opened.clear()
    assert len(open_logs(folder)) == 4
    assert opened == []


def test_a_new_file_of_another_kind_is_seen(folder: Path) -> None:
    os.utime(folder, (OLD, OLD))
    for _ in range(2):
        assert [log.name for log in open_logs(folder)] == ["0", "1", "2", "3"]
    (folder / "0a.xdf").write_bytes(b"XDF:" + bytes(20))
    _, errors = survey_logs(folder)
    assert list(errors) == ["0a"]


def test_a_log_without_its_media_is_still_refused(folder: Path, opened: list[str]) -> None:
    open_logs(folder)
    video = next(folder.glob("0*.mp4"))
    shutil.move(video, folder.parent / video.name)
    logs, errors = survey_logs(folder)
    assert len(logs) == 3
    assert "no media file" in str(errors["0"])
    video.symlink_to(folder.parent / video.name)  # the same bytes and times, but from elsewhere
    with pytest.raises(LogError, match="outside the log's folder"):
        open_logs(folder)


def test_folders_below_are_in_the_index_of_the_one_above(folder: Path, own_cache: Path, opened: list[str]) -> None:
    shutil.copytree(folder, folder.parent / "many" / "monday")
    shutil.copytree(folder, folder.parent / "many" / "tuesday")
    (folder.parent / "many" / "tuesday" / "1.h5").unlink()
    names = [f"monday-{n}" for n in range(4)] + [f"tuesday-{n}" for n in (0, 2, 3)]
    for _ in range(2):
        assert [log.name for log in open_logs(folder.parent / "many")] == names
    assert len(opened) == len(names)
    assert len(list((own_cache / KIND).iterdir())) == 1


def test_what_a_recorder_lost_is_still_told(folder: Path, opened: list[str]) -> None:
    with h5py.File(folder / "3.h5", "a") as file:
        file["streams/mic"].attrs["dropped"] = 7
    os.utime(folder / "3.h5", (OLD, OLD))
    for _ in range(2):
        log = open_logs(folder)[3]
        assert isinstance(log, NativeLog)
        assert log.dropped == {"mic": 7}
    assert len(opened) == 4


def test_what_may_still_change_is_not_kept(folder: Path, opened: list[str]) -> None:
    age(folder, time.time())
    with h5py.File(folder / "3.h5", "a") as file:
        file.attrs["recording"] = True
    os.utime(folder / "3.h5", (OLD, OLD))
    for _ in range(2):
        opened.clear()
        open_logs(folder)
        assert opened == [f"{n}.h5" for n in range(4)]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"0.h5": 1}', "shuffled", "\udcff"])
def test_a_damaged_index_is_made_anew(folder: Path, own_cache: Path, opened: list[str], text: str) -> None:
    open_logs(folder)
    (file,) = (own_cache / KIND).iterdir()
    good = file.read_text()
    entries = json.loads(good)
    if text == "shuffled":
        text = json.dumps({name: [stamp, {"sensors": [{}], "media": {}}] for name, (stamp, _) in entries.items()})
    file.write_bytes(text.encode(errors="surrogateescape"))
    opened.clear()
    assert len(open_logs(folder)) == len(opened) == 4
    assert json.loads(file.read_text()) == entries
    assert [f.name for f in (own_cache / KIND).iterdir()] == [file.name]


def test_no_place_for_the_index_is_no_error(folder: Path, own_cache: Path, opened: list[str]) -> None:
    own_cache.write_text("a file where the folder should be")
    assert [len(open_logs(folder)) for _ in range(2)] == [4, 4]
    assert len(opened) == 8
    assert not list(folder.glob("*.json"))


def test_contents_are_read_once_for_all_processes(
    folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from multisense.logs import files

    paths = sorted(str(file) for file in folder.iterdir())
    there = fingerprint_files(paths)
    keep_digests()
    read: list[str] = []
    really = files._read

    def counted(path: str, size: int) -> bytes:
        read.append(path)
        return really(path, size)

    def another_process() -> None:
        files._DIGESTS.clear()
        files._contents.cache_clear()

    monkeypatch.setattr(files, "_read", counted)
    another_process()
    assert fingerprint_files(paths) == there
    assert read == []
    with (folder / "3.h5").open("ab") as file:
        file.write(b"more")
    assert fingerprint_files(paths) != there
    assert read == [str(folder / "3.h5")]
    another_process()
    shutil.rmtree(own_cache)
    assert fingerprint_files(paths) != there
    assert len(read) == 1 + len(paths)
    POOL.close()
