"""Lab Streaming Layer recordings (`.xdf`), read through pyxdf: every stream on the recorder's clock.

Pyxdf takes each stream to the recorder's clock by the clock offsets measured during recording, apart on both sides of a
clock reset, and straightens the stamps of streams of a regular rate; `ForeignLog.notes` says what was done to each.
Second 0 is the earliest stamp of the file. A reset leaves a gap, never a second pass over the same time: where the
stamps still step back, which side is right is unknown, so the stream is put into `skipped` with the place.

Streams of text, and of whole numbers of type "Markers", are labels: one class for each text, in alphabetic order.
"""

import contextlib
import io
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from multisense.logs.base import LogError, SensorLog, how_to_install, log_error
from multisense.logs.clock import check_times
from multisense.logs.files import head
from multisense.logs.foreign import ForeignLog, Rows, Sensor, stamped
from multisense.logs.formats.xdf_chunks import MAGIC, Chunks, walk
from multisense.logs.pool import POOL
from multisense.types import Label

MODALITIES = {"audio": "audio"} | dict.fromkeys(("mocap", "force", "accelerometer", "gyroscope", "imu"), "proprio")
"""By the stream's type in lower case; any other type is left unknown."""


def recognises(path: Path) -> bool:
    """Whether a file begins as an XDF does."""
    return head(path, len(MAGIC)) == MAGIC


def candidates(path: Path) -> dict[str, Callable[[], SensorLog]]:
    """A file is one log, named by its stem."""
    return {path.stem: partial(open_xdf, str(path))}


def open_xdf(path: str) -> ForeignLog:
    """The log of one `.xdf` file.

    Raises LogError when pyxdf is missing, or the file is damaged or holds no stream with increasing stamps.
    """
    recording = POOL.get(_parse, path)
    sensors: list[Sensor] = []
    labels: list[Label] = []
    skipped: dict[str, str] = {}
    for key, stream in recording.streams.items():
        name = recording.names[key]
        try:
            if _is_marker(stream):
                labels += _labels(name, stream, recording.origin_s, f"{path}: {name}")
            else:
                sensors.append(_sensor(name, key, stream, recording.origin_s, path))
        except LogError as error:
            skipped[name] = error.reason
    notes = {recording.names[key]: note for key, note in recording.notes.items()}
    return ForeignLog(Path(path).stem, path, sensors, labels=labels, skipped=skipped, notes=notes)


def _sensor(name: str, key: str, stream: dict[str, Any], origin_s: float, path: str) -> Sensor:
    info, data = stream["info"], stream["time_series"]
    channels, units = _channels(info, data.shape[1])
    rate_hz = float(info["nominal_srate"][0])
    return stamped(
        name, stream["time_stamps"] - origin_s, Rows(_parse, path, key), data.shape[1:], str(data.dtype),
        f"{path}: {name}", modality=MODALITIES.get(_text(info, "type").lower(), ""),
        rate_hz=rate_hz if 0 < rate_hz < 1e9 else 0.0, units=units, channels=channels,
    )  # fmt: skip


def _labels(name: str, stream: dict[str, Any], origin_s: float, where: str) -> Iterator[Label]:
    """One label for each channel of a stream of markers."""
    times_s, rows = stream["time_stamps"] - origin_s, stream["time_series"]
    if not len(times_s):
        raise log_error(where, "no samples", "at least one", "Leave this stream out.")
    check_times(times_s, len(rows), where)
    width = len(rows[0])
    for channel in range(width):
        texts = [str(row[channel]) for row in rows]
        classes, index = np.unique(texts, return_inverse=True)
        title = name if width == 1 else f"{name}_{channel}"
        yield Label(title, index.astype(np.int64), times_s, "unique", tuple(str(text) for text in classes))


def _is_marker(stream: dict[str, Any]) -> bool:
    info = stream["info"]
    whole = info["channel_format"][0] in ("int8", "int16", "int32", "int64")
    return info["channel_format"][0] == "string" or (whole and _text(info, "type").lower() in ("marker", "markers"))


def _channels(info: dict[str, Any], count: int) -> tuple[tuple[str, ...], str]:
    """(labels of the channels, their unit) from the stream's own description; empty where it does not say."""
    listed = _inside(_inside(info, "desc"), "channels").get("channel", [])
    listed = [channel for channel in listed if isinstance(channel, dict)]
    if len(listed) != count:
        return (), ""
    names = tuple(_text(channel, "label") for channel in listed)
    units = {_text(channel, "unit") for channel in listed}
    return names if all(names) else (), units.pop() if len(units) == 1 else ""


