"""Reads data sets with faults in their files by the reader of their format.

    python -m faults.readers [--folders N] [--seed S] [--json FILE]

Each folder is a valid data set of 40 images, with one to three files spoilt in one way. It must be read, or refused by
a message that names one of its files, in bounded time and memory. The records read must have finite boxes inside their
image, known labels, and, if none of their files was touched, the boxes that were written. Then the images of the spoilt
files are decoded: to the size in the record, or refused likewise.
"""

from __future__ import annotations

import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch  # noqa: F401 (decoding imports it, and its memory is no reader's)

from eyas.data import DataSource, read
from eyas.data.images import decode
from eyas.types import EyasError
from faults import command_line, dirty_data
from faults.dirty_data import FORMATS, SPLIT, files_of, restore
from faults.processes import limited, peak_mib

SECONDS = 20
"""Time limit for one folder."""
GROWTH_MIB = 256
"""Memory limit over all folders: the reader's own libraries and the largest of the files."""
PLACE = re.compile(r":\d+")


@dataclass(frozen=True)
class Tried:
    """How reading a folder ended.

    Attributes:
        fault: the name of the fault.
        outcome: "read", "dropped" (read, with reasons for missing records), "refused", or "failed".
        records: number read and judged; 0 if the folder was refused.
        places: whether the refusal names a line.
        said: why it failed.
    """

    fault: str
    outcome: str
    records: int
    places: bool = False
    said: str = ""


def attempt(root: Path, format: str, chance: random.Random) -> Tried:
    """Spoil some files, read the folder, and put the files back."""
    images, own, lists = files_of(root)
    kind = chance.choice(("text", "text", "text", "file", "picture"))
    if kind == "picture":
        chosen, act = chance.sample(images, chance.randint(1, 3)), chance.choice(dirty_data.PICTURES)
    else:
        annotated = lists if not own or chance.random() < 0.3 else chance.sample(own, chance.randint(1, 3))
        chosen = annotated if kind == "text" or annotated is not lists else [chance.choice(lists)]
        act = _on_text(chance.choice(dirty_data.TEXTS), chance) if kind == "text" else chance.choice(dirty_data.FILES)
    before = {path: path.read_bytes() for path in chosen}
    try:
        for path in chosen:
            act(path)
        return _read(root, format, act.__name__, {path.stem for path in chosen if path not in lists}, chosen)
    finally:
        for path, content in before.items():
            restore(path, content)


def _on_text(change: Callable[[bytes, random.Random], bytes], chance: random.Random) -> Callable[[Path], object]:
    def act(path: Path) -> None:
        path.write_bytes(change(path.read_bytes(), chance))

    act.__name__ = change.__name__
    return act


def _read(root: Path, format: str, fault: str, touched: set[str], spoilt: Sequence[Path]) -> Tried:
    try:
        with limited(SECONDS):
            source = read(root, SPLIT, format=format, classes=dirty_data.CLASSES)
            wrong = judge(source, touched, fault, any(path.stem not in touched for path in spoilt))
            if wrong:
                return Tried(fault, "failed", len(source.records), said=wrong)
            for record in source.records:
                if record.path.stem in touched:
                    pixels = decode(record)
                    if pixels.shape != (3, record.height, record.width):
                        return Tried(fault, "failed", len(source.records), said=f"decoded to {tuple(pixels.shape)}")
    except EyasError as error:
        text = str(error)
        if str(root) not in text:
            return Tried(fault, "failed", 0, said=f"names no file: {text}")
        return Tried(fault, "refused", 0, PLACE.search(text.replace(str(root), "")) is not None)
    except Exception as error:
        return Tried(fault, "failed", 0, said=repr(error)[:500])
    return Tried(fault, "dropped" if source.problems else "read", len(source.records))


