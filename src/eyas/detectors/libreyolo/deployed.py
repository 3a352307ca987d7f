"""YOLOv9 and YOLOX as graphs of fixed shapes, see `eyas.detectors.deployed`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from eyas.detectors.deployed import Candidates, Deployed
from eyas.types import Size

if TYPE_CHECKING:
    from eyas.detectors.libreyolo.adapter import LibreYoloDetector


class DeployedYolo(Deployed):
    """The head outputs of the family, and the cells they belong to: column, row and stride in pixels, (A, 3)."""

    def __init__(self, detector: LibreYoloDetector) -> None:
        super().__init__()
        self.detector = detector
        self.raw_names = (*detector.family.raw_names, "cells")

    def raw(self, images: Tensor) -> tuple[tuple[Tensor, ...], Sequence[int]]:
        outputs, cells = self.detector.outputs(images)
        return (*outputs, cells), [cells.shape[0]]

    def detect(self, raw: Sequence[Tensor], rows: Sequence[int], size: Size) -> Candidates:
        *outputs, cells = raw
        return self.detector.detect(tuple(outputs), cells, size)
