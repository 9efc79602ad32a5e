"""Faults of a sensor's clock, applied to its recorded times and kept on record, so that alignment can be tested."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace

import numpy as np

from multisense.logs.native import Recording

ANCHOR_S = 0.5
BURST_S = 0.1
"""Mean length of a drop-out."""


@dataclass(frozen=True)
class ClockFault:
    """A clock's faults: stamp = true time + latency + drift x true time + jitter; and some samples are lost."""

    latency_s: float = 0.0
    drift_ppm: float = 0.0
    jitter_s: float = 0.0
    """Standard deviation; cut at 0.45 of the least time between samples (audio: anchors): stamps keep increasing."""
    dropout: float = 0.0
    """Share of samples lost, in bursts of about BURST_S."""

    def __post_init__(self) -> None:
        if not (self.jitter_s >= 0 and 0 <= self.dropout < 1 and abs(self.drift_ppm) < 1e5):
            raise ValueError(f"clock fault: expected jitter_s >= 0, 0 <= dropout < 1, |drift_ppm| < 1e5; found {self}")


def parse_fault(text: str) -> tuple[str, ClockFault]:
    """'camera:latency_s=0.05,drift_ppm=100' -> ('camera', ClockFault(...)).

    Raises ValueError for another form, an unknown key or a value that is no number.
    """
    sensor, _, rest = text.partition(":")
    known = [field.name for field in fields(ClockFault)]
    values: dict[str, float] = {}
    for part in rest.split(","):
        key, _, value = (piece.strip() for piece in part.partition("="))
        if not sensor or key not in known:
            raise ValueError(
                f"clock fault '{text}': found '{key}'; expected SENSOR:KEY=NUMBER,... with keys {', '.join(known)}"
            )
        try:
            values[key] = float(value)
        except ValueError as error:
            raise ValueError(f"clock fault '{text}': {key} is '{value}'; expected a number") from error
    return sensor, ClockFault(**values)


def parse_faults(texts: Iterable[str]) -> dict[str, ClockFault]:
    """Faults by sensor, each as `parse_fault` reads it. Raises ValueError also for a sensor named twice."""
    faults: dict[str, ClockFault] = {}
    for text in texts:
        sensor, fault = parse_fault(text)
        if sensor in faults:
            raise ValueError(f"clock fault '{text}': sensor '{sensor}' is named twice; give all its keys in one")
        faults[sensor] = fault
    return faults


def lost(count: int, rate_hz: float, share: float, rng: np.random.Generator) -> np.ndarray:
    """(count,) bool: samples lost in bursts, about `share` of them; never the first or the last."""
    gone = np.zeros(count, bool)
    burst = max(int(BURST_S * rate_hz), 1)
    while share > 0 and gone.sum() < share * (count - 2):
        start = int(rng.integers(1, max(count - 1, 2)))
        missing = int(np.ceil(share * (count - 2))) - int(gone.sum())
        gone[start : min(start + min(burst, missing), count - 1)] = True
    return gone


def stamps(true_s: np.ndarray, fault: ClockFault, rng: np.random.Generator) -> np.ndarray:
    """What the faulty clock writes for `true_s`, strictly increasing as that is."""
    most = 0.45 * np.diff(true_s).min(initial=np.inf)
    jitter = np.clip(rng.normal(0, 1, len(true_s)) * fault.jitter_s, -most, most)
    return true_s + fault.latency_s + fault.drift_ppm * 1e-6 * true_s + jitter


def apply_fault(recording: Recording, fault: ClockFault, rng: np.random.Generator) -> Recording:
    """The recording as the faulty clock would have written it; its data is untouched but for lost samples.

    Audio keeps its anchors, one each ANCHOR_S and one at each side of a loss.
    """
    keep = np.flatnonzero(~lost(len(recording.data), recording.rate_hz, fault.dropout, rng))
    if recording.anchors is None:
        assert recording.times_s is not None
        return replace(recording, data=recording.data[keep], times_s=stamps(recording.times_s[keep], fault, rng))
    true_s = np.interp(keep, recording.anchors[:, 0], recording.anchors[:, 1])
    breaks = np.flatnonzero(np.diff(keep) > 1)
    regular = np.arange(0, len(keep), int(ANCHOR_S * recording.rate_hz))
    index = np.unique(np.concatenate([regular, breaks, breaks + 1, [len(keep) - 1]]))
    anchors = np.stack([index.astype(float), stamps(true_s[index], fault, rng)], axis=1)
    return replace(recording, data=recording.data[keep], anchors=anchors)


def describe(faults: Mapping[str, ClockFault]) -> dict[str, dict[str, float]]:
    """The faults as plain numbers, for the record."""
    return {sensor: asdict(fault) for sensor, fault in sorted(faults.items())}
