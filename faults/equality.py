"""Compares two runs bit for bit: weights, checkpoint, log and teacher cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from eyas.cache.shards import Shards
from eyas.runs.config import RESUME
from eyas.runs.log import read_log

TIMED = ("cost",)
"""Kinds of rows that hold measured times only."""
OF_A_COMMAND = ("resume", "cache")
"""Kinds of rows that tell what one command did: a run that was killed has other ones."""


def differences(first: Path, second: Path) -> list[str]:
    """What differs between two run folders, in words; empty when they are equal.

    Ignores the config and the versions, which contain the folder's name, and in the log the times and the rows of
    `OF_A_COMMAND`.
    """
    found = []
    names = [sorted(path.name for path in folder.iterdir()) for folder in (first, second)]
    if names[0] != names[1]:
        found.append(f"files: {sorted(set(names[0]) ^ set(names[1]))}")
    for path in sorted(first.glob("*.safetensors")):
        if (second / path.name).is_file() and path.read_bytes() != (second / path.name).read_bytes():
            found.append(path.name)
    states = [torch.load(folder / RESUME, weights_only=True) for folder in (first, second)]
    found += [f"{RESUME}: {name}" for name in states[0] if not same(states[0][name], states[1].get(name))]
    found += [f"log: {text}" for text in _rows_that_differ(rows(first), rows(second))]
    return found


def rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a log, without times."""
    lines = [line for line in read_log(folder) if line["kind"] not in OF_A_COMMAND]
    return [{"kind": line["kind"]} if line["kind"] in TIMED else {**line, "time": None} for line in lines]


def _rows_that_differ(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> list[str]:
    steps = [[row["step"] for row in found if row["kind"] == "train"] for found in (first, second)]
    texts = [f"steps {found}" for found in steps if found != list(range(1, len(found) + 1))]
    if len(first) != len(second):
        texts.append(f"{len(first)} rows and {len(second)}")
    pairs = zip(first, second, strict=False)
    return texts + [f"{row['kind']} of step {row.get('step')}" for row, other in pairs if row != other][:3]


def same(first: Any, second: Any) -> bool:
    """Whether two nested values of tensors and plain values are equal, bit for bit."""
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(value, second[key]) for key, value in first.items())
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(same(*pair) for pair in zip(first, second, strict=True))
    return bool(first == second)


def cached(root: Path) -> dict[str, dict[bytes, bytes]]:
    """Cache name -> record key -> bytes, of every teacher cache below a folder; shards do not matter."""
    found = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        shards = Shards(folder)
        found[folder.name] = {key: bytes(shards[key]) for key in shards}
    return found
