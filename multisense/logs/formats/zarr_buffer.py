"""Zarr replay buffers of Diffusion Policy, UMI and ManiWAV: `data/*` over all rows, `meta/episode_ends`; a log each episode.

A folder (`.zarr`) or a zip of it (`.zarr.zip`). Arrays (T, H, W, 3) of uint8, or of floats in 0-1 or 0-255, are video;
`mic_*` blocks (T, B) are sound of B samples a row, read one after the other; numbers (T,) and (T, C) are signals.

The published writers keep no rate. Real-robot buffers have stamps, `data/timestamp`, which are taken. Without them a row
lasts 1 / rate, from an attribute of the root or of `data` (`fps`, `rate_hz`, `frequency`, `control_freq`), else 60 Hz for
buffers that look like UMI's (its GoPro) and 10 Hz for others (Diffusion Policy's control); `notes` says which.
"""

import contextlib
import math
import os
import stat
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from multisense.logs.base import LogError, SensorLog, how_to_install, log_error
from multisense.logs.clock import AnchoredClock, Clock, StampedClock, check_times
from multisense.logs.foreign import ForeignLog, Rows, Samples, Sensor, measured_rate, on_clock
from multisense.logs.pool import POOL

ENDS = "meta/episode_ends"
METADATA = (".zarray", "zarr.json")
RATE_KEYS = ("fps", "rate_hz", "frequency", "control_freq")
UMI_HZ, CONTROL_HZ = 60.0, 10.0
MAX_EPISODES = 1 << 20
MAX_CHUNK = 1 << 28
"""Bytes of one chunk, unpacked."""
SMALL = 1 << 26
"""Bytes that an array may claim however little of it is stored; zarr leaves out chunks of zeros."""
MAX_RATIO = 1000
"""Beyond `SMALL`, claimed bytes per stored byte; deflate cannot do more."""


