"""torchvision's detectors as graphs of fixed shapes, see `eyas.detectors.deployed`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection._utils import BoxLinearCoder
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.models.detection.ssd import SSD
from torchvision.ops import roi_align

from eyas.detectors.deployed import DROPPED, Candidates, Deployed, after_nms, detections, joined, take_rows, top_scores
from eyas.ops.boxes import clip
from eyas.types import Size, size_of

SMALLEST_DETECTION = 1e-2
"""Pixels; torchvision's own lower limit for the sides of a detection."""


class DeployedOneStage(Deployed):
    """RetinaNet, FCOS or SSD in evaluation mode; ``first_label`` is torchvision's label of the first class."""

    def __init__(self, network: RetinaNet | FCOS | SSD, first_label: int) -> None:
        super().__init__()
        self.network, self.first_label = network, first_label
        centerness = ("centerness_logits",) if isinstance(network, FCOS) else ()
        self.raw_names = ("class_logits", "box_deltas", *centerness, "anchors")

    def raw(self, images: Tensor) -> tuple[tuple[Tensor, ...], Sequence[int]]:
        network = self.network
        batch = network.transform.normalised(images)
        maps = network.backbone(batch)
        levels = [maps] if isinstance(maps, Tensor) else list(maps.values())
        outputs = network.head(levels)
        anchors = _anchors(network.anchor_generator, batch, images, levels)
        centerness = (outputs["bbox_ctrness"],) if isinstance(network, FCOS) else ()
        per_cell = network.anchor_generator.num_anchors_per_location()
        rows = [level.shape[2] * level.shape[3] * count for level, count in zip(levels, per_cell, strict=True)]
        return (outputs["cls_logits"], outputs["bbox_regression"], *centerness, anchors), rows

    def detect(self, raw: Sequence[Tensor], rows: Sequence[int], size: Size) -> Candidates:
        network = self.network
        logits, deltas, *centerness, anchors = raw
        if isinstance(network, SSD):
            found = self._per_label(logits.softmax(dim=2), deltas, anchors, size)
        else:
            scores = logits.sigmoid()
            if centerness:
                scores = (scores * centerness[0].sigmoid()).sqrt()
            parts = zip(scores.split(rows, 1), deltas.split(rows, 1), anchors.split(rows), strict=True)
            found = joined([self._level(*part, size) for part in parts])
        limits = {"threshold": network.score_thresh, "nms": network.nms_thresh, "count": network.detections_per_img}
        return detections(found, logits.shape[2], **limits, first_label=self.first_label)

    def _level(self, scores: Tensor, deltas: Tensor, anchors: Tensor, size: Size) -> Candidates:
        """The best pairs of anchor and label of one level."""
        labels = scores.shape[2]
        scores, indices = top_scores(scores.flatten(1), self.network.topk_candidates)
        rows = indices // labels
        boxes = _decoded(self.network.box_coder, take_rows(deltas, rows), anchors[rows], size)
        return Candidates(boxes, scores, indices % labels)

    def _per_label(self, scores: Tensor, deltas: Tensor, anchors: Tensor, size: Size) -> Candidates:
        """The best anchors for each label except the background."""
        found = []
        for label in range(1, scores.shape[2]):
            score, indices = top_scores(scores[..., label], self.network.topk_candidates)
            boxes = _decoded(self.network.box_coder, take_rows(deltas, indices), anchors[indices], size)
            found.append(Candidates(boxes, score, torch.full_like(indices, label)))
        return joined(found)


