"""What the HDF5 formats share: a file that may be hostile, its arrays as samples, and its time stamps as seconds.

Only what lies in the file itself is reached: no soft or external link is followed, and virtual arrays and arrays kept in
other files are refused.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np

from multisense.logs.base import LogError, log_error
from multisense.logs.clock import FARTHEST_S
from multisense.logs.foreign import Images, Samples, decode_image
from multisense.logs.native_write import FORMAT
from multisense.logs.pool import POOL
from multisense.logs.unfinished import open_hdf5

LARGEST_BYTES = 1 << 28
"""Of one sample or one chunk, which HDF5 holds in memory at once."""
PACKED = 1100
"""Bytes that one stored byte can stand for: deflate packs 1032 at most."""
MAGIC = (b"\xff\xd8\xff", b"\x89PNG")

T = TypeVar("T")


@contextmanager
def naming_damage(path: str) -> Iterator[None]:
    """h5py reports damage as all kinds of errors, none with the file's name: turn them into LogError."""
    try:
        yield
    except LogError:
        raise
    except (
        OSError,
        RuntimeError,
        LookupError,
        AttributeError,
        ValueError,
        TypeError,
        ArithmeticError,
        MemoryError,
    ) as error:
        fix = "It was cut short or damaged: copy it again."
        raise log_error(path, f"a damaged HDF5 file ({error})", "a whole one", fix) from error


