"""Checks of what annotation files contain: text, numbers, sizes, names and paths. Nothing in a file is trusted."""

from __future__ import annotations

import math
import os
import re
import reprlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from eyas.data.folders import Folders
from eyas.data.images import MAX_PIXELS, is_image
from eyas.tools import text_files
from eyas.types import EyasError

IMAGE_LIMIT = 2**26
"""Bytes of the annotations of one image."""
LIST_LIMIT = 2**30
"""Bytes of a list of images, one a line."""
COCO_LIMIT = 2**33
"""Bytes of a JSON file with the annotations of a whole split."""
CLASSES_OPTION = "--dataset.classes (`eyas data`: --classes)"


LINE_END = re.compile("\r\n|\r|\n")
FLAGS = {"false": "0", "true": "1"}
"""A flag as some tools write it."""


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


def real(value: object, where: str) -> float:
    """A number, as one or as text, NaN and the infinities included. Raises `EyasError` that begins with ``where``."""
    if type(value) is float:
        return value
    if isinstance(value, str):
        with suppress(ValueError):
            return number(value.strip())
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise EyasError(f"{where} {shown(value)}; write a number")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def whole(value: object) -> int | None:
    """A whole number, as one or as text: 1, 1.0, "1". None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    with suppress(EyasError):
        found = math.nan if isinstance(value, bool) else real(value, "")
        return int(found) if found.is_integer() else None
    return None


def flag(value: object, where: str) -> bool:
    """A flag: 0 or 1, true or false, as one or as text. Raises `EyasError` that begins with ``where``."""
    if isinstance(value, bool):
        return value
    found = whole(FLAGS.get(value.strip().lower(), value) if isinstance(value, str) else value)
    if found not in (0, 1):
        raise EyasError(f"{where} {shown(value)}; write 0 or 1")
    return bool(found)


def area(value: object, where: str) -> float:
    """The area of an object, square pixels. Raises `EyasError` that begins with ``where``."""
    found = real(value, where)
    if not 0 <= found < math.inf:
        raise EyasError(f"{where} {found:g}; write its pixels, or leave it out")
    return found


def lines_of(text: str) -> list[str]:
    """The lines of a file. `str.splitlines` would also split at characters that stand inside a text, as U+2028."""
    lines = LINE_END.split(text)
    return lines if lines[-1] else lines[:-1]


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
    """A class name as text without spaces around it: a string, or an integer, which is written out.

    Raises `EyasError` that begins with ``where``: not printable, or another type, such as YAML's ``no`` and ``1.0``.
    """
    text = str(name).strip() if isinstance(name, str | int) and not isinstance(name, bool) else ""
    if not text or not text.isprintable():
        raise EyasError(f"{where} has the class name {shown(name)}; write a name in quotes")
    return text


def folder_of(root: Path) -> Path:
    """The folder of a data set that is given by its folder, or by its description in it."""
    return root if os.path.isdir(root) else root.parent


def inside(root: Path, path: Path, where: str) -> Path:
    """The path, unchanged. Raises `EyasError` that begins with ``where`` when it leads out of the data set's folder.

    Only the written path counts: a link inside the folder may lead anywhere, by its owner's choice.
    """
    above = os.path.join(os.path.abspath(root), "")
    if not os.path.join(os.path.abspath(path), "").startswith(above):
        raise EyasError(
            f"{where} names {short(path)}, which is outside {root}; move it there, or give the folder above"
        )
    return path


def read_text(path: Path, limit: int = IMAGE_LIMIT) -> str:
    """The text of an annotation file of at most ``limit`` bytes.

    Raises `EyasError` naming it when it is missing, not a file (a pipe, a loop of links), unreadable, larger or not
    UTF-8.
    """
    if not os.path.isfile(path):  # `Path.is_file` raises for a too long name
        raise EyasError(f"{path}: no such file; the data set refers to it. Restore it, or take it off the list.")
    return text_files.read_text(path, limit)


def annotation_files(listed: Path, folder: Path, suffix: str, folders: Folders | None = None) -> dict[str, Path]:
    """Image name -> annotation file in ``folder``, by a list of names, one a line.

    A line is a name, which may hold spaces and end in the suffix of an image; or a path to the image, or to it and to
    the annotation file. VOC's lists of one class have a flag after it: of such a line the first word is taken where
    the whole line has no annotation file.

    Raises `EyasError` with file and line: a name that is listed twice, could be two, or leads out of ``folder``.
    """
    folders = folders or Folders()
    lines: dict[str, int] = {}
    for line, content in enumerate(lines_of(read_text(listed, LIST_LIMIT)), start=1):
        if not content.strip():
            continue
        name = _listed_name(content.strip(), folder, suffix, f"{listed}:{line}", folders)
        if name in lines:
            raise EyasError(f"{listed}:{line}: {short(name)} is already listed on line {lines[name]}; keep one of them")
        lines[name] = line
    files = {name: inside(folder, folder / f"{name}{suffix}", f"{listed}:{line}") for name, line in lines.items()}
    return {name: folders.find(path) or path for name, path in files.items()}


def _listed_name(content: str, folder: Path, suffix: str, where: str, folders: Folders) -> str:
    def there(name: str) -> bool:
        path = folders.find(folder / f"{name}{suffix}")
        return path is not None and os.path.isfile(path)

    found = [name for name in _readings(content, suffix) if there(name)]
    first = content.split()[0]
    if first != content and there(first):
        if found:
            both = f"{short(found[0])}{suffix} and {short(first)}{suffix}"
            raise EyasError(f"{where}: could mean {both}; rename one of them")
        return first
    return (found or [content])[0]


def _readings(content: str, suffix: str) -> list[str]:
    """What a line may name, likeliest first: itself; without an image's suffix; without the folders before it."""
    last = content.split()[-1]
    written = last[: -len(suffix)] if last.lower().endswith(suffix) else content
    path = Path(written.replace("\\", "/"))
    path = path.with_suffix("") if is_image(path) else path
    return list(dict.fromkeys((content, *("/".join(path.parts[start:]) for start in range(len(path.parts))))))


def named_split(there: Iterable[str], split: str) -> str | None:
    """The name under which a data set has a split: that one, an exporter's for "val", or one in another case."""
    names = list(there)
    for wanted in split_names(split):
        same = [name for name in names if name.lower() == wanted.lower()]
        if wanted in same or len(same) == 1:
            return wanted if wanted in same else same[0]
    return None


def split_names(split: str) -> tuple[str, ...]:
    """The names under which a split may be found: exporters write "valid" or "validation" for "val"."""
    return (split, "valid", "validation") if split == "val" else (split,)
