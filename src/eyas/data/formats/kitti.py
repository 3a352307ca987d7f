"""KITTI object detection: ``training/label_2/ID.txt``, ``training/image_2/ID.png``, ``ImageSets/SPLIT.txt``.

The rules are those of the devkit (``readme.txt`` and ``evaluate_object.cpp``): ``DontCare`` regions concern every
class; ``Van`` is a neighbour of ``Car`` and ``Person_sitting`` of ``Pedestrian``, neither objects nor false positives
of that class; the remaining types are background. Boxes are 0-based pixels already.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eyas.data.formats.records import (
    SHOWN,
    Annotation,
    DataSource,
    build_record,
    inside,
    location,
    number,
    read_ids,
    read_text,
    split_names,
)
from eyas.data.images import find_image, image_size
from eyas.types import EyasError

LAYOUT = "label_2/ (or training/label_2/) with ImageSets/{split}.txt (KITTI)"

KITTI_CLASSES = ("car", "pedestrian", "cyclist")
TYPES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc", "DontCare")
NEIGHBOURS = {"van": "car", "person_sitting": "pedestrian"}


def recognised(root: Path) -> bool:
    """Whether the folder has this layout."""
    return (_base(root) / "label_2").is_dir()


def parse(text: str, path: Path, classes: Sequence[str]) -> list[Annotation]:
    """The objects and ignore regions of one label file; class names are compared without case.

    A line is ``type truncated occluded alpha x1 y1 x2 y2`` and seven numbers of the 3D box (and a score in result
    files). Raises `EyasError` with file and line on a malformed line or an unknown type.
    """
    labels = {name.lower(): label for label, name in enumerate(classes)}
    annotations = []
    for line, content in enumerate(text.splitlines(), start=1):
        words = content.split()
        if not words:
            continue
        kind, values = words[0], _numbers(words, path, line)
        truncated, occluded, _, x1, y1, x2, y2 = values[:7]
        key = kind.lower()
        if key in labels:
            attributes = _attributes(truncated, occluded, path, line)
            annotation = Annotation((x1, y1, x2, y2), labels[key], line, False, attributes, kind)
        elif key == "dontcare":
            annotation = Annotation((x1, y1, x2, y2), -1, line, True, name=kind)
        elif NEIGHBOURS.get(key) in labels:
            annotation = Annotation((x1, y1, x2, y2), labels[NEIGHBOURS[key]], line, True, name=kind)
        elif kind in TYPES:
            continue
        else:
            known = ", ".join(dict.fromkeys((*classes, *TYPES)))
            raise EyasError(f"{location(path, line)}: unknown class {kind[:SHOWN]!r}; the known ones are {known}")
        annotations.append(annotation)
    return annotations


def read_split(root: Path, split: str, classes: Sequence[str] | None) -> DataSource:
    """Read one split; `eyas.data.read` documents the arguments and errors."""
    base, names = _base(root), tuple(classes) if classes is not None else KITTI_CLASSES
    records, problems = [], []
    listed = _list_file(root, split)
    for name, line in read_ids(listed).items():
        written_in = inside(base / "label_2", base / "label_2" / f"{name}.txt", location(listed, line))
        annotations = parse(read_text(written_in), written_in, names)
        image = find_image(base / "image_2", name)
        record, wrong = build_record(name, image, image_size(image), annotations, written_in)
        records.append(record)
        problems += wrong
    return DataSource("kitti", root, split, names, tuple(records), tuple(problems))


def _base(root: Path) -> Path:
    return root / "training" if (root / "training").is_dir() else root


def _list_file(root: Path, split: str) -> Path:
    folders = list(dict.fromkeys((root / "ImageSets", _base(root) / "ImageSets")))
    for folder in folders:
        for name in split_names(split):
            if (folder / f"{name}.txt").is_file():
                return folder / f"{name}.txt"
    there = ", ".join(sorted(path.stem for folder in folders for path in folder.glob("*.txt"))) or "none"
    raise EyasError(
        f"{folders[0] / split}.txt: no such split; the splits there are: {there}. List the image names of "
        "this split in it, one a line."
    )


def _attributes(truncated: float, occluded: float, path: Path, line: int) -> dict[str, float]:
    """Both, or -1 for one that is not known, as in result files."""
    if not (0 <= truncated <= 1 or truncated == -1):
        raise EyasError(f"{location(path, line)}: truncated is {truncated:g}; write a number from 0 to 1")
    if occluded not in (-1, 0, 1, 2, 3):
        raise EyasError(f"{location(path, line)}: occluded is {occluded:g}; write 0, 1, 2 or 3")
    return {"truncated": truncated, "occluded": occluded}


def _numbers(words: list[str], path: Path, line: int) -> list[float]:
    if len(words) not in (15, 16):
        raise EyasError(f"{location(path, line)}: {len(words)} columns, but a KITTI label has 15 (16 with a score)")
    try:
        return [number(word) for word in words[1:]]
    except ValueError as error:
        raise EyasError(f"{location(path, line)}: {error}") from None
