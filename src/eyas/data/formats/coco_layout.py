"""Where the files of a COCO data set are: the JSON of each split, and its images."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from eyas.data.folders import Folders, files_in
from eyas.data.formats import fields
from eyas.data.formats.places import SPLITS, Place, find_place
from eyas.types import EyasError

LAYOUT = "annotations/instances_{split}.json, {split}/_annotations.coco.json or {split}.json (COCO)"
GENERAL = ("_annotations.coco", "_annotations", "annotations", "annotation", "labels", "instances", "coco")
"""File names that do not tell the split; the name of their folder does."""
OTHER_TASKS = ("captions_", "panoptic_", "stuff_", "image_info_")
MOST_FILES = 50
"""A folder with more JSON files has one for each image: another format."""
HEAD = 65536
"""Bytes of a large file that show whether it is COCO's."""
LIST = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')


def recognised(root: Path) -> bool:
    """Whether the folder has a JSON file in a place where a split's file usually is, or is a JSON file itself."""
    return is_json(root) or any(True for _ in _usual(root))


def recognised_loosely(root: Path) -> bool:
    """Whether a JSON file of another name, here or in a folder below, has COCO's lists."""
    return bool(splits(root))


def splits(root: Path) -> dict[str, tuple[Path, ...]]:
    """Split -> its JSON file, or several that are for one split; one of a year, as train2017, under both names."""
    if is_json(root):
        return {_name(root, data_folder(root)): (root,)}
    found: dict[str, dict[int, list[Path]]] = {}
    usual = list(_usual(root))
    for rank, name, path in (*usual, *_others(root, {path for _, _, path in usual})):
        found.setdefault(name, {}).setdefault(rank, []).append(path)
    first = {name: tuple(ranked[min(ranked)]) for name, ranked in found.items()}
    by_role = sorted(first, key=lambda name: SPLITS.index(name) if name in SPLITS else len(SPLITS))
    of_years = [path for paths in first.values() for path in paths if _year(path.stem)]
    return {**{name: first[name] for name in by_role}, **{_said(path.stem): (path,) for path in of_years}}


def is_json(root: Path) -> bool:
    """Whether a data set is given by its JSON file, which is then its only split."""
    return root.suffix.lower() == ".json" and root.is_file()


def data_folder(root: Path) -> Path:
    """The folder of a data set that is given by its folder, or by a JSON file in it or in its folder of annotations."""
    if not is_json(root):
        return root
    folder = Path(os.path.abspath(root)).parent
    return folder.parent if folder.name.lower() in ("annotations", "labels") else folder


def annotation_file(root: Path, split: str) -> Path:
    """The JSON file of a split that `splits` has. Raises `EyasError` when there are several."""
    paths = splits(root)[split]
    if len(paths) > 1:
        listed = ", ".join(str(path.relative_to(root)) for path in paths)
        raise EyasError(f"{root}: several files are for the split {split}: {listed}; keep one")
    return paths[0]


def image_place(root: Path, split: str, path: Path, files: Sequence[str], known: Folders) -> Place:
    """Where the images are: in the split's folder, else the common one, else beside the JSON.

    Raises `EyasError` when the file lists no image, or none that is anywhere.
    """
    if not files:
        raise EyasError(f"{path}: lists no images; the data set is empty")
    names = [name + suffix for name in (split, *fields.split_names(split)) for suffix in ("", _year(path.stem))]
    folders = [root / place / name for place in ("images", ".", "data") for name in names]
    beside = [path.parent, path.parent / "images", path.parent / "data"]
    folders = list(dict.fromkeys([*folders, root / "images", root / "data", *beside, root]))
    place = find_place(files, folders, known)
    if place is None:
        looked, first = ", ".join(str(folder) for folder in folders), fields.short(files[0])
        raise EyasError(f"{path}: the image {first} is in none of {looked}; put the images into one of them")
    return place


def _usual(root: Path) -> Iterator[tuple[int, str, Path]]:
    """(rank, split, file): of two files for one split, the one of the lower rank counts."""
    folders = Folders()
    for path in files_in(folders.find(root / "annotations") or root / "annotations", ".json"):
        if not path.stem.startswith(OTHER_TASKS):
            own, year = path.stem.startswith("instances_"), _year(path.stem)
            yield (0 if own and year else 1 if own else 2), _said(path.stem).removesuffix(year) or path.stem, path
    for path in sorted(root.glob("[!._]*/_annotations.coco.json")):
        yield 3, path.parent.name, path
    for found in (folders.find(root / f"{name}.json") for name in SPLITS):
        if found is not None and found.is_file():
            yield 4, found.stem.lower(), found


def _others(root: Path, usual: AbstractSet[Path]) -> Iterator[tuple[int, str, Path]]:
    """Files of other names with COCO's lists: in the root, and in its folders unless it has files of usual names."""
    folders = [] if usual else sorted(path for path in root.glob("[!.]*") if path.is_dir())
    for folder in (root, *folders):
        files = files_in(folder, ".json")
        if len(files) <= MOST_FILES:
            yield from ((5, _name(path, root), path) for path in files if path not in usual and _has_lists(path))


def _name(path: Path, root: Path) -> str:
    """The split that a file's name says, or its folder's; "all" where neither says one."""
    if path.stem.lower() in GENERAL:
        return path.parent.name if path.parent != root else "all"
    words = [word for word in re.split(r"[^a-z]+", path.stem.lower()) if word in SPLITS]
    return words[0] if len(words) == 1 else _said(path.stem)


def _said(stem: str) -> str:
    return stem.removeprefix("instances_").removeprefix("person_keypoints_")


def _has_lists(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError:
        return True  # reading it says why
    if not LIST.search(head):
        return False
    if len(head) == HEAD:
        return True
    try:
        content = json.loads(head)
    except (ValueError, RecursionError):
        return True  # broken: reading it says where
    return isinstance(content, dict) and all(name in content for name in ("images", "annotations"))


def _year(name: str) -> str:
    year = re.search(r"[12]\d{3}$", name)
    return year.group() if year else ""