class Hdf5File:
    """An open file, for the pool. Names are paths from the file's root, with or without a leading slash.

    Raises LogError, here and in every method, where the file is damaged or a name leads through a link.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._arrays: dict[str, h5py.Dataset] = {}
        with naming_damage(path):
            self._file = open_hdf5(path)

    def close(self) -> None:
        self._file.close()

    def get(self, name: str) -> h5py.Group | h5py.Dataset | None:
        """The group or array at `name`, None where there is none."""
        with naming_damage(self.path):
            return follow(self._file, name, self.path)

    def children(self, name: str) -> dict[str, h5py.Group | h5py.Dataset]:
        """What a group holds, by name; nothing where there is no such group."""
        group = self.get(name)
        if not isinstance(group, h5py.Group):
            return {}
        with naming_damage(self.path):
            names = [str(child) for child in group]
        nodes = {child: self.get(f"{name}/{child}") for child in names}
        return {child: node for child, node in nodes.items() if node is not None}

    def attribute(self, name: str, key: str) -> Any:
        """An attribute of a group or array as a plain value; None where there is none."""
        node = self.get(name)
        if node is None:
            return None
        with naming_damage(self.path):
            value = node.attrs.get(key)
        if isinstance(value, bytes):
            return value.decode(errors="replace")
        return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value

    def array(self, name: str) -> h5py.Dataset:
        """The array at `name`, checked: of one dimension or more, stored in this file, no larger than it can be."""
        if name not in self._arrays:
            node, where = self.get(name), f"{self.path}: /{name.strip('/')}"
            with naming_damage(self.path):
                self._arrays[name] = checked_array(node, where)
        return self._arrays[name]


def follow(parent: h5py.Group, name: str, path: str) -> h5py.Group | h5py.Dataset | None:
    """What lies at `name` below a group, None where there is nothing. LogError where a link leads on from there."""
    node: Any = parent
    for part in filter(None, name.split("/")):
        link = node.get(part, getlink=True) if isinstance(node, h5py.Group) else None
        if link is not None and not isinstance(link, h5py.HardLink):
            where, found = f"{path}: {node.name}", f"{part!r}, a link to {_target(link)}"
            raise log_error(where, found, "what lies in this file itself", "Copy the data into it.")
        node = None if link is None else node[part]
    return node if isinstance(node, (h5py.Group, h5py.Dataset)) else None


def _target(link: Any) -> str:
    return f"{link.filename}:{link.path}" if isinstance(link, h5py.ExternalLink) else str(link.path)


def checked_array(node: Any, where: str) -> h5py.Dataset:
    """`node` as an array that lies in its file and is no larger than what is stored of it."""
    if not isinstance(node, h5py.Dataset) or not node.shape or node.external or node.is_virtual:
        found = "nothing" if node is None else f"{node!r}"
        raise log_error(where, found, "an array stored in this file", "Check the name, or copy the data into it.")
    stored, item = node.id.get_storage_size(), node.dtype.itemsize
    sides = [node.shape[1:], node.chunks or ()]
    largest = max(item * _product(shape) for shape in sides)
    if node.shape[0] and (item * _product(node.shape) > PACKED * stored or largest > LARGEST_BYTES):
        found = f"{node.dtype} of shape {node.shape} in chunks of {node.chunks} from {stored} stored bytes"
        raise log_error(where, found, "an array that was written", "It was cut short or damaged: copy it again.")
    return node


def _product(shape: tuple[int, ...]) -> int:
    """Product in whole numbers of any size, which numpy would wrap around."""
    product = 1
    for side in shape:
        product *= int(side)
    return product


@dataclass(frozen=True)
class Array:
    """Rows of an array of an HDF5 file, each given the shape of a sample."""

    path: str
    key: str
    shape: tuple[int, ...]

    def read(self, first: int, last: int) -> np.ndarray:
        array = POOL.get(Hdf5File, self.path).array(self.key)
        with naming_damage(self.path):
            return array[first:last].reshape(last - first, *self.shape)


@dataclass(frozen=True)
class Found:
    """An array of an HDF5 file as samples of a sensor."""

    samples: Samples
    count: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def modality(self) -> str:
        """What such samples mostly are: colour frames, vectors, or not to be told."""
        if self.dtype == "uint8" and self.shape[2:] == (3,):
            return "video"
        return "proprio" if len(self.shape) == 1 else ""


def find(path: str, key: str) -> Found:
    """The array `key` as samples: numbers as they are (single ones as vectors of one), JPEG or PNG bytes decoded.

    Encoded images are rows of bytes padded with zeros (N, bytes), or N byte strings; the first one gives the shape.
    Raises LogError where the array is missing, not stored in this file, empty, or of neither kind.
    """
    array, where = POOL.get(Hdf5File, path).array(key), f"{path}: /{key.strip('/')}"
    if not len(array):
        raise log_error(where, "no samples", "at least one", "Leave this sensor out.")
    with naming_damage(path):
        dtype, row_shape = array.dtype, array.shape[1:]
    rows = Array(path, key, row_shape)
    is_bytes = dtype.kind == "S" or h5py.check_vlen_dtype(dtype) == np.uint8
    if is_bytes or (dtype == np.uint8 and len(row_shape) == 1):
        first = bytes(rows.read(0, 1)[0])
        if first.startswith(MAGIC):
            shape = decode_image(first, f"{where}, image 0").shape
            return Found(Images(rows, shape, where), len(array), shape, "uint8")
    if dtype.kind not in "biuf":
        raise log_error(where, f"values of type {dtype}", "numbers, or JPEG or PNG images", "Leave this sensor out.")
    shape = row_shape or (1,)
    return Found(Array(path, key, shape), len(array), shape, str(dtype))


@dataclass(frozen=True)
class Stamps:
    """Time stamps as stored. Counted exactly, because unix nanoseconds do not fit a float64."""

    values: np.ndarray
    """(N,) integers or floats"""
    unit: Fraction
    """Seconds"""

    @property
    def earliest(self) -> Fraction:
        """Seconds"""
        return Fraction(self.values.min().item()) * self.unit

    def seconds(self, origin: Fraction = Fraction(0)) -> np.ndarray:
        """(N,) float64 seconds since `origin`, which is given in seconds."""
        per_second = float(1 / self.unit)
        if self.values.dtype.kind == "f":
            return (self.values - float(origin / self.unit)) / per_second
        whole, rest = divmod(origin, self.unit)
        return (self.values - int(whole)) / per_second - float(rest)


def read_stamps(path: str, key: str, unit: Fraction) -> Stamps:
    """The whole array `key` as time stamps. Raises LogError where they are no finite numbers or far from now."""
    array, where = POOL.get(Hdf5File, path).array(key), f"{path}: /{key.strip('/')}"
    shape = array.shape
    if array.dtype.kind not in "iuf" or _product(shape) != len(array) or not len(array):
        raise log_error(where, f"{array.dtype} of shape {shape}", "one number per sample", "Name the array of stamps.")
    values = Array(path, key, ()).read(0, len(array))
    farthest = float(np.abs(values.astype(np.float64)).max()) * float(unit)
    if not farthest < FARTHEST_S:
        found = f"a stamp of {farthest:.4g} s"
        raise log_error(where, found, "finite seconds near ours", "Check the unit, or the file is damaged.")
    return Stamps(values.astype(np.float64 if values.dtype.kind == "f" else np.int64), unit)


def gather(makers: Mapping[str, Callable[[], T]]) -> tuple[dict[str, T], dict[str, str]]:
    """What can be made, by name, and by name why the others cannot."""
    made: dict[str, T] = {}
    reasons: dict[str, str] = {}
    for name, make in makers.items():
        try:
            made[name] = make()
        except LogError as error:
            reasons[name] = error.reason
    return made, reasons


def is_native(file: Hdf5File) -> bool:
    """Whether this is a native log, which other formats leave alone."""
    return file.attribute("/", "format") == FORMAT


def is_native_file(path: Path) -> bool:
    """The same of whatever lies there; what cannot be opened is none: its own opener will say why."""
    if not path.is_file() or not h5py.is_hdf5(path):  # a pipe would wait for its writer
        return False
    try:
        with closing(Hdf5File(str(path))) as file:  # not from the pool, so that it does not stay open
            return is_native(file)
    except LogError:
        return False


def hdf5_files(folder: Path) -> list[Path]:
    """The HDF5 files of a folder, and those that are named like one; hidden files are unfinished writes."""
    files = (file for file in folder.iterdir() if file.is_file() and file.name[0] != ".")
    return sorted(file for file in files if file.suffix in (".h5", ".hdf5") or h5py.is_hdf5(file))
