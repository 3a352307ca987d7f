"""COCO detection JSON: read it, and write it for composed data sets.

Category ids need not be contiguous: labels follow the sorted ids. ``iscrowd`` boxes become ignore regions of their
class. Boxes are ``x, y, width, height`` in 0-based pixels.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from eyas.data.formats import fields
from eyas.data.formats.records import Annotation, DataSource, Problem, build_record, label_of
from eyas.data.images import image_size
from eyas.tools.files import write_atomic
from eyas.types import EyasError, Record

if TYPE_CHECKING:
    from torch import Tensor

LAYOUT = "annotations/instances_{split}.json, {split}/_annotations.coco.json or {split}.json (COCO)"
LISTS = ("images", "annotations", "categories")


def recognised(root: Path) -> bool:
    """Whether the folder has this layout: a JSON file in a place where a split's file may be."""
    beside = [root / f"{name}.json" for split in ("train", "val", "test") for name in fields.split_names(split)]
    exported = any(root.glob("*/_annotations.coco.json"))
    return exported or any((root / "annotations").glob("*.json")) or any(path.is_file() for path in beside)


def parse(
    content: Any, path: Path, classes: Sequence[str] | None
) -> tuple[tuple[str, ...], dict[int, list[Annotation]], list[Problem]]:
    """The classes, the annotations by image id, and the problems of a decoded JSON file.

    Raises `EyasError` naming the file, the annotation and the field when the content is not COCO's.
    """
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in LISTS):
        raise EyasError(f"{path}: is not a COCO file: it needs the lists {', '.join(LISTS)}")
    names = {
        key: fields.class_name(_field(value, "name", path, f"category {key}"), f"{path}: category {key}")
        for key, value in sorted(_by_id(content["categories"], path, "category").items())
    }
    known = tuple(classes) if classes is not None else tuple(names.values())
    if len(set(known)) != len(known):
        raise EyasError(f"{path}: two categories have one name; classes must be distinct: {', '.join(known)}")
    found: dict[int, list[Annotation]] = {key: [] for key in _by_id(content["images"], path, "image")}
    problems = []
    before: dict[int, Any] = {}
    for entry in content["annotations"]:
        number = _id(entry, "id", path, "an annotation")
        name = f"annotation {number}"
        image_id = _id(entry, "image_id", path, name)
        if image_id not in found:
            problems.append(Problem(path, None, f"{name} belongs to image {image_id}, which is not in images; dropped"))
            continue
        first = before.setdefault(number, entry)
        if first is not entry:
            if first == entry:
                problems.append(Problem(path, None, f"{name} occurs twice; the second is dropped"))
                continue
            problems.append(Problem(path, None, f"{name} shares its id with another; both are kept"))
        found[image_id].append(_annotation(entry, name, names, known, path))
    return known, found, problems


def read_split(root: Path, split: str, classes: Sequence[str] | None) -> DataSource:
    """Read one split; `eyas.data.read` documents the arguments and errors."""
    path = _annotation_file(root, split)
    try:
        content = json.loads(fields.read_text(path))
    except json.JSONDecodeError as error:
        raise EyasError(f"{path}:{error.lineno}: broken JSON ({error.msg}); write the file again") from error
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, or so many brackets
        raise EyasError(f"{path}: JSON that cannot be read ({error}); write the file again") from error
    known, found, problems = parse(content, path, classes)
    folder = _image_folder(root, split, path, [_file_name(image, path) for image in content["images"]])
    records, wrong = records_of(content["images"], found, folder, path, root)
    return DataSource("coco", root, split, known, tuple(records), (*problems, *wrong))


def records_of(
    images: Sequence[Mapping[str, Any]], found: Mapping[int, Sequence[Annotation]], folder: Path, path: Path, root: Path
) -> tuple[list[Record], list[Problem]]:
    """The records of a COCO file's images, in their order, and the boxes that are dropped or clipped.

    ``found`` comes from `parse`, the image files are in ``folder``, and messages name ``path``. Raises `EyasError`
    when an image file is missing, outside ``root`` or in two entries, or has a size in neither entry nor header.
    """
    records, problems = [], []
    entries: dict[str, str] = {}
    for image in images:
        name = _file_name(image, path)
        where = f"{path}: image {image['id']}"
        file = fields.inside(root, folder / name, where)
        if not os.path.isfile(file):
            missing = f"{path}: {fields.short(name)} is not in {folder}"
            raise EyasError(f"{missing}; restore it, or remove it from the list of images")
        first = entries.setdefault(os.path.abspath(file), where)
        if first is not where:  # what one entry lists would be background in the other
            raise EyasError(f"{where} has the same file as {first}, {fields.short(name)}; make them one entry")
        known = [0 if image.get(side) is None else image[side] for side in ("width", "height")]
        sides = [_real(value, f"{where} has a width or height of") for value in known]
        size = fields.stated_size(sides[0], sides[1], where) or image_size(file)
        record, wrong = build_record(str(image["id"]), file, size, found[image["id"]], path)
        records.append(record)
        problems += [Problem(p.path, p.line, f"{name}: {p.message}") for p in wrong]
    return records, problems


