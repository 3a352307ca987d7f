"""The files of a teacher cache: records of vectors in shards, found by an index.

A shard is two files that one process writes once and never changes: ``.bin`` holds the records one after the other, and
``.index`` a line of JSON for each with its key, offset and checksum, written after the record itself. A killed process
leaves a shard whose last record or line is torn; readers skip it. The next process writes another shard. Where several
shards hold a key, the one with the highest number counts. The first line of an index names the folder that the shard
was written for, since a key does not say which teacher a record is of: a shard of another folder is ignored.

Readers check every record that they read; the pages are in the system's cache, one copy for all processes.
"""

from __future__ import annotations

import json
import os
import re
import weakref
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import count as count_from
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from eyas.tools.files import could_not_write, make_folder
from eyas.types import EyasError, Size

ALIGNMENT = 64
"""Bytes: every record starts at a multiple of this."""
KEY_BYTES = 32
MAX_SIDE = 4096
"""The longest side of a map, in cells, that a record may claim."""
NAME = re.compile(r"shard-\d{5,18}-\d{1,9}\.(bin|index)")
"""Names of the files: the number of the shard, the rank of the process that wrote it."""
FOLDER = "folder"
"""First word of the line that names the folder of a shard; the others are keys in hexadecimal."""
Bits = npt.NDArray[np.int16] | npt.NDArray[np.int32]
"""Vectors as integers of the same width: NumPy has no bfloat16."""


class LevelRecord(NamedTuple):
    """The record of one image on one level."""

    size: Size
    """(H, W) of the teacher's map."""
    cells: npt.NDArray[np.int32]
    """(n,) int32, row * W + column, ascending."""
    vectors: Bits
    """(n, C), the bits of the teacher's vectors at these cells."""

    def inside(self, extent: Size) -> LevelRecord:
        """The record of the first rows and columns of the map alone: itself where it has no more."""
        size = (min(self.size[0], extent[0]), min(self.size[1], extent[1]))
        if size == self.size:
            return self
        row, column = np.divmod(self.cells, self.size[1])
        kept = (row < size[0]) & (column < size[1])
        return LevelRecord(size, row[kept] * size[1] + column[kept], self.vectors[kept])


