"""The native log: what is written is what is read, in half-open ranges, and bad input is a named error."""

import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from multisense.logs import LogError, NativeLog, Recording, SensorLog, open_log, open_logs, survey_logs, write_log
from multisense.logs.clock import AnchoredClock, StampedClock
from multisense.logs.media import write_video
from multisense.logs.pool import POOL, Pool
from multisense.types import Label


def vector(count: int = 50, rate_hz: float = 100.0, **changes: object) -> Recording:
    """Sample i is [i, -i], at i / rate."""
    data = np.arange(count)[:, None] * np.array([1.0, -1.0])
    return replace(Recording("proprio", rate_hz, data, np.arange(count) / rate_hz), **changes)


def camera(count: int = 20) -> Recording:
    """Frame i is grey of level 4 i, 20 times a second."""
    frames = np.zeros((count, 64, 64, 3), np.uint8) + (4 * np.arange(count, dtype=np.uint8))[:, None, None, None]
    return Recording("video", 20.0, frames, np.arange(count) / 20, media="camera.mp4")


def microphone() -> Recording:
    sound = np.sin(np.arange(8000) / 7).astype(np.float32)
    anchors = np.array([[0, 0.01], [3000, 0.3855], [7999, 1.01]])
    return Recording("audio", 8000.0, sound, anchors=anchors, units="1")


@pytest.fixture
def body(tmp_path: Path) -> Path:
    """A log of three senses and three labels."""
    labels = [
        Label("force", np.arange(10.0), np.arange(10) / 10, "max", units="N"),
        Label("material", np.array(2), None, "unique", ("wood", "steel", "foam")),
        Label("touching", np.arange(10) > 5, np.arange(10) / 10, "max"),
    ]
    recordings = {"arm": vector(channels=("left", "right"), units="rad"), "camera": camera(), "mic": microphone()}
    write_log(tmp_path / "body.h5", recordings, labels, "made by a test", {"start_unix": 1.7e9})
    return tmp_path / "body.h5"


# Round trips


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int16", "uint16", "int32", "int64", "float16", "float32", "float64"]
)
@pytest.mark.parametrize("sample", [(), (3,), (2, 4, 1), (40, 40, 3)])
def test_arrays_come_back_in_their_own_dtype_and_shape(tmp_path: Path, dtype: str, sample: tuple[int, ...]) -> None:
    data = np.random.default_rng(0).integers(0, 2, (300, *sample)).astype(dtype)
    times = np.cumsum(np.random.default_rng(1).uniform(0.001, 0.1, 300)) - 5
    write_log(tmp_path / "log.h5", {"s": Recording("touch", 20, data, times)})
    log = NativeLog(tmp_path / "log.h5")
    stream = log.read("s", -np.inf, np.inf)
    assert stream.data.dtype == data.dtype
    np.testing.assert_array_equal(stream.data, data)
    np.testing.assert_array_equal(stream.times_s, times)
    assert log.sensors["s"].shape == sample
    assert log.sensors["s"].dtype == dtype


def test_long_arrays_are_stored_in_chunks_of_rows_or_frames(tmp_path: Path) -> None:
    signal_, frames = np.zeros((50_000, 9), np.float64), np.zeros((200, 64, 64, 3), np.uint8)
    recordings = {
        "signal": Recording("proprio", 1e3, signal_, np.arange(50_000) / 1e3),
        "frames": Recording("video", 20, frames, np.arange(200) / 20),
    }
    write_log(tmp_path / "log.h5", recordings)
    with h5py.File(tmp_path / "log.h5") as file:
        assert file["streams/frames/data"].chunks == (1, 64, 64, 3)
        assert 256 <= file["streams/signal/data"].chunks[0] <= 4096


def test_a_log_tells_what_it_holds(body: Path) -> None:
    log = open_log(body)
    assert isinstance(log, SensorLog)
    assert (log.name, log.path) == ("body", str(body))
    arm, eye, mic = (log.sensors[name] for name in ("arm", "camera", "mic"))
    assert (arm.modality, arm.rate_hz, arm.shape, arm.units, arm.channels) == (
        "proprio",
        100,
        (2,),
        "rad",
        ("left", "right"),
    )
    assert (arm.start_s, arm.stop_s, arm.count) == (0, pytest.approx(0.5), 50)
    assert (eye.shape, eye.dtype, eye.count) == ((64, 64, 3), "uint8", 20)
    assert (mic.shape, mic.start_s, mic.stop_s) == ((), pytest.approx(0.01), pytest.approx(1.01 + 1 / 8000))
    assert isinstance(log, NativeLog)
    assert log.source == "made by a test"
    assert log.attributes["start_unix"] == 1.7e9


