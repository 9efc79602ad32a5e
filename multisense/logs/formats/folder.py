"""A plain folder as a log: videos, sounds and tables of numbers, each with time stamps of its own.

    cam.mp4         sensor `cam`, its sound track `cam_sound`; stamps from `cam.times.csv` or else from the container
    mic.wav         sensor `mic`; begins at 0, or where `mic.times.csv` says: one time, or (sample, time) anchors
    arm.csv         sensor `arm`: numeric columns, stamped by a column `t`, `time`, `timestamp`, `time_ns`, `time [ms]` ...
    pad.npy         sensor `pad`: (N, *sample), stamped by `pad.times.npy`, `pad_timestamps.csv`, `pad.times.txt` ...

A folder of such folders is a data set. Stamps that count from 1970 begin at 0 with the first of them; sensors that count
from the start of their own file are laid beside them, and `notes` says so.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from multisense.logs.base import LogError, SensorLog, log_error
from multisense.logs.clock import AnchoredClock, Clock, StampedClock, check_anchors, check_times
from multisense.logs.foreign import ForeignLog, Frames, Rows, Samples, Sensor, measured_rate, on_clock
from multisense.logs.formats.stamps import Stamps, as_stamps
from multisense.logs.formats.tables import Table, open_table
from multisense.logs.media import open_video
from multisense.logs.pool import POOL
from multisense.logs.sound import find_sound, open_sound

VIDEOS = (".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v")
SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a")
TABLES = (".csv", ".npy", ".parquet")
SIDES = (".times", "_times", ".timestamps", "_timestamps")
SIDE_SUFFIXES = (".csv", ".npy", ".txt", ".parquet")
SAMPLE_COLUMNS = ("sample", "index")


def recognises(path: Path) -> bool:
    """Whether a folder has a file of a kind read here."""
    return bool(_own_files(path))


def candidates(path: Path) -> dict[str, Callable[[], SensorLog]]:
    """The one log that a folder is."""
    return {path.resolve().name: partial(open_folder, path)}


def open_folder(path: Path) -> ForeignLog:
    """The log of one folder.

    `skipped` names every file that is no sensor, with the reason. Raises LogError when no sensor is left, or no two of
    several share any time.
    """
    files = sorted(file for file in path.iterdir() if file.name[0] != ".")
    media = [file for file in files if file.suffix.lower() in VIDEOS + SOUNDS + TABLES and file.is_file()]
    sides = {side: file for file in media for side in files if _is_side(side, file) and side.is_file()}
    known = [file for file in media if file not in sides]
    others = [file for file in files if file not in sides and file not in known]
    skipped = {
        f.name: "a folder, no file of this log" if f.is_dir() else "not a kind of file read here" for f in others
    }
    found: list[_Found] = []
    for file in sorted(known, key=_rank):
        own = [side for side, of in sides.items() if of == file]
        try:
            if len(own) > 1:
                fix = "Keep one."
                raise log_error(str(file), f"stamps in {[side.name for side in own]}", "one file of stamps", fix)
            new = _read(file, own[0] if own else None, skipped)
        except LogError as error:
            skipped[file.name] = error.reason
        except OSError as error:
            skipped[file.name] = str(error)
        else:
            found += [replace(one, name=_free(one, {other.name for other in found})) for one in new]
    found = _together(found, path, skipped)
    sensors, notes = _on_one_clock(found)
    used = [str(file) for file in (*known, *sides)]
    return ForeignLog(path.resolve().name, str(path), sensors, files=used, skipped=skipped, notes=notes)


def _own_files(path: Path) -> list[Path]:
    kinds = VIDEOS + SOUNDS + TABLES
    return [f for f in _listed(path) if f.suffix.lower() in kinds and f.name[0] != "." and f.is_file()]


def folders_in(path: Path) -> list[Path]:
    """The folders in a folder that are not hidden and may be looked into, sorted."""
    found = (folder for folder in _listed(path) if folder.is_dir() and folder.name[0] != ".")
    return sorted(folder for folder in found if os.access(folder, os.R_OK | os.X_OK))


def _listed(path: Path) -> list[Path]:
    try:
        return list(path.iterdir()) if path.is_dir() else []
    except OSError:  # a folder that may not be looked into holds nothing that could be read
        return []


def _is_side(side: Path, file: Path) -> bool:
    """Whether `side` holds the stamps of `file`."""
    return side.suffix.lower() in SIDE_SUFFIXES and side.stem in {file.stem + end for end in SIDES}


def _rank(file: Path) -> tuple[int, str]:
    """Media first: they keep their names where a table has the same."""
    kind = file.suffix.lower()
    return (0 if kind in VIDEOS else 1 if kind in SOUNDS else 2), file.name


@dataclass(frozen=True, eq=False)
class _Found:
    """A sensor before its clock is laid beside the others'. Its stamps may be anchors: then `index` says of which samples."""

    file: Path
    name: str
    samples: Samples
    shape: tuple[int, ...]
    dtype: str
    count: int
    stamps: Stamps
    note: str
    modality: str = ""
    rate_hz: float = 0.0
    index: np.ndarray | None = None
    units: str = ""
    channels: tuple[str, ...] = ()

    def clock(self, origin_ns: int) -> Clock:
        seconds = self.seconds(origin_ns)
        if self.index is None:
            return StampedClock(seconds)
        return AnchoredClock(np.stack([self.index, seconds], 1), self.rate_hz, self.count)

    def ends(self, origin_ns: int) -> tuple[float, float]:
        """Times of the first and the last sample, once unix stamps count from `origin_ns`."""
        clock = self.clock(origin_ns)
        return float(clock.times(0, 1)[0]), float(clock.times(self.count - 1, self.count)[0])

    def seconds(self, origin_ns: int) -> np.ndarray:
        return self.stamps.seconds(origin_ns if self.stamps.is_unix else 0)


