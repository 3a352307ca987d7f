"""Where the files are that an annotation file names, by paths that may have been written on another machine."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

from eyas.data.folders import Folders

SAMPLE = 20
"""Number of names, spread over a list, by which its folder is found."""

SPLITS = ("train", "val", "valid", "validation", "test")
"""The usual names of splits, for folders and files."""

FOREIGN = re.compile(r"[/\\]|[A-Za-z]:[/\\]|\.\.[/\\]|data/|[a-z][a-z0-9]*://")
"""How a path begins that is absolute, of a Windows drive, leads upwards, is Darknet's ``data/``, or is an address."""


@dataclass(frozen=True)
class Place:
    """How written paths become files.

    Attributes:
        folder: where they are.
        slashes: ``\\`` is read as ``/``.
        drop: number of parts that are left out at the beginning.
        quoted: ``%20`` is a space, as in addresses.
    """

    folder: Path
    slashes: bool = False
    drop: int = 0
    quoted: bool = False

    def file(self, written: str) -> Path:
        text = written.replace("\\", "/") if self.slashes else written
        text = unquote(text) if self.quoted else text
        parts = Path(text).parts
        return self.folder.joinpath(*parts[self.drop :]) if 0 < self.drop < len(parts) else self.folder / text


def find_place(written: Sequence[str], folders: Sequence[Path], known: Folders | None = None) -> Place | None:
    """The place where most of the files are, the first of equals; None where no file of a sample is anywhere.

    Paths are taken as they are before backslashes are read as slashes, and ``%20`` as a space. Only if that finds
    nothing, and they are of another machine, their first parts are left out, as many for every path:
    ``/home/me/set/images/a.png`` may be ``images/a.png`` here. Names in another case count where no other is there.
    """
    known = known or Folders()
    sample = written[:: max(1, len(written) // SAMPLE)]
    places = _as_written(sample, folders)
    quoted = [replace(place, quoted=True) for place in places] if any("%" in path for path in sample) else []
    moved = _moved(sample, folders)
    moved += [replace(place, quoted=True) for place in moved] if quoted else []
    found = (_best(options, sample, known) for options in (places, quoted, moved))
    return next((place for place in found if place is not None), None)


def find_folder(written: str, folders: Sequence[Path], root: Path | None = None) -> Path | None:
    """A folder or list file that an entry of a description names; of several, the first that is inside ``root``.

    The entry is taken as it is, then without ``..`` before it, then without its first parts, as those of another
    machine. Two parts must remain, or the name of a split: ``images`` alone could be any split's.
    """
    entry = written.strip().replace("\\", "/")
    parts = [part for part in Path(entry).parts if part not in ("..", "/")]
    tails = ["/".join(parts[start:]) for start in range(len(parts) - 1)]
    last = parts[-1:] if len(parts) == 1 or (parts[-1:] and parts[-1].lower() in SPLITS) else []
    there = [folder / tail for tail in (written.strip(), entry, *tails, *last) for folder in folders]
    spelled = Folders()
    there = [path for place in dict.fromkeys(there) if (path := spelled.find(place)) is not None]
    # A path that is too long is nowhere; `Path`'s own tests would raise.
    found = [path for path in dict.fromkeys(there) if os.path.isfile(path) or os.path.isdir(path)]
    inside = [
        path for path in found if root is None or Path(os.path.abspath(path)).is_relative_to(os.path.abspath(root))
    ]
    return next(iter(inside or found), None)


def _as_written(sample: Sequence[str], folders: Sequence[Path]) -> list[Place]:
    windows = any("\\" in written for written in sample)
    return [Place(folder, slashes) for slashes in ((False, True) if windows else (False,)) for folder in folders]


def _moved(sample: Sequence[str], folders: Sequence[Path]) -> list[Place]:
    if not all(map(FOREIGN.match, sample)):
        return []
    depth = max((len(Path(written.replace("\\", "/")).parts) for written in sample), default=0)
    return [Place(folder, True, drop) for drop in range(1, depth) for folder in folders]


def _best(places: Sequence[Place], sample: Sequence[str], known: Folders) -> Place | None:
    for there in (os.path.isfile, lambda path: os.path.isfile(known.find(path) or path)):
        counts = [sum(there(place.file(written)) for written in sample) for place in places]
        if any(counts):
            return places[counts.index(max(counts))]
    return None
