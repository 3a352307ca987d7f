"""The files of a teacher cache: records of vectors in shards, found by an index.

A shard is two files that one process writes in one go and nobody changes afterwards: ``.bin``, records one after the
other, and ``.index``, a line of JSON for each with its key, place and checksum, written after the record itself. What a
killed process leaves is a shard whose last record or line is torn, which readers pass over. To go on is to write
another shard; where a key is in several, the one with the highest number counts.

Readers map the shards into memory, read-only: several processes of a machine share one copy of each page.
"""

from __future__ import annotations

import json
import mmap
import zlib
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from eyas.tools.files import could_not_write
from eyas.types import Size

ALIGNMENT = 64
"""Bytes: every record starts at a multiple."""
KEY_BYTES = 32
MAX_SIDE = 4096
"""Cells of a map along one side, of a record that is taken for true."""
Bits = npt.NDArray[np.int16] | npt.NDArray[np.int32]
"""Vectors as integers of their width: NumPy has no bfloat16."""


class LevelRecord(NamedTuple):
    """One image on one level.

    Attributes:
        size: (H, W) of the teacher's map.
        places: (n,) int32, row * W + column of the cells, ascending.
        vectors: (n, C), the bits of the teacher's vectors there.
    """

    size: Size
    places: npt.NDArray[np.int32]
    vectors: Bits


class Entry(NamedTuple):
    """Where a record is: the number of its shard's map, and bytes; and its CRC-32."""

    shard: int
    offset: int
    length: int
    crc: int