def record_bytes(counts: Sequence[int], channels: Sequence[int], itemsize: int) -> int:
    """Bytes of a record with ``counts`` cells on each level, padding included."""
    length = KEY_BYTES + 12 * len(counts)
    length += sum(n * (4 + c * itemsize) for n, c in zip(counts, channels, strict=True))
    return -(-length // ALIGNMENT) * ALIGNMENT


def encode(key: bytes, levels: Sequence[LevelRecord]) -> bytes:
    """Key, then (H, W, n) of each level, then the cells of all levels, then their vectors; little-endian."""
    sizes = np.array([(*level.size, len(level.cells)) for level in levels], dtype="<i4")
    parts = [key, sizes.tobytes(), *(level.cells.astype("<i4").tobytes() for level in levels)]
    parts += [level.vectors.astype(level.vectors.dtype.newbyteorder("<")).tobytes() for level in levels]
    length = sum(map(len, parts))
    return b"".join((*parts, bytes(-length % ALIGNMENT)))


def decode(record: memoryview, channels: Sequence[int], bits: npt.DTypeLike) -> list[LevelRecord]:
    """The levels of a record, as views of it."""
    sizes, offset, cells, levels = stored_sizes(record, len(channels)), KEY_BYTES + 12 * len(channels), [], []
    for _, _, count in sizes:
        cells.append(np.frombuffer(record, "<i4", count, offset))
        offset += 4 * count
    kind = np.dtype(bits).newbyteorder("<")
    for (height, width, count), wide, own in zip(sizes, channels, cells, strict=True):
        vectors = np.frombuffer(record, kind, count * wide, offset).reshape(count, wide)
        levels.append(LevelRecord((height, width), own, vectors))
        offset += vectors.nbytes
    return levels


def stored_sizes(record: memoryview, levels: int) -> list[tuple[int, int, int]]:
    """(H, W, n) of each level of a record."""
    sizes = np.frombuffer(record, "<i4", 3 * levels, KEY_BYTES).tolist()
    return list(zip(sizes[::3], sizes[1::3], sizes[2::3], strict=True))


def well_formed(record: memoryview, channels: Sequence[int], itemsize: int) -> bool:
    """Whether a record fits maps of these channels: its sizes, counts and cells agree with its length."""
    if len(record) < KEY_BYTES + 12 * len(channels):
        return False
    sizes = stored_sizes(record, len(channels))
    if not all(0 < h <= MAX_SIDE and 0 < w <= MAX_SIDE and 0 <= n <= h * w for h, w, n in sizes):
        return False
    if len(record) != record_bytes([count for _, _, count in sizes], channels, itemsize):
        return False
    for (height, width), cells, _ in decode(record, channels, f"i{itemsize}"):
        if len(cells) and (cells[0] < 0 or cells[-1] >= height * width or bool((np.diff(cells) <= 0).any())):
            return False
    return True


class Shard:
    """The ``.bin`` file of a shard, open for reading until the object goes, even where it is removed meanwhile.

    It is read and not mapped: a mapped file that is cut off ends the process by SIGBUS.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._file = path, os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return os.fstat(self._file).st_size

    def read(self, offset: int, size: int) -> bytes:
        """The bytes there, fewer where the file ends before."""
        return os.pread(self._file, size, offset)


class Location(NamedTuple):
    """Where a record is."""

    shard: Shard
    offset: int
    size: int
    checksum: int
    """CRC-32 of its bytes."""


class Shards:
    """Every record in a folder, by its key, read-only. The folder need not exist; files of other names are ignored."""

    def __init__(self, folder: Path) -> None:
        self._locations: dict[bytes, Location] = {}
        for path in sorted(filter(_is_index, folder.glob("shard-*.index")), key=_number):
            data = path.with_suffix(".bin")
            try:
                if data.is_file():
                    lines = path.read_bytes().split(b"\n")[:-1]
                    if _written_for(lines[0] if lines else b"") in (None, folder.name):
                        self._locations.update(_whole_records(lines, Shard(data)))
            except OSError as error:
                raise EyasError(
                    f"{error.filename}: cannot be read ({error.strerror}); restore it, or remove it"
                ) from error

    def __contains__(self, key: bytes) -> bool:
        return key in self._locations

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._locations)

    def __getitem__(self, key: bytes) -> memoryview:
        """The record. Raises EyasError when its file was cut off or changed since it was found."""
        record = self.intact(key)
        if record is None:
            raise self._changed(key)
        return record

    def intact(self, key: bytes) -> memoryview | None:
        """The record if it is there and is what was written: its checksum and its key are right."""
        if key not in self._locations:
            return None
        shard, offset, size, checksum = self._locations[key]
        record = shard.read(offset, size)
        whole = len(record) == size and zlib.crc32(record) == checksum and record[:KEY_BYTES] == key
        return memoryview(record) if whole else None

    def size(self, key: bytes) -> int:
        """Bytes of the record."""
        return self._locations[key].size

    def head(self, key: bytes, count: int) -> memoryview:
        """The first bytes of the record, without its checksum. Raises EyasError when its file was cut off."""
        shard, offset, _, _ = self._locations[key]
        found = shard.read(offset, count)
        if len(found) < count:
            raise self._changed(key)
        return memoryview(found)

    def _changed(self, key: bytes) -> EyasError:
        path = self._locations[key].shard.path
        return EyasError(f"{path}: changed while it was in use; call the command again, and what is lost is made again")


def _written_for(line: bytes) -> str | None:
    """The folder that the first line of an index names; None in a shard of an earlier version, which names none."""
    try:
        kind, name = json.loads(line)
    except (ValueError, TypeError, RecursionError):
        return None
    return str(name) if kind == FOLDER else None


def _whole_records(lines: Sequence[bytes], shard: Shard) -> Iterator[tuple[bytes, Location]]:
    """Key and place of every record that is complete in its shard and on a complete line of the index."""
    end = len(shard)
    for line in lines:
        try:
            key, *numbers = json.loads(line)
            key, (offset, size, checksum) = bytes.fromhex(key), map(int, numbers)
        except (ValueError, TypeError, OverflowError, RecursionError):
            continue  # the disk has damaged the line
        if 0 <= offset <= offset + size <= end:
            yield key, Location(shard, offset, size, checksum)


class ShardWriter:
    """A context manager that writes a new shard into a folder; the first record creates it.

    The rank of this process is part of the shard's name.
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
            except OSError as failed:  # buffered bytes that the disk still refuses
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
        """New files, numbered after all existing ones; another process may be doing the same."""
        make_folder(self.folder, within=self.folder.parent)
        last = max((_number(path) for path in self.folder.glob("shard-*.*") if NAME.fullmatch(path.name)), default=0)
        for number in count_from(last + 1):
            name = f"shard-{number:05d}-{self.rank}"
            with ExitStack() as opened:
                try:
                    records, index = (
                        opened.enter_context((self.folder / f"{name}.{kind}").open("xb")) for kind in ("bin", "index")
                    )
                except FileExistsError:
                    continue
                index.write(json.dumps([FOLDER, self.folder.name]).encode() + b"\n")
                opened.pop_all()
                return records, index
        raise AssertionError("unreachable")


def _is_index(path: Path) -> bool:
    return bool(NAME.fullmatch(path.name)) and path.is_file()


def _number(path: Path) -> int:
    return int(path.name.split("-")[1])
