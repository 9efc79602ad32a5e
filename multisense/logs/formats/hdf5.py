"""robomimic and ALOHA / ACT, the two HDF5 layouts of imitation learning, read in place.

robomimic   one log per demo of a file: data/demo_0/{actions, states, rewards, dones, obs/<key>}. Every array but
            rewards and dones is a sensor; these two are labels. The rate is `control_freq` of `env_args`, or 20 Hz.
ALOHA       one log per file: action, observations/{qpos, qvel, effort, images/<camera>}, at 50 Hz (ACT's DT of .02 s).
            Images are frames, or JPEG bytes in rows padded with zeros (`compress`).

Neither format has time stamps: sample i is at i / rate, and `ForeignLog.notes` says whose rate that is. Arrays that are
no sensor, or have not one row per step, are in `ForeignLog.skipped` with the reason.
"""

import json
from collections.abc import Callable, Iterable
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from multisense.logs.base import LogError, SensorLog, log_error
from multisense.logs.clock import StampedClock
from multisense.logs.foreign import ForeignLog, Sensor, on_clock
from multisense.logs.hdf5_file import Hdf5File, find, gather, hdf5_files, is_native, naming_damage
from multisense.logs.pool import POOL
from multisense.types import Label

ROBOMIMIC_HZ = 20.0
ALOHA_HZ = 50.0
LOOK_AT = 16
"""Files of a folder opened at most to tell what it holds."""
NO_SENSOR = {
    "next_obs": "the observations of the step after",
    "action_dict": "the parts of actions",
    "compress_len": "bookkeeping",
}


def recognises(path: Path) -> bool:
    """Whether `path` is a file of one of the two layouts, or a folder of such files."""
    files = [path] if path.is_file() else hdf5_files(path) if path.is_dir() else []
    return any(_layout(file) in ("robomimic", "aloha") for file in islice(files, LOOK_AT))


def candidates(path: Path) -> dict[str, Callable[[], SensorLog]]:
    """Openers by log name: `<file>-<demo>` for robomimic, `<file>` for ALOHA. Native logs beside them are left out.

    A file is named by its stem, or in full where another has that stem. One of neither layout, such as one cut short, has
    an opener that raises LogError.
    """
    found: dict[str, Callable[[], SensorLog]] = {}
    files = [path] if path.is_file() else hdf5_files(path)
    stems = [file.stem for file in files]
    for file in files:
        layout, name = _layout(file), file.stem if stems.count(file.stem) == 1 else file.name
        if layout == "robomimic":
            demos = _demos(POOL.get(Hdf5File, str(file)))
            found |= {f"{name}-{demo}": partial(robomimic_log, str(file), demo) for demo in demos}
        elif layout != "native":
            found[name] = partial(aloha_log, str(file))
    return dict(sorted(found.items()))


def robomimic_log(path: str, demo: str) -> ForeignLog:
    """One demo of a robomimic file. Raises LogError where it is damaged, or says another length than it has."""
    file, top = POOL.get(Hdf5File, path), f"data/{demo}"
    count = len(file.array(f"{top}/actions"))
    said = file.attribute(top, "num_samples")
    if said is not None and said != count:
        found = f"num_samples={said} and {count} actions"
        raise log_error(f"{path}: /{top}", found, "the same number", "The demo is cut short: write it again.")
    rate_hz, note = _control_rate(file.attribute("data", "env_args"))
    obs, inner = file.children(f"{top}/obs"), file.children(top)
    labels, no_labels = gather({
        name: partial(_label, file, f"{top}/{name}", count, rate_hz) for name in ("rewards", "dones") if name in inner
    })  # fmt: skip
    arrays = [(name, f"{top}/obs/{name}") for name in obs]
    arrays += [(name, f"{top}/{name}") for name in inner if name not in ("obs", *NO_SENSOR, *labels, *no_labels)]
    sensors, skipped = _steps(path, arrays, count, rate_hz)
    skipped |= no_labels | {name: reason for name, reason in NO_SENSOR.items() if name in inner}
    return ForeignLog(
        f"{Path(path).stem}-{demo}", path, sensors, labels=labels.values(), skipped=skipped,
        notes={sensor.info.name: f"no time stamps in robomimic files; {note}" for sensor in sensors},
    )  # fmt: skip


