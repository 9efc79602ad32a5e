"""The columns of a LeRobot data file: bookkeeping, vectors of numbers, and images kept as JPEG or PNG bytes."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from multisense.logs.base import log_error
from multisense.logs.clock import check_times
from multisense.logs.formats.lerobot_meta import Episode, open_parquet, read_columns, readable
from multisense.logs.pool import POOL

BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index")
BATCH = 32
"""Images taken out of a file at a time."""


class Bookkeeping:
    """The bookkeeping columns of one data file, which may hold many episodes."""

    def __init__(self, path: str) -> None:
        self._path = path
        columns = {name: column.to_numpy() for name, column in read_columns(path, list(BOOKKEEPING)).items()}
        for name in ("timestamp", "episode_index"):
            if name not in columns:
                raise log_error(path, f"no column {name!r}", "it, in every LeRobot data file", "Download it again.")
        with readable(path):
            self._times = columns["timestamp"].astype(np.float64)
            self._episodes = columns["episode_index"].astype(np.int64)
            self._tasks = columns["task_index"].astype(np.int64) if "task_index" in columns else None

    def rows(self, episode: Episode) -> tuple[int, np.ndarray]:
        """First row and the (N,) times of an episode."""
        rows = np.flatnonzero(self._episodes == episode.index)
        if len(rows) != episode.length or not len(rows):
            found = f"{len(rows)} rows of episode {episode.index}"
            fix = "meta/ and data/ are of different states: download the data set again."
            raise log_error(self._path, found, f"{episode.length}, as meta/ says", fix)
        if rows[-1] - rows[0] + 1 != len(rows):
            found = f"rows of episode {episode.index} between those of others"
            raise log_error(self._path, found, "an episode's rows together", "Sort the file by index.")
        times = self._times[rows]
        check_times(times, len(rows), f"{self._path}: timestamp of episode {episode.index}")
        return int(rows[0]), times

    def task(self, first: int, count: int) -> np.ndarray | None:
        return None if self._tasks is None else self._tasks[first : first + count]

    def close(self) -> None:
        """Nothing is open; the columns go with this object."""


@dataclass(frozen=True)
class VectorRows:
    """Reads rows of the vectors of a data file; hashable, so that the pool knows an episode's rows again."""

    first: int
    count: int
    vectors: tuple[tuple[str, str, tuple[int, ...]], ...]
    """(feature key, dtype, shape of a sample)"""
    others: tuple[str, ...] = ()
    """Columns that must be there too"""

    def __call__(self, path: str) -> "_Vectors":
        keys = [key for key, _, _ in self.vectors]
        with open_parquet(path) as file:
            missing = sorted({*keys, *self.others} - set(file.schema_arrow.names))
            if missing:
                raise log_error(path, f"no columns {missing}", "them, as info.json says", "Download it again.")
            stops = np.cumsum([file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)])
            low, high = np.searchsorted(stops, [self.first, self.first + self.count - 1], side="right")
            with readable(path):
                table = file.read_row_groups(list(range(low, high + 1)), columns=keys, use_threads=False)
        skip = self.first - (int(stops[low - 1]) if low else 0)
        table = table.slice(skip, self.count)
        with readable(path):
            arrays = {k: _array(table.column(k), dtype, shape, path, k) for k, dtype, shape in self.vectors}
        return _Vectors(arrays)


class _Vectors(dict[str, np.ndarray]):
    """(N, *shape) values by feature key."""

    def close(self) -> None:
        self.clear()


def _array(column: Any, dtype: str, shape: tuple[int, ...], path: str, key: str) -> np.ndarray:
    count, values = len(column), column.combine_chunks()
    while hasattr(values.type, "value_type"):  # lists in lists, of fixed length or not
        values = values.flatten()
    flat = values.to_numpy(zero_copy_only=False)
    if flat.dtype == object or flat.size != count * math.prod(shape):
        found = f"{flat.size} values ({values.type}) in {count} rows of {key}"
        raise log_error(path, found, f"{dtype} of shape {shape} in each, as info.json says", "Correct info.json.")
    return flat.astype(dtype).reshape(count, *shape)


@dataclass(frozen=True)
class ImageBytes:
    """Images of one feature in a data file, as their bytes: a column of {bytes, path}, or of bytes alone."""

    path: str
    key: str
    begin: int
    """Row of the episode's first image."""

    def read(self, first: int, last: int) -> np.ndarray:
        """(last - first,) bytes objects. A row group is gone through in small batches, for it may hold gigabytes."""
        out, wanted = np.empty(last - first, object), range(self.begin + first, self.begin + last)
        for row, batch in self._batches(wanted):
            for i in range(max(wanted.start - row, 0), min(wanted.stop - row, batch.num_rows)):
                out[row + i - wanted.start] = self._bytes(batch.column(0)[i].as_py(), row + i)
        return out

    def _batches(self, wanted: range) -> Iterator[tuple[int, Any]]:
        """(number of its first row, batch) from the row groups that hold wanted rows."""
        file, stop = POOL.get(open_parquet, self.path), 0
        for group in range(file.num_row_groups):
            row, stop = stop, stop + file.metadata.row_group(group).num_rows
            if row >= wanted.stop or stop <= wanted.start:
                continue
            with readable(self.path):
                for batch in file.iter_batches(BATCH, [group], columns=[self.key], use_threads=False):
                    yield row, batch
                    row += batch.num_rows
                    if row >= wanted.stop:
                        break

    def _bytes(self, value: Any, row: int) -> bytes:
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            fix = "Only images inside the parquet file are read: write the data set again with them in it."
            raise log_error(f"{self.path}: {self.key}, row {row}", f"{str(value)[:80]}", "the bytes of an image", fix)
        return data
