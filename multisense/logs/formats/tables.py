"""Numbers in CSV, NPY and Parquet files: one matrix of channels, and the column of their time stamps."""

import csv
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from multisense.logs.base import log_error
from multisense.logs.formats.lerobot_meta import open_parquet
from multisense.logs.formats.stamps import Stamps, as_stamps, date_us, stamp_unit

CSV_BYTES = 256 << 20
"""A text table is parsed whole; a larger one belongs into Parquet."""
LINE_CHARS = 1 << 20
GROUP_BYTES = 1 << 29
"""Of a Parquet row group, unpacked."""


@dataclass
class Table:
    """An open table. A mapping of one array, `values`, as `foreign.Rows` reads it."""

    values: Any
    """(N, C) or (N, *sample); sliced by rows"""
    shape: tuple[int, ...]
    dtype: str
    count: int
    stamps: Stamps | None
    channels: tuple[str, ...] = ()
    units: str = ""
    dropped: Mapping[str, str] = field(default_factory=dict)
    """Why a column is no channel, by name."""

    def __getitem__(self, key: str) -> Any:
        return {"values": self.values}[key]

    def close(self) -> None:
        self.values = None


def open_table(path: str) -> Table:
    """Open a table by its suffix. Raises LogError when it cannot be read, or holds no number at all."""
    openers = {".npy": _open_npy, ".parquet": _open_parquet}
    return openers.get(Path(path).suffix.lower(), _open_csv)(path)


class _Cell:
    """One cell of a column of numbers: blank is NaN; the first text that is no number is remembered."""

    def __init__(self, number: Callable[[str], float] = float) -> None:
        self.bad = ""
        self._number = number

    def __call__(self, text: str) -> float:
        try:
            return self._number(text) if text.strip() else np.nan
        except ValueError:
            self.bad = self.bad or text
            return np.nan


def _open_csv(path: str) -> Table:
    size = Path(path).stat().st_size
    if size > CSV_BYTES:
        fix = "Convert it to Parquet, which is read by slices."
        raise log_error(path, f"a text table of {size >> 20} MiB", f"at most {CSV_BYTES >> 20} MiB", fix)
    try:
        names, skip, delimiter, sample = _csv_head(path)
        cells = {i: _Cell() for i in range(len(names))}
        time, unit = _time_column(names)
        if time >= 0 and not all(_is_number(row[time]) for row in sample if len(row) > time):
            cells[time], unit = _Cell(date_us), "us"
        numbers = [i for i in cells if i == time or all(_is_number(row[i]) for row in sample if len(row) > i)]
        values = _parse(path, skip, delimiter, numbers, cells, is_plain=unit != "us" or time not in numbers)
    except (ValueError, OSError, csv.Error, OverflowError) as error:
        reason = str(error).splitlines()[0][:300]
        raise log_error(path, f"an unreadable table ({reason})", "rows of numbers", "Correct it.") from error
    dropped = {names[i]: "text, not numbers" for i in cells if i not in numbers}
    dropped |= {names[i]: f"text such as {cell.bad[:40]!r}" for i, cell in cells.items() if cell.bad}
    if time >= 0 and cells[time].bad:
        raise log_error(path, f"stamps such as {cells[time].bad[:40]!r}", "numbers, or ISO 8601", "Correct them.")
    kept = [i for i in numbers if names[i] not in dropped]
    return _matrix(path, names, kept, time, unit, values[:, [numbers.index(i) for i in kept]], dropped)


