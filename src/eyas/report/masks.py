"""Pictures of the near-object masks of a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from eyas.data import DataSource, DetectionDataset, collate, eval_transform
from eyas.data.options import Resize
from eyas.evaluation.variance import inside, view_and_masks
from eyas.nn.eval_mode import eval_mode
from eyas.ops.near_objects import AssignmentRule
from eyas.report.plots import near_masks
from eyas.types import Detector, Target

DRAWN = 4
"""Images that the masks are drawn on."""


def some_images(source: DataSource, resize: Resize) -> tuple[Tensor, list[Target]]:
    """The first images with objects, or the first of all where none has any, as one batch."""
    full = [index for index, record in enumerate(source.records) if len(record.boxes)]
    chosen = (full or list(range(len(source.records))))[:DRAWN]
    dataset = DetectionDataset(source, eval_transform(resize))
    return collate([dataset[index] for index in chosen])


def draw_masks(
    path: Path, detector: Detector, images: Tensor, targets: Sequence[Target], *, psi: float, assignment: AssignmentRule
) -> None:
    """The near cells of every level over the images, without those of padding."""
    parameter = next(detector.network.parameters())
    with eval_mode(detector.network), torch.no_grad():
        view, masks = view_and_masks(detector, images.to(parameter.device), targets, psi=psi, assignment=assignment)
    sizes = [target.get("size", view.image_size) for target in targets]
    shown, strides = [], [level.stride for level in view.levels]
    for mask, stride in zip(masks, strides, strict=True):
        image = inside((mask.shape[1], mask.shape[2]), stride, sizes)
        rows, columns = (image.any(dim=0).any(dim=axis).sum() for axis in (1, 0))
        shown.append((mask.cpu() & image)[:, :rows, :columns])
    near_masks(path, list(images), targets, shown, [f"stride {stride}" for stride in strides], strides=strides)
