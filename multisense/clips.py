"""Windows of logs, every sensor on its own regular grid -> Clip -> Batch.

Which windows an epoch holds is a pure function of (seed, epoch, index). Only samples inside [start, stop) are read.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
import torchaudio.functional
from torch import Tensor
from torch.utils.data import Dataset

from multisense.logs.base import LogError, Picks, SensorLog
from multisense.logs.frames import resize_frames
from multisense.types import Batch, Clip, Label, SensorInfo, Stream

Resample = Literal["nearest", "linear", "bandlimited"]
MANY = 2048
"""Points of a grid from which it pays to look whether the samples keep step with it."""


@dataclass(frozen=True)
class Grid:
    """The regular grid a sensor is put on: `count` points at start + k / rate_hz."""

    name: str
    kind: str
    rate_hz: float
    count: int
    shape: tuple[int, ...]
    """Shape of one sample on the grid."""
    dtype: str
    resample: Resample
    tolerance_s: float
    """A grid point farther than this from every sample is not valid."""
    background: Literal["none", "first"] = "none"
    """"first": the log's first frame is subtracted from every frame (gel cameras); 128 then means no change."""
    size: tuple[int, int] | None = None
    """Height and width that frames are resized to."""
    channels: tuple[str, ...] = ()
    """What the log calls the channels of a sample, and their units; empty where it does not say."""
    units: str = ""

    @property
    def seconds(self) -> float:
        return self.count / self.rate_hz

    @property
    def bytes(self) -> int:
        """Of one clip of this sensor, as it was sensed: in the sensor's own number type, on the grid."""
        return self.count * math.prod(self.shape) * np.dtype(self.dtype).itemsize


def parse_grid(values: Mapping[str, Any]) -> Grid:
    """A grid as `dataclasses.asdict` and JSON left it."""
    lists = {name: tuple(values[name]) for name in ("shape", "channels") if name in values}
    return Grid(**{**values, **lists, "size": None if values["size"] is None else tuple(values["size"])})


def read_clip(log: SensorLog, start_s: float, grids: Mapping[str, Grid], seconds: float) -> Clip:
    """The window [start_s, start_s + seconds) of `log`, one grid per sensor; a sensor the log lacks is absent."""
    values, valid = {}, {}
    for name, grid in grids.items():
        if name in log.sensors:
            values[name], valid[name] = _on_grid(log, grid, start_s, start_s + seconds)
        else:
            values[name], valid[name] = _absent(grid)
    return Clip(log.name, float(start_s), values, valid)


def _absent(grid: Grid) -> tuple[Tensor, Tensor]:
    dtype = torch.uint8 if grid.dtype == "uint8" else torch.float32
    return torch.zeros(grid.count, *grid.shape, dtype=dtype), torch.zeros(grid.count, dtype=torch.bool)


def _on_grid(log: SensorLog, grid: Grid, start_s: float, stop_s: float) -> tuple[Tensor, Tensor]:
    wanted = np.arange(grid.count) / grid.rate_hz
    stream = _samples(log, grid, start_s, stop_s, wanted)
    if len(stream.times_s) == 0:
        return _absent(grid)
    # Clip-relative in float64 first: float32 seconds since boot have no milliseconds left.
    stream = replace(stream, times_s=stream.times_s - start_s)
    if grid.resample == "bandlimited":
        return _bandlimited(stream, grid)
    nearest = _nearest(stream.times_s, wanted)
    valid = np.abs(stream.times_s[nearest] - wanted) <= grid.tolerance_s
    if grid.resample == "nearest":
        chosen, place = np.unique(nearest, return_inverse=True)
        data = _frames(log, grid, stream.data[chosen])[place]
    else:
        data, finite = _interpolate(stream, wanted)
        valid &= finite
    data[~valid] = 0
    return torch.from_numpy(data), torch.from_numpy(valid)


def _samples(log: SensorLog, grid: Grid, start_s: float, stop_s: float, wanted: np.ndarray) -> Stream:
    """What the log has in the window; of frames that it gives singly only those nearest to a point of the grid.

    The nearest among them are the nearest among all, so that nothing else changes.
    """
    if grid.resample != "nearest" or not isinstance(log, Picks):
        return log.read(grid.name, start_s, stop_s)
    times = log.times(grid.name, start_s, stop_s) - start_s
    places = np.unique(_nearest(times, wanted)) if len(times) else np.arange(0)
    return log.pick(grid.name, start_s, stop_s, places)


