"""How soon the command line answers: help, errors in options, and a look at a small data set.

``python -m benchmarks.startup [--json FILE] [--repeats N]``. Each row is a process of its own: the median of its user
CPU seconds, and its largest peak of resident memory, which is at least this process's own (about 40 MiB): Linux counts
it from before the other program is loaded. ``import torch`` stands beside them for comparison.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from eyas.__main__ import COMMANDS

EYAS = (sys.executable, "-m", "eyas")
IMAGES = 50
SIZE = 64
"""Images of the generated data set, and pixels of their sides."""


def rows(data: Path) -> Iterator[tuple[str, Sequence[str], int]]:
    """Name of a row, its command, and the exit status that it must have."""
    for code in ("pass", "import torch", "import eyas"):
        yield f'python -c "{code}"', (sys.executable, "-c", code), 0
    yield "eyas --help", (*EYAS, "--help"), 0
    yield "eyas recipes", (*EYAS, "recipes"), 0
    for command in COMMANDS:
        yield f"eyas {command} --help", (*EYAS, command, "--help"), 0
    distill = ("distill", "--data=d", "--teacher=t", "--model=m", "--out=o")
    for arguments in (("fly",), ("distill",), (*distill, "--optim.rate=1"), (*distill, "--optim.lr=fast")):
        yield f"eyas {' '.join((arguments[0], *arguments[5:]))}", (*EYAS, *arguments), 2
    yield "eyas distill --method=eyas.FGFI --optim.lr=-1", (*EYAS, *distill, "--method=eyas.FGFI", "--optim.lr=-1"), 2
    yield f"eyas data FOLDER ({2 * IMAGES} images)", (*EYAS, "data", str(data)), 0


def write_data(root: Path) -> None:
    """A COCO data set of two splits, written without Eyas, so that this process stays small."""
    from PIL import Image

    for split in ("train", "val"):
        images, annotations = [], []
        folder = root / "images" / split
        folder.mkdir(parents=True)
        for index in range(IMAGES):
            name = f"{split}{index}.png"
            Image.new("RGB", (SIZE, SIZE)).save(folder / name)
            images.append({"id": index, "file_name": name, "width": SIZE, "height": SIZE})
            box = {"bbox": [4, 4, 20, 20], "area": 400, "iscrowd": 0}
            annotations.append({"id": index + 1, "image_id": index, "category_id": 1, **box})
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")


def cost(command: Sequence[str], status: int) -> tuple[float, float]:
    """User CPU seconds and peak MiB of one process. Raises RuntimeError when it ends with another status."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, ended, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(ended)
    if process.returncode != status:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}, not {status}")
    return usage.ru_utime, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description="how soon the command line answers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here too")
    parser.add_argument("--repeats", type=int, default=5, help="processes of each row, of which the median is shown")
    chosen = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder))
        print(f"{'user s':>7}  {'MiB':>6}  command")
        for name, command, status in rows(Path(folder)):
            costs = [cost(command, status) for _ in range(chosen.repeats)]
            seconds, mib = statistics.median(user for user, _ in costs), max(peak for _, peak in costs)
            print(f"{seconds:>7.2f}  {mib:>6.0f}  {name}", flush=True)
            found.append({"name": name, "user_seconds": seconds, "peak_mib": round(mib, 1)})
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
