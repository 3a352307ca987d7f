"""Detectors and their feature levels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from eyas.types.basics import Size
from eyas.types.images import Prediction, Target

if TYPE_CHECKING:
    from torch import Tensor, nn

    from eyas.ops.anchors import AnchorGrid

GridBuilder = Callable[[Size, Size], "AnchorGrid"]
"""(feature map size in cells, image size in pixels) -> the anchors of that map."""


@dataclass(frozen=True)
class Level:
    """One feature level of a detector, which a student can imitate.

    Attributes:
        channels: C of the feature map.
        stride: nominal input pixels per cell; levels of two detectors are paired by it.
        grid: builds the detector's own anchors on this level; a `StrideGrid` of the stride if left out.
        box_range: (low, high), pixels: the detector assigns boxes with low <= sqrt(area) < high to this level. None if
            it has no such rule.
        per_image: whether ``grid`` takes the size of an image itself, and not that of the padded batch it is in. Images
            of one batch then have anchors of their own, see `eyas.methods.masks.batch_masks`.
        matched_by_iou: whether the detector's own losses match objects to these anchors by IoU, so that it hardly
            learns an object that fits none of them.
    """

    channels: int
    stride: int
    grid: GridBuilder = None  # type: ignore[assignment]  # set below, since it depends on the stride
    box_range: tuple[float, float] | None = None
    per_image: bool = False
    matched_by_iou: bool = False

    def __post_init__(self) -> None:
        if self.grid is None:
            from eyas.ops.anchors import StrideGrid

            object.__setattr__(self, "grid", StrideGrid(self.stride))


@runtime_checkable
class Detector(Protocol):
    """Any detector. Adapters in `eyas.detectors` are `nn.Module`s that satisfy this protocol.

    Attributes:
        network: the library's own module. Tap names are relative to it, and its state dict is saved.
        classes: class names, in label order.
        levels: tap name -> level, from fine to coarse. A tap name is a submodule's dotted name, followed by
            ``:key`` where that submodule returns a mapping or sequence, as in ``backbone:0``.
    """

    # Read-only, so that a property or an attribute of a narrower type satisfies each.
    @property
    def network(self) -> nn.Module: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def levels(self) -> Mapping[str, Level]: ...

    def losses(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The detection losses of a batch in training mode, scalars by name. Images without boxes are allowed."""
        ...

    def predict(self, images: Tensor) -> list[Prediction]:
        """The detections in each image after NMS, in the frame of ``images``. Evaluation mode."""
        ...
