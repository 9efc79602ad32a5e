"""The streams a run needs, decoded once and kept on disk: frames at the size of the run's grids, numbers as they are.

DIR/<log>-<key>.safetensors   of one log: `<sensor>/times_s` (N,) float64 and `<sensor>/data` (N, *sample)
DIR/.lock                     held by the process that builds

Files are whole or not there, so that a build that was killed goes on where it was. They are memory-mapped: loader
processes share what they read through the system's page cache. The key changes with the log's fingerprint and with
what the grids ask of its sensors; what no run needs any more may be deleted.
"""

import fcntl
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from multisense.clips import Grid, pieces
from multisense.logs.base import SensorLog, log_error
from multisense.logs.parallel import cores, each
from multisense.logs.pool import POOL
from multisense.types import Label, SensorInfo, Stream

VERSION = 1
"""Of what is in a file; of another version it is built anew."""
WORTH_A_PROCESS = 1 << 30
"""Bytes to decode for which another process is started."""
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
"""As safetensors names them."""

console = Console(stderr=True)


def cached(logs: Sequence[SensorLog], grids: Mapping[str, Grid], folder: Path | str) -> list["Cached"]:
    """The logs as they are read from the cache in `folder`, where what is missing or of other data is built first.

    Clips are the same to the byte. Of several processes one builds and the others wait. Raises LogError where a log
    cannot be decoded, OSError where `folder` cannot be written or is full.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / _file_name(log, grids) for log in logs]
    if not all(file.exists() for file in files):
        with _only_builder(folder):
            missing = [(log, file) for log, file in zip(logs, files, strict=True) if not file.exists()]
            if missing:
                _build_all(missing, grids, folder)
    return [Cached(log, grids, file) for log, file in zip(logs, files, strict=True)]


class Cached:
    """A log whose wanted sensors are read from a file of the cache. Holds no open file, so it pickles and forks."""

    def __init__(self, log: SensorLog, grids: Mapping[str, Grid], file: Path):
        self.name, self.path, self._log, self._file = log.name, log.path, log, str(file)
        self._fingerprint = log.fingerprint()
        self.sensors: Mapping[str, SensorInfo] = _infos(log, grids)

    @property
    def labels(self) -> Mapping[str, Label]:
        return self._log.labels

    def read(self, sensor: str, start_s: float, stop_s: float) -> Stream:
        arrays = POOL.get(Mapped, self._file).arrays
        times = arrays[f"{sensor}/times_s"]
        part = slice(*np.searchsorted(times, [start_s, stop_s]))
        return Stream(sensor, times[part], arrays[f"{sensor}/data"][part], self.sensors[sensor].rate_hz)

    def fingerprint(self) -> str:
        return self._fingerprint


class Mapped:
    """The arrays of a safetensors file, by name, mapped and not read. Raises LogError where it is not whole."""

    def __init__(self, path: str):
        try:
            data = np.asarray(np.memmap(path, np.uint8, "r"))
            begin = 8 + int.from_bytes(data[:8].tobytes(), "little")
            header = json.loads(data[8:begin].tobytes())
            self.arrays = {name: _array(data[begin:], entry) for name, entry in header.items()}
        except (ValueError, KeyError, TypeError) as error:
            raise log_error(
                path, f"no arrays ({error})", "a file of the cache", "Delete it; it is built anew."
            ) from error

    def close(self) -> None:
        self.arrays = {}


def _array(data: np.ndarray, entry: Mapping[str, object]) -> np.ndarray:
    begin, end = entry["data_offsets"]  # pyright: ignore[reportGeneralTypeIssues]
    return data[begin:end].view(DTYPES[str(entry["dtype"])]).reshape(entry["shape"])  # pyright: ignore


def _infos(log: SensorLog, grids: Mapping[str, Grid]) -> dict[str, SensorInfo]:
    """Of the sensors that the grids ask for, as they are in the cache."""
    infos = {name: log.sensors[name] for name in grids if name in log.sensors}
    sizes = {name: grids[name].size for name in infos}
    return {n: replace(i, shape=(*(sizes[n] or i.shape[:2]), *i.shape[2:])) for n, i in infos.items()}


def _file_name(log: SensorLog, grids: Mapping[str, Grid]) -> str:
    content = [VERSION, log.name, log.fingerprint(), {n: asdict(info) for n, info in _infos(log, grids).items()}]
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9._-]', '_', log.name)[:80].lstrip('.')}-{key[:24]}.safetensors"


@contextmanager
def _only_builder(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system lets go when its holder dies."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print(f"waiting for another process that builds the cache in {folder}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build_all(missing: Sequence[tuple[SensorLog, Path]], grids: Mapping[str, Grid], folder: Path) -> None:
    for left in folder.glob(".*.partial"):  # of a builder that was killed, for we hold the lock
        left.unlink()
    infos = [log.sensors[name] for log, _ in missing for name in grids if name in log.sensors]
    size = sum(i.count * math.prod(i.shape) * np.dtype(i.dtype).itemsize for i in infos)
    done = each(partial(_build, grids), missing, min(cores(), 1 + size // WORTH_A_PROCESS))
    for _ in track(done, "decoding into the cache", len(missing), console=console, transient=True):
        pass


def _build(grids: Mapping[str, Grid], item: tuple[SensorLog, Path]) -> None:
    """Write one log, piece by piece, under another name until it is whole."""
    log, file = item
    infos = _infos(log, grids)
    header, places = _layout(infos)
    fresh = file.with_name(f".{file.name}.{os.getpid()}.partial")
    with fresh.open("wb") as out:
        out.write(len(header).to_bytes(8, "little") + header)
        for name, info in infos.items():
            done = 0
            for piece in pieces(log, grids[name]):
                _check(piece, info, done, log.path)
                for what, array in (("times_s", piece.times_s.astype(np.float64)), ("data", piece.data)):
                    row = math.prod(array.shape[1:]) * array.itemsize
                    out.seek(8 + len(header) + places[f"{name}/{what}"] + done * row)
                    out.write(np.ascontiguousarray(array, array.dtype.newbyteorder("=")).data)
                done += len(piece.times_s)
            if done != info.count:
                raise log_error(f"{log.path}: {name}", f"{done} samples", f"{info.count}, as it says", "Copy it again.")
        out.flush()
        os.fsync(out.fileno())
    fresh.replace(file)


def _layout(infos: Mapping[str, SensorInfo]) -> tuple[bytes, dict[str, int]]:
    """The header, and where each array begins after it: the widest numbers first, so that all are aligned."""
    arrays = {f"{n}/times_s": (np.dtype(np.float64), (i.count,)) for n, i in infos.items()}
    arrays |= {f"{n}/data": (np.dtype(i.dtype), (i.count, *i.shape)) for n, i in infos.items()}
    names, entries, end = {dtype: name for name, dtype in DTYPES.items()}, {}, 0
    for name, (dtype, shape) in sorted(arrays.items(), key=lambda item: -item[1][0].itemsize):
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": names[dtype.name], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(entries).encode()
    return text.ljust(-(-len(text) // 8) * 8), {name: entry["data_offsets"][0] for name, entry in entries.items()}


def _check(piece: Stream, info: SensorInfo, done: int, path: str) -> None:
    data, count = piece.data, done + len(piece.times_s)
    if data.dtype != info.dtype or data.shape[1:] != info.shape or count > info.count:
        found = f"{count} samples or more, {data.dtype} of shape {data.shape[1:]}"
        expected = f"{info.count}, {info.dtype} of shape {info.shape}, as it says"
        raise log_error(f"{path}: {info.name}", found, expected, "Copy it again.")