def _free(found: _Found, taken: set[str]) -> str:
    name = found.name
    if name in taken:
        name = f"{name}_{found.file.suffix[1:]}"
    while name in taken:
        name += "_"
    return name


def _read(file: Path, side: Path | None, skipped: dict[str, str]) -> list[_Found]:
    kind = file.suffix.lower()
    if kind in VIDEOS:
        return _video(file, side, skipped)
    return [_sound(file, side) if kind in SOUNDS else _table(file, side, skipped)]


def _video(file: Path, side: Path | None, skipped: dict[str, str]) -> list[_Found]:
    video = POOL.get(open_video, str(file))
    own = video.times_s
    stamps, note = (_side_stamps(side), f"stamps of {side.name}") if side else (Stamps(own, 1), "container stamps")
    found = _Found(file, file.stem, Frames(str(file)), video.shape, "uint8", len(own), stamps, note, "video")
    _check(found)
    try:
        sound = find_sound(str(file))
    except LogError as error:
        skipped[f"{file.name} (sound)"] = error.reason
        return [found]
    if sound is None:
        return [found]
    anchors, note = sound.anchors, "container stamps"
    if side:
        # Arrival stamps jitter and sound does not: the line through all of them moves it.
        origin = stamps.first_ns if stamps.is_unix else 0
        slope, offset = np.polyfit(own, stamps.seconds(origin), 1) if len(own) > 1 else (1.0, -own[0])
        anchors = np.stack([anchors[:, 0], slope * anchors[:, 1] + offset + origin / 1e9], 1)
        note = f"container stamps, moved with the pictures' stamps of {side.name}"
    track = _Found(file, f"{file.stem}_sound", sound, sound.shape, "float32", sound.count, Stamps(anchors[:, 1], 1),
                   note, "audio", sound.rate_hz, anchors[:, 0], "full scale")  # fmt: skip
    _check(track)
    return [found, track]


def _sound(file: Path, side: Path | None) -> _Found:
    sound = open_sound(str(file))
    found = _Found(file, file.stem, sound, sound.shape, "float32", sound.count, Stamps(sound.anchors[:, 1], 1),
                   "no stamps: begins where its file says, at its nominal rate", "audio", sound.rate_hz,
                   sound.anchors[:, 0], "full scale")  # fmt: skip
    if side:
        table = open_table(str(side))
        stamps, note = _side_stamps(side), f"stamps of {side.name}"
        columns = [name for name in table.channels if name.lower() in SAMPLE_COLUMNS]
        if columns and table.stamps:
            index = np.asarray(table.values[0 : table.count][:, table.channels.index(columns[0])], np.float64)
            found = replace(found, index=index, stamps=stamps, note=f"anchors of {side.name}")
        elif len(stamps.raw) == 1:
            found = replace(found, index=np.zeros(1), stamps=stamps, note=f"begins at the time in {side.name}")
        else:
            found = replace(found, index=None, stamps=stamps, note=note)
    _check(found)
    return found


