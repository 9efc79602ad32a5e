"""The native log: what is written is what is read, in half-open ranges."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import assert_gives_single_samples, camera, vector
from hypothesis import given, settings
from hypothesis import strategies as st

from multisense.logs import LogError, NativeLog, Recording, SensorLog, open_log, open_logs, survey_logs, write_log
from multisense.logs.clock import AnchoredClock, StampedClock
from multisense.logs.files import fingerprint_files
from multisense.logs.media import write_video
from multisense.logs.pool import POOL
from multisense.types import Label

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


def test_single_samples_are_those_of_a_range(body: Path) -> None:
    assert_gives_single_samples(NativeLog(body))


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
    with pytest.raises(LogError, match="absent: found nothing; expected a log or a folder of logs"):
        open_logs(tmp_path / "absent")
    with pytest.raises(LogError, match="found no logs"):
        open_logs(tmp_path)


@pytest.mark.parametrize("megabytes", [10, 300])
def test_fingerprint_changes_with_the_middle_of_a_large_file(tmp_path: Path, megabytes: int) -> None:
    file = tmp_path / "large"
    with file.open("wb") as out:
        out.truncate(megabytes << 20)
    before = fingerprint_files([str(file)])
    with file.open("r+b") as out:
        out.seek(megabytes << 19)
        out.write(bytes([7]) * (8 << 20))
    assert fingerprint_files([str(file)]) != before
