"""Where the files are that an annotation file names, by paths that may have been written on another machine."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE = 20
"""Number of names, spread over a list, by which its folder is found."""

SPLITS = ("train", "val", "valid", "validation", "test")
"""The usual names of splits, for folders and files."""

FOREIGN = re.compile(r"[/\\]|[A-Za-z]:[/\\]|\.\.[/\\]|data/")
"""How a path begins that is absolute, of a Windows drive, leads upwards, or is Darknet's ``data/``."""


@dataclass(frozen=True)
class Place:
    """How written paths become files: in ``folder``, with ``\\`` read as ``/``, without the first ``drop`` parts."""

    folder: Path
    slashes: bool = False
    drop: int = 0

    def file(self, written: str) -> Path:
        text = written.replace("\\", "/") if self.slashes else written
        parts = Path(text).parts
        return self.folder.joinpath(*parts[self.drop :]) if 0 < self.drop < len(parts) else self.folder / text


def find_place(written: Sequence[str], folders: Sequence[Path]) -> Place | None:
    """The place where most of the files are, the first of equals; None where no file of a sample is anywhere.

    Paths are taken as they are before backslashes are read as slashes. Only if that finds nothing, and they are of
    another machine, their first parts are left out, as many for every path: ``/home/me/set/images/a.png`` may be
    ``images/a.png`` here.
    """
    sample = written[:: max(1, len(written) // SAMPLE)]
    return _best(_as_written(sample, folders), sample) or _best(_moved(sample, folders), sample)


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


def _best(places: Sequence[Place], sample: Sequence[str]) -> Place | None:
    counts = [sum(os.path.isfile(place.file(written)) for written in sample) for place in places]
    return places[counts.index(max(counts))] if any(counts) else None
