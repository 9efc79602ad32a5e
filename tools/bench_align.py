"""How well `find_offsets` knows planted clock faults: `python tools/bench_align.py LOGS [--logs 40] [--shuffles 40]`.

LOGS is a folder of simulated tabletop logs. Every offset and drift of the table is put on one sensor's stamps; the answer is
right within 10 ms. Then the streams of every sensor are dealt to other logs: the answer should be "undetermined".
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from multisense.inspect.align import find_offsets
from multisense.logs import SensorLog, open_logs
from multisense.types import SensorInfo, Stream

SENSORS = ("camera", "mic", "fingertip", "arm")
OFFSETS_S = (0.0, 0.02, -0.02, 0.05, -0.05, 0.1, -0.1, 0.25, -0.25)
DRIFTS_PPM = (0.0, 20.0, 100.0)


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

    def late(self, sensor: str, late_s: float, drift_ppm: float) -> "Restamped":
        """The same with one sensor stamped by a clock that is late and gains."""
        stream, info = self.streams[sensor], self.sensors[sensor]
        times = stream.times_s * (1 + 1e-6 * drift_ppm) + late_s
        info = replace(info, start_s=float(times[0]), stop_s=float(times[-1]) + 1 / info.rate_hz)
        sensors, streams = {**self.sensors, sensor: info}, {**self.streams, sensor: replace(stream, times_s=times)}
        return replace(self, sensors=sensors, streams=streams)


def in_memory(log: SensorLog) -> Restamped:
    sensors = {name: log.sensors[name] for name in SENSORS}
    return Restamped(log.name, sensors, {name: log.read(name, -np.inf, np.inf) for name in SENSORS})


def shuffled(logs: Sequence[Restamped], rng: np.random.Generator) -> list[Restamped]:
    """Every sensor's streams dealt to the logs anew."""
    dealt = {sensor: rng.permutation(len(logs)) for sensor in SENSORS}
    return [
        replace(log, streams={sensor: logs[dealt[sensor][i]].streams[sensor] for sensor in SENSORS})
        for i, log in enumerate(logs)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    parser.add_argument("--logs", type=int, default=40)
    parser.add_argument("--shuffles", type=int, default=40)
    given = parser.parse_args()
    logs = [in_memory(log) for log in open_logs(given.path)[: given.logs]]
    errors, undetermined, cases = [], 0, 0
    for sensor, late_s, drift in product(("camera", "mic", "fingertip"), OFFSETS_S, DRIFTS_PPM):
        for name, offset in find_offsets([log.late(sensor, late_s, drift) for log in logs]).offsets.items():
            cases += 1
            undetermined += not offset.is_determined
            if offset.is_determined:
                errors.append(abs(offset.late_s - (late_s if name == sensor else 0.0)))
    right = np.mean(np.array(errors) <= 0.01)
    print(
        f"{cases} planted: {undetermined} undetermined; of the rest {right:.1%} within 10 ms, worst {max(errors) * 1e3:.1f} ms"
    )
    rng = np.random.default_rng(0)
    silent = [o for _ in range(given.shuffles) for o in find_offsets(shuffled(logs, rng)).offsets.values()]
    print(f"{len(silent)} shuffled: {np.mean([not o.is_determined for o in silent]):.1%} undetermined")


if __name__ == "__main__":
    main()