def recognises(path: Path) -> bool:
    """Whether a folder or zip holds `meta/episode_ends` as a zarr array."""
    with contextlib.suppress(OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        if path.is_dir():
            return any((path / ENDS / name).is_file() for name in METADATA)
        if path.is_file() and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                return any(f"{ENDS}/{name}" in file.NameToInfo for name in METADATA)
    return False


def candidates(path: Path) -> dict[str, Callable[[], SensorLog]]:
    """Its episodes, `episode_000000` on. Raises LogError when zarr is missing or the list of episodes is unreadable."""
    ends = POOL.get(_Store, str(path)).ends
    firsts = [0, *ends[:-1].tolist()]
    return {
        f"episode_{i:06d}": partial(open_episode, str(path), f"episode_{i:06d}", first, last)
        for i, (first, last) in enumerate(zip(firsts, ends.tolist(), strict=True))
    }


def open_episode(path: str, name: str, first: int, last: int) -> ForeignLog:
    """The rows [first, last) of a buffer as a log.

    Raises LogError when zarr or a codec is missing, or nothing in it is a sensor.
    """
    store = POOL.get(_Store, path)
    stamps, why = _stamps(store, first, last), store.rate_reason
    sensors: list[Sensor] = []
    skipped, notes = dict(store.unusable), {}
    for key, array in store.arrays.items():
        if key == "timestamp" and stamps is not None:
            continue
        reason = _why_not(key, array, int(store.ends[-1]))
        if reason:
            skipped[key] = reason
            continue
        sensor, remark = _sensor(store, key, first, last, stamps)
        sensors.append(sensor)
        notes[key] = "; ".join(filter(None, ["stamps of data/timestamp" if stamps is not None else why, remark]))
    return ForeignLog(name, path, sensors, files=store.files(first, last), skipped=skipped, notes=notes)


def _stamps(store: "_Store", first: int, last: int) -> np.ndarray | None:
    """(T,) seconds from the episode's first row, where the buffer has them."""
    array = store.arrays.get("timestamp")
    if array is None or array.dtype.kind != "f" or array.ndim != 1:
        return None
    times = np.asarray(store["data/timestamp"][first:last], np.float64)
    check_times(times, last - first, f"{store.path}: data/timestamp of rows {first} to {last}")
    return times - times[0]


def _why_not(key: str, array: Any, rows: int) -> str:
    if array.dtype.kind not in "biuf":
        return f"{array.dtype} is no number"
    if not array.ndim or array.shape[0] < rows:
        return f"{array.shape} does not reach row {rows}, the end of the last episode"
    if not math.prod(array.shape):
        return f"{array.shape} is empty"
    if key.endswith(("_demo_start_pose", "_demo_end_pose")):
        return "one pose of the episode repeated in every row, no measurement"
    return ""


def _sensor(store: "_Store", key: str, first: int, last: int, stamps: np.ndarray | None) -> tuple[Sensor, str]:
    """(the sensor, what had to be decided)."""
    array, rate_hz = store.arrays[key], store.rate_hz if stamps is None else measured_rate(stamps)
    rows = Rows(_Store, store.path, f"data/{key}", first)
    row_clock: Clock = StampedClock(stamps) if stamps is not None else _even(rate_hz, last - first)
    if key.startswith("mic") and array.ndim == 2:
        block = array.shape[1]
        anchors = np.stack([np.arange(last - first) * block, row_clock.times(0, last - first)], 1)
        clock = AnchoredClock(anchors, rate_hz * block, (last - first) * block)
        clock = clock if stamps is not None else _even(rate_hz * block, clock.count)
        sensor = on_clock(
            key, clock, _Blocks(rows, block), (), array.dtype.name, modality="audio", rate_hz=clock.rate_hz
        )
        return sensor, f"{block} samples a row, so {clock.rate_hz:g} Hz"
    shape, dtype, modality, samples, remark = (*array.shape[1:],), array.dtype.name, "", rows, ""
    if array.ndim == 4 and array.shape[3] == 3 and (array.dtype == np.uint8 or array.dtype.kind == "f"):
        modality, dtype = "video", "uint8"
        if array.dtype.kind == "f":
            scale = _scale(store, key)
            samples, remark = _FloatFrames(rows, scale), f"{array.dtype} pixels times {scale:g}, rounded to uint8"
    elif array.ndim <= 2:
        modality = "proprio" if array.dtype.kind == "f" else ""
        shape = shape or (1,)
        samples = _Vectors(rows, shape)
    return on_clock(key, row_clock, samples, shape, dtype, modality=modality, rate_hz=rate_hz), remark


def _even(rate_hz: float, count: int) -> AnchoredClock:
    return AnchoredClock(np.zeros((1, 2)), rate_hz, count)


def _scale(store: "_Store", key: str) -> float:
    """What takes float pixels to 0-255, by the first frame of the buffer: it is the same for every episode."""
    brightest = float(np.nanmax(store[f"data/{key}"][:1]))
    return 255.0 if brightest <= 1 else 1.0


@dataclass(frozen=True)
class _Vectors:
    """Rows of an array as vectors; (T,) becomes (T, 1)."""

    rows: Samples
    shape: tuple[int, ...]

    def read(self, first: int, last: int) -> np.ndarray:
        return self.rows.read(first, last).reshape(-1, *self.shape)


@dataclass(frozen=True)
class _Blocks:
    """Sound kept as a block of samples in every row."""

    rows: Samples
    block: int

    def read(self, first: int, last: int) -> np.ndarray:
        begin = first // self.block
        sound = self.rows.read(begin, max(begin, math.ceil(last / self.block))).reshape(-1)
        return sound[first - begin * self.block : last - begin * self.block]


@dataclass(frozen=True)
class _FloatFrames:
    rows: Samples
    scale: float

    def read(self, first: int, last: int) -> np.ndarray:
        return np.nan_to_num(self.rows.read(first, last) * self.scale).round().clip(0, 255).astype(np.uint8)


class _Store:
    """An open buffer, its sizes checked against what is stored."""

    def __init__(self, path: str) -> None:
        zarr = _import_zarr(path)
        self.path = path
        self._sizes, self._stored = _listing(path)
        kind = zarr.storage.LocalStore if os.path.isdir(path) else zarr.storage.ZipStore
        self._store = kind(path, read_only=True)
        with _contained(path):
            self._root = zarr.open_group(self._store, mode="r", use_consolidated=False)
        self.ends = self._read_ends()
        self.arrays, self.unusable = self._open_arrays()
        self.rate_hz, self.rate_reason = self._rate()

    def __getitem__(self, key: str) -> "_Slices":
        return _Slices(self.arrays[key.removeprefix("data/")], f"{self.path}: {key}")

    def files(self, first: int, last: int) -> list[str]:
        """What stands for the rows [first, last): a zip itself; of a folder the metadata and the outer chunks."""
        if not os.path.isdir(self.path):
            return [self.path]
        names = {name for name in self._sizes if name.rpartition("/")[2] in (*METADATA, ".zattrs")}
        for key, array in self.arrays.items():
            if not math.prod(array.chunks) or not array.ndim:  # no sensor, and nothing to tell its chunks by
                continue
            length = array.chunks[0]
            for chunk in {first // length, (last - 1) // length}:
                place = [chunk] + [0] * (array.ndim - 1)
                names.add(f"data/{key}/{array.metadata.encode_chunk_key(place)}")
        return [os.path.join(self.path, name) for name in sorted(names & self._sizes.keys())]

    def close(self) -> None:
        self._store.close()

    def _array(self, key: str) -> Any:
        from numcodecs.errors import UnknownCodecError

        try:
            return self._root[key]
        except UnknownCodecError:
            _register_codecs()
            return self._root[key]

    def _open(self, key: str) -> Any:
        """A zarr array of a believable size."""
        where = f"{self.path}: {key}"
        with _contained(where):
            array = self._array(key)
            if not hasattr(array, "chunks"):
                raise log_error(where, "a group", "an array", "Only arrays right under data/ are read.")
            claimed, chunk = array.nbytes, math.prod(array.chunks) * array.dtype.itemsize
        if chunk > MAX_CHUNK or (not chunk and claimed):
            raise log_error(where, f"chunks of {chunk} bytes", f"1 to {MAX_CHUNK}", "Rechunk it.")
        if claimed > max(SMALL, MAX_RATIO * self._stored[key]):
            found = f"{claimed} bytes claimed by shape {array.shape} and {self._stored[key]} stored"
            raise log_error(where, found, "data for its shape", "Copy the buffer again.")
        return array

    def _open_arrays(self) -> tuple[dict[str, Any], dict[str, str]]:
        """({key: array}, {key: why it is none}) of `data/`."""
        keys = sorted(
            name.rpartition("/")[0].removeprefix("data/")
            for name in self._sizes
            if name.startswith("data/") and name.endswith((".zarray", "/zarr.json")) and name.count("/") > 1
        )
        flat = {key: self._open(f"data/{key}") for key in keys if "/" not in key}
        return flat, {key: "only arrays right under data/ are read" for key in keys if "/" in key}

    def _read_ends(self) -> np.ndarray:
        """(E,) int64, where each episode ends."""
        where = f"{self.path}: {ENDS}"
        array = self._open(ENDS)
        if array.ndim != 1 or array.dtype.kind not in "iu" or not 0 < array.shape[0] <= MAX_EPISODES:
            found = f"{array.dtype} of shape {array.shape}"
            raise log_error(where, found, f"1 to {MAX_EPISODES} row numbers", "Copy the buffer again.")
        ends = _Slices(array, where)[:].astype(np.int64)
        if (np.diff(ends, prepend=0) <= 0).any():
            raise log_error(where, f"{ends[:8].tolist()} ...", "increasing row numbers", "Copy the buffer again.")
        return ends

    def _rate(self) -> tuple[float, str]:
        """(rows per second, where that is from)."""
        with _contained(f"{self.path}: attributes"):
            attributes = {**self._root.attrs, **(self._root["data"].attrs if "data" in self._root else {})}
        for key in RATE_KEYS:
            rate = attributes.get(key)
            if isinstance(rate, int | float) and 0 < rate < 1e6:
                return float(rate), f"no stamps in the buffer: {rate:g} Hz, its attribute {key!r}"
        is_umi = any(key.startswith(("mic_", "robot0_eef_pos")) for key in self.arrays)
        rate = UMI_HZ if is_umi else CONTROL_HZ
        why = "as UMI's camera" if is_umi else "as Diffusion Policy's control"
        return (
            rate,
            f"no stamps and no rate in the buffer: {rate:g} Hz assumed, {why}; an attribute 'fps' of its root corrects it",
        )


class _Slices:
    """An array that raises LogError where its chunks cannot be read."""

    def __init__(self, array: Any, where: str) -> None:
        self._array, self._where = array, where

    def __getitem__(self, rows: slice) -> np.ndarray:
        with _contained(self._where):
            return np.asarray(self._array[rows])


@contextlib.contextmanager
def _contained(where: str) -> Iterator[None]:
    """Turn whatever zarr and its codecs raise over a damaged file into a LogError."""
    from numcodecs.errors import UnknownCodecError

    try:
        yield
    except LogError:
        raise
    except UnknownCodecError as error:
        codec = str(error.codec_id).strip("'")
        package = "imagecodecs" if codec.startswith("imagecodecs") else "the package that brings it"
        fix = f"Install {package}: pip install {'imagecodecs' if package == 'imagecodecs' else 'PACKAGE'}."
        raise log_error(where, f"the codec {codec!r}, not in this environment", "an installed one", fix) from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise log_error(where, f"unreadable zarr ({reason})", "a whole array", "Copy the buffer again.") from error


def _import_zarr(path: str) -> Any:
    try:
        import zarr
    except ImportError as error:
        fix = how_to_install("zarr")
        raise log_error(path, "no zarr in this environment", "it, to read replay buffers", fix) from error
    return zarr


def _register_codecs() -> None:
    """Make known the JPEG XL and JPEG 2000 that UMI's and Diffusion Policy's images are packed with, if installed."""
    from numcodecs.registry import codec_registry

    missing = sorted({"imagecodecs_jpegxl", "imagecodecs_jpeg2k"} - codec_registry.keys())
    with contextlib.suppress(ImportError):
        from imagecodecs.numcodecs import register_codecs

        register_codecs(missing, verbose=False)


def _listing(path: str) -> tuple[dict[str, int], Mapping[str, int]]:
    """({name of a file: stored bytes}, {key of an array: stored bytes of its chunks})."""
    sizes = dict(_folder(path) if os.path.isdir(path) else _zip(path))
    stored: dict[str, int] = defaultdict(int)
    for name, size in sizes.items():
        if name.rpartition("/")[2] not in (*METADATA, ".zattrs"):
            # data/img/3.0.0.0, or data/img/c/3/0/0/0
            stored["/".join(name.split("/")[:2])] += size
    return sizes, stored


def _folder(path: str) -> Iterator[tuple[str, int]]:
    for folder, inner, files in os.walk(path):
        for name in (*inner, *files):
            status = os.lstat(os.path.join(folder, name))
            if stat.S_ISLNK(status.st_mode):
                where = os.path.join(folder, name)
                raise log_error(where, "a link", "files of the buffer's own", "Copy what it points to into its place.")
            if stat.S_ISREG(status.st_mode):
                yield os.path.relpath(os.path.join(folder, name), path).replace(os.sep, "/"), status.st_size


def _zip(path: str) -> Iterator[tuple[str, int]]:
    try:
        with zipfile.ZipFile(path) as file:
            entries = file.infolist()
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise log_error(path, f"an unreadable zip ({error})", "a whole one", "Copy it again.") from error
    for entry in entries:
        if entry.file_size > MAX_CHUNK:
            found = f"{entry.filename[:80]!r} of {entry.file_size} bytes"
            raise log_error(path, found, f"at most {MAX_CHUNK}", "Rechunk it.")
        yield entry.filename, entry.compress_size
