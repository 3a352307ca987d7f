"""COCO detection JSON: what is in the file. Where files are is in `eyas.data.formats.coco_layout`.

Category ids need not be contiguous: labels follow the sorted ids. ``iscrowd`` boxes become ignore regions of their
class. Boxes are ``x, y, width, height`` in 0-based pixels. A field that is null counts as left out, and a number may be
written as text.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eyas.data.folders import Folders
from eyas.data.formats import fields
from eyas.data.formats.classes import Classes, known
from eyas.data.formats.coco_layout import (
    LAYOUT,
    annotation_file,
    data_folder,
    image_place,
    recognised,
    recognised_loosely,
    splits,
)
from eyas.data.formats.coco_shapes import extent
from eyas.data.formats.places import Place
from eyas.data.formats.records import Annotation, Box, DataSource, Problem, build_record
from eyas.data.images import width_and_height
from eyas.types import EyasError, Record

__all__ = ["LAYOUT", "parse", "read_split", "recognised", "recognised_loosely", "records_of", "splits"]

LISTS = ("images", "annotations", "categories")

Key = int | str
"""An id of an image or an annotation: a whole number, also where it is written as text, or another text."""
DIGITS = re.compile("-?[0-9]{1,100}")
"""A whole number as text."""


def parse(
    content: Any, path: Path, classes: Classes | None
) -> tuple[tuple[str, ...], dict[Key, list[Annotation]], list[Problem]]:
    """The classes, the annotations by image id, and the problems of a decoded JSON file.

    Raises `EyasError` naming the file, the annotation and the field when the content is not COCO's.
    """
    return _annotations(_indexed(content, path), path, classes)


class _Indexed(NamedTuple):
    """What a COCO file lists, images and class names by their ids."""

    images: Mapping[Key, Any]
    names: dict[int, str]
    annotations: Sequence[Any]


def _indexed(content: Any, path: Path) -> _Indexed:
    if not is_coco(content):
        raise EyasError(f"{path}: is not a COCO file: it needs the lists {', '.join(LISTS)}")
    images, annotations, categories = (content[name] or [] for name in LISTS)
    names = _categories(categories, annotations, path)
    return _Indexed(_by_id(images, path, "image"), names, annotations)


def _annotations(
    content: _Indexed, path: Path, classes: Classes | None
) -> tuple[tuple[str, ...], dict[Key, list[Annotation]], list[Problem]]:
    """See `parse`."""
    names = content.names
    classes = classes or known(tuple(names.values()))
    if len(set(classes.names)) != len(classes.names):
        twice = f"{path}: two categories have one name: {', '.join(classes.names)}"
        example = f"--dataset.classes '[{', '.join(dict.fromkeys(classes.names))}]' (`eyas data`: --classes)"
        raise EyasError(f"{twice}. Rename one, or make them one class by {example}.")
    found: dict[Key, list[Annotation]] = {key: [] for key in content.images}
    problems = []
    before: dict[Key, Any] = {}
    for index, raw in enumerate(content.annotations):
        entry = _entry(raw, path, "an annotation")
        if "id" not in entry:
            entry = {"id": f"number {index + 1}", **entry}
        number = id_of(entry, "id", path, "an annotation")
        name = f"annotation {number}"
        image_id = id_of(entry, "image_id", path, name)
        if image_id not in found:
            problems.append(Problem(path, None, f"{name} belongs to image {image_id}, which is not in images; dropped"))
            continue
        first = before.get(number)
        if first is None:
            before[number] = entry
        elif first == entry:
            problems.append(Problem(path, None, f"{name} occurs twice; the second is dropped"))
            continue
        else:
            problems.append(Problem(path, None, f"{name} shares its id with another; both are kept"))
        annotation = _annotation(entry, name, names, classes, path)
        found[image_id] += [annotation] if annotation is not None else []
    return classes.names, found, problems


def is_coco(content: Any) -> bool:
    """Whether decoded JSON has the lists of a COCO file; null is an empty list."""
    return isinstance(content, dict) and all(isinstance(content.get(key, 0), list | None) for key in LISTS)


def read_split(root: Path, split: str, classes: Classes | None) -> DataSource:
    """Read one split; `eyas.data.read` documents the arguments and errors."""
    path = annotation_file(root, split)
    try:
        content = json.loads(fields.read_text(path, fields.COCO_LIMIT))
    except json.JSONDecodeError as error:
        raise EyasError(f"{path}:{error.lineno}: broken JSON ({error.msg}); write the file again") from error
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, or so many brackets
        raise EyasError(f"{path}: JSON that cannot be read ({error}); write the file again") from error
    indexed = _indexed(content, path)
    learned, found, problems = _annotations(indexed, path, classes)
    images = list(indexed.images.values())
    base, known_files = data_folder(root), Folders()
    place = image_place(base, split, path, [_file_name(image, path) for image in images], known_files)
    records, wrong = records_of(images, found, place, path, base, known_files)
    labels = classes.labels if classes is not None else known(learned).labels
    numbers = {labels[name]: key for key, name in reversed(indexed.names.items()) if name in labels}
    ids = tuple(numbers.get(label, 0) for label in range(len(learned)))
    return DataSource("coco", base, split, learned, tuple(records), (*problems, *wrong), category_ids=ids)


def records_of(
    images: Sequence[Mapping[str, Any]],
    found: Mapping[Key, Sequence[Annotation]],
    place: Place,
    path: Path,
    root: Path,
    folders: Folders | None = None,
) -> tuple[list[Record], list[Problem]]:
    """The records of a COCO file's images, in their order, and the boxes that are dropped or clipped.

    ``found`` comes from `parse`, the image files are at ``place``, and messages name ``path``. Raises `EyasError`
    when an image file is missing or outside ``root``, or has a size in neither entry nor header.
    """
    folders = folders or Folders()
    records, problems = [], []
    for image in images:
        name, key = _file_name(image, path), id_of(image, "id", path, "one image")
        where = f"{path}: image {key}"
        written = fields.inside(root, place.file(name), where)
        file = folders.find(written)
        if file is None or not os.path.isfile(file):
            missing = f"{path}: {fields.short(name)} is not in {place.folder}"
            raise EyasError(f"{missing}; restore it, or remove it from the list of images")
        sides = [
            fields.real(0 if image.get(side) is None else image[side], f"{where} has the {side}")
            for side in ("width", "height")
        ]
        size = fields.stated_size(sides[0], sides[1], where) or width_and_height(file)
        own = image["id"] if isinstance(image["id"], str) else str(key)  # as written: "000042" is not "42"
        record, wrong = build_record(own, file, size, found[key], path)
        records.append(record)
        problems += [Problem(p.path, p.line, f"{name}: {p.message}") for p in wrong]
    return records, problems


def _categories(entries: Sequence[Any], annotations: Sequence[Any], path: Path) -> dict[int, str]:
    """Category id -> class name, by rising id, without the root that an exporter puts above the classes.

    Roboflow writes the project as a category: no annotation has it, its supercategory is "none", and it is the
    supercategory of the classes.
    """
    found: dict[int, Mapping[str, Any]] = {}
    for entry in entries:
        key = id_of(entry, "id", path, "one category")
        if not isinstance(key, int):
            raise EyasError(f"{path}: a category has the id {fields.shown(key)}; write a whole number")
        if found.setdefault(key, _entry(entry, path, f"category {key}")) != _entry(entry, path, f"category {key}"):
            raise EyasError(f"{path}: two entries have the category id {key}; ids must be unique")
    names = {
        key: fields.class_name(_field(entry, "name", path, f"category {key}"), f"{path}: category {key}")
        for key, entry in sorted(found.items())
    }
    above = {key: str(entry.get("supercategory", "none")).strip().lower() for key, entry in found.items()}
    roots = {key for key in names if above[key] in ("none", "") and names[key].lower() in above.values()}
    used = {fields.whole(_entry(entry, path, "an annotation").get("category_id")) for entry in annotations if roots}
    return {key: name for key, name in names.items() if key not in roots - used}


def _annotation(
    entry: Mapping[str, Any], name: str, names: Mapping[int, str], classes: Classes, path: Path
) -> Annotation | None:
    category = id_of(entry, "category_id", path, name)
    if not isinstance(category, int) or category not in names:
        listed = ", ".join(f"{key} {value}" for key, value in names.items()) or "none"
        raise EyasError(f"{path}: {name} has the unknown category {category}; the categories are {listed}")
    box = _box(entry, f"{path}: {name}")
    label = classes.label(names[category], str(path))
    if label is None:
        return None
    stated = entry.get("area")
    area = (box[2] - box[0]) * (box[3] - box[1])
    if stated is not None:
        area = fields.area(stated, f"{path}: {name} has the area")
    crowd = fields.flag(entry.get("iscrowd", 0), f"{path}: {name} has iscrowd")
    return Annotation(box, label, None, crowd, {} if crowd else {"area": area}, name)


def _box(entry: Mapping[str, Any], where: str) -> Box:
    """The box of an annotation, or the extent of its segmentation where it has no bbox."""
    box = entry.get("bbox") or None  # an empty list, too, is no box
    if box is None and entry.get("segmentation"):
        return extent(entry["segmentation"], where)
    if box is None:
        raise EyasError(f"{where} has neither bbox nor segmentation; add one of them")
    if not isinstance(box, list) or len(box) != 4:
        raise EyasError(f"{where} has bbox {fields.shown(box)}; write [x, y, width, height] in pixels")
    numbers = f"{where} has a bbox with"
    x, y, width, height = (fields.real(value, numbers) for value in box)
    return (x, y, x + width, y + height)


def _by_id(entries: Sequence[Any], path: Path, kind: str) -> dict[Key, Any]:
    found: dict[Key, Any] = {}
    for entry in entries:
        key = id_of(entry, "id", path, f"one {kind}")
        if found.setdefault(key, entry) != entry:  # an entry that is written twice is one
            raise EyasError(f"{path}: two entries have the {kind} id {key}; ids must be unique")
    return found


def id_of(entry: Any, key: str, path: Path, name: str) -> Key:
    """An id: a whole number, also as 1.0, "1" or "001", or another text."""
    value = _field(entry, key, path, name)
    if isinstance(value, str) and DIGITS.fullmatch(value):
        return int(value)  # exactly: a float has 15 digits
    number = fields.whole(value)
    if number is not None:
        return number
    if not isinstance(value, str):
        raise EyasError(f"{path}: {name} has the {key} {fields.shown(value)}; write a whole number or a text")
    return value


def _entry(entry: Any, path: Path, name: str) -> Mapping[str, Any]:
    """The fields that have a value: null means that a field is left out."""
    if not isinstance(entry, dict):
        raise EyasError(f"{path}: {name} is {fields.shown(entry)}; write an object with its fields")
    return {key: value for key, value in entry.items() if value is not None} if None in entry.values() else entry


def _file_name(image: Mapping[str, Any], path: Path) -> str:
    key = id_of(image, "id", path, "one image")
    name = _field(image, "file_name", path, f"image {key}")
    if not isinstance(name, str) or not name:
        raise EyasError(f"{path}: image {key} has the file_name {fields.shown(name)}; write the name of a file")
    return name


def _field(entry: Any, key: str, path: Path, name: str) -> Any:
    if not isinstance(entry, dict) or entry.get(key) is None:
        raise EyasError(f"{path}: {name} has no {key}; add it")
    return entry[key]
