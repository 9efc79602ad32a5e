"""What may befall a sensor, as it would reach a model: held-out windows in which one sensor is late, noisy, broken.

A disturbance of strength 0 changes nothing, to the bit. Those that need other moments or other recordings read the log
again; the others act on the samples of the windows. `DISTURBANCES` says which befalls which sense, and how strongly.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
import torchaudio.functional
from einops import rearrange
from torch import Tensor

from multisense.clips import Grid, Windows, collate, read_clip
from multisense.logs.base import SensorLog
from multisense.types import Batch, Label, SensorInfo, Stream

Sense = Literal["pictures", "sound", "skin", "numbers"]
ALL: tuple[Sense, ...] = ("pictures", "sound", "skin", "numbers")
NO_CHANGE = 128
"""What a gel camera's frame holds where nothing presses, once its first frame is subtracted."""


def sense(grid: Grid) -> Sense:
    """How a sensor looks to a disturbance: a gel camera gives pictures, a joint encoder numbers."""
    if grid.resample == "bandlimited":
        return "sound"
    if grid.resample == "nearest":
        return "pictures"
    return "skin" if grid.kind == "touch" else "numbers"


@dataclass(frozen=True)
class Scale:
    """What noise and saturation are relative to."""

    spread: Tensor
    """Standard deviation over valid samples: (C,) of numbers, whose channels may be in different units, else ()."""
    peak: float
    """The largest magnitude."""


@dataclass
class Gauge:
    """Gathers the `Scale` of one sensor, batch after batch."""

    grid: Grid
    count: float = 0.0
    total: Tensor = field(default_factory=lambda: torch.zeros(()))
    squares: Tensor = field(default_factory=lambda: torch.zeros(()))
    peak: float = 0.0

    def add(self, values: Tensor, valid: Tensor) -> None:
        known = values[valid].double()
        rows = known.reshape(-1, *self.grid.shape[-1:]) if sense(self.grid) == "numbers" else known.flatten()
        self.count += len(rows)
        self.total, self.squares = self.total + rows.sum(0), self.squares + rows.square().sum(0)
        self.peak = max(self.peak, float(known.abs().max()) if len(rows) else 0.0)

    @property
    def scale(self) -> Scale:
        mean = self.total / max(self.count, 1.0)
        return Scale((self.squares / max(self.count, 1.0) - mean**2).clamp(min=0).sqrt().float(), self.peak)


@dataclass(frozen=True)
class Surroundings:
    """One sensor in all held-out windows: what the windows are of, and the sensor's scale there."""

    grid: Grid
    windows: Windows
    scale: Scale
    seed: int

    @cached_property
    def order(self) -> tuple[list[int], dict[int, int]]:
        """The logs that have the sensor and a window, in a random order, and the place of each in it."""
        logs = sorted({log for log, _ in self.windows.index if self.grid.name in self.windows.logs[log].sensors})
        order = np.random.default_rng([self.seed, 1]).permutation(logs).tolist()
        return order, {log: place for place, log in enumerate(order)}

    @cached_property
    def starts(self) -> Mapping[int, list[float]]:
        """Where the windows of each log begin."""
        found: dict[int, list[float]] = {}
        for log, start in self.windows.index:
            found.setdefault(log, []).append(start)
        return found


@dataclass(frozen=True)
class View:
    """One sensor in a few windows: `items` of the windows around, their values (B, N, *sample) and valid (B, N)."""

    around: Surroundings
    items: Sequence[int]
    values: Tensor
    valid: Tensor

    @property
    def grid(self) -> Grid:
        return self.around.grid

    def places(self) -> list[tuple[int, float]]:
        """Log number and start (s) of each window."""
        return [self.around.windows.index[item] for item in self.items]

    def read(self, moments: Sequence[tuple[SensorLog, float]]) -> tuple[Tensor, Tensor]:
        """The sensor as it is in other moments, each a log and a start in seconds."""
        grids = {self.grid.name: self.grid}
        clips = [read_clip(log, start, grids, self.around.windows.seconds) for log, start in moments]
        batch = collate(clips)
        return batch.values[self.grid.name], batch.valid[self.grid.name]


