"""One small valid log of every format, as the tests write them: `FORMATS[name](folder)`."""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import test_logs_droid
import test_logs_folder
import test_logs_hdf5
import test_logs_lerobot
import test_logs_mapping
import test_logs_mcap
import test_logs_rlds
import test_logs_ros
import test_logs_ulog
import test_logs_xdf
import test_logs_zarr
from conftest import camera, microphone, vector

from multisense.logs import LogWriter, write_log
from multisense.logs.media import write_video
from multisense.types import Label


def native(folder: Path) -> None:
    labels = [
        Label("force", np.arange(10.0), np.arange(10) / 10, "max"),
        Label("kind", np.array(1), classes=("a", "b")),
    ]
    recordings = {"arm": vector(channels=("left", "right")), "camera": camera(), "mic": microphone()}
    write_log(folder / "body.h5", recordings, labels, "fuzz")


def unfinished(folder: Path) -> None:
    """What a recorder leaves that is killed after a flush."""
    child = os.fork()
    if not child:
        log = LogWriter(folder / "run.h5", flush_s=60)
        log.add_sensor("arm", "proprio", 100, (2,), "float64")
        log.add_sensor("camera", "video", 20, (64, 64, 3), "uint8", media="camera.mp4")
        log.append("arm", vector().data, vector().times_s)
        log.append("camera", camera(8).data, camera(8).times_s)
        log.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def sounding_lerobot(folder: Path) -> None:
    test_logs_lerobot.write_v2(folder)
    test_logs_lerobot.add_sound(folder, "v2.1")


def pictured_lerobot(folder: Path) -> None:
    """Pictures in the tables and no video, so that damage meets them."""
    test_logs_lerobot.write_v2(folder)
    shutil.rmtree(folder / "videos")
    cameras = test_logs_lerobot.CAMERAS
    test_logs_lerobot.edit_info(folder, lambda info: [info["features"].pop(camera) for camera in cameras])


def aloha(folder: Path) -> None:
    test_logs_hdf5.aloha(folder / "episode_0.hdf5")
    test_logs_hdf5.aloha(folder / "episode_1.hdf5", compress=True)


def mapping(folder: Path) -> None:
    test_logs_mapping.session(folder / "session_0.h5")
    test_logs_mapping.mapping(folder)


def ros(folder: Path, kind: str) -> None:
    make = test_logs_ros.Maker(kind == "bag")
    test_logs_ros.write_bag(folder / "robot", kind, make, test_logs_ros.scene(make))


def rlds(folder: Path) -> None:
    data = [test_logs_rlds.example(e).SerializeToString() for e in range(3)]
    test_logs_rlds.write(folder, {test_logs_rlds.SHARDS[0]: data[:2], test_logs_rlds.SHARDS[1]: data[2:]})


def plain(folder: Path) -> None:
    times = np.arange(40) / 20
    write_video(str(folder / "cam.mp4"), test_logs_folder.frames(), 20.0)
    np.savetxt(folder / "cam.times.csv", times[:20] + 0.01)
    test_logs_folder.write_wav(folder / "mic.wav", test_logs_folder.tone(8000))
    test_logs_folder.write_sound(folder / "room.flac", "flac", test_logs_folder.tone(9600))
    rows = [f"{t:.3f},{i},{-i},left" for i, t in enumerate(times)]
    (folder / "arm.csv").write_text("\n".join(["time,force [N],torque [N m],side", *rows]))
    np.save(folder / "pad.npy", np.arange(40 * 4 * 4, dtype=np.float32).reshape(40, 4, 4))
    np.savetxt(folder / "pad.times.txt", times)
    test_logs_lerobot.write_table(folder / "imu.parquet", {"time": times, "x": times * 2, "y": times * 3})


FORMATS: dict[str, Callable[[Path], object]] = {
    "native": native,
    "unfinished": unfinished,
    "lerobot2": sounding_lerobot,
    "lerobot-images": pictured_lerobot,
    "lerobot3": test_logs_lerobot.write_v3,
    "robomimic": lambda folder: test_logs_hdf5.robomimic(folder / "lift.hdf5"),
    "aloha": aloha,
    "droid": lambda folder: test_logs_droid.episode(folder / "lab"),
    "mapping": mapping,
    "ros1": lambda folder: ros(folder, "bag"),
    "ros2-db3": lambda folder: ros(folder, "sqlite3"),
    "ros2-mcap": lambda folder: ros(folder, "mcap"),
    "mcap": lambda folder: test_logs_mcap.write(folder / "robot.mcap", chunk_size=4000),
    "zarr": lambda folder: test_logs_zarr.write(folder / "umi.zarr", test_logs_zarr.UMI),
    "zarr-zip": lambda folder: test_logs_zarr.write(folder / "umi.zarr.zip", test_logs_zarr.UMI),
    "xdf": lambda folder: test_logs_xdf.written(folder, test_logs_xdf.session()),
    "ulog": test_logs_ulog.flight,
    "rlds": rlds,
    "folder": plain,
}
