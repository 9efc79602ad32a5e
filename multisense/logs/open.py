"""Opening what is at a path: a native log, a folder of them, or a LeRobot root, recognised by what is in it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py

from multisense.logs.base import LogError, SensorLog, log_error
from multisense.logs.lerobot import LeRobotLog
from multisense.logs.lerobot_meta import read_root
from multisense.logs.native import NativeLog

SUFFIXES = (".h5", ".hdf5")


def open_log(path: str | Path) -> SensorLog:
    """The one log at `path`: a native file, or a folder or LeRobot root that holds a single log.

    Raises LogError when there is nothing readable, or more than one log.
    """
    candidates = _candidates(Path(path))
    if len(candidates) > 1:
        raise log_error(str(path), f"{len(candidates)} logs", "one", "Use `open_logs`, or name one file.")
    return next(iter(candidates.values()))()


def open_logs(path: str | Path) -> list[SensorLog]:
    """All logs at `path`, sorted by name; raises the LogError of the first that cannot be opened."""
    return [open_one() for open_one in _candidates(Path(path)).values()]


def survey_logs(path: str | Path) -> tuple[list[SensorLog], dict[str, LogError]]:
    """The logs at `path` that open, and by name the errors of those that do not.

    Raises LogError only when `path` as a whole cannot be read.
    """
    logs: list[SensorLog] = []
    errors: dict[str, LogError] = {}
    for name, open_one in _candidates(Path(path)).items():
        try:
            logs.append(open_one())
        except LogError as error:
            errors[name] = error
    return logs, errors


def _candidates(path: Path) -> dict[str, Callable[[], SensorLog]]:
    """What looks like a log, by name, not opened yet."""
    if path.is_file():
        return {path.stem: partial(NativeLog, path)}
    if not path.is_dir():
        raise log_error(str(path), "nothing", "a native log, a folder of them or a LeRobot root", "Check the path.")
    if (path / "meta").is_dir():
        root = read_root(path)
        episodes = sorted(root.episodes, key=lambda episode: episode.index)
        return {f"episode_{episode.index:06d}": partial(LeRobotLog, root, episode) for episode in episodes}
    files = sorted(file for file in path.iterdir() if _is_log_file(file))
    if not files:
        fix = "Simulate or record some, or name the folder that holds them."
        raise log_error(str(path), "no logs", "native logs (.h5), or the meta/ of a LeRobot root", fix)
    return {file.stem: partial(NativeLog, file) for file in files}


def _is_log_file(file: Path) -> bool:
    """Hidden files are unfinished writes; a file named like a log is one, or a mistake to be reported."""
    return file.is_file() and file.name[0] != "." and (file.suffix in SUFFIXES or h5py.is_hdf5(file))
