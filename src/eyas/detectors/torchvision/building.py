"""The steps that the builders of all torchvision families share: backbone, weights, anchors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
    """The backbone of a detector, built by name: ``module`` is the trunk and what lies on top.

    ``weights`` are as read. Those of a backbone are in the trunk already; `finish` loads those of a whole detector.
    """

    trunk: Trunk
    module: nn.Module
    channels: int
    strides: tuple[int, ...]
    fpn: bool
    weights: Weights | None


def read_trunk(
    family: Family, name: str, norm: Norm, weights: str | Path | None, *, fpn: bool
) -> tuple[Trunk, Weights | None]:
    """The trunk of a backbone and the weights as read, which are in the trunk already if they are a backbone's."""
    trunk = make_trunk(name, norm)
    found = None if weights is None else read_weights(weights, family, name, fpn=fpn)
    if found is not None and not is_whole_detector(found):
        load_trunk(trunk.module, found)
    return trunk, found


def make_backbone(
    family: Family,
    backbone: str,
    weights: str | Path | None,
    norm: Norm,
    strides: Sequence[int],
    channels: int,
    top: Top,
    fpn_norm: bool,
) -> Backbone:
    """Build a backbone by name; the last four arguments are those of the FPN, see `PyramidBackbone`.

    Raises:
        EyasError: an unknown backbone, strides it has no maps of, or weights that do not fit.
    """
    name, fpn = split_name(backbone)
    if top not in ("pool", "p6p7"):
        raise EyasError(f"top is {top!r}; it can be pool or p6p7")
    if list(strides) != sorted(set(strides)) or not strides:
        raise EyasError(f"strides {list(strides)} must rise, such as 8, 16, 32")
    trunk, found = read_trunk(family, name, norm, weights, fpn=fpn)
    if not fpn:
        single, width = single_level(trunk, SINGLE_STRIDE), trunk.layers[SINGLE_STRIDE][1]
        return Backbone(trunk, single, width, (SINGLE_STRIDE,), False, found)
    pyramid = PyramidBackbone(trunk, strides, channels, top, norm=fpn_norm)
    added = (2 * strides[-1],) if top == "pool" else (2 * strides[-1], 4 * strides[-1])
    return Backbone(trunk, pyramid, channels, (*strides, *added), True, found)


def make_anchors(
    levels: int, sizes: AnchorSizes | None, ratios: Sequence[float], default: Sequence[Sequence[float]]
) -> AnchorGenerator:
    """An anchor of every ratio (height over width) and size (pixels) at each cell of a level.

    Args:
        levels: number of maps of the backbone.
        sizes: one number per level, all numbers for the one level, or a list of numbers per level.
        ratios: the same at every level.
        default: sizes per level when none are given.

    Raises:
        EyasError: sizes for another number of levels, or levels with different numbers of sizes.
    """
    given: AnchorSizes = default if sizes is None else sizes
    per_level = [tuple(size) if isinstance(size, Sequence) else (size,) for size in given]
    if levels == 1 and not any(isinstance(size, Sequence) for size in given):
        per_level = [tuple(size for (size,) in per_level)]
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
