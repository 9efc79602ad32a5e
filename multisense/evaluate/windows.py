"""Labels over time -> one value per window, so that a probe has something to predict."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from multisense.logs.base import SensorLog
from multisense.types import Label


def window_values(label: Label, starts_s: np.ndarray, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """The label's value in each half-open window [start, start + seconds), reduced as the label asks.

    Returns values (N,) or (N, D) and `present` (N,) bool. A window is absent when it holds no sample of the label or,
    for "unique", more than one value. A negative class or a NaN means "not known here" and is not a sample.
    Values of absent windows are 0. A class that changes within a window has no mean: ValueError.
    """
    starts_s = np.asarray(starts_s, dtype=np.float64)
    if label.times_s is None:
        values = np.broadcast_to(label.data, (len(starts_s), *label.data.shape)).copy()
        known = bool(is_known(label.data[None])[0])
        return values if known else np.zeros_like(values), np.full(len(starts_s), known)
    if label.is_class and label.reduce == "mean":
        raise ValueError(f"label '{label.name}' holds classes, which have no mean: reduce by max, last or unique")
    known = is_known(label.data)
    times_s, data = label.times_s[known], label.data[known]
    first = np.searchsorted(times_s, starts_s, side="left")
    stop = np.searchsorted(times_s, starts_s + seconds, side="left")
    values = np.zeros((len(starts_s), *label.data.shape[1:]), dtype=data.dtype)
    present = stop > first
    for window in np.flatnonzero(present):
        inside = data[first[window] : stop[window]]
        values[window] = _reduce(label.reduce, inside)
        present[window] = label.reduce != "unique" or bool((inside == inside[0]).all())
    values[~present] = 0
    return values, present


def is_known(data: np.ndarray) -> np.ndarray:
    """(N,) bool: which samples say anything."""
    good = data >= 0 if np.issubdtype(data.dtype, np.integer) else np.isfinite(data)
    return np.asarray(np.reshape(good, (len(data), math.prod(data.shape[1:]))).all(axis=1))


def _reduce(how: str, inside: np.ndarray) -> np.ndarray:
    if how == "mean":
        return inside.mean(axis=0)
    return inside.max(axis=0) if how == "max" else inside[-1]


@dataclass(frozen=True)
class Target:
    """What one label says of the N windows of a set of logs: `values` (N,) or (N, D), `present` (N,) bool."""

    name: str
    values: np.ndarray
    present: np.ndarray
    is_class: bool
    classes: tuple[str, ...] = ()
    units: str = ""


class Labelled(Protocol):
    """What is asked of a log here."""

    @property
    def labels(self) -> Mapping[str, Label]: ...


@dataclass(frozen=True)
class SignalLabels:
    """Stand-in labels of a log that holds none: the mean of each vector sensor over a window, as `mean_<sensor>`.

    What a robot's camera says of its joints can then be asked of logs that nobody has labelled.
    """

    labels: Mapping[str, Label]

    @classmethod
    def of(cls, log: SensorLog, sensors: Sequence[str]) -> "SignalLabels":
        vectors = [n for n in sensors if n in log.sensors and log.sensors[n].modality == "proprio"]
        streams = {name: log.read(name, -math.inf, math.inf) for name in vectors}
        units = {name: log.sensors[name].units for name in vectors}
        labels = (Label(f"mean_{n}", x.data.astype(np.float64), x.times_s, units=units[n]) for n, x in streams.items())
        return cls({label.name: label for label in labels})


def targets(
    logs: Sequence[Labelled], index: Sequence[tuple[int, float]], seconds: float, names: Sequence[str]
) -> dict[str, Target]:
    """The labels `names` at the windows `index`, a list of (log number, start in s); absent where a log lacks one."""
    return {name: _target(name, logs, index, seconds) for name in names}


def _target(name: str, logs: Sequence[Labelled], index: Sequence[tuple[int, float]], seconds: float) -> Target:
    number = np.array([log for log, _ in index], dtype=int)
    starts_s = np.array([start for _, start in index], dtype=np.float64)
    model = next(log.labels[name] for log in logs if name in log.labels)
    shape = model.data.shape if model.times_s is None else model.data.shape[1:]
    values = np.zeros((len(index), *shape), dtype=np.int64 if model.is_class else np.float64)
    present = np.zeros(len(index), dtype=bool)
    for i, log in enumerate(logs):
        if name in log.labels:
            here = number == i
            values[here], present[here] = window_values(log.labels[name], starts_s[here], seconds)
    return Target(name, values, present, model.is_class, model.classes, model.units)


def label_names(*sets: Sequence[Labelled]) -> list[str]:
    """Names of the labels found in every one of the sets of logs, in the order of the first log that has them."""
    found = [dict.fromkeys(name for log in logs for name in log.labels) for logs in sets]
    return [name for name in found[0] if all(name in other for other in found[1:])]
