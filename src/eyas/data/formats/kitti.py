"""KITTI object detection: ``training/label_2/ID.txt``, ``training/image_2/ID.png``, ``ImageSets/SPLIT.txt``; or
``SPLIT/label_2`` and ``SPLIT/image_2``.

The rules are those of the devkit (``readme.txt`` and ``evaluate_object.cpp``): ``DontCare`` regions concern every
class; ``Van`` is a neighbour of ``Car``, and ``Person_sitting`` of ``Pedestrian``: neither an object nor a false
positive of that class; the remaining types are background. Boxes are 0-based pixels already.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eyas.data.folders import Folders, files_in
from eyas.data.formats import fields
from eyas.data.formats.classes import Classes, known
from eyas.data.formats.records import Annotation, DataSource, build_record, without_annotation
from eyas.data.images import find_image, width_and_height
from eyas.types import EyasError

LAYOUT = "label_2/ (or training/label_2/) with ImageSets/{split}.txt (KITTI)"

KITTI_CLASSES = ("car", "pedestrian", "cyclist")
TYPES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc", "DontCare")
NEIGHBOURS = {"van": "car", "person_sitting": "pedestrian"}


def recognised(root: Path) -> bool:
    """Whether the folder has this layout."""
    return (_base(root) / "label_2").is_dir()


def recognised_loosely(root: Path) -> bool:
    """Whether folders of the data set have this layout, each of which is a split, as CVAT writes ``default``."""
    return bool(_parts(root))


def splits(root: Path) -> dict[str, Path]:
    """Split -> its list in ``ImageSets``; without one, its folder of labels, all of which are one split."""
    if not recognised(root):
        return _parts(root)
    lists = {path.stem: path for place in (_base(root), root) for path in files_in(place / "ImageSets", ".txt")}
    return lists or {"all": _base(root) / "label_2"}


def parse(text: str, path: Path, classes: Sequence[str] | Classes) -> list[Annotation]:
    """The objects and ignore regions of one label file; the case of class names is ignored.

    A line is ``type truncated occluded alpha x1 y1 x2 y2`` and seven numbers of the 3D box (and a score in result
    files). Raises `EyasError` with file and line on a malformed line or an unknown type.
    """
    chosen = known(classes)
    labels: dict[str, int] = {}
    for name, label in chosen.labels.items():
        if labels.setdefault(name.lower(), label) != label:
            raise EyasError(f"{path}: two classes are called {name}, whose case KITTI ignores; make them one class")
    regions = {key: labels[name] for key, name in NEIGHBOURS.items() if name in labels} | {"dontcare": -1}
    annotations = []
    for line, content in enumerate(text.splitlines(), start=1):
        if not (words := content.split()):
            continue
        where, kind, key = f"{path}:{line}", words[0], words[0].lower()
        truncated, occluded, _, x1, y1, x2, y2 = _numbers(words, where)[:7]
        if key in labels:
            # Either may be -1, for unknown, as in result files.
            if not (0 <= truncated <= 1 or truncated == -1):
                raise EyasError(f"{where}: truncated is {truncated:g}; write a number from 0 to 1")
            if occluded not in (-1, 0, 1, 2, 3):
                raise EyasError(f"{where}: occluded is {occluded:g}; write 0, 1, 2 or 3")
            attributes = {"truncated": truncated, "occluded": occluded}
            annotations.append(Annotation((x1, y1, x2, y2), labels[key], line, False, attributes, kind))
        elif key in regions:
            annotations.append(Annotation((x1, y1, x2, y2), regions[key], line, True, name=kind))
        elif not chosen.refuses:
            chosen.label(kind, where)  # which counts it as left out
        elif key in map(str.lower, TYPES):
            continue  # background, by the rules of the devkit
        else:
            all_types = ", ".join(dict.fromkeys((*chosen.names, *TYPES)))
            unknown = f"{where}: unknown class {fields.shown(kind)}; the known ones are {all_types}"
            raise EyasError(f"{unknown}. Correct the label, or name your classes by {fields.CLASSES_OPTION}.")
    return annotations


def read_split(root: Path, split: str, classes: Classes | None) -> DataSource:
    """Read one split; `eyas.data.read` documents the arguments and errors."""
    base, classes = _base(root), classes or known(KITTI_CLASSES)
    place, folders = splits(root)[split], Folders()
    folder = base / "label_2" if place.is_file() else place
    if place.is_file():
        files = fields.annotation_files(place, folder, ".txt", folders)
    else:
        files = {path.stem: path for path in files_in(folder, ".txt")}
    records, problems = [], []
    for name, path in files.items():
        annotations = parse(fields.read_text(path), path, classes)
        image = find_image(folder.parent / "image_2", name, folders)
        record, wrong = build_record(name, image, width_and_height(image), annotations, path)
        records.append(record)
        problems += wrong
    warnings = () if place.is_file() else without_annotation(records, split, folder, "a file without lines")
    return DataSource("kitti", root, split, classes.names, tuple(records), tuple(problems), tuple(warnings))


def _parts(root: Path) -> dict[str, Path]:
    """The folders with labels, by the name of the split that each is."""
    return {path.parent.name: path for path in sorted(root.glob("[!._]*/label_2")) if path.is_dir()}


def _base(root: Path) -> Path:
    return root / "training" if (root / "training").is_dir() else root


def _numbers(words: list[str], where: str) -> list[float]:
    if len(words) not in (15, 16):
        raise EyasError(f"{where}: {len(words)} columns, but a KITTI label has 15 (16 with a score)")
    try:
        return [fields.number(word) for word in words[1:]]
    except ValueError as error:
        raise EyasError(f"{where}: {error}") from None
