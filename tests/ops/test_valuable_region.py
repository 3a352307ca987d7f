"""The region around the positives of localisation distillation, by brute force."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from eyas.ops.boxes import diou
from eyas.ops.valuable_region import scaled, valuable_region


def anchors(*strides: int, image: int = 64, side: int = 2) -> tuple[Tensor, list[int]]:
    """Square anchors of so many strides in the centres of the cells, level by level, and how many a level has."""
    found = [
        (x + stride / 2 - side * stride / 2, y + stride / 2 - side * stride / 2, side * stride)
        for stride in strides
        for y in range(0, image, stride)
        for x in range(0, image, stride)
    ]
    boxes = torch.tensor([(x, y, x + width, y + width) for x, y, width in found])
    return boxes, [(image // stride) ** 2 for stride in strides]


def slow_region(boxes: Tensor, counts: list[int], objects: Tensor, gamma: float) -> list[float]:
    """`valuable_region` in Python, pair by pair."""
    found = [0.0] * len(boxes)
    for thing in objects.double().tolist():
        pairs = [measured(anchor, thing) for anchor in boxes.double().tolist()]
        start, nearest = 0, []
        for count in counts:
            level = sorted(pairs[start : start + count], key=lambda pair: pair[2])
            nearest += [overlap for overlap, *_ in level[:9]]
            start += count
        mean = sum(nearest) / len(nearest)
        threshold = mean + math.sqrt(sum((value - mean) ** 2 for value in nearest) / max(len(nearest) - 1, 1))
        for row, (overlap, distance_iou, _) in enumerate(pairs):
            if gamma * threshold <= distance_iou < threshold:
                found[row] = max(found[row], overlap)
    return found


def measured(a: list[float], b: list[float]) -> tuple[float, float, float]:
    """IoU, DIoU, and distance of the centres."""
    width, height = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    overlap = width * height / (sum(areas) - width * height)
    apart = math.dist(((a[0] + a[2]) / 2, (a[1] + a[3]) / 2), ((b[0] + b[2]) / 2, (b[1] + b[3]) / 2))
    diagonal = math.dist((min(a[0], b[0]), min(a[1], b[1])), (max(a[2], b[2]), max(a[3], b[3])))
    return overlap, overlap - apart**2 / diagonal**2, apart


@pytest.mark.parametrize("gamma", [0.0, 0.25, 0.75])
def test_the_region_by_brute_force(gamma: float) -> None:
    boxes, counts = anchors(8, 16, 32)
    objects = torch.tensor([(3.1, 5.3, 30.7, 41.9), (20.2, 8.7, 61.1, 59.3), (11.9, 40.1, 19.3, 47.7)])
    found = valuable_region(boxes, counts, objects, gamma)
    assert found.tolist() == pytest.approx(slow_region(boxes, counts, objects, gamma), abs=1e-5)
    assert 0 < int(found.count_nonzero()) < len(boxes)


def test_the_region_of_one_anchor_and_of_no_object() -> None:
    """A single anchor is its own threshold, so a box with its centre is not below it, and one beside it is."""
    anchor = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    assert valuable_region(anchor, [1], anchor).tolist() == [0]
    beside = valuable_region(anchor, [1], torch.tensor([[2.0, 0.0, 12.0, 10.0]]))
    assert beside.tolist() == pytest.approx([8 / 12])
    assert valuable_region(anchor, [1], torch.zeros(0, 4)).tolist() == [0]


def test_boxes_grow_about_their_centres() -> None:
    assert scaled(torch.tensor([[8.0, 16, 16, 24]]), 8.0).tolist() == [[-20, -12, 44, 52]]


def test_distance_iou_by_hand() -> None:
    """Two boxes of 4 x 4 whose centres are 2 apart share a third; the box around both has the diagonal sqrt(52)."""
    a, b = torch.tensor([0.0, 0, 4, 4]), torch.tensor([2.0, 0, 6, 4])
    assert float(diou(a, b)) == pytest.approx(1 / 3 - 4 / 52)
    assert float(diou(a, a)) == 1 and float(diou(a, a + 100)) == pytest.approx(-20000 / (104**2 * 2), rel=1e-5)
