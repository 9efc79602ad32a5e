"""Opening what is at a path, whatever its format: recognised by what is in it, never by a name alone."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import h5py

from multisense.logs import hub
from multisense.logs.base import LogError, SensorLog, log_error
from multisense.logs.formats import droid, folder, hdf5, mapping, mcap, rlds, ros, ulog, vrs, xdf, zarr_buffer
from multisense.logs.formats.lerobot import LeRobotLog
from multisense.logs.formats.lerobot_meta import read_root
from multisense.logs.hdf5_file import is_native_file
from multisense.logs.index import FolderIndex
from multisense.logs.native import NativeLog

SUFFIXES = (".h5", ".hdf5")
WHOLE = (mapping, droid, zarr_buffer, rlds)
"""Formats of which a folder is one data set. Asked first, and in this order: the more particular comes before."""
MANY = (hdf5, ros, mcap)
"""Formats of which a folder may hold files beside others."""
SINGLE = (zarr_buffer, xdf, ulog, vrs)
"""Formats of which a folder holds logs one by one."""

DEEPEST = 5
"""Levels of folders below the one that was named: recordings/monday/left_arm/run_7.h5."""

Opener = Callable[[], SensorLog]
OpenNative = Callable[[Path], SensorLog]


def open_log(path: str | Path) -> SensorLog:
    """The one log at `path`, of any format; see `open_logs`.

    Raises LogError when there is nothing readable, or more than one log.
    """
    candidates = _candidates(path)
    if len(candidates) > 1:
        raise log_error(str(path), f"{len(candidates)} logs", "one", "Use `open_logs`, or name one file.")
    return _opened(*next(iter(candidates.items())))


def open_logs(path: str | Path) -> list[SensorLog]:
    """All logs at `path`, sorted by name; raises the LogError of the first that cannot be opened.

    `path` is a native log or a folder of them, anything of a foreign format (a file, its folder, or a folder of such
    files), a plain folder of media and tables, or `hf://datasets/OWNER/NAME`; where a folder has no logs itself, those of
    the folders in it. Logs are named by their files, without the suffix where that tells them apart, and by the folders
    between `path` and them: `monday-run_7`.
    """
    return [_opened(name, opener) for name, opener in _indexed(path)]


def survey_logs(path: str | Path) -> tuple[list[SensorLog], dict[str, LogError]]:
    """The logs at `path` that open, and by name the errors of those that do not.

    Raises LogError only when `path` as a whole cannot be read.
    """
    logs: list[SensorLog] = []
    errors: dict[str, LogError] = {}
    for name, opener in _indexed(path):
        try:
            logs.append(_opened(name, opener))
        except LogError as error:
            errors[name] = error
    return logs, errors


def _indexed(path: str | Path) -> Iterator[tuple[str, Opener]]:
    """What looks like a log, by name; what is read of native ones in a folder is kept for the next time."""
    if not os.path.isdir(path):
        yield from _candidates(path).items()
        return
    index = FolderIndex(Path(path))
    try:
        yield from _candidates(path, index.open).items()
    finally:
        index.save()


def _opened(name: str, opener: Opener) -> SensorLog:
    log = opener()
    log.name = name
    return log


def _candidates(given: str | Path, open_native: OpenNative = NativeLog) -> dict[str, Opener]:
    """What looks like a log, by name, not opened yet."""
    path = hub.resolve(str(given)) if hub.recognises(str(given)) else Path(given)
    if not (os.path.isfile(path) or os.path.isdir(path)):  # a pipe or a device is neither
        raise log_error(str(path), "nothing", "a log or a folder of logs", "Check the path.")
    if found := _of_file(path) if path.is_file() else _of_tree(path, open_native, DEEPEST):
        return found
    fix = "Simulate or record some, or name the folder that holds them."
    raise log_error(str(path), "no logs", "logs of a format that multisense reads", fix)


def _of_tree(path: Path, open_native: OpenNative, depth: int) -> dict[str, Opener]:
    """The logs in a folder or, where it has none, those of the folders in it, named by both."""
    if (path / "meta" / "info.json").is_file() or (path / "meta" / "episodes.jsonl").is_file():
        return _episodes(path)
    found = _of_folder(path, open_native)
    is_half = any(path.glob(".*.partial"))  # a write that was cut short: its media are of a log, not logs themselves
    if found or is_half:
        return found
    if folder.recognises(path):
        return folder.candidates(path)
    for inside in folder.folders_in(path) if depth else []:
        for name, opener in _of_tree(inside, open_native, depth - 1).items():
            name = name if name == inside.name else f"{inside.name}-{name}"
            if name in found:
                raise log_error(str(inside), f"a second log `{name}`", "one of that name", "Rename its file or folder.")
            found[name] = opener
    return found


def _of_file(path: Path) -> dict[str, Opener]:
    for form in (*WHOLE, *MANY, *SINGLE):
        if form.recognises(path):
            return form.candidates(path)
    return {path.stem: partial(NativeLog, path)}


def _of_folder(path: Path, open_native: OpenNative) -> dict[str, Opener]:
    """The logs in a folder, each under the shortest name that no other has."""
    whole = next((form for form in WHOLE if form.recognises(path)), None)
    if whole:
        found, others = _named(whole, path), ()
    else:
        forms = [form for form in MANY if form.recognises(path)]
        found, others = [entry for form in forms for entry in _named(form, path)], SINGLE
    # Beside files of other formats not every HDF5 file is meant to be a native log.
    is_ours = is_native_file if found else _may_be_native
    found += [entry for file in sorted(path.iterdir()) for entry in _inside(file, open_native, is_ours, others)]
    counts = Counter(name for name, _, _ in found)
    return dict(sorted((name if counts[name] == 1 else longer, opener) for name, longer, opener in found))


def _named(form: ModuleType, path: Path) -> list[tuple[str, str, Opener]]:
    """(name, the longer name where another log has it, opener) of all that a format finds at a path."""
    kind = form.__name__.rpartition(".")[2]
    return [(name, f"{name}-{kind}", opener) for name, opener in form.candidates(path).items()]


def _inside(
    file: Path, open_native: OpenNative, is_ours: Callable[[Path], bool], forms: Iterable[ModuleType]
) -> Iterator[tuple[str, str, Opener]]:
    """The same of one entry of a folder: a native file, or one of a format that is a single file or store."""
    if file.name[0] == ".":  # unfinished writes are hidden
        return
    if is_ours(file):
        yield file.stem, file.name, partial(open_native, file)
        return
    for form in forms:
        if form.recognises(file):
            found = form.candidates(file)
            for name, opener in found.items():
                part = "" if len(found) == 1 else f"-{name}"
                yield f"{file.stem}{part}", f"{file.name}{part}", opener
            return


def _may_be_native(file: Path) -> bool:
    return file.is_file() and (file.suffix in SUFFIXES or h5py.is_hdf5(file))


def _episodes(path: Path) -> dict[str, Opener]:
    root = read_root(path)
    episodes = sorted(root.episodes, key=lambda episode: episode.index)
    return {f"episode_{episode.index:06d}": partial(LeRobotLog, root, episode) for episode in episodes}
