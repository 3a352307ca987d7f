"""The sparse teacher cache: a frozen teacher's vectors at the cells that a method imitates, written once.

A cache is keyed twice. A fingerprint of what all records share (teacher, taps, mask, input size, precision) names its
folder. A digest of what else one record depends on (the bytes of the image file, its annotations and the geometric
variant) is the record's key. A changed image, annotation or variant misses and is recomputed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eyas.args import CacheDtype
from eyas.cache.shards import KEY_BYTES, LevelRecord, Shards, decode, record_bytes, stored_sizes, well_formed
from eyas.methods import Method
from eyas.methods.cells import Extents, TeacherTargets, to_device_async
from eyas.tools.files import make_folder, write_json
from eyas.tools.text_files import read_json
from eyas.types import EyasError, Size

FORMAT = 2
"""Incremented when the meaning of records or of their fingerprint changes."""
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
META = "meta.json"
FILLING = "filling.json"
"""How many records were filled, and how long that took, so that every run that reads them can tell their cost."""


@dataclass(frozen=True)
class CacheSize:
    """How much a cache holds."""

    records: float = 0
    """Images times geometric variants."""
    size: float = 0
    """Bytes of all records."""
    dense: float = 0
    """Bytes that the teacher's whole maps would take at the same precision."""

    def __add__(self, other: CacheSize) -> CacheSize:
        return CacheSize(self.records + other.records, self.size + other.size, self.dense + other.dense)

    def __mul__(self, factor: float) -> CacheSize:
        return CacheSize(self.records * factor, self.size * factor, self.dense * factor)

    def __str__(self) -> str:
        each, share = self.size / max(self.records, 1), self.size / max(self.dense, 1)
        return (
            f"{self.records:.0f} images, variants apart: {in_bytes(self.size)}, {in_bytes(each)} an image, "
            f"{share:.1%} of whole maps ({in_bytes(self.dense)})"
        )


class TeacherCache:
    """The records of one method, one teacher and one input size.

    Args:
        folder: created if missing.
        fingerprint: see `fingerprint`; the folder's own must be the same, or EyasError is raised.
        channels: C of the teacher's map on each level.
        dtype: of the vectors.
    """

    def __init__(
        self, folder: Path, fingerprint: Mapping[str, Any], channels: Sequence[int], dtype: CacheDtype
    ) -> None:
        self.folder, self.channels, self.dtype = folder, tuple(channels), DTYPES[dtype]
        self._bits = np.int32 if dtype == "float32" else np.int16
        meta = folder / META
        if not meta.is_file():
            make_folder(folder, within=folder.parent)
            write_json(meta, fingerprint)
        elif read_cached(meta) != fingerprint:
            raise EyasError(f"{meta}: does not match the folder's name; remove this folder")
        self._shards = Shards(folder)

    def refresh(self) -> None:
        """Open again, to see what this and other processes have written since."""
        self._shards = Shards(self.folder)

    def holds(self, keys: Iterable[bytes]) -> bool:
        """Whether there is a record for each of the keys."""
        return all(key in self._shards for key in keys)

    def count_held(self, keys: Iterable[bytes]) -> int:
        """For how many of the keys there is a record."""
        return sum(key in self._shards for key in keys)

    def filling_seconds(self, records: int) -> float | None:
        """How long filling so many records takes, by those that were filled; None where fewer than half were timed.

        A few alone tell little: most of their time is that in which workers start.
        """
        before, seconds = self._timed()
        return seconds / before * records if 2 * before >= max(1, records) else None

    def add_filling(self, records: int, seconds: float) -> None:
        """Remember that so many records were written, and how long that took."""
        before, took = self._timed()
        write_json(self.folder / FILLING, {"records": before + records, "seconds": round(took + seconds, 3)})

    def _timed(self) -> tuple[int, float]:
        """The records whose filling was timed, and the seconds of it."""
        path = self.folder / FILLING
        values = read_cached(path) if path.is_file() else {"records": 0, "seconds": 0.0}
        records, seconds = values.get("records"), values.get("seconds")
        if not isinstance(records, int) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
            raise EyasError(f"{path}: not a file of this cache; remove it, and it is made again")
        return records, seconds

    def missing(self, keys: Iterable[bytes]) -> set[bytes]:
        """The keys without a record, or with a damaged one; every byte is read and checked."""

        def is_fit(record: memoryview | None) -> bool:
            return record is not None and well_formed(record, self.channels, self.dtype.itemsize)

        return {key for key in keys if not is_fit(self._shards.intact(key))}

    def read(self, keys: Sequence[bytes], device: torch.device, extents: Extents | None = None) -> list[TeacherTargets]:
        """The teacher's vectors for a batch, level by level; the batch's map is padded to the largest of its images.

        With the student's extents, only those inside them.
        """
        return [self._batch(levels, device) for levels in self._levels(keys, extents)]

    def count(self, keys: Sequence[bytes], extents: Extents) -> int:
        """How many cells `read` returns on all levels together."""
        return sum(len(image.cells) for level in self._levels(keys, extents) for image in level)

    def _levels(self, keys: Sequence[bytes], extents: Extents | None) -> Iterator[Sequence[LevelRecord]]:
        """The records of each image, level by level."""
        records = [decode(self._shards[key], self.channels, self._bits) for key in keys]
        for index, level in enumerate(zip(*records, strict=True)):
            yield level if extents is None else [image.inside(extents[index]) for image in level]

    def _batch(self, images: Sequence[LevelRecord], device: torch.device) -> TeacherTargets:
        widths, counts = [image.size[1] for image in images], [len(image.cells) for image in images]
        size = (len(images), max(image.size[0] for image in images), max(widths))
        cells = np.concatenate([image.cells for image in images]).astype(np.int64)
        axes = (np.repeat(np.arange(len(images)), counts), *np.divmod(cells, np.repeat(widths, counts)))
        bits = np.concatenate([image.vectors for image in images])
        image, row, column, vectors = (to_device_async(torch.from_numpy(values), device) for values in (*axes, bits))
        return TeacherTargets((image, row, column), vectors.view(self.dtype), size)

    def split(self, wanted: Sequence[TeacherTargets]) -> list[list[LevelRecord]]:
        """The records of a batch whose images have one size. Raises EyasError when float16 cannot hold a value."""
        return [list(levels) for levels in zip(*map(self._split_level, wanted), strict=True)]

    def _split_level(self, wanted: TeacherTargets) -> list[LevelRecord]:
        image, row, column = (axis.cpu().numpy() for axis in wanted.cells)
        batch, height, width = wanted.size
        vectors = wanted.vectors.flatten(0, -2).to(self.dtype)
        if self.dtype == torch.float16 and not bool(torch.isfinite(vectors).all()):
            raise EyasError("the teacher's features leave the range of float16; take --cache_dtype bfloat16")
        bits = vectors.cpu().contiguous().view(torch.int32 if self._bits is np.int32 else torch.int16).numpy()
        cells = (row * width + column).astype(np.int32)
        ends = np.searchsorted(image, np.arange(1, batch))
        parts = zip(np.split(cells, ends), np.split(bits, ends), strict=True)
        return [LevelRecord((height, width), *part) for part in parts]

    def measure(self, keys: Iterable[bytes]) -> CacheSize:
        """The size of the records of these keys."""
        total = CacheSize()
        for key in set(keys):
            head = self._shards.head(key, KEY_BYTES + 12 * len(self.channels))
            sizes = [(height, width) for height, width, _ in stored_sizes(head, len(self.channels))]
            total += CacheSize(1, self._shards.size(key), self._dense(sizes))
        return total

    def predict(self, wanted: Sequence[Tensor]) -> CacheSize:
        """The size that the records of a batch will have, from its masks, (B, H, W) on each level."""
        counts = torch.stack([mask.sum((1, 2)) for mask in wanted], dim=1).tolist()
        dense = self._dense([(mask.shape[1], mask.shape[2]) for mask in wanted])
        sizes = [record_bytes(image, self.channels, self.dtype.itemsize) for image in counts]
        return CacheSize(len(sizes), sum(sizes), len(sizes) * dense)

    def _dense(self, sizes: Sequence[Size]) -> int:
        return sum(prod(size) * wide for size, wide in zip(sizes, self.channels, strict=True)) * self.dtype.itemsize


