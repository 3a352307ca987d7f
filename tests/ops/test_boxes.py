"""Box arithmetic by hand, and against torchvision.ops on random boxes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_area, box_convert, box_iou, clip_boxes_to_image

from eyas.ops.boxes import area, clip, intersection, iou, scale, to_centre_size

A, INSIDE, BESIDE, EMPTY, SWAPPED = (
    torch.tensor(box) for box in ([0.0, 0, 10, 4], [2.0, 1, 4, 3], [10.0, 0, 20, 4], [5.0, 5, 5, 9], [10.0, 4, 0, 0])
)


def random_boxes(seed: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 200 - 50
    return torch.cat((corner, corner + torch.rand(count, 2, generator=generator) * 120), dim=1)


def test_area_is_width_times_height_and_never_negative() -> None:
    assert area(torch.stack((A, INSIDE, EMPTY, SWAPPED))).tolist() == [40, 4, 0, 0]
    half_swapped = torch.tensor([10.0, 0, 0, 4])
    assert area(half_swapped).item() == 0 and area(torch.zeros(0, 4)).shape == (0,)


@pytest.mark.parametrize(
    ("other", "shared", "share"),
    [(A, 40, 1.0), (INSIDE, 4, 0.1), (BESIDE, 0, 0.0), (EMPTY, 0, 0.0), (torch.tensor([5.0, 0, 15, 4]), 20, 1 / 3)],
)
def test_intersection_and_iou_of_two_boxes(other: Tensor, shared: float, share: float) -> None:
    assert intersection(A, other).item() == intersection(other, A).item() == shared
    assert iou(A, other).item() == pytest.approx(share) == iou(other, A).item()


def test_two_empty_boxes_have_iou_0() -> None:
    assert iou(EMPTY, EMPTY).item() == 0


def test_iou_broadcasts_pairs_and_tables() -> None:
    ours, theirs = random_boxes(0, 7), random_boxes(1, 5)
    assert torch.equal(iou(ours[:, None], theirs), box_iou(ours, theirs))
    assert torch.equal(iou(ours[:5], theirs), box_iou(ours, theirs)[:5].diagonal())


def test_clip_moves_corners_to_the_border_of_the_image() -> None:
    boxes = torch.tensor([[-5.0, -5, 5, 5], [10.0, 20, 90, 80], [60.0, 10, 70, 30]])
    assert clip(boxes, (40, 50)).tolist() == [[0, 0, 5, 5], [10, 20, 50, 40], [50, 10, 50, 30]]
    assert clip(boxes[None], (40, 50)).shape == (1, 3, 4)


def test_scale_multiplies_x_and_y_by_their_own_factor() -> None:
    assert scale(INSIDE, 2, 0.5).tolist() == [4, 0.5, 8, 1.5]


def test_centre_and_size() -> None:
    assert to_centre_size(torch.stack((A, INSIDE))).tolist() == [[5, 2, 10, 4], [3, 2, 2, 2]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_namesakes_of_torchvision_give_the_same_bits(dtype: torch.dtype) -> None:
    boxes = random_boxes(2, 1000).to(dtype)
    assert torch.equal(area(boxes), box_area(boxes))
    assert torch.equal(clip(boxes, (64, 96)), clip_boxes_to_image(boxes, (64, 96)))
    assert torch.equal(to_centre_size(boxes), box_convert(boxes, "xyxy", "cxcywh"))