def aloha_log(path: str) -> ForeignLog:
    """One ALOHA / ACT episode. Raises LogError where the file is damaged or of another layout."""
    file = POOL.get(Hdf5File, path)
    if _layout(Path(path)) != "aloha":
        found = f"{sorted(file.children('/'))}"
        fix = "Is this another kind of file? Describe it in a mapping (multisense.yaml) to read it."
        raise log_error(path, found, "action and observations (ALOHA), or data/demo_* (robomimic)", fix)
    top, observed, cameras = (file.children(name) for name in ("/", "observations", "observations/images"))
    arrays = [(name, f"observations/images/{name}") for name in cameras]
    arrays += [(name, f"observations/{name}") for name in observed if name != "images"]
    arrays += [(name, name) for name in top if name not in ("observations", *NO_SENSOR)]
    sensors, skipped = _steps(path, arrays, len(file.array("action")), ALOHA_HZ)
    skipped |= {name: reason for name, reason in NO_SENSOR.items() if name in top}
    note, sim = "no time stamps in ALOHA files; ACT's 50 Hz (DT .02) assumed", bool(file.attribute("/", "sim"))
    notes = {sensor.info.name: note for sensor in sensors}
    for name, camera in cameras.items():
        if name in notes and not sim and isinstance(camera, h5py.Dataset) and camera.ndim == 4:
            notes[name] += "; colours as stored, and a real robot's recorder often stores blue first"
    return ForeignLog(Path(path).stem, path, sensors, skipped=skipped, notes=notes)


def _layout(path: Path) -> str:
    """One of "robomimic", "aloha" and "native"; "" for anything else, also what cannot be opened."""
    try:
        if not h5py.is_hdf5(path):
            return ""
        with closing(Hdf5File(str(path))) as file:  # not from the pool, so that it does not stay open
            if is_native(file):
                return "native"
            if isinstance(file.get("action"), h5py.Dataset) and _is_observed(file):
                return "aloha"
            return "robomimic" if _demos(file, 1) else ""
    except LogError:
        return ""


def _is_observed(file: Hdf5File) -> bool:
    return any(file.get(f"observations/{name}") is not None for name in ("qpos", "images"))


def _demos(file: Hdf5File, at_most: int | None = None) -> list[str]:
    """Names of the groups of /data that hold actions."""
    data = file.get("data")
    with naming_damage(file.path):
        names = map(str, data) if isinstance(data, h5py.Group) else iter(())
        return list(islice((name for name in names if file.get(f"data/{name}/actions") is not None), at_most))


def _control_rate(env_args: Any) -> tuple[float, str]:
    """Steps per second, and where that number is from."""
    try:
        args = json.loads(env_args)
        rate_hz = args.get("env_kwargs", {}).get("control_freq", args.get("control_freq"))
    except (TypeError, ValueError, AttributeError, RecursionError):
        rate_hz = None
    if isinstance(rate_hz, (int, float)) and 0 < rate_hz < 1e6:
        return float(rate_hz), f"{rate_hz:g} Hz is control_freq of env_args"
    return ROBOMIMIC_HZ, f"no control_freq in env_args either: the usual {ROBOMIMIC_HZ:g} Hz assumed"


def _steps(
    path: str, arrays: Iterable[tuple[str, str]], count: int, rate_hz: float
) -> tuple[list[Sensor], dict[str, str]]:
    """The sensors of (name, key in the file), one sample per step; of two of one name the later has its whole key."""
    keys: dict[str, str] = {}
    for name, key in arrays:
        keys[name if name not in keys else key.replace("/", "_")] = key
    clock = StampedClock(np.arange(count) / rate_hz)
    sensors, skipped = gather({name: partial(_sensor, path, name, key, clock, rate_hz) for name, key in keys.items()})
    return list(sensors.values()), skipped


def _sensor(path: str, name: str, key: str, clock: StampedClock, rate_hz: float) -> Sensor:
    found, where = find(path, key), f"{path}: /{key}"
    if found.count != clock.count:
        raise log_error(where, f"{found.count} rows", f"{clock.count}, as many as actions", "Leave this sensor out.")
    if "/images/" in key and len(found.shape) == 1:
        expected = "frames (N, H, W, 3), or JPEG or PNG bytes"
        raise log_error(where, f"{found.dtype} rows of shape {found.shape}", expected, "Copy the file again.")
    return on_clock(
        name, clock, found.samples, found.shape, found.dtype, modality=found.modality, rate_hz=rate_hz
    )  # fmt: skip


def _label(file: Hdf5File, key: str, count: int, rate_hz: float) -> Label:
    """Rewards are quantities, dones classes."""
    name, array = key.rpartition("/")[2], file.array(key)
    if array.shape != (count,) or array.dtype.kind not in "biuf":
        found = f"{array.dtype} of shape {array.shape}"
        raise log_error(f"{file.path}: /{key}", found, f"one number for each of {count} steps", "Leave it out.")
    with naming_damage(file.path):
        values, times = np.asarray(array[()]), np.arange(count) / rate_hz
    if name == "rewards":
        return Label(name, values.astype(np.float64), times, "mean")
    if not np.isin(values, (0, 1)).all():
        raise log_error(f"{file.path}: /{key}", f"values up to {values.max()}", "0 or 1", "Leave it out.")
    return Label(name, values.astype(np.uint8), times, "max", ("going on", "done"))
