"""A raw DROID episode, written after its TrajectoryWriter: a row per step, stamps in unix milliseconds, an MP4 a camera."""

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import assert_gives_single_samples

from multisense.logs import LogError
from multisense.logs.foreign import ForeignLog
from multisense.logs.formats.droid import candidates, droid_log, recognises
from multisense.logs.media import write_video
from multisense.logs.pool import POOL

STEPS, START_MS = 8, 1_688_747_000_123
STEP_MS = np.array([0, 66, 133, 200, 281, 333, 400, 466])
WRIST, LEFT, RIGHT = "18026681", "22008760", "24400334"


def frames(count: int = STEPS) -> np.ndarray:
    return np.zeros((count, 64, 96, 3), np.uint8) + (20 + 25 * np.arange(count, dtype=np.uint8))[:, None, None, None]


def episode(folder: Path, *, metadata: bool = True) -> Path:
    (folder / "recordings" / "MP4").mkdir(parents=True)
    step = START_MS + STEP_MS
    with h5py.File(folder / "trajectory.h5", "w") as file:
        state, stamps = file.create_group("observation/robot_state"), file.create_group("observation/timestamp")
        state["joint_positions"] = np.arange(STEPS * 7.0).reshape(STEPS, 7)
        state["gripper_position"] = np.linspace(0, 1, STEPS)
        file["action/joint_position"] = np.ones((STEPS, 7))
        file["action/robot_state/joint_positions"] = np.zeros((STEPS, 7))
        stamps["robot_state/read_start"], stamps["robot_state/read_end"] = step, step + 3
        stamps["control/control_start"] = step + 60
        for i, serial in enumerate((WRIST, LEFT, RIGHT)):
            stamps[f"cameras/{serial}_frame_received"] = step + 10 * (i + 1)
            stamps[f"cameras/{serial}_estimated_capture"] = step + 10 * (i + 1) - 41
            file[f"observation/camera_type/{serial}"] = np.full(STEPS, int(serial != WRIST))
            write_video(str(folder / "recordings" / "MP4" / f"{serial}.mp4"), frames(), 60)
        file["observation/controller_info/movement_enabled"] = np.arange(STEPS) > 2
        file.attrs["success"] = True
    if metadata:
        names = {"wrist_cam_serial": WRIST, "ext1_cam_serial": RIGHT, "ext2_cam_serial": LEFT, "success": True}
        (folder / "metadata_LAB+1234+2023-07-07.json").write_text(json.dumps(names))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return episode(tmp_path / "LAB" / "success" / "2023-07-07" / "Fri_Jul__7_09:42:23_2023")


def opened(folder: Path) -> ForeignLog:
    return droid_log(str(folder), folder.name)


def test_every_sensor_has_its_own_stamps_on_one_origin(folder: Path) -> None:
    log = opened(folder)
    assert set(log.sensors) == {
        "joint_positions", "gripper_position", "action_joint_position", "wrist_cam", "ext1_cam", "ext2_cam",
    }  # fmt: skip
    wrist, joints = log.read("wrist_cam", 0, 9), log.read("joint_positions", 0, 9)
    np.testing.assert_allclose(wrist.times_s, STEP_MS / 1000, atol=1e-12)
    np.testing.assert_allclose(joints.times_s, STEP_MS / 1000 + 0.031 + 0.0015, atol=1e-12)
    np.testing.assert_allclose(log.read("action_joint_position", 0, 9).times_s, STEP_MS / 1000 + 0.091, atol=1e-12)
    np.testing.assert_allclose(log.read("ext1_cam", 0, 9).times_s, STEP_MS / 1000 + 0.020, atol=1e-12)
    np.testing.assert_array_equal(joints.data, np.arange(STEPS * 7.0).reshape(STEPS, 7))
    np.testing.assert_allclose(wrist.data.mean((1, 2, 3)), frames()[:, 0, 0, 0], atol=3)
    assert log.sensors["gripper_position"].shape == (1,)
    assert log.sensors["joint_positions"].units == "rad"
    assert log.sensors["wrist_cam"].rate_hz == pytest.approx(1000 / 67)
    assert log.notes["wrist_cam"] == f"stamps are {WRIST}_estimated_capture"
    assert log.labels["success"].data == 1
    assert log.labels["movement_enabled"].data.tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert set(log.skipped) == {"action_robot_state", "observation/camera_type", "observation/controller_info"}


def test_single_samples_are_those_of_a_range(folder: Path) -> None:
    assert_gives_single_samples(opened(folder))


