"""Damage that any file can take: to its bytes, to its name, and to what kind of file it is."""

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Rng = np.random.Generator
Way = Callable[[Path, Path, Rng], str]
"""(file, folder that no reader may look into, chance) -> what was done to the file."""
SIZES = (0, 1, 255, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**64 - 1)


def names(outside: Path) -> list[str]:
    """Names that lead elsewhere, and names that are no names."""
    away = [str(outside / name) for name in ("secret.h5", "secret.mp4", "secret.txt")]
    ups = [f"../outside/{name}" for name in ("secret.h5", "secret.mp4")] + ["../../outside/secret.mp4"]
    strange = ["a\0b", "n" * 100_000, "", ".", "..", "/", "\udcff", "{0.__class__}", "%s"]
    return [*away, *ups, "..\\outside\\secret.mp4", *strange]


def pick(rng: Rng, items: Any) -> Any:
    return items[int(rng.integers(len(items)))]


def surviving(way: Way) -> Way:
    """A file that an earlier change has broken cannot be edited as what it was; then its bytes are changed again."""

    def wrapped(file: Path, outside: Path, rng: Rng) -> str:
        try:
            return way(file, outside, rng)
        except Exception as error:
            return f"not editable ({type(error).__name__}), {flip_bits(file, outside, rng)}"

    wrapped.__name__ = way.__name__
    return wrapped


# Bytes of any file


def truncate(file: Path, outside: Path, rng: Rng) -> str:
    data = file.read_bytes()
    stop = int(rng.integers(len(data) + 1)) if rng.random() < 0.7 else max(len(data) - int(rng.integers(1, 64)), 0)
    file.write_bytes(data[:stop])
    return f"{stop} of {len(data)} bytes"


def flip_bits(file: Path, outside: Path, rng: Rng) -> str:
    data = bytearray(file.read_bytes())
    if not data:
        return "empty"
    places = rng.integers(head(len(data), rng), size=pick(rng, (1, 2, 5, 20)))
    for at in places:
        data[at] ^= 1 << int(rng.integers(8))
    file.write_bytes(data)
    return f"at {places.tolist()}"


def head(size: int, rng: Rng) -> int:
    """Headers are where the sizes are, so they are hit more often than their share."""
    return min(size, pick(rng, (64, 512, 4096))) if rng.random() < 0.4 else size


def absurd_size(file: Path, outside: Path, rng: Rng) -> str:
    data = bytearray(file.read_bytes())
    form = pick(rng, ("<H", "<I", "<Q", ">I", ">Q"))
    width = struct.calcsize(form)
    if len(data) <= width:
        return "too short"
    at = int(rng.integers(head(len(data) - width, rng)))
    value = pick(rng, SIZES) % 2 ** (8 * width)
    struct.pack_into(form, data, at, value)
    file.write_bytes(data)
    return f"{form} {value} at {at}"


def swap_words(file: Path, outside: Path, rng: Rng) -> str:
    """Two numbers of four bytes in each other's place: lengths of another record."""
    data = bytearray(file.read_bytes())
    if len(data) < 16:
        return "too short"
    one, two = sorted(rng.integers(head(len(data) // 4, rng), size=2) * 4)
    data[one : one + 4], data[two : two + 4] = data[two : two + 4], data[one : one + 4]
    file.write_bytes(data[: len(data)])
    return f"{one} and {two}"


def move_block(file: Path, outside: Path, rng: Rng) -> str:
    """Leave a run of bytes out, double it, or fill it with one byte."""
    data = file.read_bytes()
    start = int(rng.integers(len(data) + 1))
    stop = min(start + int(rng.integers(1, 4096)), len(data))
    block = pick(rng, (b"", data[start:stop] * 2, bytes(stop - start), b"\xff" * (stop - start)))
    file.write_bytes(data[:start] + block + data[stop:])
    return f"[{start}, {stop}) by {len(block)} bytes"


BYTES = (truncate, flip_bits, flip_bits, absurd_size, absurd_size, swap_words, move_block)


# Names and kinds of files


def rename(file: Path, outside: Path, rng: Rng) -> str:
    name = pick(
        rng, ("n" * 200 + file.suffix, f"\udcff{file.suffix}", f" {file.name}", f"-{file.name}", f"{file.name}\n")
    )
    file.rename(file.with_name(name))
    return repr(name)[:60]


def remove(file: Path, outside: Path, rng: Rng) -> str:
    file.unlink()
    return "gone"


def become(file: Path, outside: Path, rng: Rng) -> str:
    """A folder, a pipe that nobody writes to, a link to itself, to its folder, or to an endless device."""
    file.unlink()
    kind = pick(rng, ("folder", "pipe", "itself", "its folder", "/dev/zero"))
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to({"itself": file.name, "its folder": "."}.get(kind, kind))
    return kind


def add_loop(file: Path, outside: Path, rng: Rng) -> str:
    loop = file.parent / "loop"
    loop.unlink(missing_ok=True)  # it may have been drawn before
    loop.symlink_to(".")
    return "a link from its folder into its folder"


def exchange(file: Path, outside: Path, rng: Rng) -> str:
    """The contents of another file of the log, or of none."""
    others = sorted(path for path in file.parent.rglob("*") if path.is_file() and path != file)
    if others:
        other = pick(rng, others)
        shutil.copyfile(other, file)
        return f"by {other.name[:60]}"
    file.write_bytes(b"")
    return "by nothing"


def playlist(file: Path, outside: Path, rng: Rng) -> str:
    """What FFmpeg would take for a list of other files to play."""
    name = pick(rng, ("../outside/secret.mp4", f"file:{outside / 'secret.mp4'}", "http://127.0.0.1:9/secret.mp4"))
    text = pick(
        rng, ("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile {}\n")
    )
    file.write_text(text.format(name))
    return f"{text[:9]!r} of {name}"


FILES = (rename, remove, become, become, add_loop, exchange, playlist)
