"""What happens in a stream, as a few numbers over time: the common language in which clocks of unlike senses are compared.

Every sensor becomes features on one fine grid: how much it moves (`energy`) and how suddenly more (`onset`). They are
logarithms, so that one loud event does not speak for all, and they stand in the middle between the samples they compare,
so that a slow camera is not late.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter1d

from multisense.inspect.tally import blocks, is_frames
from multisense.logs.base import SensorLog
from multisense.types import SensorInfo, Stream

RATE_HZ = 200.0
STRETCH_S = 30.0
"""Longer logs are cut into stretches of this length: the unit that is shuffled for the null and left out for the error."""
SHORTEST_S = 2.0
TREND_S = 0.5
"""Slower changes are taken off: what goes on after an event (an object that slides on) would pull the lag with it."""
MAX_CHANNELS = 32
PROBES = ("energy", "onset")


@dataclass(frozen=True)
class Stretch:
    """A part of one log in which every compared sensor has data."""

    log: int
    start_s: float
    length_s: float

    @property
    def stop_s(self) -> float:
        return self.start_s + self.length_s


def stretches(number: int, log: SensorLog, sensors: list[str], longest_s: float) -> list[Stretch]:
    """The stretches of a log, up to `longest_s` of it in all, evenly spread; none where its sensors hardly overlap."""
    start = max(log.sensors[name].start_s for name in sensors)
    stop = min(log.sensors[name].stop_s for name in sensors)
    count = int((stop - start) // STRETCH_S) or int(stop - start >= SHORTEST_S)
    length = min(stop - start, STRETCH_S)
    keep = max(int(longest_s // length), 1) if count else 0
    chosen = np.unique(np.linspace(0, count - 1, min(keep, count)).round().astype(int)) if count else []
    return [Stretch(number, start + STRETCH_S * k, length) for k in chosen]


def activity(log: SensorLog, sensor: str, stretch: Stretch) -> dict[str, np.ndarray]:
    """What happens in a sensor during a stretch: probe -> (T, F) float32 at RATE_HZ."""
    grid = stretch.start_s + np.arange(int(stretch.length_s * RATE_HZ)) / RATE_HZ
    times, energy = _known(*_energy(log, log.sensors[sensor], stretch))
    onset_times, onset = (times[1:] + times[:-1]) / 2, np.maximum(np.diff(energy, axis=0), 0)
    return {"energy": _on_grid(grid, times, energy), "onset": _on_grid(grid, onset_times, onset)}


def _known(times: np.ndarray, energy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without the times at which a channel is not a number, and without the channels that hardly ever are one."""
    good = np.isfinite(energy)
    channels = good.mean(axis=0) > 0.5 if len(good) else np.ones(energy.shape[1], bool)
    energy = np.where(channels, energy, 0.0)  # kept as nothing: every stretch has the same features
    rows = np.isfinite(energy).all(axis=1)
    return times[rows], energy[rows]


def _on_grid(grid: np.ndarray, times: np.ndarray, values: np.ndarray) -> np.ndarray:
    if len(times) < 2:
        return np.zeros((len(grid), values.shape[1]), np.float32)
    found = np.stack([np.interp(grid, times, column) for column in values.T], axis=1)
    return (found - uniform_filter1d(found, round(TREND_S * RATE_HZ), axis=0)).astype(np.float32)


def _energy(log: SensorLog, info: SensorInfo, stretch: Stretch) -> tuple[np.ndarray, np.ndarray]:
    """(N,) times and (N, F) logarithms of how much happens, at the sensor's own rate (at most about RATE_HZ)."""
    is_rgb = info.dtype == "uint8" and len(info.shape) == 3 and info.shape[2] == 3
    if is_rgb or (is_frames(info) and info.modality != "touch"):
        return _change(blocks(log, info, start_s=stretch.start_s, stop_s=stretch.stop_s), step=2)
    stream = log.read(info.name, stretch.start_s, stretch.stop_s)
    if info.modality == "audio":
        return _loudness(stream)
    flat = stream.data.reshape(len(stream.data), -1).astype(np.float32)
    return (_pressure if info.modality == "touch" else _speed)(stream.times_s, flat)


def _loudness(stream: Stream) -> tuple[np.ndarray, np.ndarray]:
    block = max(round(stream.rate_hz / RATE_HZ), 1)
    count = len(stream.data) // block
    sound = np.nan_to_num(stream.data[: count * block].reshape(count, -1).astype(np.float64))
    power = (sound**2).mean(axis=1) if count else np.zeros(0)
    floor = 1e-2 * np.median(power) + 1e-12 if count else 1.0
    times = stream.times_s[: count * block].reshape(count, -1).mean(axis=1) if count else np.zeros(0)
    return times, np.log(power + floor)[:, None]


def _change(pieces: Iterable[Stream], step: int) -> tuple[np.ndarray, np.ndarray]:
    """Over two frames: codecs that send every second frame whole flicker in between. Few frames are held at once."""
    times, change = [np.empty(0)], []
    last: list[np.ndarray] = []
    for piece in pieces:
        times.append(piece.times_s)
        last += [frame.astype(np.float32) for frame in piece.data[:, ::2, ::2]]
        change += [np.abs(b - a).mean() for a, b in zip(last, last[step:], strict=False)]
        last = last[-step:]
    floor = np.median(change) + 1e-3 if change else 1.0
    when = np.concatenate(times)
    return when[step // 2 : len(when) - (step - step // 2)], np.log(np.array(change) + floor).reshape(-1, 1)


def _pressure(times: np.ndarray, taxels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Taxels at rest are where each is most of the time."""
    if not len(taxels):
        return times, np.zeros((0, 1))
    total = np.nansum(np.abs(taxels - np.nan_to_num(_typical(taxels))), axis=1)
    return times, np.log(total + np.median(total) + 1e-6)[:, None]


def _typical(values: np.ndarray) -> np.ndarray:
    """The median of every channel over time, NaN where a channel holds no number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a channel without numbers
        return np.nanmedian(values, axis=0)


def _speed(times: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of every channel: of a position its speed, of a velocity its acceleration, of a torque the rate of loading."""
    step = max(round(len(times) / max(np.ptp(times), 1e-9) / RATE_HZ), 1) if len(times) > 1 else 1
    change = np.abs(values[step:] - values[:-step])[:, :MAX_CHANNELS]
    floor = np.nan_to_num(_typical(change)) + 1e-9 if len(change) else 1.0
    return (times[step:] + times[:-step]) / 2, np.log(change + floor)
