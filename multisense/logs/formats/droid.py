"""Raw DROID episodes, read in place: `trajectory.h5`, `recordings/MP4/<serial>.mp4` and `metadata_*.json` in a folder.

Sensors and their stamps (unix milliseconds in `observation/timestamp`, one clock for all, starting at the earliest):

    joint_positions, ...        observation/robot_state   midway between read_start and read_end
    action_joint_position, ...  action                    control_start, when the command was sent
    wrist_cam, ext1_cam, ...    frame k is of step k      estimated_capture: frame received less the camera's latency

Cameras are named by `metadata_*.json`, else by `observation/camera_type`. `success` (from either file) and
`movement_enabled` are labels. A stereo video holds the left view again, so it is read only where that one is missing.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from multisense.logs.base import LogError, SensorLog, log_error
from multisense.logs.clock import check_times
from multisense.logs.files import stays_inside
from multisense.logs.foreign import ForeignLog, Frames, Sensor, stamped
from multisense.logs.hdf5_file import Hdf5File, Stamps, find, gather, is_native, naming_damage, read_stamps
from multisense.logs.media import open_video
from multisense.logs.pool import POOL
from multisense.types import Label

FILE = "trajectory.h5"
STAMPS = "observation/timestamp"
MILLISECOND = Fraction(1, 1000)
SUFFIXES = ("_estimated_capture", "_frame_received")
"""Of a camera's stamps, the better first."""
GROUPS = {"observation/robot_state": "", "action": "action_"}
"""Where vectors are, and how the names of their sensors begin."""
UNITS = {
    "joint_positions": "rad",
    "joint_velocities": "rad/s",
    "joint_torques_computed": "N m",
    "motor_torques_measured": "N m",
}
DEPTH = 4
"""Folders between a data set's root and an episode: lab, outcome, day, time."""
LOOK_AT = 64
"""Folders looked into at most to tell whether there are episodes below."""
MOST_FRAMES_OFF = 2
"""A video so much longer or shorter than its stamps was cut at its end; beyond, frame k may not be of step k."""
LARGEST_JSON = 1 << 20


def recognises(path: Path) -> bool:
    """Whether `path` is a DROID `trajectory.h5`, its folder, or a folder of such folders."""
    folders = [path.parent] if path.is_file() and path.name == FILE else islice(_folders(path), LOOK_AT)
    return any(_is_episode(folder) for folder in folders)


def candidates(path: Path) -> dict[str, Callable[[], SensorLog]]:
    """Openers by the episode's folder: its name where it is `path`, else the path to it with "-" for slashes."""
    path = path.parent if path.is_file() else path
    episodes = [folder for folder in _folders(path) if (folder / FILE).is_file()]
    names = {"-".join(folder.relative_to(path).parts) or folder.resolve().name: folder for folder in episodes}
    return {name: partial(droid_log, str(folder), name) for name, folder in sorted(names.items())}


def droid_log(folder: str, name: str) -> ForeignLog:
    """The episode in a folder. Raises LogError where `trajectory.h5` is damaged or there is no usable sensor.

    A sensor whose stamps are missing or do not increase, or whose video is missing or of another length, is skipped.
    """
    path = str(Path(folder) / FILE)
    file, (metadata, metadata_files) = POOL.get(Hdf5File, path), _metadata(Path(folder))
    cameras = _camera_names(file, metadata)
    stamps, skipped = gather({
        "observation/robot_state": partial(_state_stamps, path),
        "action": partial(read_stamps, path, f"{STAMPS}/control/control_start", MILLISECOND),
        **{camera: partial(_camera_stamps, file, serial) for serial, camera in cameras.items()},
    })  # fmt: skip
    origin = min((values.earliest for values in stamps.values()), default=Fraction(0))
    clocks = {key: values.seconds(origin) for key, values in stamps.items()}
    makers: dict[str, Callable[[], Sensor]] = {
        f"{prefix}{key}": partial(_vector, path, f"{prefix}{key}", f"{group}/{key}", clocks[group])
        for group, prefix in GROUPS.items() if group in clocks for key in file.children(group)
    }  # fmt: skip
    makers |= {
        camera: partial(_camera, folder, camera, serial, clocks[camera])
        for serial, camera in cameras.items() if camera in clocks
    }  # fmt: skip
    sensors, unusable = gather(makers)
    videos = {camera: sensor.samples.path for camera, sensor in sensors.items() if isinstance(sensor.samples, Frames)}
    labels, no_labels = _labels(file, metadata, clocks.get("action"))
    return ForeignLog(
        name, folder, sensors.values(), labels=labels, files=(path, *videos.values(), *metadata_files),
        skipped=skipped | unusable | no_labels | _not_read(file),
        notes={key: _note(file, sensor, clocks.get(key), cameras) for key, sensor in sensors.items()},
    )  # fmt: skip


