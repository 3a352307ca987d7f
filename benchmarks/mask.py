"""Near-object masks: the interval mask against brute force, on an image of 800 x 1333 pixels.

``python -m benchmarks.mask [--json FILE]``. Brute force is the way of earlier implementations: the IoU of all anchors
with all boxes, its maximum, a comparison and any(). Here it is one batched call without their loop over boxes, and the
anchors are made beforehand. ``ratio`` is brute force over interval mask. Every run also checks that all masks are equal
cell by cell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou

from benchmarks.timing import Row, medians, options, peak_mib, report, row
from eyas.ops.anchors import AnchorGrid, ratio_cell_anchors
from eyas.ops.near_objects import near_object_masks, near_object_masks_reference

HEIGHT, WIDTH = 800, 1333
PSI = 0.5


def pyramid() -> list[AnchorGrid]:
    """Five levels with strides 4 to 64 and three anchors per cell."""
    return [_grid(stride, ratio_cell_anchors(8 * stride)) for stride in (4, 8, 16, 32, 64)]


def single_level() -> list[AnchorGrid]:
    """One level with stride 16 and nine anchors per cell."""
    return [_grid(16, torch.cat([ratio_cell_anchors(side) for side in (128, 256, 512)]))]


def _grid(stride: int, cell_anchors: Tensor) -> AnchorGrid:
    size = math.ceil(HEIGHT / stride), math.ceil(WIDTH / stride)
    return AnchorGrid(cell_anchors, size, (stride, stride), (stride / 2, stride / 2))


def random_boxes(number: int) -> Tensor:
    """Boxes with sides of 16 to 400 pixels, uniform in log scale, inside the image."""
    generator = torch.Generator().manual_seed(number)
    sides = 16 * (400 / 16) ** torch.rand(number, 2, generator=generator)
    corner = torch.rand(number, 2, generator=generator) * (torch.tensor([WIDTH, HEIGHT]) - sides)
    return torch.cat((corner, corner + sides), dim=1)


def brute_force(anchors: Tensor, grids: Sequence[AnchorGrid], boxes: Tensor) -> list[Tensor]:
    """The masks of one image, (1, H, W) each, from its boxes (n, 4) and the anchors of all levels, (A, 4) float64."""
    iou = box_iou(boxes.double(), anchors)
    near = (iou > PSI * iou.amax(dim=1, keepdim=True)).any(dim=0)
    levels = near.split([grid.size[0] * grid.size[1] * grid.num_shapes for grid in grids])
    return [level.view(1, *grid.size, -1).any(dim=-1) for level, grid in zip(levels, grids, strict=True)]


def compare(name: str, grids: list[AnchorGrid], number: int, repeats: int) -> Row:
    boxes = random_boxes(number)
    anchors = torch.cat([grid.anchors().double().view(-1, 4) for grid in grids])
    sides = {
        "interval": lambda: near_object_masks(grids, [boxes], psi=PSI),
        "brute_force": lambda: brute_force(anchors, grids, boxes),
        "reference": lambda: near_object_masks_reference(grids, [boxes], psi=PSI),
    }
    masks, *others = (run() for run in sides.values())
    if not all(torch.equal(mask, same) for other in others for mask, same in zip(masks, other, strict=True)):
        raise AssertionError(f"the masks of {name} with {number} boxes differ")
    settings: Row = {
        "levels": len(grids),
        "anchors": len(anchors),
        "boxes": number,
        "near_cells": sum(int(mask.sum()) for mask in masks),
        **peak_mib(sides),
    }
    return row(name, settings, medians(sides, repeats), baseline="brute_force", candidate="interval")


def main() -> None:
    chosen = options("near-object masks: interval mask against brute force", repeats=11)
    levels = {"pyramid": pyramid(), "single_level": single_level()}
    rows = [compare(name, grids, number, chosen.repeats) for name, grids in levels.items() for number in (7, 30, 100)]
    report(rows, chosen.json)


if __name__ == "__main__":
    main()