def _inside(node: Any, key: str) -> dict[str, Any]:
    """The first child of that name, as pyxdf has it: {name: [child, ...]}; {} where it is missing or no more than text."""
    found = (node.get(key) or [None])[0]
    return found if isinstance(found, dict) else {}


def _text(node: dict[str, Any], key: str) -> str:
    found = (node.get(key) or [None])[0]
    return found.strip() if isinstance(found, str) else ""


class _Recording:
    """What pyxdf read of a file, by the stream's id; indexed, the samples of one stream."""

    def __init__(self, path: str, streams: list[dict[str, Any]], chunks: Chunks) -> None:
        self.streams = {str(stream["info"]["stream_id"]): stream for stream in streams}
        self.names = _names(self.streams)
        firsts = [float(np.min(stream["time_stamps"])) for stream in streams if len(stream["time_stamps"])]
        self.origin_s = min((first for first in firsts if np.isfinite(first)), default=0.0)
        cut = (
            f"the file's last {chunks.left_out} bytes hold no whole chunk and were left out" if chunks.left_out else ""
        )
        self.notes = {key: _applied(stream, cut) for key, stream in self.streams.items() if len(stream["time_stamps"])}
        for key, stream in self.streams.items():
            self._check_count(stream, chunks.samples.get(int(key), 0), key, path)

    def _check_count(self, stream: dict[str, Any], written: int, key: str, path: str) -> None:
        """Pyxdf logs what it loses and goes on, except for samples that came after the stream was closed."""
        read, footer = len(stream["time_stamps"]), _inside(stream.get("footer") or {}, "info")
        stream.pop("footer", None)
        if read == written:
            return
        if 0 < read < written and footer.get("sample_count") == [str(read)]:
            self.notes[key] += (
                f"; {written - read} samples after the end of the stream left out (labstreaminglayer/pylsl#67)"
            )
            return
        found = f"{read} samples of {self.names[key]} by pyxdf"
        raise log_error(path, found, f"{written}, as many as its chunks hold", "Copy the file again.")

    def __getitem__(self, key: str) -> np.ndarray:
        return self.streams[key]["time_series"]

    def close(self) -> None:
        self.streams.clear()


def _names(streams: dict[str, dict[str, Any]]) -> dict[str, str]:
    """A name for each stream: its own in letters, digits and `_.-`, with its id where two streams have the same."""
    own = {key: re.sub(r"[^\w.-]+", "_", _text(stream["info"], "name")).strip("_.") for key, stream in streams.items()}
    times = Counter(own.values())
    return {key: name if name and times[name] == 1 else f"{name or 'stream'}_{key}" for key, name in own.items()}


def _applied(stream: dict[str, Any], cut: str) -> str:
    """What pyxdf did to the stamps of a stream, in words."""
    info, offsets = stream["info"], len(stream["clock_times"])
    parts = [f"{offsets} clock offsets applied" if offsets else "no clock offsets in the file: its own clock"]
    resets = [str(first) for first, _ in info["clock_segments"][1:]]
    if resets:
        parts.append(f"clock reset before sample {', '.join(resets[:8])}; each side on its own offsets")
    if float(info["nominal_srate"][0]) > 0:
        pieces = len(info["segments"])
        parts.append(f"jitter removed in {pieces} piece{'s' if pieces > 1 else ''}")
        parts.append(f"{float(info['effective_srate']):.6g} Hz measured, {float(info['nominal_srate'][0]):g} nominal")
    return "; ".join([*parts, *([cut] if cut else [])])


def _parse(path: str) -> _Recording:
    try:
        import pyxdf
    except ImportError as error:
        fix = how_to_install("xdf")
        raise log_error(path, "no pyxdf in this environment", "it, to read XDF", fix) from error
    data = Path(path).read_bytes()
    chunks = walk(data, path)
    try:
        with _quiet(), np.errstate(all="ignore"):
            streams, _ = pyxdf.load_xdf(io.BytesIO(data[: chunks.stop]))
        return _Recording(path, streams, chunks)
    except LogError:
        raise
    except Exception as error:  # headers may say anything, and pyxdf takes them at their word
        reason = f"{type(error).__name__}: {error}"[:200]
        raise log_error(path, f"an unreadable XDF ({reason})", "one that pyxdf can read", "Copy it again.") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What pyxdf logs is said in the notes, or is an error by `_check_count`."""
    logger = logging.getLogger("pyxdf.pyxdf")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
