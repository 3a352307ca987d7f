"""Where the files of a YOLO data set are: ``data.yaml``, or a file of class names beside images and labels."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from eyas.data.folders import Folders, files_in
from eyas.data.formats import fields
from eyas.data.formats.places import SPLITS, find_folder
from eyas.data.images import SUFFIXES
from eyas.tools.text_files import YAML_LIMIT, parse_yaml, read_yaml
from eyas.types import EyasError

LAYOUT = "data.yaml with names: and {split}:, or classes.txt (YOLO)"
CONFIG_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels")
"""Class names, one a line, as labelImg and Label Studio write them, CVAT's YOLO 1.1, and Roboflow's Darknet."""


@dataclass(frozen=True)
class YoloConfig:
    """The description of a data set.

    Attributes:
        path: the file, for messages.
        root: the folder of the data set; nothing outside is read.
        base: the folder that the entries are relative to.
        names: class names in label order.
        splits: each split's folders or list files, as written.
        key_points: numbers after the box in a line of pose labels; None where the description says nothing of them, 0
            where it says that there are none.
    """

    path: Path
    root: Path
    base: Path
    names: tuple[str, ...]
    splits: dict[str, tuple[str, ...]]
    key_points: int | None = None


def recognised(root: Path) -> bool:
    """Whether the folder has ``data.yaml``, or is a YAML file itself."""
    return _usual(root) is not None


def recognised_loosely(root: Path) -> bool:
    """Whether a YAML file of another name has ``names:``, or class names are in a file beside images or labels."""
    return bool(_described(root) or _names_files(root))


def splits(root: Path) -> dict[str, tuple[str, ...]]:
    """Split -> its folders or list files: those that YOLO's tools use, and others where there are such files."""
    config = read_config(root)
    places = [config.base, config.path.parent]
    return {
        name: entries
        for name, entries in config.splits.items()
        if name in SPLITS or any(find_folder(entry, places) for entry in entries)
    }


def read_config(root: Path) -> YoloConfig:
    """The description of a folder, or of a YAML file. Raises `EyasError` when it is broken, or there are several."""
    path = _usual(root)
    if path is None:
        found = _described(root)
        if len(found) > 1:
            listed = ", ".join(str(path.relative_to(root)) for path in found)
            raise EyasError(f"{root}: several files describe a data set: {listed}; give one of them as --data")
        path = found[0] if found else None
    if path is None:
        return _without_description(root)
    return parse_config(fields.read_text(path, YAML_LIMIT), path, fields.folder_of(root))


def parse_config(text: str, path: Path, root: Path | None = None) -> YoloConfig:
    """Read the text of ``data.yaml``. Raises `EyasError` naming the file when it is not a YOLO description."""
    content = parse_yaml(text, str(path), lambda text: _OneOfEach(text).get_single_data())
    content = content if isinstance(content, dict) else {}
    classes = _class_names(content.get("names"), path)
    count = content.get("nc")
    if count is not None and fields.whole(count) != len(classes):
        raise EyasError(
            f"{path}: nc: is {fields.shown(count)}, but names: has {len(classes)} classes; correct one of them"
        )
    root, folder = root or path.parent, path.parent
    stated = folder / str(content.get("path") or ".")
    base = _below(root, stated, path) if os.path.isdir(stated) else folder
    return YoloConfig(path, root, base, classes, _entries(content, path), _key_points(content.get("kpt_shape"), path))


def resolve(config: YoloConfig, entry: str) -> tuple[Path, bool]:
    """The folder or list file of an entry, and whether it is where the entry says.

    Roboflow writes ``../train/images`` though ``train`` is beside the file; that counts as where the entry says.

    Raises `EyasError` when it is not there, or outside the data set.
    """
    places = [config.base, config.path.parent]
    found = find_folder(entry, places, config.root)
    if found is None:
        raise EyasError(
            f"{config.path}: {fields.short(entry)} is not in {config.base}; correct the path, or remove the entry"
        )
    written = entry.strip().replace("\\", "/")
    said = {
        os.path.abspath(place / text).lower() for place in places for text in (written, written.removeprefix("../"))
    }
    return fields.inside(config.root, found, str(config.path)), os.path.abspath(found).lower() in said


def _usual(root: Path) -> Path | None:
    if root.suffix.lower() in (".yaml", ".yml") and root.is_file():
        return root
    found = map(Folders().find, (root / name for name in CONFIG_NAMES))
    return next((path for path in found if path is not None and path.is_file()), None)


def _described(root: Path) -> list[Path]:
    """YAML files with ``names:`` in the folder, or else in its folders."""
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    for places in ([root], folders):
        found = [path for place in places for path in files_in(place, ".yaml", ".yml") if _has_names(path)]
        if found:
            return found
    return []


