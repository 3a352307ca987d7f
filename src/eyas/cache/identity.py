"""Identifies a teacher, without loading it where its files suffice."""

from __future__ import annotations

import hashlib
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eyas.cache.store import read_cached
from eyas.distillation.outlines import anchor_grids
from eyas.nn.taps import PROBE_SIZE
from eyas.runs.opening import DetectorSource
from eyas.tools.files import file_digest, files_digest
from eyas.types import Detector

TEACHER = re.compile(r"teacher-[0-9a-f]{12}\.json")
"""Name of the file in which a cache remembers a teacher."""


class TeacherOnDemand:
    """A teacher that is loaded when something runs it, and identified by its files or a cache until then.

    Args:
        source: where it comes from.
        device: where it runs.
        layout: memory layout of its weights and images.
    """

    def __init__(self, source: DetectorSource, device: torch.device, layout: torch.memory_format) -> None:
        self.source, self.device, self.layout = source, device, layout

    @cached_property
    def detector(self) -> Detector:
        detector = self.source.open()
        module = detector if isinstance(detector, nn.Module) else detector.network
        module.to(self.device).to(memory_format=self.layout).eval().requires_grad_(False)
        return detector

    def forget(self) -> None:
        """Free its memory; the next use loads it again."""
        vars(self).pop("detector", None)

    def identity(self, root: Path) -> str:
        """The digest of its files, or of its tensors and anchors if code makes it, or the one that the cache remembers.

        Args:
            root: folder of the user's caches.

        Raises:
            EyasError: there is no such teacher, and the cache knows none, or several, of this name.
        """
        if self.source.kind == "run" and self.source.files:
            spec, weights = self.source.files
            return hashlib.sha256(spec.read_bytes() + file_digest(weights)).hexdigest()
        if self.source.files:
            return files_digest(self.source.files)
        if not self.source.may_change:
            files = sorted(path for path in root.glob("teacher-*.json") if TEACHER.fullmatch(path.name))
            teachers = map(read_cached, files)
            known = [values.get("identity") for values in teachers if self.source.name in _list(values.get("names"))]
            if len(known) == 1:
                return str(known[0])
        return detector_digest(self.detector)


def detector_digest(detector: Detector) -> str:
    """SHA-256 of a detector's state and anchors, for one that is made by code or taken from a hub."""
    digest = hashlib.sha256()
    for name, value in sorted(detector.network.state_dict().items()):
        if not isinstance(value, Tensor):  # the extra state of a module
            digest.update(f"{name} {value!r}".encode())
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(_content(value))
    for (name, level), grid in zip(detector.levels.items(), anchor_grids(detector, PROBE_SIZE), strict=True):
        anchors = (grid.cell_anchors.tolist(), grid.size, grid.step, grid.offset, level.per_image)
        digest.update(repr((name, level.stride, level.box_range, *anchors)).encode())
    return digest.hexdigest()


def _content(value: Tensor) -> bytes:
    """The bytes of a tensor's values in row-major order, whatever its layout, strides, device and dtype."""
    dense = value.dequantize() if value.is_quantized else value.to_dense()
    # A copy: `contiguous` leaves odd strides where a dimension has one entry or none, and `view` refuses those.
    plain = dense.detach().cpu().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
