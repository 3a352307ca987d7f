"""Draws docs/images/fpn_assignment.png: the cells that each assignment selects on five levels, for three boxes.

``python results/figures/fpn_assignment.py``
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import matplotlib
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Rectangle
from torch import Tensor

from eyas.ops.anchors import AnchorGrid, ratio_cell_anchors
from eyas.ops.near_objects import AssignmentRule, near_object_masks

HEIGHT, WIDTH = 384, 640
STRIDES = (8, 16, 32, 64, 128)
COLOURS = ("#0072b2", "#d55e00", "#009e73")  # told apart by colour-blind readers too
BOXES = torch.tensor([[64.0, 48.0, 104.0, 96.0], [352.0, 32.0, 512.0, 144.0], [128.0, 128.0, 480.0, 368.0]])
MEANING = {
    "global": "global\n$M_g$ over all levels",
    "per_level": "per_level\n$M_g$ on each level",
    "by_size": "by_size\none level per box",
}


def grids() -> list[AnchorGrid]:
    """Three ratios per cell, side 4 x stride, as in RetinaNet."""
    return [
        AnchorGrid(
            ratio_cell_anchors(4 * stride), (HEIGHT // stride, WIDTH // stride), (stride,) * 2, (stride / 2,) * 2
        )
        for stride in STRIDES
    ]


def draw(axes: Axes, masks: Tensor, stride: int) -> None:
    """The cells near each box, (boxes, H, W), in its colour, under the boxes."""
    for mask, colour in zip(masks, COLOURS, strict=True):
        shown = mask.float().masked_fill(~mask, torch.nan)
        axes.imshow(shown, ListedColormap([colour]), alpha=0.55, extent=(0, WIDTH, HEIGHT, 0), interpolation="nearest")
    if stride >= 32:
        axes.vlines(range(0, WIDTH, stride), 0, HEIGHT, color="#dddddd", linewidth=0.4)
        axes.hlines(range(0, HEIGHT, stride), 0, WIDTH, color="#dddddd", linewidth=0.4)
    for (x1, y1, x2, y2), colour in zip(BOXES.tolist(), COLOURS, strict=True):
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.3))
    axes.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0), xticks=[], yticks=[])


def figure(path: Path) -> None:
    assignments: tuple[AssignmentRule, ...] = get_args(AssignmentRule)
    canvas, rows = pyplot.subplots(len(assignments), len(STRIDES), figsize=(11, 4.6), layout="constrained")
    canvas.set_facecolor("white")  # opaque, so that it reads the same on a dark page
    for assignment, row in zip(assignments, rows, strict=True):
        # One image per box: which cells are near which.
        masks = near_object_masks(grids(), list(BOXES[:, None]), assignment=assignment)
        for axes, level, stride in zip(row, masks, STRIDES, strict=True):
            draw(axes, level, stride)
        row[0].set_ylabel(MEANING[assignment], fontsize=10)
    for axes, stride in zip(rows[0], STRIDES, strict=True):
        axes.set_title(f"stride {stride}, anchor side {4 * stride}", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=110)


if __name__ == "__main__":
    matplotlib.use("agg")
    figure(Path(__file__).parents[2] / "docs" / "images" / "fpn_assignment.png")
