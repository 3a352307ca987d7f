"""YOLO text labels: ``data.yaml`` and, for every image, a text file with one ``class cx cy w h`` per line.

The five numbers are the 0-based class and the centre and size of the box in units of the image's width and height. A
line with a class and at least three points (``class x1 y1 x2 y2 x3 y3 ...``) is a polygon; its extent is the box.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from eyas.data.formats import fields
from eyas.data.formats.records import Annotation, Box, DataSource, Problem, build_record, label_of
from eyas.data.images import SUFFIXES, image_size
from eyas.types import EyasError

LAYOUT = "data.yaml with names: and {split}: (YOLO)"
CONFIG_NAMES = ("data.yaml", "data.yml", "dataset.yaml")


@dataclass(frozen=True)
class YoloConfig:
    """The contents of ``data.yaml``: the folder that its paths are relative to, the class names in label order, and
    each split's folders or list files, as written."""

    path: Path
    base: Path
    names: tuple[str, ...]
    splits: dict[str, tuple[str, ...]]


def recognised(root: Path) -> bool:
    """Whether the folder has this layout."""
    return any((root / name).is_file() for name in CONFIG_NAMES)


def parse_config(text: str, path: Path) -> YoloConfig:
    """Read the text of ``data.yaml``. Raises `EyasError` naming the file when it is not a YOLO description."""
    try:
        content = _PlainLoader(text).get_single_data()
    except Exception as error:  # the library's constructors raise many kinds, from ValueError to RecursionError
        raise EyasError(f"{path}: broken YAML ({fields.short(' '.join(str(error).split()))})") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict):
        if names.keys() != set(range(len(names))):
            given = fields.shown(list(names))
            raise EyasError(f"{path}: names: must number the classes 0, 1, 2, ... without a gap, got {given}")
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names:
        raise EyasError(f"{path}: has no names: list; write the class names there, in the order of the labels")
    if content.get("nc", len(names)) != len(names):
        given = fields.shown(content["nc"])
        raise EyasError(f"{path}: nc: is {given}, but names: has {len(names)} classes; correct one of them")
    classes = tuple(fields.class_name(name, f"{path}: names:") for name in names)
    if len(set(classes)) != len(classes):
        raise EyasError(f"{path}: names: has a class twice; write each name once")
    splits = {}
    for key, value in content.items():
        entries = [value] if isinstance(value, str) else value
        if key not in ("path", "names", "nc") and isinstance(entries, list):
            if not all(isinstance(entry, str) for entry in entries):
                raise EyasError(f"{path}: {fields.shown(key)}: is {fields.shown(value)}; write folders or list files")
            splits[str(key)] = tuple(entries)
    folder = path.parent
    stated = folder / str(content.get("path") or ".")
    base = fields.inside(folder, stated, f"{path}: path:") if os.path.isdir(stated) else folder
    return YoloConfig(path, base, classes, splits)


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases, since a few lines of them can expand beyond memory, and without long integers."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)

    def construct_yaml_int(self, node: Any) -> int:
        # Python refuses to print some, and parsing those in base 60, such as 1:59:59, takes quadratic time.
        if len(node.value) > 100:
            raise yaml.YAMLError("an integer of more than 100 digits")
        return int(super().construct_yaml_int(node))


_PlainLoader.add_constructor("tag:yaml.org,2002:int", _PlainLoader.construct_yaml_int)


def parse(text: str, path: Path, size: tuple[int, int], names: Sequence[str]) -> list[tuple[Box, str, int]]:
    """(box in pixels, class name, line) of each line of a label file, for an image of ``size`` (width, height).

    Raises `EyasError` with file and line on a malformed line or a class that ``names`` does not have.
    """
    found = []
    for line, content in enumerate(text.splitlines(), start=1):
        if not content.strip():
            continue
        where = f"{path}:{line}"
        try:
            index, *values = [fields.number(word) for word in content.split()]
        except ValueError as error:
            raise EyasError(f"{where}: {error}") from None
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            raise EyasError(f"{where}: {len(values) + 1} columns; write `class cx cy w h` or a polygon")
        if index not in range(len(names)):
            known = f"{len(names)}, 0 to {len(names) - 1}: {', '.join(names)}"
            raise EyasError(f"{where}: unknown class {index:g}; data.yaml names {known}")
        found.append((_pixels(values, size), names[int(index)], line))
    return found


