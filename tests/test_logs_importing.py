"""Importing: the same clips as in place, constant memory, and what is left of an import that was killed."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import ArrayLog, body_log, camera, microphone, vector

from multisense.clips import Grid, Windows
from multisense.logs import LogError, NativeLog, Recording, SensorLog, open_log, open_logs, write_log
from multisense.logs.formats.folder import open_folder
from multisense.logs.frames import LosslessVideo
from multisense.logs.importing import import_logs, parse_size
from multisense.logs.media import open_video, write_video
from multisense.logs.recorder import LogWriter
from multisense.types import Label

SMALL = (16, 24)


def grid(log: SensorLog, name: str, size: tuple[int, int] | None = None) -> Grid:
    info = log.sensors[name]
    kind = {"video": "nearest", "audio": "bandlimited"}.get(info.modality, "linear")
    shape = (*size, 3) if size and info.modality == "video" else info.shape
    rate, count = info.rate_hz, round(0.4 * info.rate_hz)
    return Grid(name, "proprio", rate, count, shape, info.dtype, kind, 0.6 / rate, size=size)  # pyright: ignore


def assert_same_clips(a: SensorLog, b: SensorLog, size: tuple[int, int] | None = None) -> None:
    assert set(a.sensors) == set(b.sensors)
    grids = {name: grid(a, name, size) for name in a.sensors}
    ours, theirs = (Windows([log], grids, 0.4, 0.13) for log in (a, b))
    assert len(ours) == len(theirs) > 2
    for mine, yours in zip(ours, theirs, strict=True):  # pyright: ignore
        assert mine.start_s == pytest.approx(yours.start_s, abs=1e-9)
        for name in grids:
            assert mine.valid[name].any()
            assert torch.equal(mine.valid[name], yours.valid[name])
            close = {"rtol": 0, "atol": 1e-6} if grids[name].resample == "linear" else {"rtol": 0, "atol": 0}
            torch.testing.assert_close(mine.values[name], yours.values[name], **close)


def make_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    rng = np.random.default_rng(0)
    write_video(str(path / "cam.mp4"), rng.integers(0, 255, (30, 48, 64, 3), dtype=np.uint8), 20.0)
    stamps = np.arange(30) / 20 + rng.uniform(0, 0.01, 30)
    np.savetxt(path / "cam.times.csv", stamps, header="time", comments="")
    np.savetxt(path / "arm.csv", np.stack([np.arange(150) / 100, rng.normal(size=150)], 1), delimiter=",",
               header="time,force [N]", comments="")  # fmt: skip
    np.save(path / "gel.npy", rng.integers(0, 255, (45, 40, 40, 3), dtype=np.uint8))
    np.save(path / "gel.times.npy", np.arange(45) / 30)
    return path


@pytest.mark.parametrize("size", [None, SMALL])
def test_a_folder_gives_the_same_clips(tmp_path: Path, size: tuple[int, int] | None) -> None:
    log = open_folder(make_folder(tmp_path / "log"))
    done = import_logs([log], tmp_path / "out", size=size, workers=1)
    copy = open_log(done.logs[0])
    assert_same_clips(log, copy, size)
    assert copy.sensors["arm"].channels == ("force",)
    np.testing.assert_array_equal(copy.read("cam", -9, 9).times_s, log.read("cam", -9, 9).times_s)
    entry = json.loads(done.manifest.read_text())["logs"]["log"]
    stored = {name: sensor["stored"] for name, sensor in entry["sensors"].items()}
    if size:
        assert stored == {"cam": "uint8 frames of 16 x 24", "gel": "uint8 frames of 16 x 24", "arm": "as it was"}
        with h5py.File(done.logs[0], locking=False) as file:
            assert file["streams/cam/data"].chunks == (1, 16, 24, 3)  # pyright: ignore
    else:
        assert stored == {"cam": "the video file, copied", "gel": "lossless H.264", "arm": "as it was"}
        assert (tmp_path / "out/log.cam.mp4").read_bytes() == (tmp_path / "log/cam.mp4").read_bytes()


def test_a_native_log_with_labels_and_corrections(tmp_path: Path) -> None:
    labels = [Label("force", np.arange(10.0), np.arange(10) / 10, "max", units="N"),
              Label("kind", np.array(2), None, "unique", ("a", "b", "c"))]  # fmt: skip
    recordings = {"arm": vector(100), "camera": camera(), "mic": microphone()}
    write_log(tmp_path / "body.h5", recordings, labels, "a test", {"start_unix": 1.7e9})
    with h5py.File(tmp_path / "body.h5", "a") as file:
        file.create_group("clock/camera").attrs.update(offset_s=0.02, drift_ppm=50.0)
    (path,) = import_logs(tmp_path / "body.h5", tmp_path / "out", workers=1).logs
    log, copy = open_log(tmp_path / "body.h5"), open_log(path)
    assert_same_clips(log, copy)
    assert copy.attributes["start_unix"] == 1.7e9  # pyright: ignore
    assert copy.labels["kind"].classes == ("a", "b", "c")
    np.testing.assert_array_equal(copy.labels["force"].data, np.arange(10.0))
    with h5py.File(path, locking=False) as file:
        assert len(file["streams/mic/anchors"]) == 3  # pyright: ignore


def test_any_sensor_log_and_a_choice_of_sensors(tmp_path: Path) -> None:
    logs = [body_log(i) for i in range(3)]
    done = import_logs(logs, tmp_path, sensors=["ear", "pad"], workers=1)  # pyright: ignore
    for log, path in zip(logs, done.logs, strict=True):
        copy = open_log(path)
        assert set(copy.sensors) == {"ear", "pad"}
        np.testing.assert_array_equal(copy.read("ear", -1, 9).data, log.read("ear", -1, 9).data)
        np.testing.assert_allclose(copy.read("ear", -1, 9).times_s, log.read("ear", -1, 9).times_s, rtol=0, atol=2e-9)
        np.testing.assert_array_equal(copy.read("pad", -1, 9).data, log.read("pad", -1, 9).data)
    with pytest.raises(LogError, match="no sensor"):
        import_logs(logs, tmp_path / "b", sensors=["nose"])  # pyright: ignore


def test_names_that_are_no_names(tmp_path: Path) -> None:
    times = np.arange(10.0)
    log = ArrayLog("run/../1", {"/robot/arm state": ("proprio", 1.0, times, np.ones((10, 2)))})
    (path,) = import_logs([log], tmp_path, workers=1).logs
    assert path == tmp_path / "run_.._1.h5"
    assert set(open_log(path).sensors) == {"robot_arm_state"}


def test_what_is_there_is_kept_and_what_changed_is_made_anew(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    for i in range(3):
        write_log(source / f"{i}.h5", {"arm": vector(50 + i)})
    done = import_logs(source, out, workers=1)
    before = [path.stat().st_mtime_ns for path in done.logs]
    entry = json.loads(done.manifest.read_text())["logs"]["0"]
    assert entry["files"]["0.h5"] == hashlib.sha256((out / "0.h5").read_bytes()).hexdigest()
    assert entry["fingerprint"] == open_log(source / "0.h5").fingerprint()
    (source / "1.h5").unlink()
    write_log(source / "1.h5", {"arm": vector(80)})
    import_logs(source, out, workers=1)
    after = [path.stat().st_mtime_ns for path in done.logs]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]
    assert open_log(out / "1.h5").sensors["arm"].count == 80
    with pytest.raises(LogError, match="an import with"):
        import_logs(source, out, size=(8, 8), workers=1)


def test_a_damaged_log_is_listed_and_a_stranger_is_not_touched(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    for i in range(3):
        write_log(source / f"{i}.h5", {"arm": vector()})
    (source / "0.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    write_log(out / "2.h5", {"mine": vector()})
    done = import_logs(source, out, workers=1)
    assert [path.name for path in done.logs] == ["1.h5"]
    assert set(done.failed) == {"0", "2"}
    assert set(open_log(out / "2.h5").sensors) == {"mine"}


def test_lossless_video_gives_the_same_bytes(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (25, 33, 47, 3), dtype=np.uint8)
    video = LosslessVideo(str(tmp_path / "a.mp4"), 33, 47, 29.97)
    video.append(frames[:7])
    video.append(frames[7:])
    video.close()
    np.testing.assert_array_equal(open_video(str(tmp_path / "a.mp4")).frames([3, 4, 17, 24]), frames[[3, 4, 17, 24]])


IMPORT = """
import sys
from pathlib import Path
from multisense.logs.importing import import_logs, parse_size
if __name__ == "__main__":
    size = (32, 32) if sys.argv[3] == "small" else None
    import_logs(sys.argv[1], sys.argv[2], size=size, workers=int(sys.argv[4]))
    # Not ru_maxrss: that begins with the peak of the process that started this one.
    print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


