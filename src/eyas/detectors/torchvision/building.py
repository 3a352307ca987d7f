"""The steps that the builders of all torchvision families share: backbone, weights, anchors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator

from eyas.detectors.torchvision.adapter import TorchvisionDetector
from eyas.detectors.torchvision.backbones import Norm, PyramidBackbone, Top, Trunk, make_trunk, single_level, split_name
from eyas.detectors.torchvision.pretrained import PREDICTORS, Family, is_whole_detector, load_trunk, read_weights
from eyas.detectors.weight_files import Weights, load_detector
from eyas.types import EyasError, Size

AnchorSizes = Sequence[float] | Sequence[Sequence[float]]
RATIOS = (0.5, 1.0, 2.0)
SINGLE_STRIDE = 16


@dataclass(frozen=True)
class Backbone:
    """The backbone of a detector, built by name.

    Attributes:
        trunk: its convolutional part, with its weights if those of a backbone were given.
        module: the trunk and what lies on top; the detector runs this.
        strides: of its maps, pixels.
        fpn: whether it ends in an FPN.
        weights: as read; `finish` loads those of a whole detector.
    """

    trunk: Trunk
    module: nn.Module
    strides: tuple[int, ...]
    fpn: bool
    weights: Weights | None

    @property
    def channels(self) -> int:
        """The channels of each of its maps."""
        return cast(int, self.module.out_channels)


@dataclass(frozen=True)
class Pyramid:
    """The options of an FPN, see `PyramidBackbone`."""

    strides: Sequence[int]
    channels: int
    top: Top
    norm: bool = False

    @property
    def levels(self) -> tuple[int, ...]:
        """Strides of its maps."""
        last = self.strides[-1]
        return (*self.strides, *((2 * last,) if self.top == "pool" else (2 * last, 4 * last)))


def trunk_and_weights(
    family: Family, name: str, norm: Norm, weights: str | Path | None, *, fpn: bool
) -> tuple[Trunk, Weights | None]:
    """The trunk of a backbone and the weights as read, which are in the trunk already if they are a backbone's."""
    trunk = make_trunk(name, norm)
    found = None if weights is None else read_weights(weights, family, name, fpn=fpn)
    if found is not None and not is_whole_detector(found):
        load_trunk(trunk.module, found)
    return trunk, found


def make_backbone(family: Family, backbone: str, weights: str | Path | None, norm: Norm, pyramid: Pyramid) -> Backbone:
    """Build a backbone by name.

    Raises:
        EyasError: an unknown backbone, strides it has no maps of, or weights that do not fit.
    """
    name, fpn = split_name(backbone)
    if pyramid.top not in ("pool", "p6p7"):
        raise EyasError(f"top is {pyramid.top!r}; it can be pool or p6p7")
    if list(pyramid.strides) != sorted(set(pyramid.strides)) or not pyramid.strides:
        raise EyasError(f"strides {list(pyramid.strides)} must rise, such as 8, 16, 32")
    trunk, found = trunk_and_weights(family, name, norm, weights, fpn=fpn)
    if fpn:
        module = PyramidBackbone(trunk, pyramid.strides, pyramid.channels, pyramid.top, norm=pyramid.norm)
        return Backbone(trunk, module, pyramid.levels, True, found)
    return Backbone(trunk, single_level(trunk, SINGLE_STRIDE), (SINGLE_STRIDE,), False, found)


def make_anchors(
    levels: int, sizes: AnchorSizes | None, ratios: Sequence[float], default: Sequence[Sequence[float]]
) -> AnchorGenerator:
    """An anchor of every ratio and size at each cell of a level.

    Args:
        levels: number of maps of the backbone.
        sizes: pixels: one number per level, all numbers for the one level, or a list of numbers per level.
        ratios: height over width.
        default: sizes per level when none are given.

    Raises:
        EyasError: sizes for another number of levels, or levels with different numbers of sizes.
    """
    if sizes is None:
        per_level = [tuple(level) for level in default]
    elif any(isinstance(size, Sequence) for size in sizes):
        per_level = [tuple(size) if isinstance(size, Sequence) else (size,) for size in sizes]
    else:
        numbers = [float(size) for size in sizes if not isinstance(size, Sequence)]
        per_level = [tuple(numbers)] if levels == 1 else [(size,) for size in numbers]
    if len(per_level) != levels or len({len(level) for level in per_level}) != 1 or not per_level[0]:
        raise EyasError(f"anchor_sizes {sizes}: give as many for each of the backbone's {levels} levels")
    return AnchorGenerator(tuple(per_level), (tuple(ratios),) * levels)


def finish(
    model: nn.Module, classes: Sequence[str], weights: Weights | None, *, min_size: Size | None = None
) -> TorchvisionDetector:
    """The model as a detector, with its weights loaded if they are those of a whole detector."""
    if weights is not None and is_whole_detector(weights):
        load_detector(model, weights, PREDICTORS)
    return TorchvisionDetector(model, classes, min_size=min_size)
