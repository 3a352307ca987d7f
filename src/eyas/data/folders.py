"""Folders as they are listed: names in any case, hidden files left out, links followed.

Archives of macOS hold a ``._name`` for every file, and Windows tells names apart in no case: ``A.TXT`` is ``a.txt``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

LONGEST = 4096
"""Bytes of a path that Linux opens."""


def files_in(folder: Path, *suffixes: str) -> list[Path]:
    """The files of a folder that end in one of the suffixes, in any case, sorted; none where there is no folder."""
    if not os.path.isdir(folder):
        return []
    return sorted(path for path in folder.iterdir() if _fits(path, suffixes) and not path.is_dir())


def files_below(folder: Path, *suffixes: str) -> list[Path]:
    """The files of a folder and of its folders that end in one of the suffixes, in any case, sorted.

    Hidden files and folders are left out, as ``.ipynb_checkpoints``; links to folders are followed, each folder once.
    """
    return sorted(path for path in _walk(folder) if _fits(path, suffixes))


def _walk(folder: Path) -> Iterator[Path]:
    seen = set()
    for place, names, files in os.walk(folder, onerror=_refuse, followlinks=True):
        here = os.path.realpath(place)
        names[:] = [name for name in names if not _hidden(name) and here not in seen]
        if here not in seen:
            yield from (Path(place, name) for name in files)
        seen.add(here)


def _refuse(error: OSError) -> None:
    """A folder that cannot be listed ends the search: what is in it would be missing in silence.

    One that is not there has nothing in it.
    """
    if not isinstance(error, FileNotFoundError):
        raise error


def _fits(path: Path, suffixes: tuple[str, ...]) -> bool:
    return path.suffix.lower() in suffixes and not _hidden(path.name)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


class Folders:
    """Finds files by names that may be in another case. Each folder is listed once."""

    def __init__(self) -> None:
        self._listed: dict[Path, dict[str, list[Path]]] = {}
        self._stems: dict[Path, dict[str, list[Path]]] = {}

    def find(self, path: Path) -> Path | None:
        """The path, or the only one that differs from it in case alone; None where there is none, or are several."""
        if os.path.lexists(path):
            return path
        if len(str(path)) > LONGEST:
            return None
        there, missing = path, list[str]()
        while not os.path.lexists(there):
            missing.append(there.name)
            there = there.parent
        for name in reversed(missing):
            found = self._names(there).get(name.lower(), [])
            if len(found) != 1:
                return None
            there = found[0]
        return there

    def of_stem(self, folder: Path, stem: str) -> list[Path]:
        """The files ``stem.*`` of a folder, sorted: those of this spelling, or else those in another case."""
        if folder not in self._stems:
            self._stems[folder] = {}
            for path in (path for paths in self._names(folder).values() for path in paths):
                self._stems[folder].setdefault(path.stem.lower(), []).append(path)
        found = sorted(self._stems[folder].get(stem.lower(), []))
        return [path for path in found if path.stem == stem] or found

    def _names(self, folder: Path) -> dict[str, list[Path]]:
        if folder not in self._listed:
            self._listed[folder] = {}
            for path in folder.iterdir() if os.path.isdir(folder) else ():
                if not _hidden(path.name):
                    self._listed[folder].setdefault(path.name.lower(), []).append(path)
        return self._listed[folder]
