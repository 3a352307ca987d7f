"""The sparse teacher cache: a frozen teacher's vectors at the cells that a method imitates, written once.

A cache is keyed twice. A fingerprint of what all records share (teacher, taps, mask, input size, precision) names its
folder. A digest of what one record depends on besides (the bytes of the image file, its annotations and the geometric
variant) is the record's key. A changed image, annotation or variant misses and is recomputed.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eyas.args import CacheDtype
from eyas.cache.shards import (
    KEY_BYTES,
    LevelRecord,
    Shards,
    ShardWriter,
    decode,
    record_bytes,
    stored_sizes,
    well_formed,
)
from eyas.methods import Method
from eyas.methods.imitation import TeacherTargets, to_device_async
from eyas.tools.files import could_not_write, write_json
from eyas.types import EyasError, Record, Size

FORMAT = 2
"""Counts up when records or their fingerprint change their meaning."""
NAMES_OF_FORMAT_1 = {
    "FGFI": "eyas.methods.fgfi.FGFI",
    "BoxMask": "eyas.methods.box_mask.BoxMask",
    "FitNets": "eyas.methods.fitnets.FitNets",
}
"""Method -> its class in fingerprints of format 1, which have no version and are otherwise the same."""
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
META = "meta.json"


@dataclass(frozen=True)
class CacheSize:
    """How much a cache holds.

    Attributes:
        records: images times geometric variants.
        size: bytes, all of them.
        dense: bytes that the teacher's whole maps would take at the same precision.
    """

    records: float = 0
    size: float = 0
    dense: float = 0

    def __add__(self, other: CacheSize) -> CacheSize:
        return CacheSize(self.records + other.records, self.size + other.size, self.dense + other.dense)

    def scaled(self, factor: float) -> CacheSize:
        """The same times a factor, to go from a sample to all."""
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
        folder: made if it is not there.
        fingerprint: see `fingerprint`; the folder's own must be the same.
        channels: C of the teacher's map on each level.
        dtype: of the vectors.
    """

    def __init__(
        self, folder: Path, fingerprint: Mapping[str, Any], channels: Sequence[int], dtype: CacheDtype
    ) -> None:
        self.folder, self.channels, self.dtype = folder, tuple(channels), DTYPES[dtype]
        self._bits = np.int32 if dtype == "float32" else np.int16
        _claim(folder, fingerprint)
        self._shards = Shards(folder)

    def refresh(self) -> None:
        """Open again, to see what this and other processes have written since."""
        self._shards = Shards(self.folder)

    def holds(self, keys: Iterable[bytes]) -> bool:
        """Whether there is a record for each of the keys."""
        return all(key in self._shards for key in keys)

    def missing(self, keys: Iterable[bytes]) -> set[bytes]:
        """The keys without a record, or with a damaged one; every byte is read and checked."""
        return {key for key in keys if not self._intact(key)}

    def _intact(self, key: bytes) -> bool:
        return self._shards.intact(key) and well_formed(self._shards[key], self.channels, self.dtype.itemsize)

    def writer(self, rank: int) -> ShardWriter:
        """A writer of new records; a context."""
        return ShardWriter(self.folder, rank)

    def read(self, keys: Sequence[bytes], device: torch.device) -> list[TeacherTargets]:
        """The teacher's vectors for a batch of images, level by level; on a batch padded to its largest image.

        A batch's map is as high as the highest and as wide as the widest map of its images alone.
        """
        records = [decode(self._shards[key], self.channels, self._bits) for key in keys]
        return [self._batch(levels, device) for levels in zip(*records, strict=True)]

    def _batch(self, images: Sequence[LevelRecord], device: torch.device) -> TeacherTargets:
        widths, counts = [image.size[1] for image in images], [len(image.cells) for image in images]
        size = (len(images), max(image.size[0] for image in images), max(widths))
        image = np.repeat(np.arange(len(images)), counts)
        cells = np.concatenate([image.cells for image in images]).astype(np.int64)
        row, column = np.divmod(cells, np.repeat(widths, counts))
        bits = np.concatenate([image.vectors for image in images])
        where = [to_device_async(torch.from_numpy(axis), device) for axis in (image, row, column)]
        return TeacherTargets(
            (where[0], where[1], where[2]), to_device_async(torch.from_numpy(bits).view(self.dtype), device), size
        )

    def split(self, wanted: Sequence[TeacherTargets]) -> list[list[LevelRecord]]:
        """The record of each image of a batch, all of whose images have one size.

        Raises:
            EyasError: a value that float16 cannot hold.
        """
        by_level = [self._split_level(level) for level in wanted]
        return [list(levels) for levels in zip(*by_level, strict=True)]

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
            record = self._shards[key]
            sizes = stored_sizes(record, len(self.channels))
            total += CacheSize(1, len(record), self._dense([(height, width) for height, width, _ in sizes]))
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
    """What all records of a cache share, in JSON's types.

    Args:
        method: whose class and options decide which cells there are.
        teacher: the digest of its weights and architecture.
        taps: of the teacher, in the order of the level pairs.
        resize: the size of the input.
        dtype: of the vectors.
        precision: that the teacher computes in.

    Raises:
        EyasError: the method's vectors cannot be cached.
    """
    options = method.fingerprint()
    _check_own(method)
    shared = {
        "format": FORMAT,
        "teacher": teacher,
        "taps": list(taps),
        "method": {"class": _class_name(method), "version": method.version, **options},
        "resize": dict(resize),
        "dtype": dtype,
        "precision": precision,
    }
    return dict(json.loads(json.dumps(shared)))  # as it comes back from its file