def test_episodes_are_found_from_the_root_down(folder: Path, tmp_path: Path) -> None:
    assert recognises(tmp_path)
    assert recognises(folder)
    assert recognises(folder / "trajectory.h5")
    assert not recognises(folder / "recordings")
    assert list(candidates(tmp_path)) == ["LAB-success-2023-07-07-Fri_Jul__7_09:42:23_2023"]
    assert list(candidates(folder)) == ["Fri_Jul__7_09:42:23_2023"] == list(candidates(folder / "trajectory.h5"))
    assert candidates(folder)[folder.name]().read("wrist_cam", 0, 0.1).data.shape == (2, 64, 96, 3)


def test_without_metadata_the_camera_types_name_the_cameras(tmp_path: Path) -> None:
    log = opened(episode(tmp_path / "episode", metadata=False))
    assert f"{LEFT}_estimated" in log.notes["ext1_cam"]
    assert f"{WRIST}_estimated" in log.notes["wrist_cam"]


def test_a_stereo_video_stands_in_for_a_missing_left_view(folder: Path) -> None:
    videos = folder / "recordings" / "MP4"
    (videos / f"{WRIST}.mp4").rename(videos / f"{WRIST}-stereo.mp4")
    assert opened(folder).notes["wrist_cam"].endswith("both views side by side")


# Bad input


def test_a_missing_video_is_skipped(folder: Path) -> None:
    (folder / "recordings" / "MP4" / f"{WRIST}.mp4").unlink()
    log = opened(folder)
    assert "wrist_cam" not in log.sensors
    assert f"found no {WRIST}.mp4; expected a video of each camera" in log.skipped["wrist_cam"]


@pytest.mark.parametrize("count", [7, 9])
def test_a_video_a_frame_off_is_cut_and_says_so(folder: Path, count: int) -> None:
    write_video(str(folder / "recordings" / "MP4" / f"{WRIST}.mp4"), frames(count), 60)
    log = opened(folder)
    assert log.sensors["wrist_cam"].count == min(count, STEPS)
    assert f"{count} frames for 8 stamps" in log.notes["wrist_cam"]
    assert len(log.read("wrist_cam", 0, 9).data) == min(count, STEPS)


def test_a_video_of_another_length_is_skipped(folder: Path) -> None:
    write_video(str(folder / "recordings" / "MP4" / f"{WRIST}.mp4"), frames(5), 60)
    assert "found 5 frames; expected about 8" in opened(folder).skipped["wrist_cam"]


def test_stamps_that_run_backwards_or_do_not_fit_skip_their_sensors(folder: Path) -> None:
    with h5py.File(folder / "trajectory.h5", "a") as file:
        file[f"observation/timestamp/cameras/{WRIST}_estimated_capture"][4] = START_MS
        del file["observation/robot_state/joint_positions"]
        file["observation/robot_state/joint_positions"] = np.zeros((STEPS - 1, 7))
        del file["observation/timestamp/control"]
    log = opened(folder)
    assert set(log.sensors) == {"gripper_position", "ext1_cam", "ext2_cam"}
    assert "not increasing" in log.skipped["wrist_cam"]
    assert "found 7 rows; expected 8" in log.skipped["joint_positions"]
    assert "control_start: found nothing" in log.skipped["action"]


def test_damaged_files_are_errors(folder: Path) -> None:
    path = folder / "trajectory.h5"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3])
    assert recognises(folder)
    with pytest.raises(LogError, match=r"trajectory\.h5: found a damaged HDF5 file"):
        opened(folder)
    path.write_bytes(data)
    next(folder.glob("metadata_*.json")).write_text("{")
    with pytest.raises(LogError, match=r"metadata_.*json: found no readable JSON"):
        opened(folder)


def test_links_and_damaged_videos(folder: Path) -> None:
    (folder / "recordings" / "MP4" / f"{LEFT}.mp4").write_bytes(b"no video")
    assert "no readable video" in opened(folder).skipped["ext2_cam"]
    POOL.close()  # to edit the file in the process that has read it
    with h5py.File(folder / "trajectory.h5", "a") as file:
        file["observation/robot_state/away"] = h5py.ExternalLink("other.h5", "/x")
    with pytest.raises(LogError, match=r"'away', a link to other\.h5:/x"):
        opened(folder)


def test_a_pipe_in_the_place_of_metadata_is_not_waited_for(folder: Path) -> None:
    (metadata,) = folder.glob("metadata_*.json")
    metadata.unlink()
    os.mkfifo(metadata)
    with pytest.raises(LogError, match="no readable JSON"):
        opened(folder)