def _has_names(path: Path) -> bool:
    try:
        content = read_yaml(path)
    except EyasError:  # not a description: another file, broken or not
        return False
    return isinstance(content, dict) and isinstance(content.get("names"), list | dict)


def _class_names(names: Any, path: Path) -> tuple[str, ...]:
    if isinstance(names, dict):
        numbered = {fields.whole(key): name for key, name in names.items()}
        if len(numbered) < len(names) or numbered.keys() != set(range(len(names))):
            given = fields.shown(list(names))
            counted = "names: must number the classes 0, 1, 2, ... without a gap, as the labels count from 0"
            raise EyasError(f"{path}: {counted}; got {given}")
        names = [numbered[index] for index in range(len(names))]
    if not isinstance(names, list) or not names:
        raise EyasError(f"{path}: has no names: list; write the class names there, in the order of the labels")
    classes = tuple(fields.class_name(name, f"{path}: names:") for name in names)
    if len(set(classes)) != len(classes):
        raise EyasError(f"{path}: names: has a class twice; write each name once")
    return classes


def _entries(content: dict[Any, Any], path: Path) -> dict[str, tuple[str, ...]]:
    """Every key whose value could be the folders or list files of a split."""
    found = {}
    for key, value in content.items():
        entries = [value] if isinstance(value, str) else value
        fits = isinstance(entries, list) and all(isinstance(entry, str) for entry in entries)
        if key in SPLITS and entries is not None and not fits:
            raise EyasError(f"{path}: {fields.shown(key)}: is {fields.shown(value)}; write folders or list files")
        if fits and any(entries) and key not in ("path", "names", "nc"):
            found[str(key)] = tuple(entry for entry in entries if entry)
    return found


def _key_points(shape: Any, path: Path) -> int | None:
    """Numbers of the key points in a line, from ``kpt_shape: [points, numbers of each]``."""
    if shape is None:
        return None
    sides = [fields.whole(side) for side in shape] if isinstance(shape, list) else []
    if len(sides) != 2 or sides[0] is None or sides[0] < 0 or sides[1] not in (2, 3):
        written = f"{path}: kpt_shape: is {fields.shown(shape)}"
        raise EyasError(f"{written}; write [number of key points, 2 or 3], or leave it out")
    return sides[0] * sides[1]


def _below(root: Path, stated: Path, path: Path) -> Path:
    """The folder of ``path:``. Raises `EyasError` when it is outside the folder that the user gave."""
    if Path(os.path.abspath(stated)).is_relative_to(os.path.abspath(root)):
        return stated
    place = Path(os.path.abspath(stated))
    common = os.path.commonpath([place, os.path.abspath(root)])
    raise EyasError(
        f"{path}: path: names {fields.short(place)}, which is outside {root}; give {common}, which holds both, or copy "
        f"{path.name} into {fields.short(place)} and give that"
    )


def _names_files(root: Path) -> list[Path]:
    folder = fields.folder_of(root)
    folders = Folders()
    here = [folders.find(folder / name) for name in NAME_FILES]
    below = [folders.find(folder / place / name) for name in NAME_FILES for place in ("labels", "images", *SPLITS)]
    found = ([path for path in places if path is not None and path.is_file()] for places in (here, below))
    return next(filter(None, found), [])


def _without_description(root: Path) -> YoloConfig:
    """A folder with a file of class names: its splits are list files, or folders, or all its images are one."""
    files = _names_files(root)
    path = files[0]
    lines = {file: [line.strip() for line in fields.lines_of(fields.read_text(file)) if line.strip()] for file in files}
    for file, names in lines.items():
        if names != lines[path]:
            raise EyasError(f"{path} and {file} name different classes; write a data.yaml with names: for all labels")
    config = YoloConfig(path, root, root, _class_names(lines[path], path), {"all": (".",)})
    return replace(config, splits=dict(_split_places(root)) or config.splits)


def _split_places(root: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    folders = Folders()
    for name in SPLITS:
        entries = (f"{name}.txt", f"images/{name}", f"{name}/images", name)
        found = [path for path in map(folders.find, (root / entry for entry in entries)) if path is not None]
        there = [path for path in found if path.is_file() or files_in(path, *SUFFIXES)]
        if there:
            yield name, (there[0].relative_to(root).as_posix(),)


class _OneOfEach(yaml.SafeLoader):
    """YAML whose mappings have each key once: of two, the second would hide the first."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = Counter((key.value, key.tag) for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for (name, _), count in keys.items():
            if count > 1:
                raise yaml.YAMLError(f"{name}: is there twice; write it once")
        return super().construct_mapping(node, deep)
