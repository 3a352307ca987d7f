"""A small copy of a data set: some of its images, all of one size, which a detector learns from in minutes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from eyas.data.formats.coco_write import write_coco
from eyas.data.formats.records import DataSource
from eyas.data.images import read_pixels
from eyas.tools.files import make_folder, write_json
from eyas.tools.text_files import read_json
from eyas.types import EyasError, Record, Size

MARKER = "copied.json"
"""Says what is copied, and whether all of it is."""
MULTIPLE = 16
"""The sides of the copies are multiples of this many pixels."""
ASPECTS = (0.5, 2.0)
"""Width over height of the narrowest and the widest copies."""


def common_size(records: Sequence[Record], area: float) -> Size:
    """(height, width) of the images' median aspect ratio and about ``area`` square pixels."""
    aspect = float(np.clip(np.median([record.width / record.height for record in records]), *ASPECTS))
    height, width = (MULTIPLE * round(math.sqrt(side) / MULTIPLE) for side in (area / aspect, area * aspect))
    return height, width


def spread_evenly(records: Sequence[Record], most: int) -> list[Record]:
    """At most so many records, spread evenly over the list. Those with ignore regions, which a copy lacks, are left
    out unless all have them."""
    usable = [record for record in records if not len(record.ignore)] or list(records)
    count = min(most, len(usable))
    return [usable[index * len(usable) // count] for index in range(count)]


def write_small_copies(
    splits: Mapping[str, DataSource],
    root: Path,
    size: Size,
    most: Mapping[str, int],
    advance: Callable[[], object] = lambda: None,
) -> Path:
    """Write some images of every split, stretched to one size, into a COCO folder, see `write_coco`. Returns it.

    A complete folder of the same images is left as it is.

    Args:
        splits: "train" and "val" to what is copied.
        root: the folder of the copies, created if missing.
        size: (height, width) of every copy, pixels.
        most: split to the number of images at most, which are spread evenly over it.
        advance: called after each image.

    Raises:
        EyasError: an image cannot be read, or the folder holds copies of other images.
    """
    chosen = {name: spread_evenly(source.records, most[name]) for name, source in splits.items()}
    copied = {
        "size": list(size),
        "classes": list(next(iter(splits.values())).classes),
        "images": {name: [str(record.path) for record in records] for name, records in chosen.items()},
    }
    marker = root / MARKER
    before = read_json(marker) if marker.is_file() else None
    if before == {**copied, "complete": True}:
        return root
    if root.exists() and any(root.iterdir()) and before != {**copied, "complete": False}:
        raise EyasError(f"{root} holds something else than copies of these images; remove it, or choose another folder")
    make_folder(root)
    write_json(marker, {**copied, "complete": False})
    for name, source in splits.items():
        write_coco(root, name, source.classes, _items(chosen[name], size, advance))
    write_json(marker, {**copied, "complete": True})
    return root


def _items(
    records: Sequence[Record], size: Size, advance: Callable[[], object]
) -> Iterator[tuple[str, Image.Image, npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
    height, width = size
    for number, record in enumerate(records):
        image = Image.fromarray(read_pixels(record)).resize((width, height), Image.Resampling.BILINEAR)
        factors = np.array([width / record.width, height / record.height] * 2, np.float32)
        yield f"{number:06d}", image, record.boxes * factors, record.labels
        advance()