def test_labels_come_back(body: Path) -> None:
    labels = open_log(body).labels
    force, material, touching = labels["force"], labels["material"], labels["touching"]
    assert (force.reduce, force.units, force.is_class) == ("max", "N", False)
    np.testing.assert_array_equal(force.data, np.arange(10.0))
    np.testing.assert_array_equal(force.times_s, np.arange(10) / 10)
    assert (int(material.data), material.times_s, material.is_class) == (2, None, True)
    assert material.classes == ("wood", "steel", "foam")
    assert touching.is_class
    assert touching.data.tolist() == [0] * 6 + [1] * 4


def test_media_frames_carry_their_index(body: Path) -> None:
    stream = open_log(body).read("camera", 0.25, 0.6)
    assert np.round(stream.data.mean(axis=(1, 2, 3)) / 4).tolist() == [5, 6, 7, 8, 9, 10, 11]
    np.testing.assert_array_equal(stream.times_s, np.arange(5, 12) / 20)


def test_the_same_log_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_log(tmp_path / folder / "log.h5", {"arm": vector(), "camera": camera()}, [Label("x", np.array(1.0))], "s")
    for name in ("log.h5", "log.camera.mp4"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_fingerprint_changes_with_the_files(body: Path) -> None:
    before = open_log(body).fingerprint()
    assert open_log(body).fingerprint() == before
    write_video(str(body.with_name("body.camera.mp4")), camera(21).data, 20)
    assert open_log(body).fingerprint() != before


def test_a_copy_has_the_fingerprint_of_the_original(body: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    for file in (body, body.with_name("body.camera.mp4")):
        shutil.copyfile(file, tmp_path / "copy" / file.name)
    assert open_log(tmp_path / "copy" / body.name).fingerprint() == open_log(body).fingerprint()


# Ranges and clocks

seconds = st.floats(-3, 3, allow_nan=False)


@settings(max_examples=200, deadline=None)
@given(steps=st.lists(st.floats(1e-6, 1), min_size=1, max_size=30), start=seconds, length=st.floats(0, 4))
def test_stamped_ranges_are_half_open(steps: list[float], start: float, length: float) -> None:
    times = np.cumsum(steps) - 1
    for begin, end in ((start, start + length), (times[0], times[-1])):
        first, last = StampedClock(times).span(begin, end)
        assert list(range(first, last)) == [i for i, t in enumerate(times) if begin <= t < end]


@settings(max_examples=200, deadline=None)
@given(
    anchors=st.lists(st.tuples(st.integers(1, 400), st.floats(1e-3, 2)), min_size=1, max_size=6),
    start=seconds,
    length=st.floats(0, 4),
)
def test_anchored_ranges_are_half_open(anchors: list[tuple[int, float]], start: float, length: float) -> None:
    clock = AnchoredClock(np.cumsum(np.array(anchors, float), axis=0) - [1, 1], 100.0, 300)
    times = clock.times(0, 300)
    for begin, end in ((start, start + length), (times[17], times[250])):
        first, last = clock.span(begin, end)
        assert list(range(first, last)) == [i for i, t in enumerate(times) if begin <= t < end]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 400), st.floats(1e-3, 2)), min_size=2, max_size=6))
def test_anchored_times_agree_with_numpy_interp_between_the_anchors(steps: list[tuple[int, float]]) -> None:
    anchors = np.cumsum(np.array(steps, float), axis=0)
    first, last = int(anchors[0, 0]), int(anchors[-1, 0]) + 1
    times = AnchoredClock(anchors, 100.0, last).times(first, last)
    np.testing.assert_allclose(times, np.interp(np.arange(first, last), anchors[:, 0], anchors[:, 1]), rtol=1e-12)


def test_anchored_times_go_on_with_the_end_slopes() -> None:
    clock = AnchoredClock(np.array([[10.0, 1.0], [20.0, 2.0], [30.0, 4.0]]), 10.0, 50)
    np.testing.assert_allclose(clock.times(0, 50)[[0, 10, 15, 25, 49]], [0.0, 1.0, 1.5, 3.0, 7.8])


def test_one_anchor_runs_at_the_nominal_rate() -> None:
    np.testing.assert_allclose(AnchoredClock(np.array([[2.0, 1.0]]), 4.0, 4).times(0, 4), [0.5, 0.75, 1.0, 1.25])


