"""A teacher that is loaded only when something has to run it, and is told from others without."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eyas.detectors import is_hub_id, native_files
from eyas.evaluation.predict import anchor_grids
from eyas.nn.taps import PROBE_SIZE
from eyas.runs.checkpoint import SPEC, ModelSpec
from eyas.types import Detector, EyasError


class TeacherOnDemand:
    """A teacher that is loaded when something needs it run, and known from its files or a cache until then.

    Args:
        name: of the command line.
        load: what makes the detector of that name.
        device: where it is to be.
        layout: of its weights in memory.
    """

    def __init__(
        self, name: str, load: Callable[[str], Detector], device: torch.device, layout: torch.memory_format
    ) -> None:
        self.name, self._load, self._device, self._layout = name, load, device, layout

    @cached_property
    def detector(self) -> Detector:
        detector = self._load(self.name)
        module = detector if isinstance(detector, nn.Module) else detector.network
        module.to(self._device).to(memory_format=self._layout).eval().requires_grad_(False)
        return detector

    def forget(self) -> None:
        """Free its memory; what asks for it next loads it again."""
        vars(self).pop("detector", None)

    def identity(self, root: Path) -> str:
        """The digest of its files; of its tensors and anchors, where code makes it; or what the cache remembers.

        Raises:
            EyasError: there is no such teacher, and the cache knows none, or several, of this name.
        """
        folder = Path(self.name)
        if (folder / SPEC).is_file() and (weights := folder / ModelSpec.load(folder).weights).is_file():
            digest = hashlib.sha256((folder / SPEC).read_bytes())
            digest.update(file_digest(weights))
            return digest.hexdigest()
        if files := native_files(folder):
            return files_digest(files)
        # What a hub has under a name may change, so that is loaded and looked at.
        if ":" not in self.name and not is_hub_id(self.name):
            known = [values["identity"] for values in _teachers(root) if self.name in values["names"]]
            if len(known) == 1:
                return str(known[0])
        return detector_digest(self.detector)


def files_digest(files: Sequence[Path]) -> str:
    """SHA-256 of the names and the contents of some files."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + b"\0" + file_digest(path))
    return digest.hexdigest()


def file_digest(path: Path) -> bytes:
    """SHA-256 of the contents of a file, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def detector_digest(detector: Detector) -> str:
    """SHA-256 of a detector's state and anchors, for one that code makes or a hub has."""
    digest = hashlib.sha256()
    for name, value in sorted(detector.network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    for (name, level), grid in zip(detector.levels.items(), anchor_grids(detector, PROBE_SIZE), strict=True):
        told = (name, level.stride, level.box_range, grid.cell_anchors.tolist(), grid.size, grid.step, grid.offset)
        digest.update(repr(told).encode())
    return digest.hexdigest()


def _teachers(root: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(root.glob("teacher-*.json")):
        yield read_json(path)


def read_json(path: Path) -> dict[str, Any]:
    """A file of the cache's own. Raises EyasError when it is damaged."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise EyasError(f"{path}: not readable ({error}); remove it, and it is made again") from error