def judge(source: DataSource, touched: set[str], fault: str, lists: bool) -> str:
    """What is wrong with a data set that was read; empty when nothing is.

    Args:
        source: the data set.
        touched: the names of the images with spoilt files.
        fault: the name of the fault.
        lists: whether a file that concerns all images was spoilt.
    """
    harmless = fault in {change.__name__ for change in dirty_data.HARMLESS}
    for record in source.records:
        sides = np.array([record.width, record.height] * 2)
        for boxes in (record.boxes, record.ignore):
            if not (np.isfinite(boxes).all() and (boxes >= 0).all() and (boxes <= sides).all()):
                return f"{record.image_id}: boxes outside the image: {boxes.tolist()}"
            if not (boxes[:, 2:] > boxes[:, :2]).all():
                return f"{record.image_id}: boxes without area: {boxes.tolist()}"
        if len(record.labels) != len(record.boxes) or not (record.labels < len(source.classes)).all():
            return f"{record.image_id}: labels {record.labels.tolist()}"
        if harmless or (record.path.stem not in touched and not lists):
            written = dirty_data.boxes_of(int(record.path.stem))
            boxes = np.array([box for _, box in written], dtype=np.float32)
            labels = [source.classes.index(name) for name, _ in written]
            same = boxes.shape == record.boxes.shape and np.allclose(boxes, record.boxes, atol=1e-4)
            if not same or labels != record.labels.tolist():
                return f"{record.image_id}: other boxes than written: {record.boxes.tolist()}"
    if harmless and len(source.records) != dirty_data.IMAGES:
        return f"{len(source.records)} records"
    return ""


def fuzz(format: str, folder: Path, count: int, seed: int) -> tuple[list[Tried], list[int]]:
    """Try a reader on ``count`` folders. Returns the outcomes, and the numbers of the folders that failed."""
    root = folder / format
    root.mkdir()
    FORMATS[format](root)
    good = judge(read(root, SPLIT, format=format, classes=dirty_data.CLASSES), set(), "", False)
    if good:
        raise AssertionError(f"the valid data set: {good}")
    tried, failed = [], []
    for number in range(count):
        tried.append(attempt(root, format, random.Random(f"{seed} {format} {number}")))
        if tried[-1].outcome == "failed":
            failed.append(number)
            print(f"{format} {number}: {tried[-1].fault}: {tried[-1].said}", flush=True)
    return tried, failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; 1 when something was not as it must be."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--folders", type=int, default=2400, help="folders of each format, 40 images each")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    result: dict[str, object] = {"seed": chosen.seed, "folders of each format": chosen.folders}
    before, bad, records = peak_mib(), 0, 0
    with tempfile.TemporaryDirectory() as name:
        for format in FORMATS:
            started = time.monotonic()
            tried, failed = fuzz(format, Path(name), chosen.folders, chosen.seed)
            by_fault: dict[str, Counter[str]] = {}
            for one in sorted(tried, key=lambda one: one.fault):
                by_fault.setdefault(one.fault, Counter())[one.outcome] += 1
            refused = [one for one in tried if one.outcome == "refused"]
            compared = sum(one.records for one in tried)
            row = {
                "records": len(tried) * dirty_data.IMAGES,
                "read and compared": compared,
                "outcomes": dict(Counter(one.outcome for one in tried)),
                "refusals that name a line": sum(one.places for one in refused),
                "by fault": by_fault,
                "failed": failed,
                "seconds": round(time.monotonic() - started, 1),
            }
            result[format] = row
            bad, records = bad + len(failed), records + compared
            print(f"{format}: {compared:,} read, {row['outcomes']}, {row['seconds']} s", flush=True)
    growth = peak_mib() - before
    result |= {"read and compared": records, "failed": bad}
    result |= {"grown by MiB": round(growth, 1), "limit MiB": GROWTH_MIB}
    print(f"{records:,} records read, seed {chosen.seed}: {bad} folders bad, memory grew by {growth:.0f} MiB")
    command_line.keep(result, chosen.json)
    return int(bad > 0 or growth > GROWTH_MIB)


if __name__ == "__main__":
    sys.exit(main())