Act = Callable[[View, float], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Disturbance:
    name: str
    words: str
    """What a strength is, to be filled in by `format`."""
    strengths: tuple[float, ...]
    senses: tuple[Sense, ...]
    act: Act
    """View, strength -> values (B, N, *sample), valid (B, N)"""

    def disturb(self, batch: Batch, view: View, strength: float) -> Batch:
        """The batch with one sensor disturbed; what is not valid is 0, as in every clip."""
        values, valid = self.act(view, strength)
        values = torch.where(valid.reshape(*valid.shape, *[1] * (values.ndim - 2)), values, torch.zeros_like(values))
        masks = {**batch.valid, view.grid.name: valid}
        complete = all(bool(mask.all()) for mask in masks.values())
        return replace(batch, values={**batch.values, view.grid.name: values}, valid=masks, complete=complete)


# --- what needs the log


def offset(view: View, milliseconds: float) -> tuple[Tensor, Tensor]:
    """The sensor as it was at another time: later where its recording goes on for long enough, else earlier. Where it
    does neither, what is missing is not valid."""
    moments, seconds, slack_s = [], view.around.windows.seconds, 1e-3
    for number, start in view.places():
        log, shift = view.around.windows.logs[number], milliseconds / 1000
        info = log.sensors.get(view.grid.name)
        ends = info is not None and start + shift + seconds > info.stop_s + slack_s
        back = info is not None and start - shift >= info.start_s - slack_s
        moments.append((log, start - shift if ends and back else start + shift))
    return view.read(moments)


def swapped(view: View, steps: float) -> tuple[Tensor, Tensor]:
    """The sensor as it was in another log: `steps` further in a random order of them, at a window of the same number."""
    order, place = view.around.order
    moments, windows, starts = [], view.around.windows, view.around.starts
    for number, start in view.places():
        other = order[(place[number] + int(steps)) % len(order)] if number in place else number
        at = starts[number].index(start) % len(starts[other])
        moments.append((windows.logs[other], starts[other][at]))
    return view.read(moments)


def slower(view: View, halvings: float) -> tuple[Tensor, Tensor]:
    """Every second sample lost, `halvings` times over. Sound is first low-passed, as a slower converter does."""
    every = 2 ** int(halvings)
    if sense(view.grid) == "sound":
        sound = view.values.movedim(1, -1).contiguous()
        few = torchaudio.functional.resample(sound, every, 1)
        again = torchaudio.functional.resample(few, 1, every)[..., : sound.shape[-1]]
        return again.movedim(-1, 1).contiguous(), view.valid
    logs = {number: Every(view.around.windows.logs[number], every) for number, _ in view.places()}
    return view.read([(logs[number], start) for number, start in view.places()])


class Every:
    """A log that kept only every n-th of the samples it is asked for."""

    def __init__(self, log: SensorLog, every: int):
        self.log, self.every = log, every
        self.name, self.path = log.name, log.path
        self.sensors: Mapping[str, SensorInfo] = log.sensors

    @property
    def labels(self) -> Mapping[str, Label]:
        return self.log.labels

    def read(self, sensor: str, start_s: float, stop_s: float) -> Stream:
        stream, kept = self.log.read(sensor, start_s, stop_s), slice(None, None, self.every)
        return Stream(sensor, stream.times_s[kept], stream.data[kept], stream.rate_hz / self.every)

    def fingerprint(self) -> str:
        return self.log.fingerprint()


# --- what acts on the samples


def dropped(view: View, share: float) -> tuple[Tensor, Tensor]:
    """The sensor is gone for the last `share` of the window."""
    count = view.grid.count
    there = torch.arange(count) < count - round(share * count)
    return view.values, view.valid & there


def frozen(view: View, share: float) -> tuple[Tensor, Tensor]:
    """The last frame before the last `share` of the window is repeated; the whole window shows its first one."""
    count = view.grid.count
    at = torch.arange(count).clamp(max=max(count - round(share * count) - 1, 0))
    return view.values[:, at], view.valid[:, at]


def noise(view: View, level: float) -> tuple[Tensor, Tensor]:
    """White Gaussian noise of `level` times the sensor's own spread; each window has its own, at every level the same."""
    shape = view.values.shape[1:]
    drawn = [np.random.default_rng([view.around.seed, item]).standard_normal(shape, np.float32) for item in view.items]
    added = level * view.around.scale.spread * torch.from_numpy(np.stack(drawn))
    return like(view.values, view.values.float() + added), view.valid


def gain(view: View, decibels: float) -> tuple[Tensor, Tensor]:
    """Amplitudes that are off by so many dB; of a gel camera, the change since its first frame."""
    rest = NO_CHANGE if view.grid.background == "first" else 0
    return like(view.values, (view.values.float() - rest) * 10 ** (decibels / 20) + rest), view.valid


def blur(view: View, share: float) -> tuple[Tensor, Tensor]:
    """A Gaussian whose deviation is `share` of the picture's height."""
    sigma = share * view.grid.shape[0]
    reach = math.ceil(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / max(sigma, 1e-6)) ** 2)
    kernel = kernel / kernel.sum()
    flat = rearrange(view.values.float(), "b n h w c -> (b n c) 1 h w")
    for axis, weights in (((0, 0, reach, reach), kernel[:, None]), ((reach, reach, 0, 0), kernel[None])):
        flat = F.conv2d(F.pad(flat, axis, mode="replicate"), weights[None, None])
    pictures = rearrange(flat, "(b n c) 1 h w -> b n h w c", b=len(view.values), c=view.grid.shape[2])
    return like(view.values, pictures), view.valid


