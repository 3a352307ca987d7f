"""YOLO text labels: a description of the data set and, for every image, a text file with one box per line.

A line is ``class cx cy w h``: the 0-based class, and the centre and size of the box in units of the image's width and
height. A line with a class and at least three points (``class x1 y1 x2 y2 x3 y3 ...``) is a polygon; its extent is the
box. Where the description has ``kpt_shape:``, a line is a box and key points.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from eyas.data.folders import Folders, files_below
from eyas.data.formats import fields
from eyas.data.formats.classes import Classes, known
from eyas.data.formats.places import find_place
from eyas.data.formats.records import Annotation, DataSource, Problem, build_record
from eyas.data.formats.yolo_config import (
    LAYOUT,
    YoloConfig,
    read_config,
    recognised,
    recognised_loosely,
    resolve,
    splits,
)
from eyas.data.formats.yolo_labels import YoloLine, label_paths, look_like_pose, look_like_tracks, parse
from eyas.data.images import images_below, is_image, width_and_height
from eyas.types import EyasError

__all__ = ["LAYOUT", "read_split", "recognised", "recognised_loosely", "splits"]


def read_split(root: Path, split: str, classes: Classes | None) -> DataSource:
    """Read one split; `eyas.data.read` documents the arguments and errors."""
    config = read_config(root)
    classes = classes or known(config.names)
    folders = Folders()
    images, problems, warnings = _images(config, split, folders)
    labels = {image: _label_files(image, config.root, folders) for image in images}
    lines = {
        image: parse(fields.read_text(files[0]), files[0], config.names, config.key_points)
        for image, files in labels.items()
        if files
    }
    _refuse_pose(config, labels, lines)
    records = []
    for image, files in labels.items():
        # An image without a file has no objects; a pipe or a loop of links in its place is an error.
        written_in, size = (files or [image])[0], width_and_height(image)
        annotations = [
            Annotation(one.box(size), label, one.line, name=name)
            for one in lines.get(image, ())
            for name in [config.names[one.label]]
            if (label := classes.label(name, f"{written_in}:{one.line}")) is not None
        ]
        identity = image.relative_to(config.base) if image.is_relative_to(config.base) else image
        record, wrong = build_record(identity.as_posix(), image, size, annotations, written_in)
        records.append(record)
        problems += wrong
    warnings += _unused(config, split, labels, folders)
    return DataSource("yolo", config.root, split, classes.names, tuple(records), tuple(problems), tuple(warnings))


def _images(config: YoloConfig, split: str, folders: Folders) -> tuple[list[Path], list[Problem], list[str]]:
    """The images of a split, sorted within each folder, the label files without an image, and warnings."""
    images: list[Path] = []
    problems: list[Problem] = []
    warnings: list[str] = []
    for entry in config.splits[split]:
        folder_or_list, as_written = resolve(config, entry)
        if not as_written:
            warnings.append(f"{config.path}: {split}: {fields.short(entry)} is not there; read {folder_or_list}")
        if folder_or_list.is_file():
            images += _listed(folder_or_list, config, folders)
        else:
            found = images_below(folder_or_list)
            images += found
            problems += _strays(folder_or_list, found, config.root, folders)
    if len(set(images)) != len(images):
        twice = f"{config.path}: {split}: names an image twice"
        raise EyasError(f"{twice}; folders and lists of one split must be disjoint")
    return images, problems, warnings


def _listed(list_file: Path, config: YoloConfig, folders: Folders) -> list[Path]:
    """The images of a list file: one path a line, quoted or not, relative to the list or to the data set's folder."""
    lines = {
        line: content.strip().strip("\"'") if content.strip()[0] in "\"'" else content.strip()
        for line, content in enumerate(fields.lines_of(fields.read_text(list_file, fields.LIST_LIMIT)), start=1)
        if content.strip()
    }
    place = find_place(list(lines.values()), [list_file.parent, config.base], folders)
    images = []
    for line, written in lines.items():
        where = f"{list_file}:{line}"
        path = fields.inside(config.root, place.file(written) if place else list_file.parent / written, where)
        image = folders.find(path)
        if image is None or not os.path.isfile(image):
            raise EyasError(f"{where}: {fields.short(path)} does not exist; restore it, or take it off the list")
        images.append(image)
    return images


