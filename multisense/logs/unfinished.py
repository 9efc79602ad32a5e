"""Opening an HDF5 file that is being written, or was when its process died, or would hang the library.

HDF5 itself opens such a file not at all, or, where it was written for readers, only in its SWMR mode, which meets damage
with retries, each twice as long as the one before: a file cut short would hang its reader. So the file is shown to HDF5 as
if its writer had closed it; damage is then an error at once.

Of a heap of strings HDF5 reads entry after entry, and for ever where one of no length stands for free space
(HDFGroup/hdf5#1707, open): such heaps are looked for beforehand, where strings of attributes lie: near the file's start.
"""

import io
import os
import struct

import h5py

SIGNATURE, SUPERBLOCK = b"\x89HDF\r\n\x1a\n", struct.Struct("<8s4B4QL")
"""Version 3: signature, version, sizes of offsets and lengths, flags, four addresses (the third: end of file), checksum."""
WRITING, WITH_READERS = 0b001, 0b100
"""Set in the flags of a file that is open for writing, and for writing with readers, as a recording is."""
HEAP, ENTRY = struct.Struct("<4sB3xQ"), struct.Struct("<HHLQ")
"""Of a heap: "GCOL", version, bytes in all. Of an entry: its number (0: free space), uses, 0, bytes."""
HEAPS_WITHIN = 1 << 17
"""Bytes from the start of a file in which heaps are looked at."""
BEYOND = 1 << 40
"""A recording grows while it is read: addresses so far beyond its present end count as inside."""


def open_hdf5(path: str) -> h5py.File:
    """The file for reading. Raises OSError when it is damaged or no HDF5 file."""
    with open(path, "rb") as file:
        start = file.read(HEAPS_WITHIN)
    head = start[: SUPERBLOCK.size]
    file = h5py.File(_AsIfClosed(path, head), "r") if _is_open(head) else h5py.File(path, "r", locking=False)
    if file.id.get_create_plist().get_sizes()[1] == 8 and (place := _endless_heap(start)) is not None:
        file.close()
        raise OSError(f"a heap of strings that does not end, at byte {place}")
    return file


def _endless_heap(data: bytes) -> int | None:
    """Where a heap stands that HDF5 would read for ever; None where there is none."""
    place = data.find(b"GCOL")
    while place >= 0:
        if place + HEAP.size <= len(data) and _is_endless(data, place):
            return place
        place = data.find(b"GCOL", place + 1)
    return None


def _is_endless(data: bytes, place: int) -> bool:
    _, version, size = HEAP.unpack_from(data, place)
    at, end = place + HEAP.size, min(place + size, len(data))
    while version == 1 and at + ENTRY.size <= end:
        number, _, _, length = ENTRY.unpack_from(data, at)
        # Free space counts its own header; strings are padded to eight bytes, in 64 bits as HDF5 reckons.
        step = (ENTRY.size + -(-length // 8) * 8) % (1 << 64) if number else length
        if step == 0:
            return True
        at += step
    return False


def _is_open(head: bytes) -> bool:
    if len(head) < SUPERBLOCK.size or not head.startswith(SIGNATURE):
        return False
    _, version, _, _, flags, *_, checksum = SUPERBLOCK.unpack(head)
    return version == 3 and bool(flags & WRITING) and checksum == lookup3(head[:-4])


class _AsIfClosed(io.RawIOBase):
    """The bytes of the file, the flags in its first ones cleared; the end of a recording is far away."""

    def __init__(self, path: str, head: bytes) -> None:
        self._file = io.FileIO(path)
        signature, version, offsets, lengths, flags, base, extension, _, root, _ = SUPERBLOCK.unpack(head)
        grows = flags & WITH_READERS
        self._end = os.fstat(self._file.fileno()).st_size + (BEYOND if grows else 0)
        fields = (signature, version, offsets, lengths, 0, base, extension, self._end, root)
        self._head = SUPERBLOCK.pack(*fields, lookup3(SUPERBLOCK.pack(*fields, 0)[:-4]))
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        self._file.seek(self._at)
        count = self._file.readinto(buffer)
        if count < len(buffer):
            raise OSError(f"the file ends at {self._at + count}, before the data that it promises")
        shown = self._head[self._at : self._at + count]
        buffer[: len(shown)] = shown
        self._at += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def lookup3(data: bytes) -> int:
    """Bob Jenkins's hash (public domain), HDF5's checksum of metadata, of at least one byte."""
    words = struct.unpack(f"<{-(-len(data) // 12) * 3}L", data.ljust(-(-len(data) // 12) * 12, b"\0"))
    a = b = c = (0xDEADBEEF + len(data)) & 0xFFFFFFFF
    for at in range(0, len(words), 3):
        a, b, c = _add(a, words[at]), _add(b, words[at + 1]), _add(c, words[at + 2])
        if at + 3 < len(words):
            for turns in ((4, 6, 8), (16, 19, 4)):
                a, c = _add(a, -c) ^ _turn(c, turns[0]), _add(c, b)
                b, a = _add(b, -a) ^ _turn(a, turns[1]), _add(a, c)
                c, b = _add(c, -b) ^ _turn(b, turns[2]), _add(b, a)
    for turns in ((14, 11, 25), (16, 4, 14)):
        c = _add(c ^ b, -_turn(b, turns[0]))
        a = _add(a ^ c, -_turn(c, turns[1]))
        b = _add(b ^ a, -_turn(a, turns[2]))
    return _add(c ^ b, -_turn(b, 24))


def _add(x: int, y: int) -> int:
    return (x + y) & 0xFFFFFFFF


def _turn(x: int, bits: int) -> int:
    return (x << bits | x >> (32 - bits)) & 0xFFFFFFFF
