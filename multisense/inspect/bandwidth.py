"""How much the senses carry: bytes per second raw, compressed without loss, as stored and as tokens.

The compressed rate is the measure of what is there to learn from: raw bytes count pixels, not news. A child of four has
seen some 10^14 bytes through its eyes; a large language model has read about as many.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from multisense.inspect.codecs import BITS, delta_xz_bytes, ffv1_bytes, flac_bytes, quantised
from multisense.inspect.info import info, log_files, sample_bytes, show_bytes, show_hours
from multisense.inspect.tally import is_frames
from multisense.logs.base import SensorLog
from multisense.types import SensorInfo

CHILD_BYTES = 1.1e14
"""Of a four-year-old: 16,000 wake hours (57.6e6 s) of two optic nerves at about 2 MB/s."""
CHILD_BYTES_PER_S = CHILD_BYTES / 57.6e6
TEXT_TOKENS, TEXT_BYTES_PER_TOKEN = 30e12, 3
"""A large text corpus; a token of English is 3 to 4 bytes of text, and 3 bytes are enough to number one."""
TOKEN_BYTES = 2
"""Of each of a token's numbers: half precision."""
WINDOWS, WINDOW_S, WINDOW_BYTES = 6, 2.0, 32 << 20
"""Sampled of each sensor, spread evenly over its hours; none longer than either."""
ACTIVE_S, ACTIVE_FLOOR = 0.1, 3.0
"""A sensor is active in a tenth of a second if one of its channels changes so many times more than in its quiet (the 10th
percentile of its tenths). A few taxels are touched at once, so channels are not averaged; the pixels of a picture are."""
ACTIVE_LEAST = 10
"""Samples of a signal in a stretch, however slow it is: fewer would call the luck of noise activity."""
VIDEO_FILES = (".mp4", ".mkv", ".avi", ".mov", ".webm")
SOUND_FILES = (".wav", ".flac", ".mp3", ".ogg", ".m4a")


@dataclass(frozen=True)
class Rates:
    """One modality over all logs. Bytes per second are of all its sensors together."""

    modality: str
    sensors: tuple[str, ...]
    hours: float
    """Of logs in which it is present."""
    raw: float
    """Bytes per second of the samples as they are read, frames decoded."""
    lossless: float
    """Bytes per second after `codec`, from sampled windows."""
    codec: str
    """Codec and quantiser."""
    stored: float
    """Bytes per second on disk: media files by their kind, all else shared out by raw bytes."""
    active: float
    """Fraction of time in which its sensors change more than when quiet."""
    tokens: float | None
    """Tokens per second; None where nobody said."""
    token_bytes: float | None
    bits_per_token: float | None
    """Lossless bits for which one token has to stand."""
    child_share: float
    """Lossless bytes of all its hours over a four-year-old's."""
    child_pace: float
    """Lossless bytes per second over a child's 2 MB/s."""
    text_share: float
    """Lossless bytes of all its hours over those of the text corpus."""


