"""Embedding a log while it is being recorded: every window as soon as all its sensors have reached its end."""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from multisense.clips import Rolling, collate, read_clip, window_starts
from multisense.embed import FORMAT, VERSION, embedding_settings
from multisense.logs import LogError, open_log
from multisense.logs.base import SensorLog
from multisense.run import Run, check_logs, open_run

POLL_S = 0.05
PATIENCE_S = 10.0
"""For a sensor that warms up, and for a reader of the output to be done."""


@dataclass(frozen=True)
class Followed:
    """What came of following a log."""

    path: Path
    windows: int
    latencies_s: np.ndarray
    """(windows,) from when the log on disk held a window, or the look before, to when its embedding was on disk."""

    def __str__(self) -> str:
        if not self.windows:
            return f"no window in {self.path}: the recording was shorter than a clip"
        half, most = np.quantile(self.latencies_s, [0.5, 0.95])
        return f"{self.windows} windows in {self.path}; latency {half:.2f} s, p95 {most:.2f} s"


def follow_path(run: Path, log: Path, out: Path, stride_s: float, sensors: Sequence[str] | None) -> Followed:
    """`follow` with the run in folder `run`."""
    return follow(open_run(run, "cuda" if torch.cuda.is_available() else "cpu"), log, out, stride_s, sensors)


def follow(
    run: Run, log: Path, out: Path, stride_s: float = 0.5, sensors: Sequence[str] | None = None, wait_s: float = 60.0
) -> Followed:
    """Embed the windows of the recording `log` into the HDF5 file `out` until the recording ends.

    `out` is as `embed_logs` writes it, with one group, and may be read while it grows. It waits `wait_s` for the log to
    appear, and as long for it to grow. Raises ValueError where `out` exists or a setting does not fit the run, LogError
    where the log is not of the run's sensors or never appears.
    """
    if out.exists():
        raise ValueError(f"{out}: exists already; following starts a new file: choose another name or remove it")
    settings = embedding_settings(run, None, stride_s, sensors)
    recording = _Recording(run, log, wait_s)
    latencies: list[float] = []
    file: _Growing | None = None
    for ready_s, rolling, starts in recording.windows(stride_s):
        file = file or _Growing(out, recording.name, settings)
        batch = collate([read_clip(rolling, start, run.grids, run.config.data.clip_seconds) for start in starts])
        embedding = run.model.embed(batch.to(run.model.time_s.device), settings["sensors"])
        arrays = {f"per_sensor/{n}": embedding.per_sensor[n] for n in settings["sensors"]}
        arrays |= {f"valid/{n}": embedding.valid[n] for n in settings["sensors"]}
        arrays |= {"fused": embedding.fused, "per_time": embedding.per_time}
        file.append(starts, embedding.times_s.cpu().numpy(), {k: v.cpu().numpy() for k, v in arrays.items()})
        latencies += [time.time() - ready_s] * len(starts)
    return Followed(out, len(latencies), np.array(latencies))


class _Recording:
    """The windows of a log that grows."""

    MOST = 16
    """Windows at once: one that lags behind catches up in batches."""

    def __init__(self, run: Run, path: Path, wait_s: float):
        self.run, self.path, self.wait_s, self.name = run, path, wait_s, path.stem

    def windows(self, stride_s: float) -> Iterator[tuple[float, Rolling, np.ndarray]]:
        """(when they were there in seconds since 1970, the log, starts of new windows), until the recording ends."""
        rolling: Rolling | None = None
        last_s, looked_s, news, quiet_since = -math.inf, None, True, time.monotonic()
        while news or time.monotonic() - quiet_since < self.wait_s:
            before_s, looked_s = looked_s, time.time()
            log = self._opened()
            if log is None or self._waits_for_a_sensor(log):
                news = False
                time.sleep(POLL_S)
                continue
            rolling = rolling or Rolling(log, self.run.grids)
            rolling.log = log
            # What was not there at the last look came after it, nobody knows when: the latency is told too long, never too short.
            ready_s = os.stat(self.path).st_mtime if before_s is None else before_s
            starts = window_starts(log, self.run.config.data.clip_seconds, stride_s, self.run.model.names)
            starts = starts[starts > last_s + 1e-6]  # by time: a sensor that comes late moves where windows begin
            for first in range(0, len(starts), self.MOST):
                yield ready_s, rolling, starts[first : first + self.MOST]
            last_s, news = max([last_s, *starts[-1:]]), len(starts) > 0
            if not is_live(log):
                return
            if news:
                quiet_since = time.monotonic()
            time.sleep(POLL_S)
        if rolling is None:
            raise LogError(f"{self.path}: no readable log appeared in {self.wait_s:g} s; is it being recorded?")

    def _waits_for_a_sensor(self, log: SensorLog) -> bool:
        """Whether a sensor of the run has no sample yet in a recording that has hardly begun: a camera warms up."""
        longest = max(info.stop_s - info.start_s for info in log.sensors.values())
        return is_live(log) and longest < PATIENCE_S and any(name not in log.sensors for name in self.run.model.names)

    def _opened(self) -> SensorLog | None:
        """The log as it is now; None while it is not there, or is just being given its last form."""
        try:
            log = open_log(self.path)
        except LogError:
            return None
        check_logs(self.run.config, self.run.grids, [log])
        return log


def is_live(log: SensorLog) -> bool:
    """Whether a log is still being recorded."""
    return bool(getattr(log, "attributes", {}).get("recording"))


class _Growing:
    """A file of embeddings with one group, appended to."""

    def __init__(self, out: Path, group: str, settings: Mapping[str, Any]):
        self.out, self.group = out, group
        with h5py.File(out, "w") as file:
            file.attrs.update(format=FORMAT, version=VERSION, settings=json.dumps(settings))
            file.create_group(group).attrs["log"] = group

    def _opened(self) -> h5py.File:
        """The file for writing, as soon as nobody reads it."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return h5py.File(self.out, "r+")
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_S)

    def append(self, starts: np.ndarray, times_s: np.ndarray, arrays: Mapping[str, np.ndarray]) -> None:
        with self._opened() as file:
            here = file[self.group]
            assert isinstance(here, h5py.Group)
            here.require_dataset("times_s", times_s.shape, times_s.dtype, data=times_s)
            for name, rows in {"starts_s": starts, **arrays}.items():
                if name not in here:
                    here.create_dataset(
                        name, shape=(0, *rows.shape[1:]), maxshape=(None, *rows.shape[1:]), dtype=rows.dtype
                    )
                data = here[name]
                assert isinstance(data, h5py.Dataset)
                data.resize(len(data) + len(rows), axis=0)
                data[-len(rows) :] = rows
