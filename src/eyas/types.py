"""The vocabulary that every part shares: targets, predictions, feature levels and the two protocols.

Boxes are ``xyxy``, pixels, float32, in the frame of the tensor the network sees. Labels are 0-based class indices.
Images are float32 in [0, 1], RGB, (batch, 3, height, width); each detector normalises with its own mean and std.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NotRequired, Protocol, TypedDict, runtime_checkable

from torch import Tensor, nn

from eyas.anchors import AnchorGrid, default_grid

Size = tuple[int, int]
"""(height, width)."""


class EyasError(Exception):
    """Bad input from outside. The message names the file or option and says what to do; a command then exits with 2."""


@dataclass(frozen=True, eq=False)
class Record:
    """One image of a data set and its annotations, in the frame of the image file.

    Attributes:
        image_id: unique in the data set; what predictions, messages and reports call the image.
        path: the image file, decoded only when the record is read.
        width: pixels.
        height: pixels.
        boxes: (n, 4) float32, xyxy: the objects.
        labels: (n,) int64, 0-based.
        ignore: (m, 4) float32, xyxy: crowd, difficult, DontCare. Not objects for the loss, the mask or the recall, and
            detections on them are not false positives.
        ignore_labels: (m,) int64: the one class an ignore region concerns, or -1 for every class.
        attributes: more per object, each (n,): ``area`` (pixels, COCO's segment area), ``truncated`` in [0, 1] and
            ``occluded`` in {0, 1, 2, 3} (KITTI). Absent where the format has none.
    """

    image_id: str
    path: Path
    width: int
    height: int
    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    ignore_labels: Tensor
    attributes: Mapping[str, Tensor] = field(default_factory=dict)


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


class Prediction(TypedDict):
    """The detections in one image, sorted by falling score."""

    boxes: Tensor
    """(n, 4) float32, xyxy, pixels."""
    scores: Tensor
    """(n,) float32 in [0, 1]."""
    labels: Tensor
    """(n,) int64, 0-based."""


GridBuilder = Callable[[Size, Size], AnchorGrid]
"""(feature map size, image size) -> the anchors of that map."""


@dataclass(frozen=True)
class Level:
    """One feature level of a detector, the thing that can be imitated.

    Attributes:
        channels: C of the feature map.
        stride: pixels of the input per cell, nominal; levels of two detectors are paired by it.
        grid: builds the detector's own anchors on this level; `default_grid` where it has none.
        box_range: (low, high), pixels: the detector assigns boxes with low <= sqrt(area) < high to this level.
            None where the detector has no such rule.
    """

    channels: int
    stride: int
    grid: GridBuilder = default_grid
    box_range: tuple[float, float] | None = None


@runtime_checkable
class Detector(Protocol):
    """What the product knows of any detector. Adapters in `eyas.detectors` are `nn.Module`s that satisfy it.

    Attributes:
        network: the library's own module. Tap names are relative to it, and its state dict is what is saved.
        classes: class names, in label order.
        levels: tap name -> level, from fine to coarse. A tap name is a submodule's dotted name, followed by
            ``:key`` where that submodule returns a mapping or sequence, as in ``backbone:0``.
    """

    network: nn.Module
    classes: tuple[str, ...]
    levels: Mapping[str, Level]

    def losses(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The detection loss terms of a batch in training mode, scalars by name; zero boxes are allowed."""
        ...

    def predict(self, images: Tensor) -> list[Prediction]:
        """Detections in each image, in the frame of ``images``, after NMS."""
        ...


@dataclass(frozen=True)
class View:
    """What a method sees of one detector for one batch: its tapped feature maps and where their anchors lie.

    Entry i of every sequence belongs to level pair i; the student's and the teacher's views are parallel.

    Attributes:
        features: (batch, channels, height, width) maps. The teacher's carry no gradient.
        levels: the description of each level.
        image_size: (height, width) of the batch.
    """

    features: Sequence[Tensor]
    levels: Sequence[Level]
    image_size: Size
    grids: Sequence[AnchorGrid] = field(init=False)

    def __post_init__(self) -> None:
        sizes = [(feature.shape[-2], feature.shape[-1]) for feature in self.features]
        grids = [level.grid(size, self.image_size) for level, size in zip(self.levels, sizes, strict=True)]
        object.__setattr__(self, "grids", grids)
