"""The levels of a torchvision detector: tap names, anchors and box ranges, read from the detector itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import FCOS, FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign

from eyas.detectors.padding import Padding
from eyas.nn.eval_mode import eval_mode
from eyas.ops.anchors import AnchorGrid
from eyas.ops.cells import CellLayout
from eyas.types import EyasError, Level, Size, size_of

PROBE_SIZE: Size = (256, 256)
"""(height, width) of the blank image that shows a detector's levels; every common stride divides it."""
NO_BOXES = (0.0, 0.0)
"""The box range of a level that only proposes: no box is assigned to it."""
BoxRange = tuple[float, float] | None


@dataclass(frozen=True, eq=False)
class CornerGrid:
    """Builds the anchors of one level of an `AnchorGenerator`: centred on the cells' corners, steps in whole pixels."""

    generator: AnchorGenerator
    index: int
    padding: Padding

    def __call__(self, size: Size, image_size: Size) -> AnchorGrid:
        height, width = self.padding.padded(image_size)
        step = (float(height // size[0]), float(width // size[1]))
        return AnchorGrid(self.generator.cell_anchors[self.index].to(torch.float32), size, step)


@dataclass(frozen=True, eq=False)
class DefaultBoxGrid:
    """Builds the default boxes of one level of an SSD: centred in the cells, sized relative to the padded image."""

    generator: DefaultBoxGenerator
    index: int
    padding: Padding

    def __call__(self, size: Size, image_size: Size) -> AnchorGrid:
        height, width = self.padding.padded(image_size)
        steps = self.generator.steps
        step = (height / size[0], width / size[1]) if steps is None else (float(steps[self.index]),) * 2
        return AnchorGrid(self._cell_boxes((height, width)), size, step, (step[0] / 2, step[1] / 2))

    def _cell_boxes(self, image_size: Size) -> Tensor:
        """(K, 4): the generator's own boxes on a map of one cell, centred at the origin."""
        counts = self.generator.num_anchors_per_location()
        image = ImageList(torch.empty(()).expand(1, 3, *image_size), [image_size])
        boxes: Tensor = self.generator(image, [torch.empty(1, 1, 1, 1) for _ in counts])[0].split(counts)[self.index]
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        return boxes - torch.cat((centres, centres), dim=1)


def derive_levels(network: Any, generator: Any, padding: Padding, size: Size) -> dict[str, Level]:
    """The levels of a torchvision detector from one forward pass of its backbone on a blank image of (height, width).

    Raises:
        EyasError: an anchor generator that is not torchvision's, or not for the backbone's number of levels.
    """
    size = padding.padded(size)
    features = probe(network, size)
    counts = generator.num_anchors_per_location() if hasattr(generator, "num_anchors_per_location") else []
    if len(counts) != len(features):
        raise EyasError(
            f"the backbone returns {len(features)} maps ({', '.join(features)}) but the anchor generator is for "
            f"{len(counts)} levels; give anchor sizes for as many levels as the backbone has"
        )
    steps = generator.steps if isinstance(generator, DefaultBoxGenerator) else None
    strides = steps or [round(size[0] / feature.shape[-2]) for feature in features.values()]
    ranges = box_ranges(network, generator, features, size)
    grid = DefaultBoxGrid if isinstance(generator, DefaultBoxGenerator) else CornerGrid
    found = enumerate(zip(features.items(), strides, ranges, strict=True))
    matched = not isinstance(network, FCOS)  # which takes the centres of cells for points
    return {
        name: Level(feature.shape[1], stride, grid(generator, index, padding), box_range, matched_by_iou=matched)
        for index, ((name, feature), stride, box_range) in found
    }


def cell_layout(generator: Any, maps: Sequence[Tensor]) -> CellLayout:
    """The order of the anchors that a torchvision generator makes for maps (batch, C, H, W), fine to coarse."""
    sizes = tuple(size_of(feature) for feature in maps)
    return CellLayout(sizes, tuple(generator.num_anchors_per_location()))


def probe(network: Any, size: Size) -> dict[str, Tensor]:
    """Tap name -> feature map of a blank image. The modules keep their modes, and no random number is drawn."""
    parameter = next(network.parameters())
    with eval_mode(network), torch.no_grad():
        output = network.backbone(parameter.new_zeros(1, 3, *size))
    return {"backbone": output} if isinstance(output, Tensor) else {f"backbone:{key}": m for key, m in output.items()}


def box_ranges(network: Any, generator: Any, features: Mapping[str, Tensor], size: Size) -> Sequence[BoxRange]:
    """Per level, the range of square roots of box areas assigned to it; None where the detector has no such rule.

    Faster R-CNN: the boxes pooled from the level (FPN paper, equation 1); a level that only proposes has an empty
    range. FCOS: a cell regresses distances between 4 and 8 times its stride; from the centre of a square box they are
    half its side.
    """
    if isinstance(network, FasterRCNN):
        return _pooling_ranges(network.roi_heads.box_roi_pool, features, size)
    if isinstance(network, FCOS):
        # The side of FCOS's one anchor per cell is the stride.
        sides = [float(anchors[0, 2] - anchors[0, 0]) for anchors in generator.cell_anchors]
        lows = [0.0, *(2 * 4 * side for side in sides[1:])]
        highs = [*(2 * 8 * side for side in sides[:-1]), float("inf")]
        return list(zip(lows, highs, strict=True))
    return [None] * len(features)


def _pooling_ranges(pool: MultiScaleRoIAlign, features: Mapping[str, Tensor], size: Size) -> Sequence[BoxRange]:
    by_key = {tap.partition(":")[2] or "0": feature for tap, feature in features.items()}
    # torchvision infers the scales of the levels from the first image it pools, and keeps them. Pooling once here, from
    # an image that every stride divides, makes them right for any first image. Only the sizes of the maps matter; maps
    # of a network on the meta device have no values.
    with torch.device("cpu"):
        blank = {key: torch.zeros(1, 1, *feature.shape[-2:]) for key, feature in by_key.items()}
        pool(blank, [torch.tensor([[0.0, 0.0, 16.0, 16.0]])], [size])
    pooled = [key for key in by_key if key in pool.featmap_names]
    if len(pooled) < 2:
        return [None] * len(by_key)
    mapper = pool.map_levels
    # torchvision adds eps to the logarithm of the size before rounding down.
    edges = [mapper.s0 * 2 ** (k - mapper.lvl0 - mapper.eps) for k in range(mapper.k_min + 1, mapper.k_max + 1)]
    limits = [0.0, *edges, float("inf")]
    # Levels of equal stride share one range, and torchvision pools only from the first of them.
    own = dict(zip(pooled, pairwise(limits), strict=False))
    return [own.get(key, NO_BOXES) for key in by_key]
