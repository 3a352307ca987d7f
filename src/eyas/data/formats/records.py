"""From parsed annotations to records: shared by the readers of all formats.

Wrong syntax raises `EyasError`. `build_record` drops a box with wrong geometry, or clips it to the frame, as `fit_box`
decides; each is listed as a `Problem`, which ``eyas data`` prints. One bad box does not make the data set unusable.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from eyas.data.folders import files_in
from eyas.data.images import SUFFIXES
from eyas.types import EyasError, Record

Box = tuple[float, float, float, float]
"""xyxy, pixels, 0-based, in the frame of the image file: a box over the whole image is (0, 0, width, height)."""

CLIP_TOLERANCE = 1.0
"""Pixels. Overshoot up to this is clipped silently: it comes from rounding or 1-based coordinates."""

MIN_SIDE = 1e-3
"""Pixels. A thinner box has no area: it is a rounding error, and its area might vanish in float32."""


FLOATS = struct.Struct("4f")
"""A box in float32; for one box this is ten times as fast as an array."""


@dataclass(frozen=True)
class Problem:
    """A dropped record, or a dropped or clipped box, and the annotation file that contains it.

    ``line`` counts from 1; it is None where the format has no useful lines (COCO JSON).
    """

    path: Path
    line: int | None
    message: str

    def __str__(self) -> str:
        return f"{self.path}{'' if self.line is None else f':{self.line}'}: {self.message}"


@dataclass(frozen=True, eq=False)
class DataSource:
    """One split of a data set, read and checked; images are not decoded yet.

    Attributes:
        format: "coco", "voc", "kitti", "yolo", "imagefolder" or "hf".
        root: the folder it was read from.
        split: its name, such as "train" or "val".
        classes: class names in label order.
        records: one per image, in the order of the data set's own list. Each access may make a new `Record`.
        problems: what was dropped or clipped.
        warnings: what may be unexpected about the split, a sentence for each.
        category_ids: of the classes, in the data set's own file; empty where its format has none.
    """

    format: str
    root: Path
    split: str
    classes: tuple[str, ...]
    records: Sequence[Record]
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()


def difficult_as_objects(source: DataSource) -> DataSource:
    """A VOC split whose difficult objects are objects like the others, as some trainings have them.

    Raises:
        EyasError: the split is of another format.
    """
    if source.format != "voc":
        raise EyasError(
            f"{source.root}: only VOC marks objects as difficult, and this is {source.format}; "
            "leave --dataset.difficult out"
        )
    return replace(source, records=tuple(map(_all_objects, source.records)))


def _all_objects(record: Record) -> Record:
    boxes, labels = np.concatenate((record.boxes, record.ignore)), np.concatenate((record.labels, record.ignore_labels))
    return replace(record, boxes=boxes, labels=labels, ignore=record.ignore[:0], ignore_labels=record.ignore_labels[:0])


@dataclass(frozen=True)
class Annotation:
    """One parsed box, not checked yet: an object, or an ignore region of its class (label -1: of every class).

    For an object's attributes see `Record.attributes`; messages refer to it by ``name``.
    """

    box: Box
    label: int
    line: int | None = None
    ignore: bool = False
    attributes: Mapping[str, float] = field(default_factory=dict)
    name: str = "box"


def fit_box(box: Box, width: int, height: int) -> tuple[Box | None, str | None]:
    """The box inside a width x height frame, and what is wrong with it.

    (box, None) for a good box, (clipped box, message) for one that is partly outside, (None, message) for one that is
    dropped: not finite, corners swapped, without area, or (all but `MIN_SIDE`) outside. The corners are rounded to
    float32, as a record has them.
    """
    x1, y1, x2, y2 = box

    def wrong(what: str) -> str:
        return f"({x1:g}, {y1:g}, {x2:g}, {y2:g}) {what}"

    if not all(map(math.isfinite, box)):
        return None, wrong("is not finite; dropped")
    if x2 < x1 or y2 < y1:
        return None, wrong("has swapped corners; dropped")
    if not _has_area(box):
        return None, wrong("has no area; dropped")
    inside = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    if not _has_area(inside):
        return None, wrong(f"is outside the {width}x{height} image; dropped")
    clipped: Box = FLOATS.unpack(FLOATS.pack(*inside))
    left, top, right, bottom = clipped
    if right <= left or bottom <= top:  # thinner than float32 tells apart, so far from the origin
        return None, wrong("has no area; dropped")
    if max(abs(left - x1), abs(top - y1), abs(right - x2), abs(bottom - y2)) > CLIP_TOLERANCE:
        return clipped, wrong(f"leaves the {width}x{height} image; clipped")
    return clipped, None


def _has_area(box: Box) -> bool:
    return box[2] - box[0] >= MIN_SIDE and box[3] - box[1] >= MIN_SIDE


def build_record(
    image_id: str,
    path: Path,
    size: tuple[int, int],
    annotations: Sequence[Annotation],
    written_in: Path,
    content: Callable[[], BinaryIO] | None = None,
) -> tuple[Record, list[Problem]]:
    """The record of one image of ``size`` (width, height), and the problems of its ``annotations``.

    ``image_id`` is unique in the data set, and all objects of an image have the same attributes. ``content`` is that of
    `Record`.
    """
    width, height = size
    kept: list[tuple[Box, Annotation]] = []
    problems = []
    for annotation in annotations:
        box, message = fit_box(annotation.box, width, height)
        if message is not None:
            problems.append(Problem(written_in, annotation.line, f"{annotation.name} {message}"))
        if box is not None:
            kept.append((box, annotation))
    objects = [pair for pair in kept if not pair[1].ignore]
    regions = [pair for pair in kept if pair[1].ignore]
    names = objects[0][1].attributes.keys() if objects else ()
    record = Record(
        image_id=image_id,
        path=path,
        width=width,
        height=height,
        boxes=np.array([box for box, _ in objects], dtype=np.float32).reshape(-1, 4),
        labels=np.array([a.label for _, a in objects], dtype=np.int64),
        ignore=np.array([box for box, _ in regions], dtype=np.float32).reshape(-1, 4),
        ignore_labels=np.array([a.label for _, a in regions], dtype=np.int64),
        attributes={name: np.array([a.attributes[name] for _, a in objects], dtype=np.float32) for name in names},
        content=content,
    )
    return record, problems


def without_annotation(records: Sequence[Record], split: str, folder: Path, advice: str) -> list[str]:
    """A warning about images without an annotation file, where no list says that they belong to the split."""
    places = {record.path.parent for record in records}
    known = {record.path for record in records}
    left = [path for place in sorted(places) for path in files_in(place, *SUFFIXES) if path not in known]
    if not left:
        return []
    text = f"split {split}: {len(left)} images have no annotation file in {folder} and are left out, such as {left[0]}"
    return [f"{text}; write {advice} for an image that shows none"]
