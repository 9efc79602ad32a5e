"""Writing a native log in one go: media first, then the HDF5 file under a temporary name, renamed when whole."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from multisense.logs.base import LogError, log_error
from multisense.logs.clock import AnchoredClock, check_anchors, check_rate, check_times, check_together
from multisense.logs.media import write_video
from multisense.types import Label

FORMAT = "multisense-log"
VERSION = 1

CHUNK_ROWS = 256
"""Rows per chunk of a signal: a window then reads about as much as it asks for."""

SMALL_BYTES = 1 << 20
"""Up to here an array is stored in one piece, which is the quickest to read."""


@dataclass(frozen=True)
class Recording:
    """What one sensor recorded, as it goes into a log. Exactly one of `times_s` and `anchors` is given."""

    modality: str
    """The kind of sensor: "video", "audio", "touch", "proprio" or one of your own."""
    rate_hz: float
    """Nominal rate; the times are the truth."""
    data: np.ndarray
    """(N, *sample): numbers in their own dtype and unit; uint8 (N, H, W, 3) frames when `media` is given."""
    times_s: np.ndarray | None = None
    """(N,) float64 seconds on the log's clock, strictly increasing."""
    anchors: np.ndarray | None = None
    """(K, 2) float64 of (sample index, seconds), for audio."""
    units: str = ""
    channels: tuple[str, ...] = ()
    """Names along the last axis of `data`."""
    media: str = ""
    """Write the frames as H.264 to `<log>.<media>`, e.g. media="camera.mp4"; empty: keep them in the HDF5 file."""


def write_log(
    path: str | Path,
    recordings: Mapping[str, Recording],
    labels: Iterable[Label] = (),
    source: str = "",
    attributes: Mapping[str, str | float | int] | None = None,
) -> None:
    """Write a native log. It appears under `path` only when it is whole; media files of a killed run are overwritten.

    `attributes` (such as start_unix) become attributes of the file. The same input gives the same bytes.

    Raises:
        LogError: a recording or label that cannot be read back as what it claims to be, or `path` exists.
    """
    path = Path(path)
    labels = list(labels)
    _check(path, recordings, labels, attributes or {})
    path.parent.mkdir(parents=True, exist_ok=True)
    for recording in recordings.values():
        if recording.media:
            _write_media(media_path(path, recording.media), recording)
    partial = path.with_name(f".{path.name}.partial")
    with h5py.File(partial, "w", libver="v110") as file:
        file.attrs.update({"format": FORMAT, "version": VERSION, "source": source, **(attributes or {})})
        for name, recording in recordings.items():
            _write_stream(file.create_group(f"streams/{name}"), path, recording)
        for label in labels:
            write_label(file.create_group(f"labels/{label.name}"), label)
    publish_new(partial, path)


def _write_media(target: Path, recording: Recording) -> None:
    partial = target.with_name(f".{target.name}.partial")
    write_video(str(partial), recording.data, recording.rate_hz)
    publish(partial, target)


def publish(partial: Path, target: Path) -> None:
    """Give a finished file its name, which another may have had, only once its bytes are on the disk."""
    _sync(partial)
    os.replace(partial, target)


def publish_new(partial: Path, target: Path) -> None:
    """The same for a name that nothing had. Raises LogError, and removes `partial`, where something has it by now."""
    _sync(partial)
    try:
        _rename_new(partial, target)
    except FileExistsError as error:
        partial.unlink()
        raise existing(target) from error


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _rename_new(partial: Path, target: Path) -> None:
    """A rename would replace what is there, a link does not; some file systems have none."""
    try:
        os.link(partial, target)
    except FileExistsError:
        raise
    except OSError as error:
        if target.exists():
            raise FileExistsError(target) from error
        os.replace(partial, target)
    else:
        partial.unlink()


def existing(path: Path) -> LogError:
    return log_error(str(path), "an existing file", "a new name", "Delete it first if it may go.")


def media_path(path: Path, media: str) -> Path:
    """Where the media file of a sensor lies: beside the log `path`."""
    return path.with_name(f"{path.stem}.{media}")


def _write_stream(group: h5py.Group, path: Path, recording: Recording) -> None:
    group.attrs.update({"modality": recording.modality, "rate_hz": float(recording.rate_hz), "units": recording.units})
    if recording.channels:
        group.attrs["channels"] = list(recording.channels)
    kind, stamps = ("times", recording.times_s) if recording.anchors is None else ("anchors", recording.anchors)
    group.create_dataset(kind, data=np.asarray(stamps, np.float64))
    if recording.media:
        group.attrs.update({"media": media_path(path, recording.media).name, "shape": recording.data.shape[1:]})
    else:
        group.create_dataset("data", data=recording.data, chunks=_chunks(recording.data))


