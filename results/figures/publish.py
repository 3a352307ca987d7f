"""Copies what is kept of a comparison from runs/ to results/: its tables, and the config and log of every finished run.

``python results/figures/publish.py NAME [FOLDER]``, where FOLDER holds ``runs/``; by default the folder one is in.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from eyas.runs.results import is_finished

RESULTS = Path(__file__).parents[1]
KEPT = (
    "comparison.json",
    "comparison.md",
    "equal_time.json",
    "teacher.json",
    "methods.json",
    "data.json",
    "seconds.png",
    "arms/*.yaml",
)


def kept(comparison: Path) -> Iterator[Path]:
    """The files of a comparison that are published."""
    for pattern in KEPT:
        yield from comparison.glob(pattern)
    for run in comparison.glob("*-[0-9]*/"):
        if is_finished(run):
            yield from (run / "config.yaml", run / "log.jsonl")


def publish(name: str, folder: Path) -> None:
    """Copy a comparison. Texts lose the path of the folder, which means nothing elsewhere."""
    comparison = folder / "runs" / name
    for file in kept(comparison):
        copy = RESULTS / name / file.relative_to(comparison)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".png":
            shutil.copy(file, copy)
        else:
            copy.write_text(file.read_text().replace(f"{folder.resolve()}/", ""))


if __name__ == "__main__":
    publish(sys.argv[1], Path(*sys.argv[2:3]))
