"""Images: a record of a data set, the ground truth of a batch, and what a detector finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt

from eyas.types.basics import Size

if TYPE_CHECKING:
    # Records are read without torch, which takes seconds to import.
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Record:
    """One image of a data set and its annotations, in the frame of the image file. Arrays are numpy's.

    Attributes:
        image_id: the image's name in predictions, messages and reports, unique in the data set.
        path: the image file, decoded only when the record is read; for messages alone where there is ``content``.
        width, height: pixels.
        boxes: (n, 4) float32, xyxy: the objects.
        labels: (n,) int64, 0-based.
        ignore: (m, 4) float32, xyxy: crowd, difficult, DontCare. Losses, masks and recall leave them out, and
            detections on them are not false positives.
        ignore_labels: (m,) int64: the one class an ignore region applies to, or -1 for every class.
        attributes: more per object, each (n,) float32: ``area`` (square pixels, COCO's segment area), ``truncated`` in
            [0, 1] and ``occluded`` in {0, 1, 2, 3} (KITTI). Empty where the format has none.
        content: opens an image that is no file of its own; it travels to the workers. None for a file.
    """

    image_id: str
    path: Path
    width: int
    height: int
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    ignore: npt.NDArray[np.float32]
    ignore_labels: npt.NDArray[np.int64]
    attributes: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    content: Callable[[], BinaryIO] | None = None


class Target(TypedDict):
    """The ground truth of one image, as a detector and a method see it."""

    boxes: Tensor
    """(n, 4) float32, xyxy, pixels of the network's input."""
    labels: Tensor
    """(n,) int64, 0-based."""
    ignore: NotRequired[Tensor]
    """(m, 4) float32 ignore regions (crowd, difficult, DontCare): neither objects nor background."""
    index: NotRequired[int]
    """Which record of the data set this is."""
    size: NotRequired[Size]
    """(height, width) of the image inside the batch, before padding to the batch's common size."""
    host_boxes: NotRequired[npt.NDArray[np.float32]]
    """A copy of ``boxes`` as an array, which stays on the CPU when a batch moves to a device; see `host_boxes`."""
    variant: NotRequired[int]
    """The geometric variant of the record: 0 unchanged, 1 flipped. Other geometric augmentation is not recorded."""


def host_boxes(targets: Sequence[Target]) -> list[Tensor]:
    """CPU copies of the boxes where there are any, so that building masks never synchronises with the GPU."""
    import torch

    return [torch.from_numpy(t["host_boxes"]) if "host_boxes" in t else t["boxes"] for t in targets]


def size_of(images: Tensor) -> Size:
    """(height, width) of images or maps (..., height, width)."""
    return images.shape[-2], images.shape[-1]


def image_sizes(targets: Sequence[Target], batch: Size) -> list[Size]:
    """(height, width) of each image without its padding; that of the batch where a target does not say."""
    return [target.get("size", batch) for target in targets]


class Prediction(TypedDict):
    """The detections in one image, by descending score."""

    boxes: Tensor
    """(n, 4) float32, xyxy, pixels."""
    scores: Tensor
    """(n,) float32 in [0, 1]."""
    labels: Tensor
    """(n,) int64, 0-based."""
