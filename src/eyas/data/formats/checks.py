"""Checks of a split that is read: what makes it another one than it seems is refused, or said in a sentence."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from eyas.data.folders import files_below
from eyas.data.formats.packed import PackedRecords
from eyas.data.formats.records import DataSource
from eyas.data.images import CONVERT, UNREAD
from eyas.types import EyasError, Record

IGNORED = {
    "coco": "crowd (iscrowd 1), as masks of an annotation tool may be: export boxes or polygons",
    "voc": "difficult",
    "kitti": "DontCare, Van or Person_sitting",
    "yolo": "ignored",
    "imagefolder": "crowd (iscrowd 1)",
    "hf": "crowd (iscrowd 1)",
}
"""What the ignore regions of a format are."""

MANY = 0.1
"""Fraction of the boxes. If more are dropped or clipped, boxes are written in another way than the format's."""
BOXES = {
    "coco": "[x, y, width, height] in pixels",
    "voc": "xmin, ymin, xmax, ymax in pixels",
    "kitti": "x1 y1 x2 y2 in pixels",
    "yolo": "centre, width and height as fractions of the image",
    "imagefolder": "x, y, width, height or x1, y1, x2, y2 in pixels, as --dataset.boxes says",
    "hf": "x, y, width, height or x1, y1, x2, y2 in pixels, as --dataset.boxes says",
}
"""How a format writes a box."""


def checked(source: DataSource) -> DataSource:
    """The source, its records packed, with a warning of everything that makes it doubtful.

    Raises `EyasError` when it has no images or one of them twice, every box was dropped, or every box is a fraction of
    a pixel.
    """
    root, split = source.root, source.split
    if not source.records:
        unread = files_below(root, *UNREAD) if root.is_dir() else []
        why = f"{unread[0]}: {CONVERT}" if unread else "the data set is empty"
        raise EyasError(f"{root}: the split {split} has no images ({source.format} format); {why}")
    _refuse_second_entries(source)
    count = sum(len(record.boxes) + len(record.ignore) for record in source.records)
    if source.problems and not count:
        raise EyasError(f"{root}: every box of the split {split} was dropped; the first: {source.problems[0]}")
    tiny = sum(int((record.boxes.max(1) <= 1).sum()) for record in source.records if len(record.boxes))
    if tiny and tiny == count:
        raise EyasError(
            f"{root}: every box of the split {split} is inside the first pixel, as if written in fractions of the "
            f"image; {source.format} files have {BOXES[source.format]}"
        )
    warnings = (*source.warnings, *_doubts(source, count, tiny))
    return replace(source, records=PackedRecords(source.records), warnings=warnings)


def _refuse_second_entries(source: DataSource) -> None:
    """Raises `EyasError` for an image file with two annotations: what one lists would be background in the other."""
    first: dict[str, Record] = {}
    for record in source.records:
        if record.content is None and first.setdefault(os.path.abspath(record.path), record) is not record:
            names = f"{first[os.path.abspath(record.path)].image_id} and {record.image_id}"
            raise EyasError(
                f"{source.root}: the entries {names} of the split {source.split} have the same file, {record.path}; "
                "make them one entry, or remove the one that is wrong"
            )


def _doubts(source: DataSource, count: int, tiny: int) -> Iterator[str]:
    split, written = f"split {source.split}", f"{source.format} files have {BOXES[source.format]}"
    yield from (f"{split}: {line}" for line in _ignored(source))
    if tiny:
        yield f"{split}: {tiny} boxes are inside the first pixel, as if written in fractions of the image; {written}"
    if unread := _unread(source):
        yield f"{split}: {len(unread)} images beside its own are left out, such as {unread[0]}: {CONVERT}"
    wrong = sum(problem.message.endswith(("dropped", "clipped")) for problem in source.problems)
    if wrong > MANY * (count + wrong):
        yield f"{split}: {wrong} records or boxes are dropped or clipped, and {count} boxes are kept; {written}"
    repeats = {record.path: count for record in source.records if (count := _repeats(record))}
    if repeats:
        objects = f"{sum(repeats.values())} objects have the class and the box of another"
        yield f"{split}: {objects}, as in {next(iter(repeats))}; each counts as often as it is written"


def _unread(source: DataSource) -> list[str]:
    """The images of formats that are not read, in the folders of the split's own. Names only, for there may be many."""
    places = {os.path.dirname(record.path) for record in source.records}
    return sorted(
        os.path.join(place, name)
        for place in filter(os.path.isdir, places)
        for name in os.listdir(place)
        if name.lower().endswith(UNREAD) and not name.startswith(".")
    )


def _ignored(source: DataSource) -> Iterator[str]:
    objects = Counter(label for record in source.records for label in record.labels.tolist())
    ignored = Counter(label for record in source.records for label in record.ignore_labels.tolist())
    for label, name in enumerate(source.classes):
        if objects and ignored[label] > objects[label]:
            yield (
                f"class {name} has {ignored[label]} ignore regions and {objects[label]} objects; ignore regions are "
                f"{IGNORED[source.format]}"
            )


def _repeats(record: Record) -> int:
    """Number of the objects that have the class and the box of one before them."""
    return len(record.labels) - len(set(zip(record.labels.tolist(), map(tuple, record.boxes.tolist()), strict=True)))


def without_objects(source: DataSource) -> str | None:
    """A sentence about a split none of whose images has an object, and where its boxes went; None for any other."""
    if any(len(record.boxes) for record in source.records):
        return None
    regions = sum(len(record.ignore) for record in source.records)
    where = [f"ignore regions: {regions}"] if regions else []
    where += [f"dropped or clipped boxes: {len(source.problems)}"] if source.problems else []
    said = f"no image of split {source.split} has an object" + (f" ({', '.join(where)})" if where else "")
    return f"{said}: all {regions} are {IGNORED[source.format]}" if regions else said


def require_objects(source: DataSource) -> None:
    """Raises `EyasError` when no image of a split has an object, so that nothing can be learned from it."""
    nothing = without_objects(source)
    if nothing is not None:
        found = "; ".join((nothing, *source.warnings))
        raise EyasError(f"{source.root}: {found}; nothing can be learned from it, see `eyas data {source.root}`")
