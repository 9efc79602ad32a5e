"""What a recorder and `write_log` refuse, because nothing could read it afterwards, and what they leave when they fail."""

from pathlib import Path

import numpy as np
import pytest
from conftest import camera, vector
from numpy.typing import ArrayLike

from multisense.logs import LogError, NativeLog, open_log, write_log
from multisense.logs.fragments import GrowingVideo
from multisense.logs.recorder import LogWriter

UNIX = 1.7e9


def two(path: Path, kind: str = "proprio", shape: tuple[int, ...] = (2,), dtype: str = "float32") -> LogWriter:
    """A recorder of the sensors `left` and `right`."""
    log = LogWriter(path)
    for name in ("left", "right"):
        log.add_sensor(name, kind, 100, shape, dtype)
    return log


def test_stamps_of_another_clock_are_refused_before_they_spoil_the_log(tmp_path: Path) -> None:
    with two(tmp_path / "log.h5") as log:
        log.append("left", [1.0, 2.0], UNIX)
        with pytest.raises(LogError, match=r"'right'.*one clock"):
            log.append("right", np.zeros((3, 2), np.float32), 5000 + np.arange(3))
        log.append("right", [1.0, 2.0], UNIX + 1)
    assert set(open_log(tmp_path / "log.h5").sensors) == {"left", "right"}


def test_a_stamp_of_zero_before_unix_time_is_not_followed(tmp_path: Path) -> None:
    with two(tmp_path / "log.h5") as log:
        log.append("left", [1.0, 2.0], 0.0)
        for name in ("left", "right"):
            with pytest.raises(LogError, match="one clock"):
                log.append(name, [1.0, 2.0], UNIX)
    assert open_log(tmp_path / "log.h5").sensors["left"].count == 1


def test_arrays_of_two_clocks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="one clock"):
        write_log(tmp_path / "log.h5", {"a": vector(), "b": vector(times_s=UNIX + np.arange(50) / 100)})
    assert not (tmp_path / "log.h5").exists()


def test_blocks_of_sound_that_come_in_a_burst_are_refused_where_no_clock_could_be(tmp_path: Path) -> None:
    block = np.zeros(512, np.int16)
    with two(tmp_path / "log.h5", "audio", (), "int16") as log:
        log.append("left", block, UNIX)
        with pytest.raises(LogError, match="steps that a clock can have"):
            log.append("left", block, UNIX + 1e-4)
        log.append("left", block, UNIX + 60)  # after a gap
        with pytest.raises(LogError, match="not increasing"):
            log.append("left", block, UNIX + 60 + 1e-3)  # before the second sample of the block before
        log.append("left", block, UNIX + 70)
    assert open_log(tmp_path / "log.h5").sensors["left"].count == 3 * 512


def test_two_sensors_cannot_share_a_video(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"'right'.*camera\.mp4"):
        write_log(tmp_path / "log.h5", {"left": camera(), "right": camera()})
    log = LogWriter(tmp_path / "log.h5")
    log.add_sensor("left", "video", 20, (64, 64, 3), "uint8", media="camera.mp4")
    with pytest.raises(LogError, match=r"'right'.*camera\.mp4"):
        log.add_sensor("right", "video", 20, (64, 64, 3), "uint8", media="camera.mp4")


def test_a_video_is_not_the_log_itself(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="the log itself"):
        LogWriter(tmp_path / "log.h5").add_sensor("eye", "video", 20, (64, 64, 3), "uint8", media="h5")


def test_one_video_that_fails_does_not_cost_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish = GrowingVideo.finish

    def fails(video: GrowingVideo) -> None:
        if "left" in video.path.name:
            raise OSError("no space left on device")
        finish(video)

    monkeypatch.setattr(GrowingVideo, "finish", fails)
    log = LogWriter(tmp_path / "log.h5")
    for name in ("left", "right"):
        log.add_sensor(name, "video", 20, (64, 64, 3), "uint8", media=f"{name}.mp4")
    for name in ("left", "right"):
        log.append(name, camera().data, np.arange(20) / 20)
    with pytest.raises(LogError, match="no space left"):
        log.close()
    left = NativeLog(tmp_path / "log.h5")
    assert left.attributes["recording"]  # as after a kill: all that was flushed is there
    assert b"moof" in (tmp_path / "log.left.mp4").read_bytes()
    assert b"moof" not in (tmp_path / "log.right.mp4").read_bytes()
    for name in ("left", "right"):
        assert len(left.read(name, 0, 9).data) == 20


@pytest.mark.parametrize("links", [True, False])
def test_a_log_that_appeared_in_the_meantime_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def impossible(*_: object) -> None:
        raise PermissionError("a file system without links")

    if not links:
        monkeypatch.setattr("os.link", impossible)
    first, second = two(tmp_path / "log.h5"), two(tmp_path / "log.h5")
    first.append("left", np.zeros((100, 2), np.float32), np.arange(100))
    first.flush()
    with pytest.raises(LogError, match="existing file"):
        second.append("left", [1.0, 2.0], 0.0)
    first.close()
    assert open_log(tmp_path / "log.h5").sensors["left"].count == 100
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ([1.9, -2.7], "float64"),
        ([70_000, 1], "int16"),
        ([[1, 2], [3]], "ragged|inhomogeneous"),
        (["a", "b"], "int16"),
        ([2**70, 1], "int16"),
        (np.zeros(2, np.float32), "float32"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(tmp_path: Path, data: ArrayLike, complaint: str) -> None:
    with two(tmp_path / "log.h5", dtype="int16") as log:
        with pytest.raises(LogError, match=complaint):
            log.append("left", data, 0.0)
        log.append("left", [-3, 32_767], 0.0)
    assert open_log(tmp_path / "log.h5").read("left", 0, 1).data.tolist() == [[-3, 32_767]]


def test_times_that_are_no_numbers_and_sound_that_is_no_block_are_refused(tmp_path: Path) -> None:
    with two(tmp_path / "log.h5", "audio", (), "int16") as log:
        with pytest.raises(LogError, match="times"):
            log.append("left", [1, 2], "now")
        with pytest.raises(LogError, match="block"):
            log.append("left", 1, 0.0)
        log.append("left", [1, 2], 0.0)
