"""Every stream and label of a log, with its own stamps on the log's clock.

Frames become JPEGs and sound becomes an envelope and a spectrogram; all other samples are there, every one.
"""

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import rerun as rr
import torch
from torchaudio.transforms import MelSpectrogram

from multisense.inspect.pictures import drawn_as, taxels
from multisense.logs.base import SensorLog
from multisense.types import Label, SensorInfo, Stream
from multisense.view.send import heat, heat_range, name_series, numbers, path, pictures

STRETCH_S = 10.0
"""At most so much of a stream is in memory at once, and in one spectrogram."""
STRETCH_BYTES = 1 << 27
HOP_S, WINDOW_S, MELS = 0.01, 0.025, 64
RANGE_DB = 70.0
"""What lies so far below the loudest cell of a log is drawn like silence."""


def send_streams(rec: rr.RecordingStream, log: SensorLog) -> None:
    """All sensors of the log below `streams/`, its labels over time below `labels/`, and in `about` what it is.

    streams/<sensor>/picture    JPEG
    streams/<sensor>/heat       (H, W) taxels: the number, or the length of the vector, of every one
    streams/<sensor>/strength   mean and maximum of that
    streams/<sensor>/values     one series a channel
    streams/<sensor>/envelope   lowest and highest sample of every 10 ms, mean over microphones
    streams/<sensor>/mel        (64, T) mel power in dB, every 10 ms; a picture of 10 s at its first stamp
    """
    rec.log("about", rr.TextDocument(about(log), media_type=rr.MediaType.MARKDOWN), static=True)
    send = {"frames": _send_pictures, "taxels": _send_heat, "sound": _send_sound, "traces": _send_series}
    for info in log.sensors.values():
        send[drawn_as(info)](rec, log, info)
    for number, label in enumerate(log.labels.values()):
        _send_label(rec, label, number)


def stretches(log: SensorLog, info: SensorInfo) -> Iterator[Stream]:
    """A whole stream, piece by piece; none of them is empty."""
    bytes_a_second = info.rate_hz * math.prod(info.shape) * np.dtype(info.dtype).itemsize
    seconds = min(STRETCH_S, max(STRETCH_BYTES / bytes_a_second, 1 / info.rate_hz))
    edges = [-math.inf, *np.arange(info.start_s, info.stop_s, seconds)[1:], math.inf]
    for start, stop in pairwise(edges):
        stream = log.read(info.name, float(start), float(stop))
        if len(stream.times_s):
            yield stream


def _send_pictures(rec: rr.RecordingStream, log: SensorLog, info: SensorInfo) -> None:
    for stream in stretches(log, info):
        pictures(rec, path("streams", info.name, "picture"), stream.times_s, stream.data)


def _send_heat(rec: rr.RecordingStream, log: SensorLog, info: SensorInfo) -> None:
    where = path("streams", info.name, "heat")
    low, high = 0.0, 0.0
    for stream in stretches(log, info):
        maps = taxels(stream.data)
        known = maps[np.isfinite(maps)]
        low, high = float(known.min(initial=low)), float(known.max(initial=high))
        heat(rec, where, stream.times_s, maps)
        flat = maps.reshape(len(maps), -1)
        numbers(rec, path("streams", info.name, "strength"), stream.times_s, np.stack([flat.mean(1), flat.max(1)], 1))
    heat_range(rec, where, low, high)
    name_series(rec, path("streams", info.name, "strength"), [_named(x, info.units) for x in ("mean", "maximum")])


def _send_series(rec: rr.RecordingStream, log: SensorLog, info: SensorInfo) -> None:
    where = path("streams", info.name, "values")
    for stream in stretches(log, info):
        numbers(rec, where, stream.times_s, stream.data)
    count = math.prod(info.shape)
    names = info.channels if len(info.channels) == count else [f"{info.name}[{i}]" for i in range(count)]
    name_series(rec, where, [_named(name, info.units) for name in names])


