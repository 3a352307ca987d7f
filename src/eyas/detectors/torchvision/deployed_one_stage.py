"""RetinaNet, FCOS and SSD as graphs of fixed shapes, see `eyas.detectors.deployed`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection._utils import BoxLinearCoder
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD

from eyas.detectors.deployed import Candidates, Deployed, detections, normalised, take_rows, top_scores
from eyas.detectors.torchvision.transform import FixedSizeTransform
from eyas.ops.boxes import clip
from eyas.types import Size


class DeployedOneStage(Deployed):
    """torchvision's RetinaNet, FCOS and SSD.

    Args:
        network: in evaluation mode, of a `TorchvisionDetector`.
        first_label: torchvision's label of the first class.
    """

    def __init__(self, network: RetinaNet | FCOS | SSD, first_label: int) -> None:
        super().__init__()
        self.network, self.first_label = network, first_label
        centerness = ("centerness_logits",) if isinstance(network, FCOS) else ()
        self.raw_names = ("class_logits", "box_deltas", *centerness, "anchors")

    def raw(self, images: Tensor) -> tuple[tuple[Tensor, ...], Sequence[int]]:
        network = self.network
        batch = prepared(network.transform, images)
        maps = network.backbone(batch)
        levels = [maps] if isinstance(maps, Tensor) else list(maps.values())
        outputs = network.head(levels)
        # All images have the same anchors; asking for those of one keeps the batch size open.
        (anchors,) = network.anchor_generator(ImageList(batch, [(images.shape[-2], images.shape[-1])]), levels)
        logits, deltas = outputs["cls_logits"], outputs["bbox_regression"]
        centerness = (outputs["bbox_ctrness"],) if isinstance(network, FCOS) else ()
        return (logits, deltas, *centerness, anchors), _rows(network, levels)

    def detect(self, raw: Sequence[Tensor], rows: Sequence[int], size: Size) -> Candidates:
        network = self.network
        logits, deltas, *centerness, anchors = raw
        num_labels = logits.shape[2]
        if isinstance(network, SSD):
            found = self._per_label(logits.softmax(dim=2), deltas, anchors, size)
        else:
            scores = logits.sigmoid()
            if centerness:
                scores = (scores * centerness[0].sigmoid()).sqrt()
            parts = zip(scores.split(rows, 1), deltas.split(rows, 1), anchors.split(rows), strict=True)
            levels = [self._level(*part, size) for part in parts]
            found = Candidates(*(torch.cat(field, dim=1) for field in zip(*levels, strict=True)))
        limits = {"threshold": network.score_thresh, "nms": network.nms_thresh, "count": network.detections_per_img}
        return detections(found, num_labels, **limits, first_label=self.first_label)

    def _level(self, scores: Tensor, deltas: Tensor, anchors: Tensor, size: Size) -> Candidates:
        """The best pairs of anchor and label of one level."""
        labels = scores.shape[2]
        scores, indices = top_scores(scores.flatten(1), self.network.topk_candidates)
        rows = indices // labels
        return Candidates(self._boxes(take_rows(deltas, rows), anchors[rows], size), scores, indices % labels)

    def _per_label(self, scores: Tensor, deltas: Tensor, anchors: Tensor, size: Size) -> Candidates:
        """The best anchors for each label except the background."""
        found = []
        for label in range(1, scores.shape[2]):
            score, indices = top_scores(scores[..., label], self.network.topk_candidates)
            boxes = self._boxes(take_rows(deltas, indices), anchors[indices], size)
            found.append(Candidates(boxes, score, torch.full_like(indices, label)))
        return Candidates(*(torch.cat(field, dim=1) for field in zip(*found, strict=True)))

    def _boxes(self, deltas: Tensor, anchors: Tensor, size: Size) -> Tensor:
        coder = self.network.box_coder
        if isinstance(coder, BoxLinearCoder):
            return clip(coder.decode(deltas, anchors), size)
        boxes = coder.decode_single(deltas.flatten(0, 1), anchors.flatten(0, 1))
        return clip(boxes.reshape(deltas.shape), size)


def prepared(transform: FixedSizeTransform, images: Tensor) -> Tensor:
    """The output of the transform for a batch, whose sizes may stay open in a trace."""
    return normalised(images, transform.image_mean, transform.image_std, transform.padding)


def _rows(network: RetinaNet | FCOS | SSD, levels: Sequence[Tensor]) -> list[int]:
    """The number of rows of the head outputs that belong to each level."""
    per_cell = network.anchor_generator.num_anchors_per_location()
    return [level.shape[2] * level.shape[3] * count for level, count in zip(levels, per_cell, strict=True)]
