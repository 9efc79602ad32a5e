"""Recording a native log from a running robot: threads append, one thread writes, a crash loses what is not flushed.

    with LogWriter("run-7.h5", source="left arm") as log:
        log.add_sensor("arm", "proprio", rate_hz=250, shape=(7,), dtype="float32", units="rad")
        log.append("arm", joints, time.monotonic())

The log lies under its own name from the first sample on and opens like any other, while it is recorded (attribute
recording=True) and after a kill, up to the last flush.
"""

import math
import time
import warnings
from collections import defaultdict
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from threading import Condition, Thread
from types import TracebackType

import numpy as np
from numpy.typing import ArrayLike

from multisense.logs.base import LogError, log_error
from multisense.logs.clock import check_together
from multisense.logs.intake import Block, Intake, SensorStats, check_sensor
from multisense.logs.native_write import check_label, check_media_files, check_name, existing
from multisense.logs.swmr import RecordedSensor, SwmrLog
from multisense.types import Label

GATHER_S = 0.05
"""Appends are gathered for so long and written together."""
LONGEST_FLUSH_S = 60.0
RESERVED = {"format", "version", "source", "recording"}


class RecorderWarning(UserWarning):
    """Samples were not recorded."""


class LogWriter:
    """Writes the native log `path`, which must not exist, while it happens.

    Every method may be called from any thread. Samples are copied into a queue of at most `queue_bytes`, which one
    thread writes (a block larger than that passes alone, and what is being written may take as much again). A disk that
    is too slow must not stop a robot: when the queue is full, `append` waits for room up to `patience_s`, then leaves
    the block out, counts it in `stats`, and warns once per sensor. Only the first `append` of all, which creates the file,
    waits for the disk itself. A disk that fails ends the recording: the next call raises. Every `flush_s` (0 to 60) all
    samples so far are brought to the disk, which takes as long as it takes.
    """

    def __init__(
        self,
        path: str | Path,
        source: str = "",
        flush_s: float = 1.0,
        queue_bytes: int = 64 << 20,
        attributes: Mapping[str, str | float | int] | None = None,
        patience_s: float = 0.1,
    ) -> None:
        """Raises LogError when `path` exists, or for an attribute or a flush interval that cannot be."""
        self.path = Path(path)
        if self.path.exists():
            raise existing(self.path)
        if not 0 < flush_s <= LONGEST_FLUSH_S:
            fix = "About a second suits most."
            raise log_error(str(path), f"flush_s={flush_s}", f"more than 0, up to {LONGEST_FLUSH_S:g}", fix)
        if taken := sorted(RESERVED & set(attributes or {})):
            raise log_error(str(path), f"attributes {taken}", "names other than these", "They are set by the writer.")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._attributes = {"source": source, **(attributes or {})}
        self._flush_s, self._queue_bytes, self._patience_s = flush_s, queue_bytes, patience_s
        self._intakes: dict[str, Intake] = {}
        self._labels: list[Label] = []
        # All below is guarded by this condition, which is notified whenever any of it changes in an awaited way.
        self._changed = Condition()
        self._queue: dict[str, list[Block]] = defaultdict(list)
        self._span_s = math.inf, -math.inf
        self._waiting_bytes = self._asked = self._answered = 0
        self._closing = False
        self._failure: Exception | None = None
        self._file: SwmrLog | None = None
        self._thread = Thread(target=self._write_until_closed, name=f"record {self.path.name}", daemon=True)

    def add_sensor(
        self,
        name: str,
        modality: str,
        rate_hz: float,
        shape: tuple[int, ...],
        dtype: str | type | np.dtype,
        units: str = "",
        channels: tuple[str, ...] = (),
        media: str = "",
    ) -> None:
        """Declare a sensor, before the first `append`. Fields as in `Recording`; `shape` is that of one sample.

        Raises LogError for what a log cannot hold, a name declared twice, or when the recording has begun.
        """
        where = f"{self.path}: sensor '{name}'"
        sensor = RecordedSensor(modality, float(rate_hz), tuple(shape), np.dtype(dtype), units, tuple(channels), media)
        check_name(name, where)
        check_sensor(sensor, where)
        with self._changed:
            self._refuse_once_begun(where)
            if name in self._intakes:
                raise log_error(where, "a sensor of this name already", "a new name", "Choose another name.")
            others = {other: intake.sensor.media for other, intake in self._intakes.items()}
            check_media_files(self.path, {**others, name: media})
            self._intakes[name] = Intake(sensor, where)

    def label(self, label: Label) -> None:
        """Add a label that is known before the first `append`; one that changes is best recorded as a sensor.

        Raises LogError for a label that a log cannot hold, or when the recording has begun.
        """
        where = f"{self.path}: label '{label.name}'"
        check_name(label.name, where)
        check_label(label, where)
        with self._changed:
            self._refuse_once_begun(where)
            self._labels.append(label)

    def append(self, name: str, data: ArrayLike, times: ArrayLike) -> bool:
        """Add one sample with its time, or a block (N, *sample) with times (N,), in seconds on the log's clock.

        Sound is always a block, (N, *sample), with the time of its first sample, by the driver: that of a callback jitters,
        and the pitch with it. Returns whether it was taken; False
        when the queue stayed full (see the class). The data are copied.

        Raises LogError for data of another shape or dtype, for times that are not finite, not later than the ones before
        or not of the clock of the other sensors (the block is refused, all others stay), when the log is closed, or its
        disk failed.
        """
        intake = self._intake(name)
        samples, stamps = intake.checked(data, times)
        if not len(samples):
            return True
        with self._changed:
            self._check_open()
            self._begin()
            began = time.monotonic()
            has_room = self._changed.wait_for(lambda: self._is_settled(samples.nbytes), self._patience_s)
            intake.longest_wait_s = max(intake.longest_wait_s, time.monotonic() - began)
            self._check_open()
            intake.check_follows(samples, stamps)
            span_s = self._span_with(name, intake.span(samples, stamps))
            if has_room:
                self._span_s = span_s
                self._queue[name].append(intake.take(samples, stamps))
                self._waiting_bytes += samples.nbytes
                if self._is_urgent():
                    self._changed.notify_all()
                return True
            intake.dropped += len(samples)
            is_first = intake.dropped == len(samples)
        if is_first:
            text = f"{intake.where}: the disk is too slow, samples are left out (see LogWriter.stats)"
            warnings.warn(text, RecorderWarning, stacklevel=2)
        return False

    def flush(self) -> None:
        """Return when everything appended before is on the disk. Raises LogError when it cannot be."""
        with self._changed:
            self._check_open()
            if self._file is None:
                return
            self._asked += 1
            mine = self._asked
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._answered >= mine or self._failure)
            self._check_failure()

    @property
    def stats(self) -> dict[str, SensorStats]:
        """By sensor, now."""
        with self._changed:
            return {name: intake.stats() for name, intake in self._intakes.items()}

    def close(self) -> None:
        """Write and flush what waits, and finish the log; a sensor that recorded nothing is not in it.

        Raises LogError when the disk failed; the log is then readable up to its last flush. Without one sample no file
        is written. Warns of samples left out.
        """
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._changed.notify_all()
        if self._file is None:
            warnings.warn(f"{self.path}: nothing was appended, so no log is written", RecorderWarning, stacklevel=2)
            return
        self._thread.join()
        try:
            with closing(self._file):
                self._check_failure()
                self._file.finish()
        except LogError:
            raise
        except Exception as error:  # of the disk, HDF5 or an encoder
            self._failure = error
            self._check_failure()
        if lost := {name: intake.dropped for name, intake in self._intakes.items() if intake.dropped}:
            warnings.warn(f"{self.path}: samples left out: {lost}", RecorderWarning, stacklevel=2)

    def __enter__(self) -> "LogWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _intake(self, name: str) -> Intake:
        if name not in self._intakes:
            fix = "Declare it with `add_sensor`."
            raise log_error(str(self.path), f"no sensor '{name}'", f"one of {sorted(self._intakes)}", fix)
        return self._intakes[name]

    def _begin(self) -> None:
        if self._file is None:
            sensors = {name: intake.sensor for name, intake in self._intakes.items()}
            try:
                self._file = SwmrLog(self.path, sensors, self._labels, self._attributes)
            except OSError as error:
                found = f"a file that cannot be made ({error})"
                raise log_error(str(self.path), found, "a disk that takes it", "Free the disk.") from error
            self._thread.start()

    def _span_with(self, name: str, span_s: tuple[float, float]) -> tuple[float, float]:
        """From when to when the log goes with a block of a sensor. Raises LogError where no log goes on for so long."""
        check_together({"the log": self._span_s, name: span_s}, f"{self.path}: sensor '{name}': times")
        return min(self._span_s[0], span_s[0]), max(self._span_s[1], span_s[1])

    def _is_settled(self, nbytes: int) -> bool:
        """Whether there is room for a block, or no use in waiting for it."""
        has_room = not self._waiting_bytes or self._waiting_bytes + nbytes <= self._queue_bytes
        return has_room or self._closing or self._failure is not None

    def _refuse_once_begun(self, where: str) -> None:
        if self._file is not None:
            fix = "Declare all sensors and labels first."
            raise log_error(where, "a recording that has begun", "it before the first `append`", fix)

    def _check_open(self) -> None:
        self._check_failure()
        if self._closing:
            raise log_error(str(self.path), "a closed log", "an open one", "Append before `close`.")

    def _check_failure(self) -> None:
        if self._failure is not None:
            found = f"a recording that failed ({self._failure})"
            fix = "What was flushed before is readable; free the disk and record anew."
            raise log_error(str(self.path), found, "a disk that takes it", fix) from self._failure

    def _write_until_closed(self) -> None:
        """The writing thread: gather, write, flush; an error is kept for whoever calls next."""
        try:
            due, closing = time.monotonic() + self._flush_s, False
            while not closing:
                with self._changed:
                    self._changed.wait_for(self._is_urgent, min(GATHER_S, self._flush_s))
                    queue, self._queue = self._queue, defaultdict(list)
                    asked, closing = self._asked, self._closing
                self._write(queue)
                if closing or asked > self._answered or time.monotonic() >= due:
                    self._flush(asked)
                    due = time.monotonic() + self._flush_s
        except Exception as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _is_urgent(self) -> bool:
        return self._closing or self._asked > self._answered or self._waiting_bytes > self._queue_bytes // 4

    def _write(self, queue: dict[str, list[Block]]) -> None:
        assert self._file is not None
        for name, blocks in queue.items():
            self._file.write(name, [block.samples for block in blocks], [block.stamps for block in blocks])
            written = sum(block.samples.nbytes for block in blocks)
            blocks.clear()
            with self._changed:
                self._waiting_bytes -= written
                self._intakes[name].waiting_bytes -= written
                self._changed.notify_all()

    def _flush(self, asked: int) -> None:
        assert self._file is not None
        flushed = self._file.flush({name: intake.dropped for name, intake in self._intakes.items()})
        with self._changed:
            for name, count in flushed.items():
                self._intakes[name].flushed = count
            self._answered = asked
            self._changed.notify_all()
