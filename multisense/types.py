"""The records that travel along the line: Stream -> Clip -> Batch -> TokenBatch.

They are frozen, check themselves once, carry units in their names, and print shapes instead of data.
Times are float64 seconds; ranges are half-open, [start, stop).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
import torch

Reduction = Literal["mean", "max", "last", "unique"]


def _shapes(self: Any) -> str:
    """Print a record as its fields' shapes, so that a debugger shows a line and not a megabyte."""

    def show(value: Any) -> str:
        if isinstance(value, Mapping):
            return "{" + ", ".join(f"{key}: {show(item)}" for key, item in value.items()) + "}"
        if isinstance(value, (np.ndarray, torch.Tensor)):
            return f"{str(value.dtype).removeprefix('torch.')}{tuple(value.shape)}"
        return repr(value)

    return f"{type(self).__name__}({', '.join(f'{f.name}={show(getattr(self, f.name))}' for f in fields(self))})"


@dataclass(frozen=True)
class SensorInfo:
    """What a log says of one sensor, known without reading its data.

    A *sensor* is a name (`wrist_cam`); its *modality* is a kind (`video`), or "" where the log does not say.
    """

    name: str
    modality: str
    rate_hz: float
    """Nominal rate; the time stamps are the truth."""
    shape: tuple[int, ...]
    """Shape of one sample: () or (C,) for audio, (H, W, 3) for frames, (H, W, C) for taxel grids, (C,) for vectors."""
    dtype: str
    start_s: float
    """Time of the first sample."""
    stop_s: float
    """Time of the last sample plus one nominal period: the sensor covers [start_s, stop_s)."""
    count: int
    units: str = ""
    channels: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class Stream:
    """The samples of one sensor whose time lies in a half-open range, at the rate and in the unit they were recorded."""

    name: str
    times_s: np.ndarray
    """(N,) float64, strictly increasing, on the log's clock."""
    data: np.ndarray
    """(N, *sample)"""
    rate_hz: float

    def __post_init__(self) -> None:
        if self.times_s.ndim != 1 or len(self.times_s) != len(self.data):
            raise ValueError(
                f"stream '{self.name}': expected one time per sample, "
                f"found {self.times_s.shape} times for data of shape {self.data.shape}"
            )

    __repr__ = _shapes


@dataclass(frozen=True, repr=False)
class Label:
    """Ground truth about a log, for probes only; training never sees it.

    `times_s` is None for one value per log. `reduce` says how values over time become one value per window:
    "mean" or "max" over the window, "last" value in it, or "unique" (the value when the window holds only one).
    """

    name: str
    data: np.ndarray
    """(N,) or (N, D) over time, () or (D,) per log. Integers are classes, floats are quantities."""
    times_s: np.ndarray | None = None
    reduce: Reduction = "mean"
    classes: tuple[str, ...] = ()
    """Names of the classes 0, 1, ...; empty for quantities."""
    units: str = ""

    @property
    def is_class(self) -> bool:
        return bool(np.issubdtype(self.data.dtype, np.integer))

    __repr__ = _shapes


@dataclass(frozen=True, repr=False)
class Clip:
    """One window of one log, every sensor on its own regular grid of clip-relative times.

    `values[name]` is (N, *sample) and `valid[name]` (N,) bool. An absent sensor has valid all False: the mask, never
    the numbers, says what is there.
    """

    log: str
    start_s: float
    values: Mapping[str, torch.Tensor]
    valid: Mapping[str, torch.Tensor]

    def __post_init__(self) -> None:
        _check_masks(self, "clip")

    __repr__ = _shapes


@dataclass(frozen=True, repr=False)
class Batch:
    """B clips: `values[name]` (B, N, *sample), `valid[name]` (B, N) bool. Every sensor is in every batch."""

    values: Mapping[str, torch.Tensor]
    valid: Mapping[str, torch.Tensor]
    logs: tuple[str, ...] = ()
    starts_s: tuple[float, ...] = ()
    complete: bool = False
    """Whether everything is known to be valid, so that attention needs no mask. Whoever changes `valid` sets it anew."""

    def __post_init__(self) -> None:
        _check_masks(self, "batch")

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def to(self, device: torch.device | str) -> "Batch":
        move = {k: v.to(device, non_blocking=True) for k, v in self.values.items()}
        return replace(self, values=move, valid={k: v.to(device, non_blocking=True) for k, v in self.valid.items()})

    def only(self, sensors: "tuple[str, ...] | list[str] | None") -> "Batch":
        """The same batch with every sensor outside `sensors` marked absent; None keeps all."""
        if sensors is None:
            return self
        unknown = sorted(set(sensors) - set(self.valid))
        if unknown:
            raise ValueError(f"no sensor {unknown} here; there are {sorted(self.valid)}")
        valid = {k: v if k in sensors else torch.zeros_like(v) for k, v in self.valid.items()}
        return replace(self, valid=valid, complete=False)

    __repr__ = _shapes


def _check_masks(record: Clip | Batch, what: str) -> None:
    for name, values in record.values.items():
        valid = record.valid.get(name)
        if valid is None or valid.dtype != torch.bool or values.shape[: valid.ndim] != valid.shape:
            found = "nothing" if valid is None else f"{valid.dtype}{tuple(valid.shape)}"
            raise ValueError(
                f"{what}: sensor '{name}' has values of shape {tuple(values.shape)}; "
                f"expected a bool mask over its leading dimensions, found {found}"
            )


@dataclass(frozen=True, repr=False)
class TokenLayout:
    """Where the T tokens of a clip stand; the same for every clip of a model.

    A model's sequence is its sensors one after the other, in the order of its configuration.
    """

    time_s: torch.Tensor
    """(T,) centre of each token, clip-relative."""
    place: torch.Tensor
    """(T, 2) place in [0, 1]: (y, x) of a patch, (frequency, 0) of a spectrogram patch, 0.5 where there is no place."""
    sensor: torch.Tensor
    """(T,) index into `names`"""
    names: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.time_s)

    __repr__ = _shapes


@dataclass(frozen=True, repr=False)
class TokenBatch:
    """Tokens of B clips: `tokens` (B, T, D), `valid` (B, T) bool, and where they stand."""

    tokens: torch.Tensor
    valid: torch.Tensor
    layout: TokenLayout
    complete: bool = False
    """Whether every token is known to be valid, so that attention needs no mask."""

    def __post_init__(self) -> None:
        b, t, _ = self.tokens.shape
        if self.valid.shape != (b, t) or len(self.layout) != t:
            raise ValueError(
                f"token batch: tokens {tuple(self.tokens.shape)}, valid {tuple(self.valid.shape)} and a layout of "
                f"{len(self.layout)} tokens do not fit together"
            )

    __repr__ = _shapes
