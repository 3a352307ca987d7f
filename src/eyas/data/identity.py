"""What identifies data, wherever it lies: digests of annotations, without the pixels or with them."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy.typing as npt

from eyas.data.formats.records import DataSource
from eyas.types import Record


def record_digest(record: Record, contents: bytes) -> bytes:
    """SHA-256 of what stands for an image's pixels and of its annotations, ignore regions and attributes too."""
    digest = hashlib.sha256(contents + f"{record.width}x{record.height}".encode())
    arrays: list[npt.NDArray[Any]] = [record.boxes, record.labels, record.ignore, record.ignore_labels]
    for values in (*arrays, *(record.attributes[name] for name in sorted(record.attributes))):
        digest.update(f"|{len(values)}:".encode() + values.tobytes())
    return digest.digest()


def source_digest(source: DataSource) -> str:
    """SHA-256, in hexadecimal, of a split's classes and of the names, sizes and annotations of its images, in order.

    No image is read, and no folder counts: a data set that was moved has the digest that it had.
    """
    digest = hashlib.sha256("\0".join(source.classes).encode())
    for record in source.records:
        digest.update(record_digest(record, record.image_id.encode(errors="surrogatepass")))
    return digest.hexdigest()