def test_a_range_without_samples_is_empty(body: Path) -> None:
    log = open_log(body)
    for start, stop in ((5, 6), (-2, -1), (0.101, 0.109), (0.3, 0.3), (0.4, 0.2)):
        assert len(log.read("arm", start, stop).data) == 0
    assert log.read("camera", 5, 6).data.shape == (0, 64, 64, 3)
    assert len(log.read("mic", 0.5, 0.2).data) == 0


@pytest.mark.parametrize("sensor", ["arm", "mic"])
def test_corrections_are_applied_when_reading(body: Path, sensor: str) -> None:
    before = open_log(body).read(sensor, -9, 9)
    POOL.close()
    with h5py.File(body, "a") as file:
        file.create_group(f"clock/{sensor}").attrs.update({"offset_s": 0.25, "drift_ppm": 40.0, "method": "by hand"})
    after = open_log(body).read(sensor, -9, 9)
    np.testing.assert_array_equal(before.data, after.data)
    assert after.times_s[0] - before.times_s[0] == pytest.approx(0.25)
    span, stretched = np.ptp(before.times_s), np.ptp(after.times_s)
    assert (stretched - span) / span == pytest.approx(40e-6, rel=1e-3)


# Open files and processes


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

    monkeypatch.setattr("multisense.logs.native_write._write_label", full)
    with pytest.raises(OSError, match="No space left"):
        write_log(tmp_path / "log.h5", {"arm": vector(), "camera": camera()}, [Label("x", np.array(1.0))])
    assert not (tmp_path / "log.h5").exists()
    with pytest.raises(LogError, match="no logs"):
        open_logs(tmp_path)


# Opening


def test_a_folder_is_opened_in_order_of_name(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        write_log(tmp_path / f"{name}.h5", {"arm": vector(), "camera": camera(4)})
    (tmp_path / "notes.txt").write_text("not a log")
    assert [log.name for log in open_logs(tmp_path)] == ["a", "b", "c"]
    with pytest.raises(LogError, match="found 3 logs; expected one"):
        open_log(tmp_path)


def test_a_log_is_recognised_by_its_contents(tmp_path: Path) -> None:
    write_log(tmp_path / "run.recording", {"arm": vector()})
    assert open_log(tmp_path / "run.recording").name == "run"
    assert [log.name for log in open_logs(tmp_path)] == ["run"]


def test_a_survey_names_the_bad_and_opens_the_good(tmp_path: Path) -> None:
    write_log(tmp_path / "good.h5", {"arm": vector()})
    (tmp_path / "bad.h5").write_text("not a log")
    logs, errors = survey_logs(tmp_path)
    assert [log.name for log in logs] == ["good"]
    assert list(errors) == ["bad"]
    assert "not HDF5" in str(errors["bad"])
    with pytest.raises(LogError, match=r"bad\.h5: found a file that is not HDF5"):
        open_logs(tmp_path)


def test_nothing_at_a_path_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="absent: found nothing; expected a native log, a folder of them or a LeRobot"):
        open_logs(tmp_path / "absent")
    with pytest.raises(LogError, match="found no logs"):
        open_logs(tmp_path)


# Bad input: each edit of a good log has its own error


def edit(body: Path, change: Callable[[h5py.File], None]) -> None:
    with h5py.File(body, "a") as file:
        change(file)


def replace_data(file: h5py.File, name: str, data: object) -> None:
    del file[name]
    file[name] = data


def times_with(index: int, value: float) -> np.ndarray:
    times = np.arange(50) / 100
    times[index] = value
    return times