def _csv_head(path: str) -> tuple[list[str], int, str | None, list[list[str]]]:
    """Names of the columns (their places without a header), lines before the first row, the delimiter, and some rows."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        head, line = "", file.readline(LINE_CHARS)
        skip = 0
        while line and (not line.strip() or line.startswith("#")):
            head, line, skip = line.strip().lstrip("#"), file.readline(LINE_CHARS), skip + 1
        if len(line) >= LINE_CHARS:
            raise ValueError(f"a line of over {LINE_CHARS} characters")
        delimiter = max(",;\t", key=line.count)
        delimiter = delimiter if delimiter in line else None
        first = _split([line], delimiter)[0] if line.strip() else []
        if first and all(map(_is_number, first)):  # no header but, as numpy writes it, perhaps a comment
            names = _split([head], delimiter)[0] if head else []
            rows = [line]
        else:
            names, rows, skip = first, [], skip + 1
        rows += [row for row in islice(iter(lambda: file.readline(LINE_CHARS), ""), 50) if row.strip()]
    if not rows:
        raise ValueError("no rows")
    sample = _split(rows, delimiter)
    names = names if len(names) >= len(sample[0]) else [""] * len(sample[0])
    return [name.strip() or f"column {i}" for i, name in enumerate(names, 1)], skip, delimiter, sample


def _split(lines: list[str], delimiter: str | None) -> list[list[str]]:
    return list(csv.reader(lines, delimiter=delimiter)) if delimiter else [line.split() for line in lines]


def _is_number(text: str) -> bool:
    try:
        float(text or "nan")
    except ValueError:
        return not text.strip()
    return True


def _parse(
    path: str, skip: int, delimiter: str | None, columns: list[int], cells: Mapping[int, _Cell], is_plain: bool
) -> np.ndarray:
    """(N, len(columns)) float64. numpy parses plain numbers by itself; only blanks and text need a call per cell."""
    if not columns:
        raise ValueError("no column of numbers")
    form: dict[str, Any] = {"delimiter": delimiter, "skiprows": skip, "usecols": columns, "ndmin": 2, "comments": None}
    form |= {"quotechar": '"', "encoding": "utf-8-sig"}
    if is_plain:
        try:
            return np.loadtxt(path, **form)
        except ValueError as error:
            if "could not convert" not in str(error):
                raise
    return np.loadtxt(path, converters={i: cells[i] for i in columns}, **form)


def _time_column(names: list[str]) -> tuple[int, str]:
    """Place and unit of the first column of stamps; (-1, "") where there is none."""
    found = [(i, unit) for i, name in enumerate(names) if name and (unit := stamp_unit(name)) is not None]
    return found[0] if found else (-1, "")


def _matrix(
    path: str, names: list[str], kept: list[int], time: int, unit: str, values: np.ndarray, dropped: dict[str, str]
) -> Table:
    stamps = as_stamps(values[:, kept.index(time)], unit, f"{path}, column '{names[time]}'") if time in kept else None
    others = {names[i]: "more stamps" for i in kept if i != time and stamp_unit(names[i]) is not None}
    data = [i for i in kept if i != time and names[i] not in others]
    channels, units = _channels([names[i] for i in data])
    values = values[:, [kept.index(i) for i in data]]
    return Table(values, (len(data),), "float64", len(values), stamps, channels, units, dropped | others)


def _channels(names: list[str]) -> tuple[tuple[str, ...], str]:
    """Names without the units in brackets, `force [N]`, and those units: one where all agree, or a list."""
    parts = [re.fullmatch(r"(.*?)\s*\[([^\]]*)\]", name) for name in names]
    units = [part[2] if part else "" for part in parts]
    text = "" if not any(units) else units[0] if len(set(units)) == 1 else ", ".join(unit or "1" for unit in units)
    return tuple(part[1] if part else name for part, name in zip(parts, names, strict=True)), text


class _Slices:
    """Rows of a memory-mapped array, copied: no view may outlive the file."""

    def __init__(self, array: np.ndarray, fields: tuple[str, ...] = ()) -> None:
        self._array, self._fields = array, fields

    def __getitem__(self, rows: slice) -> np.ndarray:
        part = self._array[rows]
        if self._fields:
            return np.stack([part[name].astype(np.float64) for name in self._fields], axis=1)
        return np.array(part, part.dtype.newbyteorder("="))


def _open_npy(path: str) -> Table:
    try:
        with open(path, "rb") as file:
            if file.read(6) != b"\x93NUMPY":
                raise ValueError("not the first bytes of an .npy file")
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, TypeError, OverflowError, RecursionError, MemoryError, TokenError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise log_error(path, f"an unreadable array ({reason})", "a whole .npy file", "Copy it again.") from error
    if not array.ndim or not len(array):
        raise log_error(path, f"an array of shape {array.shape}", "at least one row", "Leave it out.")
    if array.dtype.names is None:
        if array.dtype.kind not in "biuf":
            raise log_error(path, f"{array.dtype} values", "numbers", "Save it as numbers.")
        return Table(_Slices(array), array.shape[1:], str(array.dtype.newbyteorder("=")), len(array), None)
    names = list(array.dtype.names)
    numbers = [name for name in names if array.dtype[name].kind in "biuf" and not array.dtype[name].shape]
    return _columns(path, names, numbers, lambda name: np.array(array[name]), lambda kept: _Slices(array, kept),
                    len(array))  # fmt: skip


def _columns(
    path: str, names: list[str], numbers: list[str], column: Callable[[str], np.ndarray],
    rows: Callable[[tuple[str, ...]], Any], count: int, dtype: str = "float64",
) -> Table:  # fmt: skip
    """A table of named columns, of which only the stamps are read now."""
    time, unit = _time_column([name if name in numbers else "" for name in names])
    stamps = as_stamps(column(names[time]), unit, f"{path}, column '{names[time]}'") if time >= 0 else None
    dropped = {name: "no single numbers" for name in names if name not in numbers}
    dropped |= {n: "more stamps" for n in numbers if stamp_unit(n) is not None and n != names[time]}
    kept = tuple(name for name in numbers if name not in dropped and (time < 0 or name != names[time]))
    channels, units = _channels(list(kept))
    return Table(rows(kept), (len(kept),), dtype, count, stamps, channels, units, dropped)


class _RowGroups:
    """Rows of some columns of a Parquet file, a row group at a time."""

    def __init__(self, path: str, file: Any, names: tuple[str, ...], dtype: str) -> None:
        self._path, self._file, self._names, self._dtype = path, file, names, dtype
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        self._edges = np.concatenate([[0], np.cumsum([group.num_rows for group in groups])]).astype(np.int64)
        for i, group in enumerate(groups):
            if group.total_byte_size > GROUP_BYTES:
                found = f"row group {i} of {group.total_byte_size >> 20} MiB"
                raise log_error(path, found, f"at most {GROUP_BYTES >> 20} MiB", "Write it in smaller row groups.")
        self._last = (-1, np.empty(0))

    def __getitem__(self, rows: slice) -> np.ndarray:
        first, last = rows.start, rows.stop
        groups = range(*np.searchsorted(self._edges, [first, last - 1], side="right") - [1, 0])
        parts = [self._group(i)[max(first - self._edges[i], 0) : last - self._edges[i]] for i in groups]
        return np.concatenate(parts) if parts else np.empty((0, len(self._names)), self._dtype)

    def _group(self, number: int) -> np.ndarray:
        if self._last[0] != number:
            columns = [_parquet_column(self._path, self._file, name, number) for name in self._names]
            self._last = number, np.stack(columns, axis=1).astype(self._dtype)
        return self._last[1]


def _open_parquet(path: str) -> Table:
    file = open_parquet(path)
    import pyarrow as pa

    kinds = {item.name: item.type for item in file.schema_arrow}
    is_number = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    numbers = [name for name, kind in kinds.items() if any(test(kind) for test in is_number)]
    dates = [n for n, kind in kinds.items() if pa.types.is_timestamp(kind) and stamp_unit(n) is not None]
    dtype = "float32" if numbers and all(kinds[n] in (pa.float32(), pa.float16()) for n in numbers) else "float64"

    def column(name: str) -> np.ndarray:
        groups = range(file.metadata.num_row_groups)
        return np.concatenate([_parquet_column(path, file, name, i) for i in groups] or [np.empty(0)])

    table = _columns(path, list(kinds), numbers, column, lambda kept: _RowGroups(path, file, kept, dtype),
                     file.metadata.num_rows, dtype)  # fmt: skip
    if table.stamps is None and dates:
        table.stamps = Stamps(column(dates[0]), 10**9)
        table.dropped = {name: reason for name, reason in table.dropped.items() if name != dates[0]}
    return table


def _parquet_column(path: str, file: Any, name: str, group: int) -> np.ndarray:
    """(rows,) of one column of a row group; nulls are NaN, dates are nanoseconds."""
    import pyarrow as pa

    try:
        values = file.read_row_group(group, columns=[name], use_threads=False).column(0).to_numpy()
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise log_error(path, f"undecodable rows ({reason})", "a whole Parquet file", "Copy it again.") from error
    if values.dtype.kind == "M":
        return values.astype("datetime64[ns]").astype(np.int64)
    return values.astype(np.float64) if values.dtype == object else values