@dataclass(frozen=True)
class Bandwidth:
    """What `bandwidth` finds."""

    rates: tuple[Rates, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON: `modalities`, and the constants they are compared with."""
        against = {
            "child_bytes": CHILD_BYTES,
            "child_bytes_per_s": CHILD_BYTES_PER_S,
            "text_tokens": TEXT_TOKENS,
            "text_bytes_per_token": TEXT_BYTES_PER_TOKEN,
        }
        return {"modalities": {r.modality: asdict(r) for r in self.rates}, "against": against}


def bandwidth(
    logs: Sequence[SensorLog],
    tokens: Mapping[str, float] | None = None,
    width: int = 0,
    resolution: Mapping[str, float] | None = None,
) -> Bandwidth:
    """Rates per modality, compressed rates from at most WINDOWS windows of each sensor.

    `tokens` are a tokenizer's tokens per second by sensor and `width` the numbers in each; `resolution` is the finest
    step worth keeping of a sensor, in its own unit (else 2^16 levels of each channel's range). Raises LogError where
    the data cannot be read.
    """
    holders: dict[str, list[SensorLog]] = defaultdict(list)
    for log in logs:
        for name in log.sensors:
            holders[name].append(log)
    by_modality: dict[str, list[str]] = defaultdict(list)
    for name, where in holders.items():
        by_modality[where[0].sensors[name].modality or "unknown"].append(name)
    samples = {name: sample(where, name, (resolution or {}).get(name)) for name, where in holders.items()}
    stored = _stored(logs)
    return Bandwidth(
        tuple(
            _rates(kind, [samples[name] for name in names], stored.get(kind, 0.0), tokens or {}, width)
            for kind, names in sorted(by_modality.items())
        )
    )


@dataclass(frozen=True)
class Sample:
    """What the windows of one sensor say of all of it."""

    sensor: str
    seconds: Mapping[str, float]
    """log -> length"""
    raw_bytes: float
    """Of all of it."""
    ratio: float
    """Lossless over raw, in the windows."""
    codec: str
    active: float


def sample(logs: Sequence[SensorLog], name: str, resolution: float | None = None) -> Sample:
    """Compress some windows of a sensor that all of `logs` hold."""
    infos = [log.sensors[name] for log in logs]
    data = windows(logs, name)
    size, codec = _compressed(data, infos[0], resolution)
    steps = [_changes(piece, infos[0]) for piece in data if len(piece) > 1]
    return Sample(
        sensor=name,
        seconds={log.name: i.stop_s - i.start_s for log, i in zip(logs, infos, strict=True)},
        raw_bytes=sum(i.count * sample_bytes(i) for i in infos),
        ratio=size / max(sum(piece.nbytes for piece in data), 1),
        codec=codec,
        active=_active(np.concatenate(steps)) if steps else 0.0,
    )


def windows(logs: Sequence[SensorLog], name: str) -> list[np.ndarray]:
    """At most WINDOWS pieces (N, *sample) of a sensor, at even steps through all its seconds, none empty."""
    infos = [log.sensors[name] for log in logs]
    ends = np.cumsum([i.stop_s - i.start_s for i in infos])
    longest = WINDOW_BYTES / max(sample_bytes(infos[0]), 1) / infos[0].rate_hz
    length = min(WINDOW_S, longest, max(ends[-1] / WINDOWS, 1 / infos[0].rate_hz))
    found = []
    for at in (np.arange(WINDOWS) + 0.5) / WINDOWS * ends[-1]:
        k = int(np.searchsorted(ends, at, side="right").clip(0, len(logs) - 1))
        offset = at - (ends[k - 1] if k else 0.0)
        start = infos[k].start_s + min(
            max(offset - length / 2, 0.0), max(infos[k].stop_s - infos[k].start_s - length, 0)
        )
        stream = logs[k].read(name, start, start + length)
        if len(stream.data):
            found.append(stream.data)
    return found


def _compressed(data: list[np.ndarray], info: SensorInfo, resolution: float | None) -> tuple[int, str]:
    """(bytes, codec and quantiser) of windows of one sensor."""
    if is_frames(info) and info.dtype == "uint8" and info.shape[-1] == 3:
        return sum(ffv1_bytes(piece) for piece in data), "FFV1 (RGB, 8 bit)"
    flat = [piece.reshape(len(piece), -1) for piece in data]
    if info.modality == "audio" and resolution is None:
        return sum(flac_bytes(_int16(piece), info.rate_hz) for piece in flat), "FLAC (16 bit of full scale)"
    if resolution is not None:
        how = f"steps of {resolution:g} {info.units}".rstrip()
    else:
        how = f"{info.dtype} as it is" if np.dtype(info.dtype).kind in "bui" else f"{BITS} bit of each channel's range"
    together = quantised(np.concatenate(flat), resolution) if flat else np.empty((0, 1), np.uint8)
    pieces = np.split(together, np.cumsum([len(piece) for piece in flat])[:-1]) if flat else []
    return delta_xz_bytes(pieces), f"delta + xz ({how})"


def _int16(sound: np.ndarray) -> np.ndarray:
    """Sound at 16 bits of full scale: 1 for floats (their peak where that is more), the dtype's range for integers."""
    if sound.dtype == np.int16:
        return sound
    if sound.dtype.kind in "iu":
        range_ = np.iinfo(sound.dtype)
        sound = (sound.astype(np.float64) - (range_.min + range_.max + 1) // 2) / ((range_.max - range_.min + 1) // 2)
    finite = np.nan_to_num(sound.astype(np.float64), posinf=0.0, neginf=0.0)
    return np.round(finite / max(1.0, np.abs(finite).max(initial=0)) * 32767).astype(np.int16)


def _changes(data: np.ndarray, info: SensorInfo) -> np.ndarray:
    """(K, C) mean absolute change of each channel in each stretch of ACTIVE_S; pictures count as one channel."""
    flat = data.reshape(len(data), -1)
    if is_frames(info):
        step = np.array([np.abs(after.astype(np.float32) - before).mean() for before, after in pairwise(flat)])[:, None]
        each = max(round(ACTIVE_S * info.rate_hz), 1)
    else:
        step = np.abs(np.diff(flat.astype(np.float64), axis=0))
        each = max(round(ACTIVE_S * info.rate_hz), ACTIVE_LEAST)
    whole = len(step) // each * each
    return np.nan_to_num(step[:whole].reshape(-1, each, step.shape[1]).mean(1))


def _active(changes: np.ndarray) -> float:
    """Share of the stretches in which some channel changes more than ACTIVE_FLOOR times its own quiet."""
    if not len(changes):
        return 0.0
    return float((changes > ACTIVE_FLOOR * np.percentile(changes, 10, axis=0)).any(1).mean())


def _stored(logs: Sequence[SensorLog]) -> dict[str, float]:
    """Bytes on disk by modality: media files by their kind, all other files by the raw bytes they may hold."""
    raw: dict[str, float] = defaultdict(float)
    for log in info(logs).logs:
        for sensor in log.sensors:
            raw[sensor.modality or "unknown"] += sensor.bytes
    stored: dict[str, float] = defaultdict(float)
    rest = 0
    for file in {file for path in {log.path for log in logs} for file in log_files(path)}:
        kind = _media_kind(file)
        if kind in raw:
            stored[kind] += file.stat().st_size
        else:
            rest += file.stat().st_size
    inside = {kind: count for kind, count in raw.items() if kind not in stored} or raw
    for kind, count in inside.items():
        stored[kind] += rest * count / max(sum(inside.values()), 1)
    return stored


def _media_kind(file: Path) -> str:
    return "video" if file.suffix.lower() in VIDEO_FILES else "audio" if file.suffix.lower() in SOUND_FILES else ""


def _rates(kind: str, samples: list[Sample], stored: float, tokens: Mapping[str, float], width: int) -> Rates:
    longest: dict[str, float] = defaultdict(float)
    for one in samples:
        for log, seconds in one.seconds.items():
            longest[log] = max(longest[log], seconds)
    seconds = math.fsum(longest.values())
    raw = sum(one.raw_bytes for one in samples)
    lossless = sum(one.raw_bytes * one.ratio for one in samples)
    known = [one for one in samples if one.sensor in tokens]
    per_s = sum(tokens[one.sensor] * sum(one.seconds.values()) for one in known) / seconds if known else None
    of_known = sum(one.raw_bytes * one.ratio for one in known) / seconds
    return Rates(
        modality=kind,
        sensors=tuple(one.sensor for one in samples),
        hours=seconds / 3600,
        raw=raw / seconds,
        lossless=lossless / seconds,
        codec="; ".join(dict.fromkeys(one.codec for one in samples)),
        stored=stored / seconds,
        active=float(
            np.average([one.active for one in samples], weights=[sum(one.seconds.values()) for one in samples])
        ),
        tokens=per_s,
        token_bytes=per_s * width * TOKEN_BYTES if per_s and width else None,
        bits_per_token=8 * of_known / per_s if per_s else None,
        child_share=lossless / CHILD_BYTES,
        child_pace=lossless / seconds / CHILD_BYTES_PER_S,
        text_share=lossless / (TEXT_TOKENS * TEXT_BYTES_PER_TOKEN),
    )


def bandwidth_table(found: Bandwidth) -> Table:
    """One column for each modality; how the shares are reckoned stands below."""
    caption = (
        f"shares of lossless bytes: child = {CHILD_BYTES:.2g} bytes in 16,000 wake hours ({CHILD_BYTES_PER_S / 1e6:.1f} "
        f"MB/s); text = {TEXT_TOKENS:.0e} tokens of {TEXT_BYTES_PER_TOKEN} bytes; active: change above "
        f"{ACTIVE_FLOOR:g} x the quiet of the sensor itself"
    )
    table = Table(title="bandwidth", caption=caption, box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for column in ("", *(rates.modality for rates in found.rates)):
        table.add_column(column, justify="right" if column else "left", overflow="fold")
    for name, row in {
        "time": [show_hours(r.hours) for r in found.rates],
        "raw": [f"{show_bytes(r.raw)}/s" for r in found.rates],
        "lossless": [f"{show_bytes(r.lossless)}/s" for r in found.rates],
        "stored": [f"{show_bytes(r.stored)}/s" for r in found.rates],
        "as tokens": ["-" if r.token_bytes is None else f"{show_bytes(r.token_bytes)}/s" for r in found.rates],
        "bits a token": ["-" if r.bits_per_token is None else f"{r.bits_per_token:.3g}" for r in found.rates],
        "active": [f"{r.active:.0%}" for r in found.rates],
        "of a child's": [f"{r.child_share:.1e}" for r in found.rates],
        "of the text": [f"{r.text_share:.1e}" for r in found.rates],
        "codec": [r.codec for r in found.rates],
    }.items():
        table.add_row(name, *row)
    return table
