"""How the time of mask and loss grows with boxes, image side, levels and anchors, against brute force and dense.

``python -m benchmarks.scaling [--json FILE] [--figure FILE]``. One quantity grows at a time; the others stay at 30
boxes, a side of 800 pixels, five levels and three anchors a cell. The loss has 256 channels and covers only the level
with the most near cells, ``loss_cells``; the other levels are small next to it. The figure shows the same rows on log
axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.loss import dense, sparse, step
from benchmarks.mask import brute_force
from benchmarks.timing import Row, medians, parser, peak_mib, report, row, start
from eyas.methods.adapter import Adapter
from eyas.ops.anchors import AnchorGrid, ratio_cell_anchors
from eyas.ops.near_objects import near_object_masks
from eyas.report.plots import COLOURS

BOXES, SIDE, LEVELS, SHAPES, CHANNELS = 30, 800, 5, 3, 256
FIRST_STRIDE = 4
GROWS = {
    "boxes": (1, 3, 10, 30, 100, 250, 500),
    "image side": (160, 320, 480, 800, 1333),
    "levels": (1, 2, 3, 4, 5),
    "anchors a cell": (1, 3, 6, 9),
}
COLUMNS = {"boxes": "boxes", "image side": "side", "levels": "levels", "anchors a cell": "anchors"}
MARKERS = {"interval": "o", "brute_force": "s", "sparse": "^", "dense": "v"}


def grids(side: int, levels: int, shapes: int) -> list[AnchorGrid]:
    """Levels from stride 4 up with ``shapes`` anchors a cell: three ratios for each third of an octave."""
    made = []
    for level in range(levels):
        stride = FIRST_STRIDE * 2**level
        cells = torch.cat([ratio_cell_anchors(8 * stride * 2 ** (scale / 3)) for scale in range(math.ceil(shapes / 3))])
        size = math.ceil(side / stride), math.ceil(side / stride)
        made.append(AnchorGrid(cells[:shapes], size, (stride, stride), (stride / 2, stride / 2)))
    return made


def boxes(number: int, side: int) -> Tensor:
    """Boxes with sides of 2 % to 50 % of the image side, uniform in log scale, inside the image."""
    generator = torch.Generator().manual_seed(number)
    lengths = side * 0.02 * 25 ** torch.rand(number, 2, generator=generator)
    corner = torch.rand(number, 2, generator=generator) * (side - lengths)
    return torch.cat((corner, corner + lengths), dim=1)


def mask_sides(levels: Sequence[AnchorGrid], objects: Tensor) -> dict[str, Callable[[], object]]:
    anchors = torch.cat([grid.anchors().double().view(-1, 4) for grid in levels])
    return {
        "interval": lambda: near_object_masks(levels, [objects]),
        "brute_force": lambda: brute_force(anchors, levels, objects),
    }


def loss_sides(mask: Tensor) -> dict[str, Callable[[], object]]:
    """Both losses on a level with this mask, (1, H, W)."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 1, CHANNELS, *mask.shape[1:], generator=generator)
    student, teacher = (features.contiguous(memory_format=torch.channels_last) for features in maps)
    adapter = Adapter(CHANNELS, CHANNELS, init_std=0.01).to(memory_format=torch.channels_last)
    arguments = adapter, student.requires_grad_(), teacher, mask
    return {"sparse": partial(step, sparse, *arguments), "dense": partial(step, dense, *arguments)}


def measure(grows: str, value: int, repeats: int) -> Row:
    number = value if grows == "boxes" else BOXES
    side = value if grows == "image side" else SIDE
    levels = grids(side, value if grows == "levels" else LEVELS, value if grows == "anchors a cell" else SHAPES)
    objects = boxes(number, side)
    masks = near_object_masks(levels, [objects])
    fullest = max(masks, key=lambda mask: int(mask.sum()))
    sides = {**mask_sides(levels, objects), **loss_sides(fullest)}
    settings: Row = {
        "side": side,
        "levels": len(levels),
        "anchors": sum(grid.size[0] * grid.size[1] * grid.num_shapes for grid in levels),
        "boxes": number,
        "near_cells": sum(int(mask.sum()) for mask in masks),
        "loss_cells": int(fullest.sum()),
        **peak_mib(sides),
    }
    return row(grows, settings, medians(sides, repeats), baseline="brute_force", candidate="interval")


def draw(path: Path, rows: Sequence[Row]) -> None:
    """Milliseconds of all sides: one panel for each quantity that grows, one against the near cells of all rows."""
    figure = Figure(figsize=(15, 3.4), layout="constrained")
    panels = figure.subplots(1, len(GROWS) + 1, sharey=True)
    for axes, (grows, column) in zip(panels, {**COLUMNS, "near cells of the loss": "loss_cells"}.items(), strict=True):
        own = rows if column == "loss_cells" else [line for line in rows if line["name"] == grows]
        for side, marker in MARKERS.items():
            if own is rows and side not in ("sparse", "dense"):
                continue
            x, y = ([float(line[key]) for line in own] for key in (column, f"{side}_seconds"))
            axes.plot(
                x,
                [1e3 * seconds for seconds in y],
                marker=marker,
                linestyle="none" if own is rows else "-",
                color=COLOURS[list(MARKERS).index(side)],
                markersize=4,
                label=side.replace("_", " "),
            )
        axes.set(xscale="log", yscale="log", xlabel=grows)
        if own is not rows:
            values = sorted({int(str(line[column])) for line in own})
            axes.set_xticks(values, [f"{value:,}" for value in values], rotation=30 if values[-1] > 1000 else 0)
            axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("ms")
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    options = parser("how mask and loss grow", repeats=5)
    options.add_argument("--figure", type=Path, metavar="FILE", help="draw the rows here")
    chosen = start(options)
    rows = [measure(grows, value, chosen.repeats) for grows, values in GROWS.items() for value in values]
    report(rows, chosen.json)
    if chosen.figure:
        draw(chosen.figure, rows)


if __name__ == "__main__":
    main()
