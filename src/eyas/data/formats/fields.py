"""Checks of what annotation files contain: text, numbers, sizes, names and paths. Nothing in a file is trusted."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from eyas.data.images import MAX_PIXELS
from eyas.types import EyasError


def shown(value: object) -> str:
    """A bad value as messages show it, cut to 60 characters."""
    return repr(value[:60]) if isinstance(value, str) else reprlib.repr(value)[:60]


def short(path: Path | str) -> str:
    """A path or a long text as messages show it, cut to 300 characters."""
    return str(path)[:300]


def number(word: str) -> float:
    """A number in decimal digits, ``nan`` and ``inf`` included. Raises ValueError.

    `float` alone would also accept ``1_0`` and the digits of every script.
    """
    with suppress(ValueError):  # its message would quote the whole word
        if "_" not in word and word.isascii():
            return float(word)
    raise ValueError(f"{shown(word)} is not a number")


def stated_size(width: float, height: float, where: str) -> tuple[int, int] | None:
    """The (width, height) that an annotation states, or None where either is zero, which means unknown.

    Raises `EyasError` that begins with ``where``: not whole pixels, negative, or larger than any image that is read.
    """
    if width == 0 or height == 0:
        return None
    # This order refuses NaN, and never converts an infinity to an integer.
    if not (0 < width <= MAX_PIXELS and 0 < height <= MAX_PIXELS and width * height <= MAX_PIXELS):
        raise EyasError(f"{where} says the image is {width:g}x{height:g} pixels; correct it, or write 0 for both")
    if width != int(width) or height != int(height):
        raise EyasError(f"{where} says the image is {width}x{height} pixels; write whole numbers")
    return int(width), int(height)


def class_name(name: object, where: str) -> str:
    """A class name as text: a string, or an integer, which is written out.

    Raises `EyasError` that begins with ``where``: not printable, or another type, such as YAML's ``no`` and ``1.0``.
    """
    text = str(name) if isinstance(name, str | int) and not isinstance(name, bool) else ""
    if not text.strip() or not text.isprintable():
        raise EyasError(f"{where} has the class name {shown(name)}; write a name in quotes")
    return text


def inside(root: Path, path: Path, where: str) -> Path:
    """The path, unchanged. Raises `EyasError` that begins with ``where`` when it leads out of the data set's folder.

    Only the written path counts: a link inside the folder may lead anywhere, by its owner's choice.
    """
    if not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(root)):
        raise EyasError(
            f"{where} names {short(path)}, which is outside {root}; move it there, or give the folder above"
        )
    return path


def read_text(path: Path) -> str:
    """The text of an annotation file.

    Raises `EyasError` naming it when it is missing, not a file (a pipe, a loop of links), unreadable or not UTF-8.
    """
    if not os.path.isfile(path):  # `Path.is_file` raises for a too long name
        raise EyasError(f"{path}: no such file; the data set refers to it. Restore it, or take it off the list.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EyasError(f"{path}: cannot be read ({error}); restore it") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise EyasError(f"{path}:{line}: is not UTF-8 text ({error.reason}); save it as UTF-8") from error


def annotation_files(lists: Sequence[Path], split: str, folder: Path, suffix: str) -> dict[str, Path]:
    """Image name -> annotation file in ``folder``, by the split's list of names in the first of the folders ``lists``.

    Raises `EyasError` when the split has no list, or the list has a name twice or one that leads out of ``folder``.
    """
    for listed in (place / f"{name}.txt" for place in lists for name in split_names(split)):
        if listed.is_file():
            ids = read_ids(listed).items()
            return {name: inside(folder, folder / f"{name}{suffix}", f"{listed}:{line}") for name, line in ids}
    there = ", ".join(sorted(path.stem for place in lists for path in place.glob("*.txt"))) or "none"
    missing = f"{lists[0] / split}.txt: no such split; the splits there are: {there}"
    raise EyasError(f"{missing}. List the image names of this split in it, one a line.")


def read_ids(path: Path) -> dict[str, int]:
    """Image name -> line in a list: the first word of each. Raises `EyasError` on a repeated name."""
    ids: dict[str, int] = {}
    for line, content in enumerate(read_text(path).splitlines(), start=1):
        for name in content.split()[:1]:
            if name in ids:
                raise EyasError(f"{path}:{line}: {short(name)} is already listed on line {ids[name]}; keep one of them")
            ids[name] = line
    return ids


def split_names(split: str) -> tuple[str, ...]:
    """The names under which a split may be found: exporters write "valid" or "validation" for "val"."""
    return (split, "valid", "validation") if split == "val" else (split,)
