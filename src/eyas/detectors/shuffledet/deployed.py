"""ShuffleDet as a graph of fixed shapes, see `eyas.detectors.deployed`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eyas.detectors.deployed import Candidates, Deployed, detections, take_rows, top_scores
from eyas.detectors.shuffledet.loss import decode
from eyas.ops.anchors import shapes_to_cell_anchors
from eyas.ops.boxes import clip
from eyas.types import Size, size_of

if TYPE_CHECKING:
    from eyas.detectors.shuffledet.adapter import ShuffleDet


class DeployedShuffleDet(Deployed):
    """One class per anchor, the best anchors, then NMS."""

    raw_names = ("class_logits", "confidence_logits", "box_deltas", "anchors")

    def __init__(self, detector: ShuffleDet) -> None:
        super().__init__()
        self.detector = detector

    def raw(self, images: Tensor) -> tuple[tuple[Tensor, ...], Sequence[int]]:
        raw, cells = self.detector.outputs(images)
        anchors = self._anchors(cells, size_of(images))
        return (raw.classes, raw.confidence_logits, raw.deltas, anchors), [anchors.shape[0]]

    def detect(self, raw: Sequence[Tensor], rows: Sequence[int], size: Size) -> Candidates:
        detector = self.detector
        logits, confidence, deltas, anchors = raw
        scores, labels = (logits.softmax(dim=2) * confidence.sigmoid()[..., None]).max(dim=2)
        scores, indices = top_scores(scores, detector.detections)
        boxes = clip(decode(take_rows(deltas, indices), anchors[indices]), size)
        found = Candidates(boxes, scores, labels.gather(1, indices))
        threshold, nms, count = detector.score_threshold, detector.nms_threshold, detector.detections
        return detections(found, len(detector.classes), threshold=threshold, nms=nms, count=count)

    def _anchors(self, cells: Size, size: Size) -> Tensor:
        """(A, 4): the anchors of `ShuffleDet.grid`, from tensors alone, so that the sizes may stay open in a trace."""
        shapes = shapes_to_cell_anchors(self.detector.anchor_shapes)
        steps = [shapes.new_empty(()).fill_(side) / (count + 1) for side, count in zip(size, cells, strict=True)]
        y, x = ((torch.arange(count) + 1) * step for step, count in zip(steps, cells, strict=True))
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        return (torch.stack((columns, rows, columns, rows), dim=-1)[:, :, None] + shapes).reshape(-1, 4)