def write_coco(
    root: Path,
    split: str,
    classes: Sequence[str],
    items: Iterable[tuple[str, Image.Image | np.ndarray, npt.NDArray[Any] | Tensor, npt.NDArray[Any] | Tensor]],
) -> Path:
    """Write one split: ``images/SPLIT/NAME.png`` and, last and in one step, ``annotations/instances_SPLIT.json``.

    An interrupted run therefore leaves images but no data set. Ids count from 1, as in COCO. Returns the JSON file.

    Args:
        root: the folder, created if missing.
        split: "train" or "val".
        classes: class names in label order.
        items: (name, RGB image as a PIL image or (height, width, 3) uint8, (n, 4) xyxy boxes in pixels, (n,) labels),
            boxes and labels as arrays or tensors.
    """
    folder, target = root / "images" / split, root / "annotations" / f"instances_{split}.json"
    folder.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for name, pixels, boxes, labels in items:
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        file_name = name if name.endswith(".png") else f"{name}.png"
        # Level 1 writes three times as fast as the default, for files a few percent larger.
        image.convert("RGB").save(folder / file_name, compress_level=1)
        images.append({"id": len(images) + 1, "file_name": file_name, "width": image.width, "height": image.height})
        for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels.tolist(), strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            entry = {"id": len(annotations) + 1, "image_id": len(images), "category_id": label + 1, "bbox": box}
            annotations.append({**entry, "area": box[2] * box[3], "iscrowd": 0})
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
    write_atomic(target, lambda part: part.write_text(text, encoding="utf-8"))
    return target


def _annotation(
    entry: Mapping[str, Any], name: str, names: Mapping[int, str], known: Sequence[str], path: Path
) -> Annotation:
    category = _id(entry, "category_id", path, name)
    if category not in names:
        listed = ", ".join(f"{key} {value}" for key, value in names.items())
        raise EyasError(f"{path}: {name} has the unknown category {category}; the categories are {listed}")
    box = _field(entry, "bbox", path, name)
    if not isinstance(box, list) or len(box) != 4:
        raise EyasError(f"{path}: {name} has bbox {fields.shown(box)}; write [x, y, width, height] in pixels")
    x, y, width, height = (_real(value, f"{path}: {name} has a bbox with") for value in box)
    label = label_of(names[category], known, str(path))
    stated = entry.get("area")
    area = width * height if stated is None else _real(stated, f"{path}: {name} has the area")
    if stated is not None and not 0 <= area < math.inf:
        raise EyasError(f"{path}: {name} has the area {area:g}; write its pixels, or leave it out")
    crowd = entry.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise EyasError(f"{path}: {name} has iscrowd {fields.shown(crowd)}; write 0 or 1")
    return Annotation((x, y, x + width, y + height), label, None, bool(crowd), {} if crowd else {"area": area}, name)


def _annotation_file(root: Path, split: str) -> Path:
    for name in fields.split_names(split):
        years = sorted((root / "annotations").glob(f"instances_{name}[12][0-9][0-9][0-9].json"))
        if len(years) > 1:
            listed = ", ".join(path.name for path in years)
            raise EyasError(f"{root / 'annotations'}: several files are for the split {split}: {listed}; keep one")
        usual = (f"annotations/instances_{name}.json", f"annotations/{name}.json", f"{name}/_annotations.coco.json")
        for path in (*years, *(root / file for file in usual), root / f"{name}.json"):
            if path.is_file():
                return path
    there = ", ".join(sorted(str(path.relative_to(root)) for path in root.glob("*/*.json"))) or "none"
    missing = f"{root}: no COCO file for the split {split}; looked for {LAYOUT.format(split=split)}"
    raise EyasError(f"{missing}. The JSON files there are: {there}")


def _image_folder(root: Path, split: str, path: Path, files: Sequence[str]) -> Path:
    """The first folder that contains the first image: the split's, then the common one, then the JSON's."""
    year = re.search(r"\d{4}$", path.stem)
    names = [name + suffix for name in fields.split_names(split) for suffix in ("", year.group() if year else "")]
    folders = [root / "images" / name for name in names] + [root / name for name in names]
    folders = list(dict.fromkeys([*folders, root / "images", path.parent, root]))
    for folder in folders:
        if files and os.path.isfile(folder / files[0]):
            return folder
    if not files:
        raise EyasError(f"{path}: lists no images; the data set is empty")
    looked = ", ".join(str(folder) for folder in folders)
    first = fields.short(files[0])
    raise EyasError(f"{path}: the image {first} is in none of {looked}; put the images into one of them")


def _by_id(entries: Sequence[Mapping[str, Any]], path: Path, kind: str) -> dict[int, Mapping[str, Any]]:
    found: dict[int, Mapping[str, Any]] = {}
    for entry in entries:
        key = _id(entry, "id", path, f"one {kind}")
        if key in found:
            raise EyasError(f"{path}: two entries have the {kind} id {key}; ids must be unique")
        found[key] = entry
    return found


def _id(entry: Any, key: str, path: Path, name: str) -> int:
    """An id as an integer; 1.0 counts as one."""
    value = _field(entry, key, path, name)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise EyasError(f"{path}: {name} has the {key} {fields.shown(value)}; ids are integers")
    return value


def _real(value: Any, where: str) -> float:
    """A number; NaN and the infinities are allowed. Raises `EyasError` that begins with ``where``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise EyasError(f"{where} {fields.shown(value)}; write a number")
    try:
        return float(value)
    except OverflowError:
        return math.copysign(math.inf, value)


def _file_name(image: Mapping[str, Any], path: Path) -> str:
    name = _field(image, "file_name", path, f"image {image['id']}")
    if not isinstance(name, str) or not name:
        raise EyasError(f"{path}: image {image['id']} has the file_name {fields.shown(name)}; write the name of a file")
    return name


def _field(entry: Any, key: str, path: Path, name: str) -> Any:
    if not isinstance(entry, Mapping) or key not in entry:
        raise EyasError(f"{path}: {name} has no {key}; add it")
    return entry[key]