def fingerprint(
    method: Method, *, teacher: str, taps: Sequence[str], resize: Mapping[str, Any], dtype: CacheDtype, precision: str
) -> dict[str, Any]:
    """What all records of a cache share, as it comes back from a JSON file.

    Args:
        method: its class and options decide which cells are stored.
        teacher: the digest of its weights and architecture.
        taps: the teacher's taps, in the order of the level pairs.
        resize: the size of the input.
        dtype: of the vectors.
        precision: the one that the teacher computes in.

    Raises:
        EyasError: the method's vectors cannot be cached.
    """
    options, kind = method.fingerprint(), _selects(method)
    # Methods of Eyas are named without their module, which may move.
    name = kind.__qualname__ if kind.__module__.startswith("eyas.") else f"{kind.__module__}.{kind.__qualname__}"
    shared = {
        "format": FORMAT,
        "teacher": teacher,
        "taps": list(taps),
        "method": {"class": name, "version": method.version, **options},
        "resize": dict(resize),
        "dtype": dtype,
        "precision": precision,
    }
    return dict(json.loads(json.dumps(shared)))


def cache_folder(root: Path, fingerprint: Mapping[str, Any]) -> Path:
    """The folder of a fingerprint's records, below the folder that the user gave."""
    name = fingerprint["method"]["class"].rpartition(".")[2].lower()
    return root / f"{name}-{digest_of(fingerprint)[:12]}"


def record_key(image: bytes, variant: int) -> bytes:
    """The key of the record of one geometric variant of an image."""
    key = hashlib.sha256(image + bytes([variant])).digest()
    assert len(key) == KEY_BYTES
    return key


def digest_of(value: Any) -> str:
    """SHA-256, in hexadecimal, of a value of JSON's types."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def in_bytes(count: float) -> str:
    """A number of bytes for people: 812 B, 2.6 kB, 31.4 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def read_cached(path: Path) -> dict[str, Any]:
    """Read a JSON file of the cache. Raises EyasError when it is damaged."""
    try:
        return read_json(path)
    except EyasError as error:
        raise EyasError(f"{error}; remove it, and it is made again") from error


def _selects(method: Method) -> type[Method]:
    """The class that selects the cells of a method, and whose records it shares with others.

    Raises:
        EyasError: a subclass of it selects otherwise, and does not say how.
    """
    classes = type(method).__mro__
    base = next(index for index, kind in enumerate(classes) if "fingerprint" in vars(kind))
    for name in ("masks", "select", "forward"):
        if any(name in vars(kind) for kind in classes[:base]):
            raise EyasError(
                f"{type(method).__name__} has {name}() of its own, but not fingerprint(), by which a cache tells it "
                f"from {classes[base].__name__}: add one that returns the options of its masks, or leave --cache out"
            )
    return classes[base]