def start(*arguments: object) -> subprocess.Popen:
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    script = [sys.executable, "-c", IMPORT, *map(str, arguments)]
    return subprocess.Popen(script, stdout=subprocess.PIPE, text=True, env=environment)


def peak_mib(*arguments: object) -> float:
    text, _ = start(*arguments).communicate(timeout=300)
    return int(text.split()[-1]) / 1024


def write_long(path: Path, count: int) -> None:
    """A log of `count` frames of 230 kB, which are all the same."""
    frame = np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)
    write_log(path, {"cam": Recording("video", 20.0, frame[None], np.zeros(1))})
    with h5py.File(path, "a", locking=False) as file:
        stream = file["streams/cam"]
        assert isinstance(stream, h5py.Group)
        del stream["data"], stream["times"]
        stream.create_dataset("times", data=np.arange(count) / 20)
        data = stream.create_dataset("data", (count, *frame.shape), np.uint8, chunks=(1, *frame.shape))
        for i in range(count):
            data[i] = frame


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    for count in (1, 1600):  # 0 and 352 MiB
        write_long(tmp_path / f"{count}" / "long.h5", count)
    base, peak = (peak_mib(tmp_path / f"{n}", tmp_path / f"out{n}", "small", 1) for n in (1, 1600))
    # The allocator takes some ten blocks to settle at about 150 MiB; the whole log would be more than 352.
    assert peak - base < 250