def label_path(image: Path) -> Path:
    """The path of an image's labels: its last folder ``images`` becomes ``labels``; else beside the image."""
    label = image.with_suffix(".txt")
    folder = next((parent for parent in label.parents if parent.name == "images"), None)
    return label if folder is None else folder.with_name("labels") / label.relative_to(folder)


def read_split(root: Path, split: str, classes: Sequence[str] | None) -> DataSource:
    """Read one split; `eyas.data.read` documents the arguments and errors."""
    path = next(root / name for name in CONFIG_NAMES if (root / name).is_file())
    config = parse_config(fields.read_text(path), path)
    names = tuple(classes) if classes is not None else config.names
    images, problems = _images(config, split)
    records = []
    for image in images:
        written_in, size = label_path(image), image_size(image)
        # An image without a label file has no objects; a pipe or a loop of links in its place is an error.
        text = fields.read_text(written_in) if os.path.lexists(written_in) else ""
        annotations = [
            Annotation(box, label_of(name, names, f"{written_in}:{line}"), line, name=name)
            for box, name, line in parse(text, written_in, size, config.names)
        ]
        identity = image.relative_to(config.base) if image.is_relative_to(config.base) else image
        record, wrong = build_record(identity.as_posix(), image, size, annotations, written_in)
        records.append(record)
        problems += wrong
    return DataSource("yolo", root, split, names, tuple(records), tuple(problems))


def _pixels(values: Sequence[float], size: tuple[int, int]) -> Box:
    width, height = size
    if not all(map(math.isfinite, values)):
        return (math.nan,) * 4  # dropped later; the extent of a polygon would skip a NaN point
    if len(values) == 4:
        x, y, w, h = values
        return ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
    xs, ys = values[0::2], values[1::2]
    return (min(xs) * width, min(ys) * height, max(xs) * width, max(ys) * height)


def _images(config: YoloConfig, split: str) -> tuple[list[Path], list[Problem]]:
    """The images of a split, sorted within each folder, and the label files that have no image."""
    entries = next((config.splits[name] for name in fields.split_names(split) if name in config.splits), None)
    if entries is None:
        there = ", ".join(config.splits) or "none"
        raise EyasError(f"{config.path}: has no {split}: entry; the splits there are: {there}")
    images: list[Path] = []
    problems: list[Problem] = []
    for entry in entries:
        folder_or_list = _resolve(config, entry)
        if folder_or_list.is_file():
            images += _listed(folder_or_list, config.base)
        else:
            found = sorted(path for path in folder_or_list.rglob("*") if path.suffix in SUFFIXES)
            images += found
            problems += _strays(folder_or_list, found)
    if len(set(images)) != len(images):
        twice = f"{config.path}: {split}: names an image twice"
        raise EyasError(f"{twice}; folders and lists of one split must be disjoint")
    return images, problems


def _resolve(config: YoloConfig, entry: str) -> Path:
    # Roboflow writes ../train/images though train/ is beside the file; Ultralytics accepts that as well.
    for candidate in (config.base / entry, config.base / entry.removeprefix("../")):
        if os.path.isfile(candidate) or os.path.isdir(candidate):  # `Path`'s own raise on a name that is too long
            return fields.inside(config.base, candidate, str(config.path))
    raise EyasError(f"{config.path}: {fields.short(entry)} is not in {config.base}; correct the path")


def _listed(list_file: Path, base: Path) -> list[Path]:
    images = []
    for line, content in enumerate(fields.read_text(list_file).splitlines(), start=1):
        if content.strip():
            where = f"{list_file}:{line}"
            image = fields.inside(base, list_file.parent / content.strip(), where)
            if not os.path.isfile(image):
                missing = fields.short(image)
                raise EyasError(f"{where}: {missing} does not exist; restore it, or take it off the list")
            images.append(image)
    return images


def _strays(folder: Path, images: Sequence[Path]) -> list[Problem]:
    labels = {label_path(image) for image in images}
    label_folder = label_path(folder / "name.jpg").parent
    stray = sorted(set(label_folder.rglob("*.txt")) - labels) if label_folder != folder else []
    return [Problem(path, None, "labels without an image; dropped") for path in stray if path.name != "classes.txt"]