class DeployedFasterRCNN(Deployed):
    """Faster R-CNN in evaluation mode. An empty proposal slot has a box of zeros and logits of zeros."""

    raw_names = ("rpn_logits", "rpn_deltas", "anchors", "proposals", "roi_logits", "roi_deltas")
    matched = ("proposals", "roi_logits", "roi_deltas")

    def __init__(self, network: FasterRCNN) -> None:
        super().__init__()
        self.network = network

    def raw(self, images: Tensor) -> tuple[tuple[Tensor, ...], Sequence[int]]:
        network, rpn = self.network, self.network.rpn
        batch = network.transform.normalised(images)
        maps = network.backbone(batch)
        maps = {"0": maps} if isinstance(maps, Tensor) else maps
        levels = list(maps.values())
        logits, deltas = rpn.head(levels)
        rows = [level.shape[1] * level.shape[2] * level.shape[3] for level in logits]
        anchors = _anchors(rpn.anchor_generator, batch, images, levels)
        flat_logits, flat_deltas = concat_box_prediction_layers(logits, deltas)
        count = anchors.shape[0]
        rpn_logits, rpn_deltas = flat_logits.view(-1, count), flat_deltas.view(-1, count, 4)
        proposals = self._propose(rpn_logits, rpn_deltas, anchors, rows, size_of(images))
        return (rpn_logits, rpn_deltas, anchors, *self._second_stage(maps, proposals)), rows

    def detect(self, raw: Sequence[Tensor], rows: Sequence[int], size: Size) -> Candidates:
        roi = self.network.roi_heads
        proposals, logits, deltas = raw[3:]
        batch, slots, labels = logits.shape
        boxes = roi.box_coder.decode_single(deltas.flatten(0, 1), proposals.flatten(0, 1))
        boxes = clip(boxes.reshape(batch, slots, labels, 4), size)[:, :, 1:]
        real = _sides(proposals)[..., None] > 0
        large = _sides(boxes) >= SMALLEST_DETECTION
        scores = torch.where(real & large, logits.softmax(dim=2)[..., 1:], DROPPED)
        label = torch.arange(1, labels, device=logits.device).expand(batch, slots, -1)
        found = Candidates(boxes.flatten(1, 2), scores.flatten(1), label.flatten(1))
        limits = {"threshold": roi.score_thresh, "nms": roi.nms_thresh, "count": roi.detections_per_img}
        return detections(found, labels, **limits, first_label=1)

    def _propose(self, logits: Tensor, deltas: Tensor, anchors: Tensor, rows: Sequence[int], size: Size) -> Tensor:
        """(batch, P, 4) proposals by descending score; empty slots are zeros."""
        rpn = self.network.rpn
        parts = zip(logits.split(rows, 1), deltas.split(rows, 1), anchors.split(rows), strict=True)
        found = []
        for level, (score, delta, anchor) in enumerate(parts):
            # By logits, as torchvision does: the sigmoids of two large logits may round to the same number.
            score, indices = top_scores(score, rpn.pre_nms_top_n(), missing=-torch.inf)
            boxes = _decoded(rpn.box_coder, take_rows(delta, indices), anchor[indices], size)
            probability = score.sigmoid()
            real = (_sides(boxes) >= rpn.min_size) & (probability >= rpn.score_thresh) & score.isfinite()
            found.append(Candidates(boxes, torch.where(real, probability, DROPPED), torch.full_like(indices, level)))
        all_levels = joined(found)
        left = after_nms(all_levels, all_levels.labels, len(rows), rpn.nms_thresh, rpn.post_nms_top_n())
        return torch.where((left.scores >= 0)[..., None], left.boxes, 0.0)

    def _second_stage(self, maps: Mapping[str, Tensor], proposals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Proposals (batch, P, 4), their logits (batch, P, labels) and deltas (batch, P, 4 labels)."""
        roi = self.network.roi_heads
        where = image, slot = torch.where(_sides(proposals) > 0)
        logits, deltas = roi.box_predictor(roi.box_head(self._pool(maps, image, proposals[image, slot])))
        batch, slots, _ = proposals.shape
        all_logits = logits.new_zeros(batch, slots, logits.shape[1]).index_put(where, logits)
        all_deltas = deltas.new_zeros(batch, slots, deltas.shape[1]).index_put(where, deltas)
        return proposals, all_logits, all_deltas

    def _pool(self, maps: Mapping[str, Tensor], image: Tensor, boxes: Tensor) -> Tensor:
        """torchvision's `MultiScaleRoIAlign` of boxes (n, 4) in images of the indices (n,)."""
        pool = self.network.roi_heads.box_roi_pool
        levels = [level for name, level in maps.items() if name in pool.featmap_names]
        rois = torch.cat((image[:, None].to(boxes.dtype), boxes), dim=1)
        if len(levels) == 1:
            only: Tensor = roi_align(levels[0], rois, pool.output_size, pool.scales[0], pool.sampling_ratio)
            return only
        owner = pool.map_levels([boxes])
        pooled = levels[0].new_zeros(boxes.shape[0], levels[0].shape[1], *pool.output_size)
        for index, (level, scale) in enumerate(zip(levels, pool.scales, strict=True)):
            (chosen,) = torch.where(owner == index)
            part = roi_align(level, rois[chosen], pool.output_size, scale, pool.sampling_ratio)
            pooled = pooled.index_put((chosen,), part)
        return pooled


def _anchors(generator: Any, batch: Tensor, images: Tensor, levels: list[Tensor]) -> Tensor:
    """(A, 4); all images have the same anchors, and asking for those of one keeps the batch size open."""
    anchors: Tensor = generator(ImageList(batch, [size_of(images)]), levels)[0]
    return anchors


def _decoded(coder: Any, deltas: Tensor, anchors: Tensor, size: Size) -> Tensor:
    """(batch, n, 4) boxes from deltas and anchors of that shape, clipped."""
    if isinstance(coder, BoxLinearCoder):
        return clip(coder.decode(deltas, anchors), size)
    boxes = coder.decode_single(deltas.flatten(0, 1), anchors.flatten(0, 1))
    return clip(boxes.reshape(deltas.shape), size)


def _sides(boxes: Tensor) -> Tensor:
    """The shorter side of each box, (..., 4) to (...)."""
    return torch.minimum(boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1])