@pytest.mark.slow
def test_a_killed_import_goes_on(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    frames = np.random.default_rng(0).integers(0, 255, (60, 64, 64, 3), dtype=np.uint8)
    for i in range(8):
        write_log(source / f"{i}.h5", {"arm": vector(), "cam": Recording("video", 20.0, frames, np.arange(60) / 20)})
    run = start(source, out, "whole", 1)
    while len(list(out.glob("*.h5"))) < 3 and run.poll() is None:
        time.sleep(0.005)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    finished = {path: path.stat().st_mtime_ns for path in out.glob("*.h5")}
    assert 3 <= len(finished) < 8
    assert all(open_log(path).read("cam", -1, 9).data.shape[0] == 60 for path in finished)
    done = import_logs(source, out, workers=2)
    assert len(done.logs) == 8
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert not list(out.glob(".*.partial"))
    for log, path in zip(open_logs(source), done.logs, strict=True):
        np.testing.assert_array_equal(open_log(path).read("cam", -1, 9).data, frames)
        assert log.name == path.stem
    manifest = json.loads(done.manifest.read_text())
    for entry in manifest["logs"].values():
        for name, digest in entry["files"].items():
            assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest


# Recordings


def test_an_imported_recording_is_whole(tmp_path: Path) -> None:
    with LogWriter(tmp_path / "log.h5", "left arm", attributes={"start_unix": 1.7e9}) as log:
        log.add_sensor("arm", "proprio", 100, (2,), "float64")
        log.append("arm", vector(30).data, np.arange(30) / 100)
        log.flush()
        path = Path(shutil.copy(tmp_path / "log.h5", tmp_path / "killed.h5"))  # as a kill leaves it
    assert NativeLog(path).attributes["recording"]
    (once,) = import_logs(path, tmp_path / "once", workers=1).logs
    (twice,) = import_logs(once, tmp_path / "twice", workers=1).logs
    for log in (open_log(once), open_log(twice)):
        assert isinstance(log, NativeLog)
        assert "recording" not in log.attributes
        assert (log.source, log.attributes["start_unix"], log.sensors["arm"].count) == ("left arm", 1.7e9, 30)
    assert json.loads(NativeLog(twice).attributes["imported"])["path"] == str(once)


def test_what_a_recorder_left_out_is_told_and_imported(tmp_path: Path) -> None:
    write_log(tmp_path / "log.h5", {"arm": vector(), "leg": vector()})
    with h5py.File(tmp_path / "log.h5", "a") as file:
        file["streams/arm"].attrs["dropped"] = np.int64(2)
        file["streams/leg"].attrs["dropped"] = np.int64(0)
    (path,) = import_logs(tmp_path / "log.h5", tmp_path / "out", workers=1).logs
    for log in (open_log(tmp_path / "log.h5"), open_log(path)):
        assert isinstance(log, NativeLog)
        assert log.dropped == {"arm": 2}


@pytest.mark.parametrize("start_s", [0.0, 5000.0, 1.7e9])
def test_sound_on_any_clock_keeps_few_anchors(tmp_path: Path, start_s: float) -> None:
    anchors = np.array([[0, start_s], [31_999, start_s + 31_999 / 16_000]])
    write_log(tmp_path / "log.h5", {"mic": Recording("audio", 16_000, np.zeros(32_000, np.int16), anchors=anchors)})
    (path,) = import_logs(tmp_path / "log.h5", tmp_path / "out", workers=1).logs
    with h5py.File(path, locking=False) as file:
        assert len(file["streams/mic/anchors"]) <= 4  # pyright: ignore
    times = [open_log(p).read("mic", -np.inf, np.inf).times_s for p in (tmp_path / "log.h5", path)]
    np.testing.assert_allclose(*times, rtol=0, atol=max(2e-9, 4 * np.spacing(start_s)))


def test_a_damaged_file_in_the_way_is_one_failure(tmp_path: Path) -> None:
    for i in range(2):
        write_log(tmp_path / "source" / f"{i}.h5", {"arm": vector()})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "0.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    done = import_logs(tmp_path / "source", tmp_path / "out", workers=1)
    assert [path.name for path in done.logs] == ["1.h5"]
    assert "damaged" in done.failed["0"]


def test_a_size_is_height_by_width() -> None:
    assert parse_size("48x64") == (48, 64)
    assert parse_size(None) is None
    with pytest.raises(ValueError, match="HEIGHTxWIDTH"):
        parse_size("48")