def _send_sound(rec: rr.RecordingStream, log: SensorLog, info: SensorInfo) -> None:
    spectra: list[tuple[float, np.ndarray]] = []
    for stream in stretches(log, info):
        sound = np.asarray(stream.data, np.float64).reshape(len(stream.data), -1).mean(1)
        numbers(rec, path("streams", info.name, "envelope"), *envelope(stream.times_s, sound))
        spectra.append((float(stream.times_s[0]), mel(stream.times_s, sound, info.rate_hz)))
    name_series(rec, path("streams", info.name, "envelope"), [_named(x, info.units) for x in ("lowest", "highest")])
    loudest = max((float(picture.max()) for _, picture in spectra), default=0.0)
    for start, picture in spectra:
        heat(rec, path("streams", info.name, "mel"), np.array([start]), np.maximum(picture, loudest - RANGE_DB)[None])
    heat_range(rec, path("streams", info.name, "mel"), loudest - RANGE_DB, loudest)


def envelope(times_s: np.ndarray, sound: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Times (K,) of the first sample of every 10 ms that hold any, and the lowest and highest sample in them (K, 2)."""
    block = np.floor((times_s - times_s[0]) / HOP_S + 1e-6).astype(int)
    first = np.flatnonzero(np.diff(block, prepend=-1))
    ends = np.minimum.reduceat(sound, first), np.maximum.reduceat(sound, first)
    return times_s[first], np.stack(ends, axis=1)


def mel(times_s: np.ndarray, sound: np.ndarray, rate_hz: float) -> np.ndarray:
    """(MELS, T) mel power in dB, low tones at the bottom; what was not recorded is silence."""
    place = np.round((times_s - times_s[0]) * rate_hz).astype(int)
    whole = torch.zeros(int(place[-1]) + 1)
    whole[torch.from_numpy(place)] = torch.from_numpy(np.nan_to_num(sound)).float()
    hop, window = max(round(HOP_S * rate_hz), 1), max(round(WINDOW_S * rate_hz), 2)
    # Padded with zeros, so that even of slow sound every band holds a frequency.
    n_fft = 1 << (8 * window - 1).bit_length()
    spectrum = MelSpectrogram(
        round(rate_hz), n_fft=n_fft, win_length=window, hop_length=hop, n_mels=MELS, pad_mode="constant"
    )(whole)
    return 10 * np.log10(spectrum.numpy()[::-1] + 1e-12)


def _send_label(rec: rr.RecordingStream, label: Label, number: int) -> None:
    if label.times_s is None or not len(label.times_s):
        return
    rows = np.asarray(label.data, np.float64).reshape(len(label.times_s), -1)
    rows = np.where(rows < 0, np.nan, rows) if label.is_class else rows  # a negative class means "not known here"
    where = path("labels", label.name)
    numbers(rec, where, label.times_s, rows)
    names = [label.name] if rows.shape[1] == 1 else [f"{label.name}[{i}]" for i in range(rows.shape[1])]
    name_series(rec, where, [_named(name, label.units) for name in names], number, label.is_class)


def _named(name: str, units: str) -> str:
    return f"{name} ({units})" if units else name


def about(log: SensorLog) -> str:
    """Markdown: the sensors, and the labels of the log as a whole."""
    rows = [
        f"| {i.name} | {i.modality or '?'} | {i.rate_hz:g} Hz | {i.count} x {i.shape} {i.dtype} | {i.units} | "
        f"{i.start_s:.3f} to {i.stop_s:.3f} s |"
        for i in log.sensors.values()
    ]
    whole = [f"- {x.name}: {_value(x)}" for x in log.labels.values() if x.times_s is None]
    names = [
        f"- {x.name}: " + ", ".join(f"{i} {name}" for i, name in enumerate(x.classes))
        for x in log.labels.values()
        if x.times_s is not None and x.classes
    ]
    head = ["| sensor | kind | rate | samples | unit | when |", "|---|---|---|---|---|---|"]
    parts = [f"# {log.name}", "\n".join(head + rows)]
    parts += ["**Labels of the log**", "\n".join(whole)] if whole else []
    parts += ["**Classes of labels over time**", "\n".join(names)] if names else []
    return "\n\n".join(parts)


def _value(label: Label) -> str:
    if label.is_class and label.data.ndim == 0 and 0 <= int(label.data) < len(label.classes):
        return label.classes[int(label.data)]
    return f"{label.data.tolist()} {label.units}".strip()