BAD_EDITS: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "format": (
        lambda f: f.attrs.update({"format": "other"}),
        r"body\.h5: found attribute format='other'; expected 'multi",
    ),
    "no format": (lambda f: f.attrs.clear(), r"body\.h5: found attribute format=None"),
    "version": (lambda f: f.attrs.update({"version": 9}), r"body\.h5: found format version 9; expected 1\. Update"),
    "no streams": (lambda f: f.pop("streams"), r"/streams: found nothing; expected a group"),
    "no sensors": (
        lambda f: [f.pop(f"streams/{s}") for s in list(f["streams"])],
        r"found no sensor; expected at least",
    ),
    "backwards": (
        lambda f: replace_data(f, "streams/arm/times", times_with(7, 0.01)),
        r"body\.h5: /streams/arm/times: found times not increasing: 0\.06 at 6, then 0\.01; expected strictly",
    ),
    "twice": (
        lambda f: replace_data(f, "streams/arm/times", times_with(7, 0.06)),
        r"not increasing: 0\.06 at 6, then 0\.06",
    ),
    "nan": (lambda f: replace_data(f, "streams/arm/times", times_with(7, np.nan)), r"found times with nan at 7"),
    "length": (
        lambda f: replace_data(f, "streams/arm/times", np.arange(49) / 100),
        r"/streams/arm/times: found times of shape \(49,\) for 50 samples; expected one time per sample",
    ),
    "empty": (
        lambda f: [replace_data(f, f"streams/arm/{part}", np.zeros(0)) for part in ("times", "data")],
        r"/streams/arm: found no samples",
    ),
    "no times": (lambda f: f.pop("streams/arm/times"), r"/streams/arm: found neither times nor anchors"),
    "both": (lambda f: f.update({}) or f.create_dataset("streams/mic/times", data=[0.0]), r"found times and anchors"),
    "anchor shape": (lambda f: replace_data(f, "streams/mic/anchors", np.zeros(4)), r"/anchors: found shape \(4,\)"),
    "anchor order": (
        lambda f: replace_data(f, "streams/mic/anchors", [[0, 1.0], [5, 0.5]]),
        r"/streams/mic/anchors: found seconds not increasing",
    ),
    "no data": (lambda f: f.pop("streams/arm/data"), r"/streams/arm/data: found nothing; expected an array"),
    "rate": (lambda f: f["streams/arm"].attrs.update({"rate_hz": -1.0}), r"/streams/arm: found rate_hz=-1\.0"),
    "no rate": (lambda f: f["streams/arm"].attrs.pop("rate_hz"), r"/streams/arm: found rate_hz=None"),
    "correction": (
        lambda f: f.create_group("clock/arm").attrs.update({"offset_s": np.nan}),
        r"/clock/arm: found offset_s=nan",
    ),
    "label length": (
        lambda f: replace_data(f, "labels/force/data", np.zeros(3)),
        r"/labels/force/times: found times of shape \(10,\) for 3 samples",
    ),
    "label reduce": (lambda f: f["labels/force"].attrs.update({"reduce": "sum"}), r"/labels/force: found reduce='sum'"),
    "media absent": (
        lambda f: f["streams/camera"].attrs.update({"media": "gone.mp4"}),
        r"/streams/camera: found no media file 'gone\.mp4'; expected it in .*Copy the media files with the log",
    ),
    "media above": (
        lambda f: f["streams/camera"].attrs.update({"media": "../x.mp4"}),
        r"/streams/camera: found media '\.\./x\.mp4' outside the log's folder; expected a relative name",
    ),
    "media root": (lambda f: f["streams/camera"].attrs.update({"media": "/etc/passwd"}), r"outside the log's folder"),
    "media drive": (lambda f: f["streams/camera"].attrs.update({"media": "C:\\x.mp4"}), r"outside the log's folder"),
}


@pytest.mark.parametrize("name", BAD_EDITS)
def test_a_bad_log_is_refused_on_opening(body: Path, name: str) -> None:
    change, message = BAD_EDITS[name]
    edit(body, change)
    with pytest.raises(LogError, match=message) as caught:
        open_log(body)
    assert str(caught.value).startswith(str(body))
    assert list(survey_logs(body.parent)[1]) == ["body"]


def test_a_media_link_out_of_the_folder_is_refused(body: Path) -> None:
    inside = body.with_name("body.camera.mp4")
    outside = body.parent.parent / "elsewhere.mp4"
    inside.rename(outside)
    inside.symlink_to(outside)
    with pytest.raises(LogError, match="outside the log's folder"):
        open_log(body)