def _folders(path: Path) -> Iterator[Path]:
    """`path` and the folders below, in order, no deeper than episodes lie."""
    for folder, inner, files in os.walk(path):
        depth = len(Path(folder).relative_to(path).parts)
        inner[:] = [] if depth == DEPTH or FILE in files else sorted(name for name in inner if name[0] != ".")
        yield Path(folder)


def _is_episode(folder: Path) -> bool:
    """Also where `trajectory.h5` is damaged, if there are recordings beside it: opening will say so."""
    path = folder / FILE
    try:
        if not path.is_file() or not h5py.is_hdf5(path):
            return path.is_file() and (folder / "recordings").is_dir()
        with closing(Hdf5File(str(path))) as file:  # not from the pool, so that it does not stay open
            groups = [file.get(name) for name in ("observation/robot_state", STAMPS)]
            return not is_native(file) and all(isinstance(group, h5py.Group) for group in groups)
    except LogError:
        return (folder / "recordings").is_dir()


def _metadata(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """What `metadata_*.json` says, and its path; nothing where there is none."""
    for file in sorted(folder.glob("metadata_*.json")):
        try:
            text = file.read_text() if file.is_file() and file.stat().st_size <= LARGEST_JSON else ""
            metadata = json.loads(text)
        except (OSError, ValueError, RecursionError) as error:
            raise log_error(str(file), f"no readable JSON ({error})", "metadata", "Copy it again.") from error
        if isinstance(metadata, dict):
            return metadata, [str(file)]
    return {}, []


def _camera_names(file: Hdf5File, metadata: Mapping[str, Any]) -> dict[str, str]:
    """Sensor names by serial number, of all cameras that have stamps."""
    keys = file.children(f"{STAMPS}/cameras")
    serials = sorted({key.removesuffix(suffix) for key in keys for suffix in SUFFIXES if key.endswith(suffix)})
    roles = {str(metadata.get(f"{role}_serial")): role for role in ("wrist_cam", "ext1_cam", "ext2_cam")}
    roles = {serial: role for serial, role in roles.items() if serial in serials}
    return {serial: roles.get(serial, f"cam_{serial}") for serial in serials} if roles else _by_type(file, serials)


def _by_type(file: Hdf5File, serials: list[str]) -> dict[str, str]:
    """DROID's own rule: type 0 is the camera at the wrist, the others are external, in the order of their numbers."""
    types = {}
    for serial in serials:
        with naming_damage(file.path):
            typed = file.get(f"observation/camera_type/{serial}") is not None
            types[serial] = int(file.array(f"observation/camera_type/{serial}")[0]) if typed else None
    outside = [serial for serial, kind in types.items() if kind]
    wrist = [serial for serial, kind in types.items() if kind == 0]
    names = {serial: f"ext{i}_cam" for i, serial in enumerate(outside, 1)} | dict.fromkeys(wrist[:1], "wrist_cam")
    return {serial: names.get(serial, f"cam_{serial}") for serial in serials}


def _state_stamps(path: str) -> Stamps:
    """The middle of the time it took to ask the robot: half the sum, so stamps in halves of milliseconds."""
    start, end = (read_stamps(path, f"{STAMPS}/robot_state/read_{part}", MILLISECOND) for part in ("start", "end"))
    if len(start.values) != len(end.values):
        where, found = f"{path}: /{STAMPS}/robot_state", f"{len(start.values)} read_start, {len(end.values)} read_end"
        raise log_error(where, found, "as many of each", "Copy it again.")
    return Stamps(start.values + end.values, MILLISECOND / 2)


def _camera_stamps(file: Hdf5File, serial: str) -> Stamps:
    return read_stamps(file.path, _stamp_key(file, serial), MILLISECOND)


def _stamp_key(file: Hdf5File, serial: str) -> str:
    keys = [f"{STAMPS}/cameras/{serial}{suffix}" for suffix in SUFFIXES]
    return next(key for key in keys if file.get(key) is not None)


def _vector(path: str, name: str, key: str, times_s: np.ndarray) -> Sensor:
    found, where = find(path, key), f"{path}: /{key}"
    if found.count != len(times_s):
        raise log_error(where, f"{found.count} rows", f"{len(times_s)}, as many as stamps", "Copy it again.")
    return stamped(
        name, times_s, found.samples, found.shape, found.dtype, where,
        modality=found.modality, units=UNITS.get(name, ""),
    )  # fmt: skip


def _camera(folder: str, name: str, serial: str, times_s: np.ndarray) -> Sensor:
    """The frames that have a stamp, of the stamps that have a frame."""
    path = _video_path(Path(folder), serial)
    video = POOL.get(open_video, path)
    count = len(video.times_s)
    if abs(count - len(times_s)) > MOST_FRAMES_OFF:
        expected = f"about {len(times_s)}, as many as stamps"
        raise log_error(path, f"{count} frames", expected, "It was cut short, or is of another episode.")
    return stamped(name, times_s[:count], Frames(path), video.shape, "uint8", path, modality="video")


def _video_path(folder: Path, serial: str) -> str:
    """The left view, or both side by side where that is all there is."""
    for name in (f"{serial}.mp4", f"{serial}-stereo.mp4"):
        file = folder / "recordings" / "MP4" / name
        if stays_inside(name) and file.is_file() and file.resolve().is_relative_to(folder.resolve()):
            return str(file)
    where = str(folder / "recordings" / "MP4")
    raise log_error(where, f"no {serial}.mp4", "a video of each camera that has stamps", "Download or convert it.")


def _labels(
    file: Hdf5File, metadata: Mapping[str, Any], times_s: np.ndarray | None
) -> tuple[list[Label], dict[str, str]]:
    """The labels there are, and by name why others are not."""
    success = file.attribute("/", "success")
    success = metadata.get("success") if success is None else success
    labels = [Label("success", np.array(int(success)), None, "unique", ("no", "yes"))] if success in (0, 1) else []
    key = "observation/controller_info/movement_enabled"
    if times_s is None or file.get(key) is None:
        return labels, {}
    enabled, reasons = gather({"movement_enabled": partial(_enabled, file, key, times_s)})
    return [*labels, *enabled.values()], reasons


def _enabled(file: Hdf5File, key: str, times_s: np.ndarray) -> Label:
    with naming_damage(file.path):
        values = np.asarray(file.array(key)[: len(times_s)]) != 0
    check_times(times_s, len(values), f"{file.path}: /{key}")
    return Label("movement_enabled", values.astype(np.uint8), times_s, "max", ("no", "yes"))


def _not_read(file: Hdf5File) -> dict[str, str]:
    reason = "no sensor: calibration, or the recorder's own state"
    inside = "videos inside trajectory.h5 are not read: take them out as recordings/MP4/<serial>.mp4"
    read = ("robot_state", "timestamp")
    keys = [key for key in file.children("observation") if key not in read]
    return {f"observation/{key}": inside if key == "videos" else reason for key in keys}


def _note(file: Hdf5File, sensor: Sensor, times_s: np.ndarray | None, cameras: Mapping[str, str]) -> str:
    """Which stamps a sensor has, and what its video lacks."""
    if not isinstance(sensor.samples, Frames):
        is_action = sensor.info.name.startswith(GROUPS["action"])
        return f"stamps are {'control_start' if is_action else 'midway between read_start and read_end'}"
    serial = next(serial for serial, camera in cameras.items() if camera == sensor.info.name)
    note = f"stamps are {_stamp_key(file, serial).rpartition('/')[2]}"
    if sensor.samples.path.endswith("-stereo.mp4"):
        note += "; both views side by side"
    frames, stamps = len(POOL.get(open_video, sensor.samples.path).times_s), 0 if times_s is None else len(times_s)
    return (
        note if frames == stamps else f"{note}; {frames} frames for {stamps} stamps: the end of the longer is left out"
    )
