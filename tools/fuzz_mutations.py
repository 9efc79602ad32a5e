"""Ways to damage a log: `mutate(folder, outside, rng)` changes some of its files as chance, or malice, would.

`outside` is a folder beside it that no reader may look into. It holds a valid file of several kinds, for names and links
inside the log to lead to.
"""

import json
import sqlite3
import struct
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from fuzz_bytes import BYTES, FILES, Rng, Way, head, names, pick, surviving

from multisense.logs.formats.crc32c import crc32c, masked

NUMBERS = (0, -1, 1, 1e-300, 1e300, 1e12, 1e18, float("nan"), float("inf"), -1e15, 2**31, 2**40, 2**63, 10**30)
DEEP = 50_000


def mutate(folder: Path, outside: Path, rng: Rng) -> str:
    """Damage one to three places; says which and how."""
    done = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        files = sorted(file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
        if not files:
            break
        file = files[rng.integers(len(files))]
        how = _choose(file, rng)
        done.append(f"{how.__name__} {file.relative_to(folder).as_posix()[:80]}: {how(file, outside, rng)}")
    return "; ".join(done)


def _choose(file: Path, rng: Rng) -> Way:
    """Half of the time something that the kind of file invites, if it is one of these."""
    kinds = {_is_text: TEXTS, h5py.is_hdf5: HDF5, _is_parquet: PARQUET, _is_sqlite: SQLITE, _is_records: RECORDS}
    special = next((ways for fits, ways in kinds.items() if fits(file)), None)
    draw = rng.random()
    ways = special if special and draw < 0.5 else FILES if draw > 0.92 else BYTES
    return ways[rng.integers(len(ways))]


def _is_text(file: Path) -> bool:
    return file.suffix in (".json", ".jsonl", ".yaml", ".csv", ".txt", ".zarray", ".zattrs") or file.name[:2] == ".z"


def _is_parquet(file: Path) -> bool:
    return file.suffix == ".parquet" and file.read_bytes()[:4] == b"PAR1"


def _is_sqlite(file: Path) -> bool:
    return file.read_bytes()[:6] == b"SQLite"


def _is_records(file: Path) -> bool:
    return ".tfrecord" in file.name


# Texts


def edit_json(file: Path, outside: Path, rng: Rng) -> str:
    """Any value of a JSON document, or of a line of one, by one that does not belong there."""
    lines = file.read_text().splitlines(keepends=True) if file.suffix == ".jsonl" else [file.read_text()]
    number = int(rng.integers(len(lines)))
    try:
        tree = json.loads(lines[number])
    except ValueError:
        return edit_words(file, outside, rng)
    places = list(_places(tree, "tree"))
    if not places:
        return "no place in it"
    holder, key, said = pick(rng, places)
    holder[key] = value = pick(rng, _values(outside))
    lines[number] = json.dumps(tree).replace('"DEEP"', "[" * DEEP + "]" * DEEP)
    file.write_text("".join(lines))
    return f"{said} = {value!r:.60}"


def _values(outside: Path) -> list[Any]:
    return [*names(outside), *NUMBERS, None, True, [], {}, [None], [[]], [-1, 2**40], {"a": {}}, "DEEP"]


def _places(tree: Any, said: str) -> Any:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield tree, key, f"{said}[{key!r}]"
        yield from _places(value, f"{said}[{key!r}]")


def edit_words(file: Path, outside: Path, rng: Rng) -> str:
    """A word of any text by a number, a name or brackets."""
    words = file.read_text(errors="surrogateescape").split(" ")
    at = int(rng.integers(len(words)))
    new = pick(rng, [*names(outside), *map(str, NUMBERS), "[" * DEEP, "&a *a", "!!python/object:os.system x", "\t"])
    words[at] = new
    file.write_text(" ".join(words), errors="surrogateescape")
    return f"word {at} = {new!r:.60}"


def nest(file: Path, outside: Path, rng: Rng) -> str:
    opening = pick(rng, ("[", '{"a":', "- ", "{a: ", "? "))
    file.write_text(opening * DEEP)
    return f"{opening!r} {DEEP} times"


TEXTS = tuple(map(surviving, (edit_json, edit_json, edit_json, edit_words, edit_words, nest)))


# HDF5


def link_hdf5(file: Path, outside: Path, rng: Rng) -> str:
    """A link from somewhere in the file to itself, to a folder above, to nothing, or out of it."""
    with h5py.File(file, "a") as opened:
        name = pick(rng, _nodes(opened))
        parent = opened[name.rpartition("/")[0] or "/"]
        last = name.rpartition("/")[2]
        link = pick(
            rng, ("self", "up", "soft up", "outside", "outside array", "named", "layout", "external", "virtual")
        )
        if link == "named":
            parent[pick(rng, ("..", "a" * 60_000, "\udcff", " "))] = parent[last]
            return f"{name}: another name"
        del parent[last]
        if link == "up":
            parent[last] = opened["/"]
        elif link == "layout":
            layout = h5py.VirtualLayout((50, 2), "f8")
            layout[:] = h5py.VirtualSource(".", name, (50, 2))
            parent.create_virtual_dataset(last, layout)
        elif link == "virtual":
            layout = h5py.VirtualLayout((50, 2), "f8")
            layout[:] = h5py.VirtualSource(str(outside / "secret.h5"), "streams/arm/data", (50, 2))
            parent.create_virtual_dataset(last, layout)
        elif link == "external":
            parent.create_dataset(last, (50, 2), "f8", external=[(str(outside / "secret.txt"), 0, 800)])
        else:
            targets = {"self": h5py.SoftLink(name), "soft up": h5py.SoftLink("/")}
            inside = "/" if link == "outside" else "/streams/arm/data"
            parent[last] = targets.get(link) or h5py.ExternalLink(str(outside / "secret.h5"), inside)
    return f"{name}: {link}"


def array_hdf5(file: Path, outside: Path, rng: Rng) -> str:
    """An array of other values, of another type, of another or an absurd size."""
    with h5py.File(file, "a") as opened:
        arrays = [name for name in _nodes(opened) if isinstance(opened.get(name), h5py.Dataset)]
        if not arrays:
            return "no array"
        name = pick(rng, arrays)
        old = opened[name][()]
        new = pick(rng, ("huge", "wide", "values", "values", "text", "shorter", "scalar", "none", "objects", "complex"))
        if new == "values" and old.size and old.dtype.kind in "iuf":
            with np.errstate(all="ignore"):
                value = np.asarray(pick(rng, NUMBERS), np.float64).astype(old.dtype)
            opened[name][(int(rng.integers(len(old))),) if old.ndim else ()] = value
            return f"{name}: {value}"
        del opened[name]
        kinds: dict[str, dict[str, Any]] = {
            "huge": {"shape": (2**50, *old.shape[1:]), "dtype": "u1", "chunks": True},
            "wide": {"shape": (50, 2**20, 2**20), "dtype": "f4", "chunks": (1, 1, 64)},
            "text": {"data": np.array([b"x"] * 50)},
            "scalar": {"data": 1.0},
            "none": {"data": h5py.Empty("f8")},
            "objects": {"shape": (50,), "dtype": h5py.vlen_dtype(np.uint8)},
            "complex": {"data": np.ones((50, 2), np.complex64)},
        }
        opened.create_dataset(name, **kinds.get(new, {"data": old[: len(old) // 2] if old.ndim else 0}))
    return f"{name}: {new}"


def attribute_hdf5(file: Path, outside: Path, rng: Rng) -> str:
    with h5py.File(file, "a") as opened:
        nodes = [opened[name] for name in _nodes(opened) if isinstance(opened.get(name), (h5py.Group, h5py.Dataset))]
        places = [(node, key) for node in [opened, *nodes] for key in node.attrs]
        if not places:
            return "no attribute"
        node, key = pick(rng, places)
        strange = [
            np.array([2**40, 3], np.int64),
            np.array([]),
            np.array([[1.0]]),
            h5py.Empty("f8"),
            np.array([b"\xff"]),
        ]
        value = pick(rng, [*(n for n in names(outside) if "\0" not in n and len(n) < 60_000), *NUMBERS[:-2], *strange])
        node.attrs[key] = value
    return f"{node if node else ''}@{key} = {value!r:.60}"


def _nodes(opened: h5py.File) -> list[str]:
    found: list[str] = []
    opened.visit(found.append)
    return sorted(found) or ["nothing"]


HDF5 = tuple(map(surviving, (link_hdf5, array_hdf5, array_hdf5, attribute_hdf5)))


# Parquet, SQLite and TFRecord


def column_parquet(file: Path, outside: Path, rng: Rng) -> str:
    """A column of other values or of another type, or none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(file)
    at, count = int(rng.integers(table.num_columns)), table.num_rows
    name, old = table.column_names[at], table.column(at)
    value = pick(rng, [*NUMBERS[:-2], None, "x", pick(rng, names(outside)[:6]), b"x", [], [1.0, 2.0], {"a": 1}])
    keep = rng.random() < 0.3
    column = pa.array([value, *old.to_pylist()[1:]] if keep else [value] * count, old.type if keep else None)
    pq.write_table(table.set_column(at, name, column), file)
    return f"{name} = {value!r:.60}"


def rows_sqlite(file: Path, outside: Path, rng: Rng) -> str:
    with closing(sqlite3.connect(file)) as opened:
        tables = [row[0] for row in opened.execute("select name from sqlite_master where type = 'table'")]
        table = pick(rng, sorted(tables))
        column = pick(rng, [row[1] for row in opened.execute(f"pragma table_info({table})")])
        value = pick(rng, [*names(outside), *NUMBERS[:-2], None, b"", b"x" * 100, "[" * DEEP, "- " * DEEP])
        opened.execute(f"update {table} set {column} = ? where rowid % ? = 0", (value, int(rng.integers(1, 9))))
        opened.commit()
    return f"{table}.{column} = {value!r:.60}"


def signed_tfrecord(file: Path, outside: Path, rng: Rng) -> str:
    """Bytes of the first record's data by others, and its checksum made right again."""
    data = bytearray(file.read_bytes())
    (length,) = struct.unpack_from("<Q", data)
    places = rng.integers(12, 12 + head(length, rng), size=pick(rng, (1, 2, 5)))
    for at in places:
        data[at] = int(rng.integers(256))
    struct.pack_into("<I", data, 12 + length, masked(crc32c(bytes(data[12 : 12 + length]))))
    file.write_bytes(data)
    return f"at {places.tolist()}"


PARQUET, SQLITE, RECORDS = ((surviving(way),) for way in (column_parquet, rows_sqlite, signed_tfrecord))
