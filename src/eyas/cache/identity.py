"""What tells one teacher from another, without loading it where its files do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eyas.evaluation.predict import anchor_grids
from eyas.nn.taps import PROBE_SIZE
from eyas.runs.opening import DetectorSource
from eyas.tools.files import file_digest, files_digest
from eyas.types import Detector, EyasError


class TeacherOnDemand:
    """A teacher that is loaded when something runs it, and known from its files or a cache until then.

    Args:
        source: where it comes from.
        device: where it runs.
        layout: of its weights in memory.
    """

    def __init__(self, source: DetectorSource, device: torch.device, layout: torch.memory_format) -> None:
        self.source, self._device, self._layout = source, device, layout

    @property
    def name(self) -> str:
        """As the user gave it."""
        return self.source.name

    @cached_property
    def detector(self) -> Detector:
        detector = self.source.open()
        module = detector if isinstance(detector, nn.Module) else detector.network
        module.to(self._device).to(memory_format=self._layout).eval().requires_grad_(False)
        return detector

    def forget(self) -> None:
        """Free its memory; the next use loads it again."""
        vars(self).pop("detector", None)

    def identity(self, root: Path) -> str:
        """The digest of its files; of its tensors and anchors, where code makes it; or what the cache remembers.

        Args:
            root: folder of the user's caches.

        Raises:
            EyasError: there is no such teacher, and the cache knows none, or several, of this name.
        """
        if self.source.files:
            return _run_digest(*self.source.files) if self.source.kind == "run" else files_digest(self.source.files)
        if not self.source.may_change:
            known = [values["identity"] for values in _teachers(root) if self.name in values["names"]]
            if len(known) == 1:
                return str(known[0])
        return detector_digest(self.detector)


def _run_digest(spec: Path, weights: Path) -> str:
    digest = hashlib.sha256(spec.read_bytes())
    digest.update(file_digest(weights))
    return digest.hexdigest()


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
    """Read a file of the cache. Raises EyasError when it is damaged."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise EyasError(f"{path}: not readable ({error}); remove it, and it is made again") from error