def cache_folder(root: Path, fingerprint: Mapping[str, Any]) -> Path:
    """The folder of a fingerprint's records, below the folder that the user gave."""
    name = fingerprint["method"]["class"].rpartition(".")[2].lower()
    return root / f"{name}-{digest_of(fingerprint)[:12]}"


def adopt_format_1(root: Path, fingerprint: Mapping[str, Any]) -> None:
    """Rename the cache that an earlier version wrote for a fingerprint, if there is one, so that it is found again."""
    method = dict(fingerprint["method"])
    if method.pop("version") != 1 or method["class"] not in NAMES_OF_FORMAT_1:
        return
    method["class"] = NAMES_OF_FORMAT_1[method["class"]]
    before, now = cache_folder(root, {**fingerprint, "format": 1, "method": method}), cache_folder(root, fingerprint)
    if before.is_dir() and not now.exists():
        publish(before / META, fingerprint)
        with suppress(FileNotFoundError):  # another process of the run was first
            before.rename(now)


def image_digest(record: Record) -> bytes:
    """SHA-256 of an image file and its annotations, ignore regions and attributes included."""
    try:
        with record.path.open("rb") as file:
            pixels = hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise EyasError(f"{record.path}: cannot be read ({error}); restore it, or remove its annotations") from error
    digest = hashlib.sha256(pixels + f"{record.width}x{record.height}".encode())
    arrays: list[npt.NDArray[Any]] = [record.boxes, record.labels, record.ignore, record.ignore_labels]
    for values in (*arrays, *(record.attributes[name] for name in sorted(record.attributes))):
        digest.update(f"|{len(values)}:".encode() + values.tobytes())
    return digest.digest()


def record_key(image: bytes, variant: int) -> bytes:
    """The key of the record of one geometric variant of an image."""
    key = hashlib.sha256(image + bytes([variant])).digest()
    assert len(key) == KEY_BYTES
    return key


def digest_of(value: Any) -> str:
    """SHA-256, in hexadecimal, of a value of JSON's types."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def publish(path: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all, even while other processes write the same file."""
    own = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    write_json(own, value)
    own.replace(path)


def in_bytes(count: float) -> str:
    """A number of bytes for people: 812 B, 2.6 kB, 31.4 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _claim(folder: Path, fingerprint: Mapping[str, Any]) -> None:
    """Make the folder of a cache. Raises EyasError when the folder is that of another fingerprint."""
    path = folder / META
    try:
        folder.mkdir(parents=True, exist_ok=True)
        known = json.loads(path.read_text()) if path.is_file() else None
    except OSError as error:
        raise could_not_write(path, error) from error
    except (ValueError, RecursionError) as error:
        raise EyasError(f"{path}: not readable ({error}); remove this folder, and it is made again") from error
    if known is None:
        publish(path, fingerprint)
    elif known != fingerprint:
        raise EyasError(f"{path}: is of another cache than the folder's name says; remove this folder")


def _class_name(method: Method) -> str:
    """Free of the module for the methods of Eyas, whose modules may move."""
    kind = type(method)
    return kind.__qualname__ if kind.__module__.startswith("eyas.") else f"{kind.__module__}.{kind.__qualname__}"


def _check_own(method: Method) -> None:
    """Refuse a subclass with masks of its own, which would share its base class's records."""
    classes = type(method).__mro__
    told = next(index for index, kind in enumerate(classes) if "fingerprint" in vars(kind))
    for name in ("masks", "select", "forward"):
        if any(name in vars(kind) for kind in classes[:told]):
            raise EyasError(
                f"{type(method).__name__} has {name}() of its own, but not fingerprint(), by which a cache tells it "
                f"from {classes[told].__name__}: add one that returns the options of its masks, or leave --cache out"
            )