def _chunks(data: np.ndarray) -> tuple[int, ...] | None:
    """One frame per chunk for images, some rows for signals, none for what is small."""
    if data.nbytes <= SMALL_BYTES:
        return None
    is_image = data.ndim == 4 and data[0].size >= 1024
    return (1 if is_image else CHUNK_ROWS * max(1, 64 // data[0].size), *data.shape[1:])


def write_label(group: h5py.Group, label: Label) -> None:
    data = label.data.astype(np.uint8) if label.data.dtype == bool else label.data
    group.attrs.update({"reduce": label.reduce, "units": label.units})
    if label.classes:
        group.attrs["classes"] = list(label.classes)
    if label.times_s is None:
        group.attrs["value"] = data
    else:
        group.create_dataset("times", data=np.asarray(label.times_s, np.float64))
        group.create_dataset("data", data=data)


def _check(path: Path, recordings: Mapping[str, Recording], labels: list[Label], attributes: Mapping) -> None:
    if path.exists():
        raise existing(path)
    if not recordings:
        raise log_error(str(path), "no recordings", "at least one sensor", "Record something.")
    reserved = sorted({"format", "version", "source"} & set(attributes))
    if reserved:
        raise log_error(str(path), f"attributes {reserved}", "names other than these", "They are set by the writer.")
    for name, recording in recordings.items():
        check_name(name, f"{path}: sensor '{name}'")
        check_recording(recording, f"{path}: sensor '{name}'")
    check_media_files(path, {name: recording.media for name, recording in recordings.items()})
    check_together({name: _ends(recording) for name, recording in recordings.items()}, str(path))
    for label in labels:
        check_name(label.name, f"{path}: label '{label.name}'")
        check_label(label, f"{path}: label '{label.name}'")


def check_media_files(path: Path, media: Mapping[str, str]) -> None:
    """Raise LogError where the media of two sensors, or of one and the log `path`, would be one file."""
    taken = {path.name.lower(): "the log itself"}
    for sensor, name in media.items():
        file = media_path(path, name).name
        if name and file.lower() in taken:
            found = f"{file}, which is {taken[file.lower()]}"
            raise log_error(f"{path}: sensor '{sensor}': media", found, "a file of its own", "Choose another name.")
        taken[file.lower()] = f"that of '{sensor}'"


def _ends(recording: Recording) -> tuple[float, float]:
    """Its first and last second, as a reader takes them."""
    if recording.times_s is not None:
        return float(recording.times_s[0]), float(recording.times_s[-1]) + 1 / recording.rate_hz
    clock = AnchoredClock(np.asarray(recording.anchors, np.float64), recording.rate_hz, len(recording.data))
    first, last = clock.times(0, 1)[0], clock.times(clock.count - 1, clock.count)[0]
    return float(first), float(last) + 1 / recording.rate_hz


def check_name(name: str, where: str) -> None:
    if not re.fullmatch(r"[\w-][\w.-]*", name):
        raise log_error(where, f"the name {name!r}", "letters, digits, '_', '-' and '.'", "Choose another name.")


def check_recording(recording: Recording, where: str) -> None:
    data = recording.data
    if data.ndim == 0 or not len(data) or data.dtype.kind not in "biuf":
        found = f"{data.dtype} data of shape {data.shape}"
        raise log_error(where, found, "numbers of shape (N, *sample), N >= 1", "Leave out a sensor without samples.")
    check_rate(recording.rate_hz, where)
    if (recording.times_s is None) == (recording.anchors is None):
        found = "neither times_s nor anchors" if recording.times_s is None else "both times_s and anchors"
        raise log_error(where, found, "exactly one of them", "Anchors are for audio, times for everything else.")
    if recording.times_s is not None:
        check_times(np.asarray(recording.times_s), len(data), f"{where}: times_s")
    if recording.anchors is not None:
        check_anchors(np.asarray(recording.anchors), f"{where}: anchors")
    width = data.shape[-1] if data.ndim > 1 else 1
    if recording.channels and len(recording.channels) != width:
        found = f"{len(recording.channels)} channel names for a last axis of {width}"
        raise log_error(where, found, "one name per channel", "Correct `channels`.")
    _check_media(recording, where)


def _check_media(recording: Recording, where: str) -> None:
    if not recording.media:
        return
    check_name(recording.media, f"{where}: media")
    if recording.times_s is None:
        raise log_error(where, "anchors with media", "times_s for frames", "Give one time per frame.")
    if recording.data.dtype != np.uint8 or recording.data.ndim != 4 or recording.data.shape[3] != 3:
        found = f"{recording.data.dtype} of shape {recording.data.shape}"
        raise log_error(where, found, "uint8 frames (N, H, W, 3) for media", "Drop `media` or convert the frames.")


def check_label(label: Label, where: str) -> None:
    if label.data.dtype.kind not in "biuf":
        raise log_error(where, f"{label.data.dtype} values", "numbers", "Give classes as integers with `classes`.")
    if label.times_s is not None:
        check_times(np.asarray(label.times_s), len(label.data), f"{where}: times_s")
    if label.classes and not set(np.unique(label.data)) <= set(range(len(label.classes))):
        found = f"classes {label.data.min()} to {label.data.max()} with {len(label.classes)} names"
        raise log_error(where, found, "a name for every class", "Correct `classes`.")