def _nearest(times: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """For each of the `wanted` times, which increase, the place of the nearest of `times`; of two the earlier."""
    if len(wanted) > MANY and len(times) > 1 and (steady := _in_step(times, wanted)) is not None:
        return steady
    right = np.searchsorted(times, wanted).clip(1, max(len(times) - 1, 1))
    right = np.minimum(right, len(times) - 1)
    left = np.maximum(right - 1, 0)
    return np.where(wanted - times[left] <= times[right] - wanted, left, right)


def _in_step(times: np.ndarray, wanted: np.ndarray) -> np.ndarray | None:
    """`_nearest` without a search, where each wanted time has one sample within half the shortest step: sound has."""
    middle = len(wanted) // 2
    places = np.arange(len(wanted)) + int(_nearest(times, wanted[middle : middle + 1])[0]) - middle
    first, last = np.searchsorted(places, [0, len(times)])
    inner = slice(first, last)
    apart = np.abs(times[places[first] : places[last - 1] + 1] - wanted[inner]).max()
    starts = first == 0 or wanted[first - 1] <= times[0]
    ends = last == len(wanted) or wanted[last] >= times[-1]
    is_sure = starts and ends and apart < 0.499 * np.diff(times).min()
    return places.clip(0, len(times) - 1) if is_sure else None


def _finite(rows: np.ndarray) -> np.ndarray:
    """(N,) whether all numbers of a row are finite."""
    finite = np.isfinite(rows).reshape(len(rows), -1)
    return np.ones(len(rows), bool) if finite.all() else np.asarray(finite.all(1))


def _interpolate(stream: Stream, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Linear interpolation of every channel at once; a point next to a non-finite sample is not valid."""
    flat = np.asarray(stream.data, np.float32).reshape(len(stream.data), -1)
    known = _finite(flat)
    if not known.all():
        flat = np.where(known[:, None], flat, 0)
    right = np.searchsorted(stream.times_s, wanted, side="right").clip(min(1, len(flat) - 1), len(flat) - 1)
    left = np.maximum(right - 1, 0)
    span = np.maximum(stream.times_s[right] - stream.times_s[left], 1e-12)
    weight = ((wanted - stream.times_s[left]) / span).clip(0, 1).astype(np.float32)[:, None]
    data = (1 - weight) * flat[left] + weight * flat[right]
    return data.reshape(len(wanted), *stream.data.shape[1:]), known[left] & known[right]


def _frames(log: SensorLog, grid: Grid, frames: np.ndarray) -> np.ndarray:
    """Frames at the grid's size, less the log's first frame where the grid asks for it."""
    if grid.background == "first":
        info = log.sensors[grid.name]
        first = log.read(grid.name, info.start_s, info.start_s + 1.5 / info.rate_hz).data[:1]
        frames, first = resize_frames(frames, grid.size), resize_frames(first, grid.size)
        frames = (frames.astype(np.int16) - first.astype(np.int16) + 128).clip(0, 255).astype(frames.dtype)
    return resize_frames(frames, grid.size)


def _bandlimited(stream: Stream, grid: Grid) -> tuple[Tensor, Tensor]:
    """The nearest samples on the sound's nominal native grid, resampled band-limited where another rate is asked for.

    Interpolating between samples would be a low-pass that depends on where in a sample the clip begins: the loudness of
    the highest bands would then say more of that than of the recording. A sample off by half its period is not heard.
    """
    # A thousandth off is another clock, not another rate: the nearest samples then do.
    rate_hz = grid.rate_hz if abs(stream.rate_hz / grid.rate_hz - 1) < 1e-3 else stream.rate_hz
    native = round(grid.seconds * rate_hz)
    wanted = np.arange(native) / rate_hz
    nearest = _nearest(stream.times_s, wanted)
    data = np.asarray(stream.data.take(nearest, 0), np.float32)
    valid = (np.abs(stream.times_s[nearest] - wanted) <= grid.tolerance_s) & _finite(data)
    data[~valid] = 0
    sound, mask = torch.from_numpy(data), torch.from_numpy(valid)
    if native == grid.count:
        return sound, mask
    sound = torchaudio.functional.resample(sound.movedim(0, -1), round(rate_hz), round(grid.rate_hz))
    picks = (torch.arange(grid.count) * native // grid.count).clamp(max=native - 1)
    return sound.movedim(-1, 0)[: grid.count].contiguous(), mask[picks]


def collate(clips: Sequence[Clip]) -> Batch:
    """Stack clips of the same grids; every sensor is in every batch, present or not."""
    names = clips[0].values
    return Batch(
        values={n: torch.stack([c.values[n] for c in clips]) for n in names},
        valid={n: torch.stack([c.valid[n] for c in clips]) for n in names},
        logs=tuple(c.log for c in clips),
        starts_s=tuple(c.start_s for c in clips),
        complete=all(bool(valid.all()) for c in clips for valid in c.valid.values()),
    )


def span(log: SensorLog, sensors: Sequence[str]) -> tuple[float, float]:
    """The time that every one of `sensors` present in the log covers: (start_s, stop_s)."""
    infos = [log.sensors[n] for n in sensors if n in log.sensors]
    if not infos:
        raise LogError(f"{log.path}: none of the sensors {list(sensors)} is in this log; it has {list(log.sensors)}")
    return max(i.start_s for i in infos), min(i.stop_s for i in infos)


def window_starts(log: SensorLog, seconds: float, stride_s: float, sensors: Sequence[str]) -> np.ndarray:
    """Starts (s) of the regular windows that lie wholly inside the log's common span; empty if it is too short."""
    start, stop = span(log, sensors)
    # A recording of exactly `seconds` holds one window; stamps may fall short of it by rounding.
    count = math.floor((stop - start - seconds) / stride_s + 1e-3) + 1
    return start + stride_s * np.arange(max(count, 0))


class Windows(Dataset):
    """Every regular window of some logs, in order: map-style, items are Clips. For embedding and probing."""

    def __init__(self, logs: Sequence[SensorLog], grids: Mapping[str, Grid], seconds: float, stride_s: float):
        self.logs, self.grids, self.seconds = list(logs), dict(grids), seconds
        self.index = [
            (number, float(start))
            for number, log in enumerate(self.logs)
            for start in window_starts(log, seconds, stride_s, list(grids))
        ]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, item: int) -> Clip:
        number, start = self.index[item]
        return read_clip(self.logs[number], start, self.grids, self.seconds)


class TrainingClips(Dataset):
    """An endless sequence of random windows: item i of the run is a pure function of (seed, i).

    An epoch visits every log in proportion to its length, at least once, in a shuffled order. Items are addressed by
    their number in the whole run, so that any split over processes, workers and restarts sees the same clips.
    """

    def __init__(self, logs: Sequence[SensorLog], grids: Mapping[str, Grid], seconds: float, seed: int, length: int):
        self.grids, self.seconds, self.seed, self.length = dict(grids), seconds, seed, length
        self.logs, self.spans = [], []
        for log in logs:
            start, stop = span(log, list(grids))
            if stop - start >= seconds - 1e-3:
                self.logs.append(log)
                self.spans.append((start, max(stop - seconds, start)))
        if not self.logs:
            longest = max((stop - start for start, stop in (span(log, list(grids)) for log in logs)), default=0.0)
            raise LogError(
                f"data.clip_seconds is {seconds} but the longest of {len(logs)} logs has its sensors together for only "
                f"{longest:.3f} s: choose a shorter clip or longer logs"
            )
        # Long logs hold more windows: each is visited in proportion to its length, at least once an epoch.
        lengths = np.array([stop - start + seconds for start, stop in self.spans])
        repeats = np.maximum(1, np.round(lengths / np.median(lengths))).astype(int)
        self.visits = np.repeat(np.arange(len(self.logs)), repeats)

    def __len__(self) -> int:
        return self.length

    def draw(self, item: int) -> tuple[int, float]:
        """Which log, and from which second, item `item` of the run is."""
        epoch, place = divmod(item, len(self.visits))
        order = np.random.default_rng([self.seed, 1, epoch]).permutation(len(self.visits))
        number = int(self.visits[order[place]])
        first, last = self.spans[number]
        return number, float(np.random.default_rng([self.seed, 2, item]).uniform(first, last))

    def __getitem__(self, item: int) -> Clip:
        number, start = self.draw(item)
        return read_clip(self.logs[number], start, self.grids, self.seconds)


class Rolling:
    """A log of which the last seconds read are kept, frames at the grid's size: for windows that overlap, one after the
    other. What two of them share is then decoded and resized once."""

    def __init__(self, log: SensorLog, grids: Mapping[str, Grid]):
        self.log, self.grids = log, grids
        self.name, self.path, self.sensors = log.name, log.path, log.sensors
        self._kept: dict[str, tuple[float, float, Stream]] = {}
        self._picked: dict[str, Stream] = {}

    def read(self, sensor: str, start_s: float, stop_s: float) -> Stream:
        begin, end, kept = self._kept.get(sensor, (math.inf, -math.inf, None))
        if kept is None or not begin <= start_s <= end <= stop_s:
            if start_s < begin < math.inf:  # a look back, such as for a log's first frame: not where we are
                return self._fetched(sensor, start_s, stop_s)
            stream = self._fetched(sensor, start_s, stop_s)
        else:
            first = int(np.searchsorted(kept.times_s, start_s))
            stream = _joined([_cut(kept, slice(first, None)), self._fetched(sensor, end, stop_s)])
        self._kept[sensor] = start_s, stop_s, stream
        return stream

    @property
    def labels(self) -> Mapping[str, Label]:
        return self.log.labels

    def times(self, sensor: str, start_s: float, stop_s: float) -> np.ndarray:
        """As a log's own; one that gives no single samples is read."""
        if isinstance(self.log, Picks):
            return self.log.times(sensor, start_s, stop_s)
        return self.read(sensor, start_s, stop_s).times_s

    def pick(self, sensor: str, start_s: float, stop_s: float, places: np.ndarray) -> Stream:
        """As a log's own, less what the window before this one had already."""
        if not isinstance(self.log, Picks):
            return _cut(self.read(sensor, start_s, stop_s), places)
        times, kept = self.log.times(sensor, start_s, stop_s)[places], self._picked.get(sensor)
        new = np.isin(times, kept.times_s, invert=True) if kept else np.ones(len(places), bool)
        stream = self._resized(self.log.pick(sensor, start_s, stop_s, places[new]))
        if kept and not new.all():
            stream = _joined([_cut(kept, np.isin(kept.times_s, times)), stream])
            stream = _cut(stream, np.argsort(stream.times_s))
        self._picked[sensor] = stream
        return stream

    def _fetched(self, sensor: str, start_s: float, stop_s: float) -> Stream:
        return self._resized(self.log.read(sensor, start_s, stop_s))

    def _resized(self, stream: Stream) -> Stream:
        return replace(stream, data=resize_frames(stream.data, self.grids[stream.name].size))

    def fingerprint(self) -> str:
        return self.log.fingerprint()


def _cut(stream: Stream, part: slice | np.ndarray) -> Stream:
    return replace(stream, times_s=stream.times_s[part], data=stream.data[part])


def _joined(parts: Sequence[Stream]) -> Stream:
    times, data = (np.concatenate([getattr(part, what) for part in parts]) for what in ("times_s", "data"))
    return replace(parts[0], times_s=times, data=data)


def pieces(log: SensorLog, grid: Grid, seconds: float = 10.0) -> Iterator[Stream]:
    """The whole stream of a sensor, a stretch of `seconds` after the other, frames at the grid's size: full-size frames
    never stand in memory together."""
    info = log.sensors[grid.name]
    edges = [-math.inf, *np.arange(info.start_s, info.stop_s, seconds)[1:], math.inf]
    for start, stop in pairwise(edges):
        part = log.read(grid.name, start, stop)
        yield replace(part, data=resize_frames(part.data, grid.size))


class InMemory:
    """A log whose wanted sensors were decoded once, frames at the grid's size, and are kept: for data sets that fit."""

    def __init__(self, log: SensorLog, grids: Mapping[str, Grid]):
        self.name, self.path, self._log = log.name, log.path, log
        self._fingerprint = log.fingerprint()
        self._streams = {n: _joined(list(pieces(log, grid))) for n, grid in grids.items() if n in log.sensors}
        self.sensors: Mapping[str, SensorInfo] = {
            n: replace(log.sensors[n], shape=stream.data.shape[1:]) for n, stream in self._streams.items()
        }

    @property
    def labels(self) -> Mapping[str, Label]:
        return self._log.labels

    def read(self, sensor: str, start_s: float, stop_s: float) -> Stream:
        stream = self._streams[sensor]
        return _cut(stream, slice(*np.searchsorted(stream.times_s, [start_s, stop_s])))

    def fingerprint(self) -> str:
        return self._fingerprint
