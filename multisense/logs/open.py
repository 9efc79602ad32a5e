"""Opening what is at a path, whatever its format: recognised by what is in it, never by a name alone."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import h5py

from multisense.logs import hub
from multisense.logs.base import LogError, SensorLog, log_error
from multisense.logs.formats import droid, folder, hdf5, mapping, mcap, rlds, ros, ulog, vrs, xdf, zarr_buffer
from multisense.logs.formats.lerobot import LeRobotLog
from multisense.logs.formats.lerobot_meta import read_root
from multisense.logs.index import FolderIndex
from multisense.logs.native import NativeLog

SUFFIXES = (".h5", ".hdf5")
FORMATS = (mapping, droid, hdf5, ros, mcap, zarr_buffer, rlds, xdf, ulog, vrs)
"""Asked in this order, so that the more particular comes first: a bag's folder holds MCAP files as well."""


def open_log(path: str | Path) -> SensorLog:
    """The one log at `path`, of any format; see `open_logs`.

    Raises LogError when there is nothing readable, or more than one log.
    """
    candidates = _candidates(path)
    if len(candidates) > 1:
        raise log_error(str(path), f"{len(candidates)} logs", "one", "Use `open_logs`, or name one file.")
    return next(iter(candidates.values()))()


def open_logs(path: str | Path) -> list[SensorLog]:
    """All logs at `path`, sorted by name; raises the LogError of the first that cannot be opened.

    `path` is a native log or a folder of them, anything of a foreign format (a file, its folder, or a folder of such
    files), a plain folder of media and tables, or `hf://datasets/OWNER/NAME`.
    """
    return [open_one() for _, open_one in _indexed(path)]


def survey_logs(path: str | Path) -> tuple[list[SensorLog], dict[str, LogError]]:
    """The logs at `path` that open, and by name the errors of those that do not.

    Raises LogError only when `path` as a whole cannot be read.
    """
    logs: list[SensorLog] = []
    errors: dict[str, LogError] = {}
    for name, open_one in _indexed(path):
        try:
            logs.append(open_one())
        except LogError as error:
            errors[name] = error
    return logs, errors


def _indexed(path: str | Path) -> Iterator[tuple[str, Callable[[], SensorLog]]]:
    """What looks like a log, its name first; what was read of native ones is kept for the next time."""
    if not os.path.isdir(path):
        yield from _candidates(path).items()
        return
    index = FolderIndex(Path(path))
    known: dict[str, Callable[[], SensorLog]] = {
        Path(name).stem: partial(index.open, Path(path, name)) for name in index.names()
    }
    openers = known or _candidates(path, index.open)
    try:
        yield from openers.items()
    finally:
        index.save(len(openers))


def _candidates(
    given: str | Path, open_native: Callable[[Path], SensorLog] = NativeLog
) -> dict[str, Callable[[], SensorLog]]:
    """What looks like a log, by name, not opened yet."""
    path = hub.resolve(str(given)) if hub.recognises(str(given)) else Path(given)
    if not (os.path.isfile(path) or os.path.isdir(path)):  # a pipe or a device is neither
        raise log_error(str(path), "nothing", "a log or a folder of logs", "Check the path.")
    if (path / "meta" / "info.json").is_file() or (path / "meta" / "episodes.jsonl").is_file():
        return _episodes(path)
    for form in FORMATS:
        if form.recognises(path):
            return form.candidates(path)
    if path.is_file():
        return {path.stem: partial(open_native, path)}
    found = {name: opener for file in sorted(path.iterdir()) for name, opener in _inside(file, open_native)}
    if found:
        return found
    is_half = any(path.glob(".*.partial"))  # a write that was cut short: its media are of a log, not logs themselves
    if not is_half and folder.recognises(path):
        return folder.candidates(path)
    fix = "Simulate or record some, or name the folder that holds them."
    raise log_error(str(path), "no logs", "logs of a format that multisense reads", fix)


def _episodes(path: Path) -> dict[str, Callable[[], SensorLog]]:
    root = read_root(path)
    episodes = sorted(root.episodes, key=lambda episode: episode.index)
    return {f"episode_{episode.index:06d}": partial(LeRobotLog, root, episode) for episode in episodes}


def _inside(file: Path, open_native: Callable[[Path], SensorLog]) -> Iterator[tuple[str, Callable[[], SensorLog]]]:
    """The logs of one entry of a folder: a native file, or one of a format that is a single file or store."""
    if file.name[0] == ".":  # unfinished writes are hidden
        return
    if file.is_file() and (file.suffix in SUFFIXES or h5py.is_hdf5(file)):
        yield file.stem, partial(open_native, file)
        return
    for form in (zarr_buffer, xdf, ulog, vrs):
        if form.recognises(file):
            found = form.candidates(file)
            yield from found.items() if len(found) == 1 else ((f"{file.stem}-{name}", f) for name, f in found.items())
            return
