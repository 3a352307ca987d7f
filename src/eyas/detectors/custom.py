"""Your own detector, from two callables and the names of its feature maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from eyas.detectors.class_names import as_names
from eyas.detectors.deployed import Deployed
from eyas.detectors.padding import Padding
from eyas.nn.eval_mode import eval_mode
from eyas.nn.taps import Taps, floating_parameter
from eyas.ops.anchors import AnchorGrid
from eyas.ops.boxes import clip
from eyas.ops.pixels import pad_right_and_bottom
from eyas.types import EyasError, GridBuilder, Level, NoDetectionsError, Prediction, Size, Target, size_of

Losses = Callable[[nn.Module, Tensor, Sequence[Target]], dict[str, Tensor]]
"""(network in training mode, images (batch, 3, height, width) in [0, 1], targets) -> scalars by name."""
Predict = Callable[[nn.Module, Tensor], list[Prediction]]
"""(network in evaluation mode, images (batch, 3, height, width) in [0, 1]) -> one prediction per image."""


PROBE_SIDES = (240, 448, 512, 480)
"""Sides of blank images, in pixels; most strides that do not divide 256 divide one of them."""
FEW_CELLS = 8
"""Below so many cells, another stride fits as well."""


@dataclass(frozen=True, eq=False)
class PaddedGrid:
    """Builds the anchors of a level for the size that an image is padded to."""

    grid: GridBuilder
    padding: Padding

    def __call__(self, size: Size, image_size: Size) -> AnchorGrid:
        return self.grid(size, self.padding.padded(image_size))


class CustomDetector(nn.Module):
    """Any module that detects; satisfies `eyas.types.Detector`.

    A teacher that is never evaluated needs neither callable: its features are those of ``network(images)``.

    Args:
        network: the module.
        classes: class names in label order.
        losses: computes the detection losses. It shifts labels if the network counts a background, and leaves
            ``ignore`` regions out of the loss if it can.
        predict: computes the detections.
        levels: tap name -> level, with its anchors if it has some. Or tap names alone: a blank image through
            ``network(images)`` then shows channels and strides, and the anchors are those of `StrideGrid`.
        image_size: (height, width) of the blank image.
        deployed: turns the network into a graph that can be exported, an `eyas.detectors.deployed.Deployed`, which pads
            by itself.
        divisor: the network takes only sides that are multiples of this. Images are padded on the right and at the
            bottom, so boxes stay where they are; detections are clipped to the image.
        backbone: name of the submodule that is the backbone, where parts of it are to be frozen, or learn more slowly.

    Raises:
        EyasError: a backbone or tap name that is not a submodule, or a tapped output that is not a (batch, channels,
            height, width) map.
    """

    def __init__(
        self,
        network: nn.Module,
        classes: Sequence[str],
        *,
        losses: Losses | None = None,
        predict: Predict | None = None,
        levels: Mapping[str, Level] | Sequence[str],
        image_size: Size = (256, 256),
        deployed: Callable[[nn.Module], Deployed] | None = None,
        divisor: int = 1,
        backbone: str | None = None,
    ) -> None:
        super().__init__()
        if isinstance(levels, str):
            raise EyasError(f"CustomDetector: levels are a list of names; for one level write [{levels!r}]")
        if divisor < 1:
            raise EyasError(f"CustomDetector: divisor is a number of pixels, at least 1, got {divisor}")
        if backbone is not None and backbone not in dict(network.named_modules()):
            raise EyasError(f"CustomDetector: there is no submodule {backbone!r} to be the backbone")
        self.network, self._padding, self.backbone_name = network, Padding(divisor), backbone
        self.classes = as_names(classes)
        self._losses, self._predict, self._deployed = losses, predict, deployed
        if isinstance(levels, Mapping):
            found = {name: self._padded_level(level) for name, level in levels.items()}
        else:
            found = probe_levels(network, levels, image_size, self._padding)
        if not found:
            raise EyasError("CustomDetector needs at least one level: give the name of a submodule that returns a map")
        self.levels = dict(sorted(found.items(), key=lambda item: item[1].stride))

    def forward(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The same as `losses`."""
        return self.losses(images, targets)

    def losses(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The losses of the given callable. Raises EyasError when there is none."""
        if self._losses is None:
            raise EyasError("this CustomDetector was made without `losses`, so it can be a teacher only")
        return self._losses(self.network, self._padded(images), targets)

    def predict(self, images: Tensor) -> list[Prediction]:
        """The detections of the given callable. Without one, runs the network, then raises NoDetectionsError."""
        padded = self._padded(images)
        if self._predict is not None:
            found = self._predict(self.network, padded)
            return found if padded is images else [_inside(one, size_of(images)) for one in found]
        self.network(padded)
        raise NoDetectionsError(
            "this CustomDetector was made without `predict`: it has feature maps, but no detections"
        )

    def _padded(self, images: Tensor) -> Tensor:
        return pad_right_and_bottom(images, *self._padding.padded(size_of(images)))

    def _padded_level(self, level: Level) -> Level:
        """The level, whose anchors are those of the padded image."""
        if self._padding.divisible == 1:
            return level
        return replace(level, grid=PaddedGrid(level.grid, self._padding))

    def deployed(self) -> Deployed:
        """The graph to export. Raises EyasError when the detector was made without one."""
        if self._deployed is None:
            raise EyasError(
                "this CustomDetector was made without `deployed`, so there is nothing to export: what `predict` does "
                "cannot be traced in general"
            )
        return self._deployed(self.network)


def _inside(found: Prediction, size: Size) -> Prediction:
    """Detections clipped to an image of (height, width), without those that lie in its padding."""
    boxes = clip(found["boxes"], size)
    kept = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    return Prediction(boxes=boxes[kept], scores=found["scores"][kept], labels=found["labels"][kept])


def probe_levels(network: nn.Module, names: Sequence[str], image_size: Size, padding: Padding) -> dict[str, Level]:
    """Channels and strides of tapped maps, from blank images; the modules keep their modes.

    Raises:
        EyasError: an output is no map, or its stride is not the same along both axes, or no whole number of cells fits
            any of the images.
    """
    image_size = padding.padded(image_size)
    maps = _blank_maps(network, names, image_size)
    strides = {name: _stride(image_size, size_of(found)) for name, found in maps.items()}
    for height, width in (image_size, *(padding.padded((side, side)) for side in PROBE_SIDES)):
        if None not in strides.values():
            break
        # Unpadded convolutions lose some cells at the border, as many in an image of twice the size.
        small, large = (_blank_maps(network, names, (times * height, times * width)) for times in (1, 2))
        for name, stride in strides.items():
            (rows, columns), (more_rows, more_columns) = size_of(small[name]), size_of(large[name])
            more = more_rows - rows, more_columns - columns
            if stride is None and min(more) >= FEW_CELLS:
                strides[name] = _stride((height, width), more)
    for name, stride in strides.items():
        if stride is None:
            raise EyasError(
                f"the stride of {name!r} cannot be measured: its map of an image of {image_size} pixels has "
                f"{size_of(maps[name])} cells; state it, as levels={{{name!r}: eyas.Level(channels, stride)}}"
            )
    return {name: Level(channels=maps[name].shape[1], stride=cast(int, strides[name])) for name in names}


def _blank_maps(network: nn.Module, names: Sequence[str], image_size: Size) -> dict[str, Tensor]:
    """The tapped maps of a blank image. Raises EyasError for an output that is no map."""
    with eval_mode(network), torch.no_grad(), Taps(network, names, stop=True) as taps:
        network(floating_parameter(network).new_zeros(1, 3, *image_size))
    for name, feature in taps.features.items():
        if feature.ndim != 4:
            raise EyasError(
                f"the output tapped as {name!r} is {tuple(feature.shape)}, not (1, channels, height, width)"
            )
    return taps.features


def _stride(pixels: Size, cells: Size) -> int | None:
    """Pixels to a cell where it is a whole number, the same along both axes, and no other would fit; else None."""
    if min(cells) < 1 or any(side % count for side, count in zip(pixels, cells, strict=True)):
        return None
    height, width = (side // count for side, count in zip(pixels, cells, strict=True))
    usual = height & (height - 1) == 0  # a power of two
    return height if height == width and (usual or min(cells) >= FEW_CELLS) else None