def _label_files(image: Path, root: Path, folders: Folders) -> list[Path]:
    """The label files of an image, the one that counts first."""
    below = image.relative_to(root) if image.is_relative_to(root) else Path(image.name)
    start = root if image.is_relative_to(root) else image.parent
    found = [folders.find(start / path) for path in label_paths(below)]
    return list(dict.fromkeys(path for path in found if path is not None))


def _refuse_pose(
    config: YoloConfig, labels: Mapping[Path, Sequence[Path]], lines: Mapping[Path, Sequence[YoloLine]]
) -> None:
    """Raises `EyasError` when what would be read as polygons are boxes with key points."""
    polygons = [(image, one) for image, found in lines.items() for one in found if len(one.values) > 4]
    if config.key_points is None and look_like_tracks([one.values for _, one in polygons]):
        image, first = polygons[0]
        raise EyasError(
            f"{labels[image][0]}:{first.line}: looks like a box with a confidence and the number of a track, not like "
            "a polygon; write `class cx cy w h`, or kpt_shape: [0, 2] into data.yaml if these are polygons"
        )
    if config.key_points is None and look_like_pose([one.values for _, one in polygons]):
        image, first = polygons[0]
        raise EyasError(
            f"{labels[image][0]}:{first.line}: looks like pose labels, a box and key points, not like a polygon; write "
            f"kpt_shape: [number of key points, 2 or 3] into data.yaml, or kpt_shape: [0, 2] if these are polygons"
        )


def _strays(folder: Path, images: Sequence[Path], root: Path, folders: Folders) -> list[Problem]:
    """Label files of a folder's images whose image is not there."""
    below = folder.relative_to(root) if folder.is_relative_to(root) else Path()
    places = {folders.find(root / path.parent) for path in label_paths(below / "name.jpg")}
    known = {path.with_suffix("") for image in images for path in _label_files(image, root, folders)}
    found = sorted({path for place in places if place is not None for path in files_below(place, ".txt")})
    stray = [path for path in found if path.with_suffix("") not in known and _is_label_file(path)]
    return [Problem(path, None, "labels without an image; dropped") for path in stray]


def _is_label_file(path: Path) -> bool:
    """Whether the first line of a text file is a class and a box."""
    if not os.path.isfile(path):
        return False
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        words = file.readline(4096).split()
    try:
        return len([fields.number(word) for word in words]) > 4
    except ValueError:
        return False


def _has_image(path: Path, folders: Folders) -> bool:
    """Whether a label file is that of an image, beside it or in ``images`` for ``labels``."""
    parts = path.parts
    swapped = [Path(*parts[:i], "images", *parts[i + 1 : -1]) for i, part in enumerate(parts) if part == "labels"]
    return any(is_image(other) for place in (path.parent, *swapped) for other in folders.of_stem(place, path.stem))


def _unused(config: YoloConfig, split: str, labels: Mapping[Path, Sequence[Path]], folders: Folders) -> list[str]:
    """Warnings of label files that are there and not read."""
    warnings = []
    double = [files for files in labels.values() if len(files) > 1]
    if double:
        read, left = double[0][:2]
        warnings.append(f"split {split}: {len(double)} images have two label files; {read} counts, not {left}")
    shared = Counter(files[0] for files in labels.values() if files)
    twice = next((path for path, count in shared.items() if count > 1), None)
    if twice is not None:
        both = " and ".join(image.name for image, files in labels.items() if files and files[0] == twice)
        warnings.append(f"split {split}: {twice} is the label file of {both}; remove the image that it is not of")
    without = {image.stem: image for image, files in labels.items() if not files}
    if without:
        there = [path for path in files_below(config.root, ".txt") if path.stem in without]
        there = [path for path in there if _is_label_file(path) and not _has_image(path, folders)]
        if there:
            image = without[there[0].stem]
            wanted = " or ".join(str(path) for path in label_paths(image.relative_to(config.root)))
            text = f"split {split}: {len(there)} label files are not read, such as {there[0]}"
            warnings.append(f"{text}: the labels of {image.name} are looked for at {wanted}")
    return warnings
