"""The valuable localisation region: the anchors around an object that are just too far from it to be positive.

Zheng et al., "Localization Distillation for Dense Object Detection", CVPR 2022, algorithm 1, with the threshold of ATSS
(Zhang et al., CVPR 2020, algorithm 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from eyas.ops.boxes import diou, iou, to_centre_size

CANDIDATES = 9
"""The anchors of each level nearest to an object, whose IoUs give its threshold."""


def valuable_region(anchors: Tensor, counts: Sequence[int], boxes: Tensor, gamma: float = 0.25) -> Tensor:
    """The valuable localisation region of one image: the IoU with the object at each anchor in it, else 0; (A,).

    An anchor is in the region of an object where ``gamma t <= DIoU < t`` (algorithm 1). The threshold t is that of
    ATSS: the mean and the standard deviation of the IoUs of `CANDIDATES` anchors on each level, those with the nearest
    centres. An anchor in several regions has the largest IoU.

    Args:
        anchors: (A, 4) xyxy in pixels, level by level.
        counts: the number of anchors on each level.
        boxes: (G, 4) xyxy in pixels, the objects.
        gamma: lower end of the region, as a share of the threshold.
    """
    if len(boxes) == 0:
        return anchors.new_zeros(len(anchors))
    overlaps = iou(anchors[:, None], boxes)
    centres, own = to_centre_size(anchors)[:, None, :2], to_centre_size(boxes)[:, :2]
    distances = (centres - own).square().sum(dim=2)
    levels = zip(distances.split(list(counts)), overlaps.split(list(counts)), strict=True)
    nearest = torch.cat(
        [values.gather(0, far.topk(min(CANDIDATES, len(far)), dim=0, largest=False).indices) for far, values in levels]
    )
    mean = nearest.mean(dim=0)
    threshold = mean + ((nearest - mean).square().sum(dim=0) / max(len(nearest) - 1, 1)).sqrt()
    near = diou(anchors[:, None], boxes)
    return (overlaps * ((near >= gamma * threshold) & (near < threshold))).amax(dim=1)


def scaled(boxes: Tensor, factor: float) -> Tensor:
    """Boxes (n, 4) xyxy, larger by a factor about their centres."""
    centre_size = to_centre_size(boxes)
    half = centre_size[:, 2:] * (factor / 2)
    return torch.cat((centre_size[:, :2] - half, centre_size[:, :2] + half), dim=1)
