"""How well `find_offsets` knows planted clock faults: `python tools/bench_align.py LOGS [--logs 40] [--shuffles 40]`.

LOGS are simulated tabletop logs of a few seconds. Every offset of the table is put on the stamps of every sensor in turn; the
answer is right within 10 ms. Then the streams of every sensor are dealt to other logs: the answer should be "undetermined".
For drift the logs are joined to a few long ones. Ends with status 1 where a target is missed.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from multisense.inspect.align import find_offsets
from multisense.logs import SensorLog, open_logs
from multisense.types import SensorInfo, Stream

SENSORS = ("camera", "mic", "fingertip", "arm")
SLOW = ("camera",)
"""Of 20 frames a second; where 10 ms are a fifth of a frame, "undetermined" is a good answer too."""
OFFSETS_S = (0.0, 0.02, -0.02, 0.05, -0.05, 0.1, -0.1, 0.25, -0.25)
DRIFTS_PPM = (0.0, 20.0, 100.0)
RIGHT_S, RIGHT_PPM = 0.01, 10.0
LONG_LOGS = 8
LEAST = 0.95
"""Of the answers: right, determined (but of SLOW sensors), and undetermined on shuffled logs."""


@dataclass(frozen=True)
class Restamped:
    """A log in memory whose streams may come from other logs and other clocks."""

    name: str
    sensors: Mapping[str, SensorInfo]
    streams: Mapping[str, Stream]
    path: str = "memory"

    @property
    def labels(self) -> Mapping:
        return {}

    def read(self, sensor: str, start_s: float, stop_s: float) -> Stream:
        stream = self.streams[sensor]
        first, last = np.searchsorted(stream.times_s, [start_s, stop_s])
        return replace(stream, times_s=stream.times_s[first:last], data=stream.data[first:last])

    def fingerprint(self) -> str:
        return self.name

    def since(self, start_s: float) -> "Restamped":
        """The same on a clock that began earlier."""
        found = self
        for sensor in self.sensors:
            found = found._stamped(sensor, found.streams[sensor].times_s + start_s)
        return found

    def late(self, sensor: str, late_s: float, drift_ppm: float = 0.0) -> "Restamped":
        """The same with one sensor stamped by a clock that is late and gains."""
        return self._stamped(sensor, self.streams[sensor].times_s * (1 + 1e-6 * drift_ppm) + late_s)

    def _stamped(self, sensor: str, times: np.ndarray) -> "Restamped":
        stream, info = self.streams[sensor], self.sensors[sensor]
        info = replace(info, start_s=float(times[0]), stop_s=float(times[-1]) + 1 / info.rate_hz)
        sensors, streams = {**self.sensors, sensor: info}, {**self.streams, sensor: replace(stream, times_s=times)}
        return replace(self, sensors=sensors, streams=streams)


def in_memory(log: SensorLog) -> Restamped:
    sensors = {name: log.sensors[name] for name in SENSORS}
    return Restamped(log.name, sensors, {name: log.read(name, -np.inf, np.inf) for name in SENSORS})


def joined(logs: Sequence[Restamped], rng: np.random.Generator) -> Restamped:
    """One long log of all, in any order, without the SLOW sensors."""
    order = [logs[i] for i in rng.permutation(len(logs))]
    length_s = max(info.stop_s for log in logs for info in log.sensors.values())
    sensors, streams = {}, {}
    for name in [name for name in SENSORS if name not in SLOW]:
        parts = [log.streams[name] for log in order]
        times = np.concatenate([part.times_s + length_s * i for i, part in enumerate(parts)])
        streams[name] = replace(parts[0], times_s=times, data=np.concatenate([part.data for part in parts]))
        sensors[name] = order[0].sensors[name]
    return Restamped("joined", sensors, streams).since(0.0)


def shuffled(logs: Sequence[Restamped], rng: np.random.Generator) -> list[Restamped]:
    """Every sensor's streams dealt to the logs anew."""
    dealt = {sensor: rng.permutation(len(logs)) for sensor in SENSORS}
    return [
        replace(log, streams={sensor: logs[dealt[sensor][i]].streams[sensor] for sensor in SENSORS})
        for i, log in enumerate(logs)
    ]


def offsets(logs: Sequence[Restamped]) -> bool:
    """Print how planted offsets are found; whether the targets are met."""
    errors, determined = [], []
    for sensor, late_s in product(("camera", "mic", "fingertip"), OFFSETS_S):
        for name, offset in find_offsets([log.late(sensor, late_s) for log in logs]).offsets.items():
            if name not in SLOW:
                determined.append(offset.is_determined)
            if offset.is_determined:
                errors.append(abs(offset.late_s - (late_s if name == sensor else 0.0)))
    right, known = np.mean(np.array(errors) <= RIGHT_S), np.mean(determined)
    print(f"{len(errors)} offsets determined, {known:.1%} of those of fast sensors; {right:.1%} within 10 ms, ", end="")
    print(f"median {np.median(errors) * 1e3:.2f} ms, worst {max(errors) * 1e3:.2f} ms")
    return bool(right >= LEAST <= known)


def shuffles(logs: Sequence[Restamped], count: int, rng: np.random.Generator) -> bool:
    found = [o for _ in range(count) for o in find_offsets(shuffled(logs, rng)).offsets.values()]
    undetermined = np.mean([not o.is_determined for o in found])
    print(f"{len(found)} shuffled: {undetermined:.1%} undetermined")
    return bool(undetermined >= LEAST)


def drifts(logs: Sequence[Restamped]) -> bool:
    """The same of drifts; every log begins at another second of its clock."""
    errors, determined, honest = [], [], []
    for sensor, drift in product(("mic", "fingertip"), DRIFTS_PPM):
        planted = [log.late(sensor, 0.02, drift).since(1000.0 * i) for i, log in enumerate(logs)]
        for name, offset in find_offsets(planted).offsets.items():
            error = abs(offset.drift_ppm - (drift if name == sensor else 0.0))
            determined.append(np.isfinite(error))
            if np.isfinite(error):
                errors.append(error)
                honest.append(error <= 3 * offset.drift_error_ppm)
    right, known = np.mean(np.array(errors) <= RIGHT_PPM), np.mean(determined)
    print(
        f"{len(determined)} drifts: {known:.1%} determined; {right:.1%} of these within {RIGHT_PPM:.0f} ppm, ", end=""
    )
    print(f"worst {max(errors, default=np.nan):.1f} ppm; {np.mean(honest):.1%} within three of the errors given")
    return bool(right >= LEAST <= known)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    parser.add_argument("--logs", type=int, default=40)
    parser.add_argument("--shuffles", type=int, default=40)
    given = parser.parse_args()
    logs = [in_memory(log) for log in open_logs(given.path)[: given.logs]]
    rng = np.random.default_rng(0)
    good = [offsets(logs), shuffles(logs, given.shuffles, rng), drifts([joined(logs, rng) for _ in range(LONG_LOGS)])]
    print("targets met" if all(good) else "TARGETS MISSED")
    return int(not all(good))


if __name__ == "__main__":
    sys.exit(main())