def test_arrays_kept_in_other_files_are_refused(body: Path) -> None:
    with h5py.File(body, "a") as file:
        del file["streams/arm/data"]
        external = [("other.raw", 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("streams/arm/data", (50, 2), "f8", external=external)
    with pytest.raises(LogError, match=r"/streams/arm/data: found .*; expected an array stored in this file"):
        open_log(body)


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"gone\.h5: found no such file; expected a native log"):
        NativeLog(tmp_path / "gone.h5")
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(LogError, match=r"text\.h5: found a file that is not HDF5"):
        open_log(tmp_path / "text.h5")


@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_a_truncated_hdf5_file(body: Path, share: float) -> None:
    whole = body.read_bytes()
    body.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(LogError, match=r"body\.h5: found a damaged HDF5 file .*It was cut short"):
        open_log(body)


def test_a_video_with_fewer_frames_than_times(body: Path) -> None:
    write_video(str(body.with_name("body.camera.mp4")), camera(12).data, 20)
    with pytest.raises(LogError, match=r"body\.h5: /streams/camera: found 12 frames in body\.camera\.mp4 for 20 times"):
        open_log(body).read("camera", 0, 0.1)


def test_a_video_of_another_size(body: Path) -> None:
    write_video(str(body.with_name("body.camera.mp4")), np.zeros((20, 32, 32, 3), np.uint8), 20)
    with pytest.raises(LogError, match=r"found frames of shape \(32, 32, 3\).*expected \(64, 64, 3\)"):
        open_log(body).read("camera", 0, 0.1)


def test_a_truncated_video(body: Path) -> None:
    video = body.with_name("body.camera.mp4")
    video.write_bytes(video.read_bytes()[:700])
    with pytest.raises(LogError, match=r"body\.camera\.mp4: found no readable video"):
        open_log(body).read("camera", 0, 0.1)


def test_media_deleted_after_opening(body: Path) -> None:
    log = open_log(body)
    body.with_name("body.camera.mp4").unlink()
    with pytest.raises(LogError, match=r"body\.camera\.mp4: found no readable file"):
        log.read("camera", 0, 1)


def test_an_unknown_sensor_is_named_with_the_known(body: Path) -> None:
    with pytest.raises(LogError, match=r"no sensor 'nose'; expected one of \['arm', 'camera', 'mic'\]"):
        open_log(body).read("nose", 0, 1)


# The writer refuses what could not be read back

TIMES = np.arange(50) / 100
BAD_RECORDINGS: dict[str, tuple[dict[str, Recording], str]] = {
    "none": ({}, "found no recordings"),
    "empty": ({"arm": vector(0)}, r"sensor 'arm': found float64 data of shape \(0, 2\)"),
    "text": ({"arm": vector(data=np.array(["a"] * 50))}, "found <U1 data"),
    "rate": ({"arm": vector(rate_hz=1.0) and replace(vector(), rate_hz=0.0)}, r"found rate_hz=0\.0"),
    "no clock": ({"arm": vector(times_s=None)}, "found neither times_s nor anchors"),
    "two clocks": ({"arm": vector(anchors=np.array([[0, 0.0]]))}, "found both times_s and anchors"),
    "length": ({"arm": vector(times_s=TIMES[:-1])}, r"times_s: found times of shape \(49,\) for 50 samples"),
    "order": ({"arm": vector(times_s=TIMES[::-1])}, r"times_s: found times not increasing: 0\.49 at 0, then 0\.48"),
    "inf": ({"arm": vector(times_s=times_with(3, np.inf))}, "found times with inf at 3"),
    "anchors": ({"arm": vector(times_s=None, anchors=np.zeros((2, 2)))}, "sample indices not increasing"),
    "channels": ({"arm": vector(channels=("one",))}, "found 1 channel names for a last axis of 2"),
    "name": ({"my/arm": vector()}, "found the name 'my/arm'"),
    "media dtype": ({"arm": vector(media="arm.mp4")}, r"found float64 of shape \(50, 2\); expected uint8 frames"),
    "media name": ({"eye": replace(camera(), media="../eye.mp4")}, r"media: found the name '\.\./eye\.mp4'"),
}


@pytest.mark.parametrize("name", BAD_RECORDINGS)
def test_the_writer_refuses(tmp_path: Path, name: str) -> None:
    recordings, message = BAD_RECORDINGS[name]
    with pytest.raises(LogError, match=message):
        write_log(tmp_path / "log.h5", recordings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (Label("x", np.array(["a"])), "found <U1 values; expected numbers"),
        (Label("x", np.zeros(3), np.zeros(3)), "label 'x': times_s: found times not increasing"),
        (Label("x", np.array([0, 2]), np.arange(2.0), classes=("a", "b")), "found classes 0 to 2 with 2 names"),
        (Label("a b/c", np.array(1.0)), "found the name 'a b/c'"),
    ],
)
def test_the_writer_refuses_labels(tmp_path: Path, label: Label, message: str) -> None:
    with pytest.raises(LogError, match=message):
        write_log(tmp_path / "log.h5", {"arm": vector()}, [label])


def test_the_writer_does_not_overwrite(body: Path) -> None:
    with pytest.raises(LogError, match=r"body\.h5: found an existing file; expected a new name"):
        write_log(body, {"arm": vector()})


def test_the_writer_keeps_its_own_attributes(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"found attributes \['version'\]"):
        write_log(tmp_path / "log.h5", {"arm": vector()}, attributes={"version": 2})