def _table(file: Path, side: Path | None, skipped: dict[str, str]) -> _Found:
    table: Table = POOL.get(open_table, str(file))
    skipped |= {f"{file.name}: {name}": reason for name, reason in table.dropped.items()}
    stamps = _side_stamps(side) if side else table.stamps
    if stamps is None:
        fix = f"Add a column `time`, or the stamps as {file.stem}.times.csv."
        raise log_error(str(file), "no time stamps", "a column of them, or a file beside it", fix)
    if 0 in table.shape:
        raise log_error(str(file), "no numbers besides the stamps", "a column of values", "Leave it out.")
    is_video = table.dtype == "uint8" and len(table.shape) == 3 and table.shape[2] == 3
    found = _Found(file, file.stem, Rows(open_table, str(file), "values"), table.shape, table.dtype, table.count, stamps,
                   f"stamps of {side.name}" if side else "its own stamps", "video" if is_video else "",
                   units=table.units, channels=table.channels)  # fmt: skip
    _check(found)
    return found


def _side_stamps(side: Path) -> Stamps:
    """The stamps in a file of nothing else: a column named as one, or the only column."""
    table: Table = POOL.get(open_table, str(side))
    if table.stamps is not None:
        return table.stamps
    if int(np.prod(table.shape)) != 1:
        raise log_error(str(side), f"rows of shape {table.shape}", "one column, or one named `time`", "Name it.")
    return as_stamps(np.asarray(table.values[0 : table.count]).reshape(-1), "", str(side))


def _check(found: _Found) -> None:
    """Raise LogError unless the stamps are a clock for the samples."""
    seconds = found.seconds(found.stamps.first_ns if len(found.stamps.raw) else 0)
    if found.index is None:
        check_times(seconds, found.count, str(found.file))
        if not found.count:
            raise log_error(str(found.file), "no samples", "at least one", "Leave it out.")
    else:
        check_anchors(np.stack([found.index, seconds], 1), str(found.file))


def _together(found: list[_Found], path: Path, skipped: dict[str, str]) -> list[_Found]:
    """The largest group of sensors that overlap in time, one with the next; the others go to `skipped`."""
    origin = _origin(found)
    groups: list[list[_Found]] = []
    latest = -np.inf
    for one in sorted(found, key=lambda one: one.ends(origin)):
        start, stop = one.ends(origin)
        if not groups or start > latest:
            groups.append([])
        groups[-1].append(one)
        latest = max(latest, stop)
    if len(groups) < 2:
        return found
    spans = ", ".join(f"{one.name} [{one.ends(origin)[0]:.3f}, {one.ends(origin)[1]:.3f}]" for one in found)
    fix = "Stamp them by one clock: put the times of a media file into <name>.times.csv."
    best = max(groups, key=len)
    if len(best) == 1:
        raise log_error(str(path), f"no two sensors at one time ({spans})", "a common span of time", fix)
    for one in found:
        if one not in best:
            skipped[one.name] = f"shares no time with the others ({spans}, in seconds). {fix}"
    return [one for one in found if one in best]


def _origin(found: Iterable[_Found]) -> int:
    return min((one.stamps.first_ns for one in found if one.stamps.is_unix), default=0)


def _on_one_clock(found: list[_Found]) -> tuple[list[Sensor], dict[str, str]]:
    """The sensors, unix stamps counted from the first of them, and what was decided for each."""
    origin = _origin(found)
    sensors, notes = [], {}
    for one in found:
        notes[one.name] = one.note
        if one.stamps.is_unix:
            notes[one.name] += f"; unix time, 0 is {origin / 1e9:.6f} s since 1970"
        elif origin:
            notes[one.name] += "; no unix time: assumed to count from the first unix stamp of the log"
        clock = one.clock(origin)
        rate_hz = one.rate_hz or measured_rate(clock.times(0, one.count))
        form = {"modality": one.modality, "units": one.units, "channels": one.channels}
        sensors.append(on_clock(one.name, clock, one.samples, one.shape, one.dtype, rate_hz=rate_hz, **form))
    return sensors, notes