def dead(view: View, share: float) -> tuple[Tensor, Tensor]:
    """`share` of the taxels give 0, in every window the same; more are the same ones and others. Channels of a vector
    count as taxels."""
    cells = view.grid.shape[:2]
    count = math.prod(cells)
    order = np.random.default_rng([view.around.seed, 2]).permutation(count)
    alive = torch.ones(count, dtype=view.values.dtype)
    alive[order[: round(share * count)]] = 0
    return view.values * alive.reshape(*cells, *[1] * (len(view.grid.shape) - len(cells))), view.valid


def saturated(view: View, decibels: float) -> tuple[Tensor, Tensor]:
    """Clipped so many dB below the loudest sample of the held-out windows."""
    level = view.around.scale.peak * 10 ** (-decibels / 20)
    return view.values.clamp(-level, level), view.valid


def like(before: Tensor, values: Tensor) -> Tensor:
    """Values in the number type of those `before`: rounded and kept in range, where that is bytes."""
    return values.round().clamp(0, 255).to(torch.uint8) if before.dtype == torch.uint8 else values


DISTURBANCES = (
    Disturbance("dropped", "gone for its last {:.0%}", (0.25, 0.5, 0.75, 1.0), ALL, dropped),
    Disturbance("offset", "off by {:g} ms", (10, 20, 50, 100, 200, 500), ALL, offset),
    Disturbance("slower", "rate halved {:g} time(s)", (1, 2), ALL, slower),
    Disturbance("noise", "noise {:g} x spread", (0.1, 0.3, 1.0), ALL, noise),
    Disturbance("swapped", "of another log", (1,), ALL, swapped),
    Disturbance("gain", "gain {:+g} dB", (-12, -6, 6, 12), ("pictures", "sound", "skin"), gain),
    Disturbance("blur", "blur {:.0%} of height", (0.01, 0.03, 0.1), ("pictures",), blur),
    Disturbance("frozen", "frozen for its last {:.0%}", (0.5, 1.0), ("pictures",), frozen),
    Disturbance("dead", "{:.0%} of taxels dead", (0.1, 0.25, 0.5), ("skin",), dead),
    Disturbance("saturated", "clipped {:g} dB below peak", (10, 20, 30), ("sound",), saturated),
)
"""Every disturbance, the strengths at which it is tried, and the senses that it befalls."""