def record_bytes(counts: Sequence[int], channels: Sequence[int], itemsize: int) -> int:
    """The length of a record with so many cells on each level, padding included."""
    length = KEY_BYTES + 12 * len(counts)
    length += sum(n * (4 + c * itemsize) for n, c in zip(counts, channels, strict=True))
    return -(-length // ALIGNMENT) * ALIGNMENT


def encode(key: bytes, levels: Sequence[LevelRecord]) -> bytes:
    """Key, then (H, W, n) of each level, then the places of all levels, then their vectors; little-endian."""
    sizes = np.array([(*level.size, len(level.places)) for level in levels], dtype="<i4")
    parts = [key, sizes.tobytes(), *(level.places.astype("<i4").tobytes() for level in levels)]
    parts += [level.vectors.astype(level.vectors.dtype.newbyteorder("<")).tobytes() for level in levels]
    length = sum(map(len, parts))
    return b"".join((*parts, bytes(-length % ALIGNMENT)))


def decode(record: memoryview, channels: Sequence[int], bits: npt.DTypeLike) -> list[LevelRecord]:
    """The levels of a record, as views of it."""
    sizes = np.frombuffer(record, "<i4", 3 * len(channels), KEY_BYTES).reshape(-1, 3).tolist()
    offset, places, levels = KEY_BYTES + 12 * len(channels), [], []
    for _, _, cells in sizes:
        places.append(np.frombuffer(record, "<i4", cells, offset))
        offset += 4 * cells
    kind = np.dtype(bits).newbyteorder("<")
    for (height, width, cells), wide, where in zip(sizes, channels, places, strict=True):
        vectors = np.frombuffer(record, kind, cells * wide, offset).reshape(cells, wide)
        levels.append(LevelRecord((height, width), where, vectors))
        offset += vectors.nbytes
    return levels


class Shards:
    """Every record in a folder, read-only.

    Args:
        folder: of the shards; it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._maps: list[mmap.mmap] = []
        self._entries: dict[bytes, Entry] = {}
        for path in sorted(folder.glob("shard-*.index"), key=_number):
            data = path.with_suffix(".bin")
            if data.is_file() and data.stat().st_size:
                with data.open("rb") as file:
                    self._maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
                self._entries.update(_entries(path.read_bytes(), len(self._maps) - 1, len(self._maps[-1])))

    def __contains__(self, key: bytes) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._entries)

    def __getitem__(self, key: bytes) -> memoryview:
        entry = self._entries[key]
        return memoryview(self._maps[entry.shard])[entry.offset : entry.offset + entry.length]

    def intact(self, key: bytes) -> bool:
        """The record is there, and is what was written: its checksum and its key are right."""
        if key not in self._entries:
            return False
        record = self[key]
        return zlib.crc32(record) == self._entries[key].crc and record[:KEY_BYTES] == key


class ShardWriter:
    """Writes a new shard, once there is something to write; a context.

    Args:
        folder: of the shards, which is there.
        rank: of this process, a part of the shard's name.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder, self.rank = folder, rank
        self._files: tuple[BinaryIO, BinaryIO] | None = None
        self._offset = 0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for file in self._files or ():
            try:
                file.close()
            except OSError as failed:  # what the disk has not taken before it does not take now
                error = error or could_not_write(self.folder, failed)
        if kind is None and error is not None:
            raise error

    def add(self, key: bytes, levels: Sequence[LevelRecord]) -> None:
        """Append a record. Raises EyasError when the disk is full or the folder not writable."""
        record = encode(key, levels)
        line = json.dumps([key.hex(), self._offset, len(record), zlib.crc32(record)]).encode() + b"\n"
        try:
            self._files = self._files or self._create()
            for file, content in zip(self._files, (record, line), strict=True):
                file.write(content)
                file.flush()
        except OSError as error:
            raise could_not_write(self.folder, error) from error
        self._offset += len(record)

    def _create(self) -> tuple[BinaryIO, BinaryIO]:
        """New files, numbered after all there are; another process may be doing the same."""
        last = max((_number(path) for path in self.folder.glob("shard-*.*")), default=0)
        for number in count(last + 1):
            name = f"shard-{number:05d}-{self.rank}"
            try:
                return (self.folder / f"{name}.bin").open("xb"), (self.folder / f"{name}.index").open("xb")
            except FileExistsError:
                continue
        raise AssertionError("unreachable")


def _number(path: Path) -> int:
    return int(path.name.split("-")[1])


def _entries(index: bytes, shard: int, length: int) -> Iterator[tuple[bytes, Entry]]:
    """The whole lines of an index whose records lie inside their shard."""
    for line in index.split(b"\n")[:-1]:
        entry = _parse(line)
        if entry is not None and entry[1].offset + entry[1].length <= length:
            yield entry[0], entry[1]._replace(shard=shard)


def _parse(line: bytes) -> tuple[bytes, Entry] | None:
    """None for a line that is not one: nobody has written it, the disk has spoilt it."""
    try:
        key, offset, size, crc = json.loads(line)
        return bytes.fromhex(key), Entry(0, int(offset), int(size), int(crc))
    except (ValueError, TypeError):
        return None


def well_formed(record: memoryview, channels: Sequence[int], itemsize: int) -> bool:
    """Whether a record can be one of maps of so many channels: what it says of itself is what it has."""
    start = KEY_BYTES + 12 * len(channels)
    if len(record) < start:
        return False
    sizes = stored_sizes(record, len(channels))
    if not all(0 < h <= MAX_SIDE and 0 < w <= MAX_SIDE and 0 <= n <= h * w for h, w, n in sizes):
        return False
    if len(record) != record_bytes([cells for _, _, cells in sizes], channels, itemsize):
        return False
    for height, width, cells in sizes:
        places = np.frombuffer(record, "<i4", cells, start)
        start += places.nbytes
        if cells and (places[0] < 0 or places[-1] >= height * width or bool((np.diff(places) <= 0).any())):
            return False
    return True


def stored_sizes(record: memoryview, levels: int) -> list[tuple[int, int, int]]:
    """(H, W, n) of each level of a record."""
    sizes = np.frombuffer(record, "<i4", 3 * levels, KEY_BYTES).reshape(-1, 3)
    return [(int(height), int(width), int(cells)) for height, width, cells in sizes]
