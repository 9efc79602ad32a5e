"""Bad input of the native log: every damage has its own named error."""

import io
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import camera, vector
from PIL import Image

from multisense.logs import LogError, NativeLog, Recording, open_log, survey_logs, write_log
from multisense.logs.files import fingerprint_files, stays_inside
from multisense.logs.foreign import Images, Rows
from multisense.logs.media import write_video
from multisense.types import Label


def test_a_log_whose_writer_died_in_the_middle_opens(body: Path) -> None:
    """As `align --apply` leaves it: open for writing, without readers, and never closed."""
    script = "import h5py, os, sys; f = h5py.File(sys.argv[1], 'r+'); f.require_group('clock/arm'); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", script, body], check=False).returncode == 9
    with pytest.raises(OSError, match="already open for write"):
        h5py.File(body, "r", locking=False)
    log = open_log(body)
    np.testing.assert_array_equal(log.read("arm", -1, 9).data, vector().data)
    assert log.sensors["mic"].count == 8000


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
    "absurd offset": (
        lambda f: f.create_group("clock/arm").attrs.update({"offset_s": 1e300}),
        r"/clock/arm: found offset_s=1e\+300",
    ),
    "absurd time": (
        lambda f: replace_data(f, "streams/arm/times", times_with(49, 1e12)),
        r"/streams/arm/times: found times from 0 to 1e\+12 s; expected years at most",
    ),
    "absurd anchor": (
        lambda f: replace_data(f, "streams/mic/anchors", [[0, 0.0], [1e-300, 1.0]]),
        r"/streams/mic/anchors: found samples 1e\+300 s apart after anchor 0",
    ),
    "absurd rate": (
        lambda f: f["streams/mic"].attrs.update({"rate_hz": 1e300}),
        r"/streams/mic: found rate_hz=1e\+300; expected 3\.2e-09 to 1e\+09",
    ),
    "another epoch": (
        lambda f: replace_data(f, "streams/arm/times", 1.7e9 + np.arange(50) / 100),
        r"found (camera|mic) from .* s on and arm until 1\.7e\+09 s; expected stamps of one clock",
    ),
    "text": (
        lambda f: replace_data(f, "streams/arm/data", np.array([b"x"] * 50)),
        r"/streams/arm/data: found \|S1 values; expected numbers",
    ),
    "never written": (
        lambda f: [f.pop("streams/arm/data"), f.create_dataset("streams/arm/data", (2**50, 2), "f8", chunks=(64, 2))],
        r"/streams/arm/data: found float64 of shape \(1125899906842624, 2\) .* from 0 stored bytes",
    ),
    "away": (
        lambda f: f.update({"streams/away": h5py.ExternalLink("other.h5", "/streams/arm")}),
        r"/streams: found 'away', a link to other\.h5:/streams/arm; expected what lies in this file itself",
    ),
    "loop": (
        lambda f: [f.pop("streams/arm"), f.update({"streams/arm": h5py.SoftLink("/streams/arm")})],
        r"/streams: found 'arm', a link to /streams/arm",
    ),
    "media name": (lambda f: f["streams/camera"].attrs.update({"media": "n" * 5000}), r"found media 'nnn.*outside"),
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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_are_no_logs_and_nobody_waits_for_them(body: Path) -> None:
    """Opening one for reading would wait for ever."""
    for name in ("a.bag", "b.xdf", "c.mcap", "d.zarr.zip", "e.h5"):
        os.mkfifo(body.parent / name)
        with pytest.raises(LogError, match="found nothing; expected a log"):
            survey_logs(body.parent / name)
    assert [log.name for log in survey_logs(body.parent)[0]] == ["body"]


@pytest.mark.parametrize("wraps", [False, True])
def test_a_heap_of_strings_that_never_ends_is_an_error(body: Path, wraps: bool) -> None:
    """HDF5 itself would read it for ever (HDFGroup/hdf5#1707), so it is read in a process that can be stopped."""
    data = bytearray(body.read_bytes())
    heap = data.index(b"GCOL")
    (length,) = struct.unpack_from("<Q", data, heap + 24)  # of the first string, which is "multisense-log"
    assert data[heap + 32 : heap + 32 + length] == b"multisense-log"
    struct.pack_into("<HHLQ", data, heap + 16, int(wraps), 0, 0, 2**64 - 16 if wraps else 0)
    body.write_bytes(data)
    read = f"from multisense.logs import survey_logs; print(survey_logs({str(body.parent)!r})[1]['body'])"
    said = subprocess.run([sys.executable, "-c", read], capture_output=True, text=True, timeout=60)
    assert f"body.h5: found a damaged HDF5 file (a heap of strings that does not end, at byte {heap})" in said.stdout


def test_names_that_no_encoding_has_are_hashed_too(tmp_path: Path) -> None:
    (tmp_path / "\udcff.txt").write_text("x")
    assert fingerprint_files([str(tmp_path / "\udcff.txt")], "\udcff")


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "c:x", "..\\x", "a\0b", "n" * 300, "n/" * 600, ""])
def test_names_that_leave_their_folder_or_cannot_be(name: str) -> None:
    assert not stays_inside(name)
    assert stays_inside("a/b.mp4")


class Claimed:
    """Images of which there is one in truth."""

    def read(self, first: int, last: int) -> np.ndarray:
        out = io.BytesIO()
        Image.new("RGB", (8, 6)).save(out, "PNG")
        return np.array([out.getvalue()] * (last - first), object)


def test_memory_for_images_waits_for_the_first_of_them() -> None:
    with pytest.raises(LogError, match=r"x, image 5: found shape \(6, 8, 3\); expected \(1000000, 1000000, 3\)"):
        Images(Claimed(), (10**6, 10**6, 3), "x").read(5, 9)
    assert Images(Claimed(), (6, 8, 3), "x").read(5, 9).shape == (4, 6, 8, 3)


def test_an_image_of_absurd_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multisense.logs.foreign.MOST_PIXELS", 40)
    with pytest.raises(LogError, match="8 x 6 pixels"):
        Images(Claimed(), (6, 8, 3), "x").read(0, 1)


class Broken(dict[str, object]):
    """What an opener gives for a file whose rows cannot be read."""

    def __getitem__(self, key: str) -> object:
        return {"rows": h5py.Empty("f8")}[key]

    def close(self) -> None:
        self.clear()


def test_rows_that_cannot_be_read_are_named(body: Path) -> None:
    with pytest.raises(LogError, match=r"body\.h5: rows: found unreadable rows"):
        Rows(lambda path: Broken(), str(body), "rows").read(0, 2)
