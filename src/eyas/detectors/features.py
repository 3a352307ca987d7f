"""A source of features: a network from an image to maps, such as DINOv2, which a student can imitate.

Such a network has an input of its own: another normalisation, and a size that is a multiple of its patches. Here the
images come as the student sees them, and the maps lie on the student's grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eyas.nn.eval_mode import eval_mode
from eyas.nn.failures import describe_failure
from eyas.nn.taps import floating_parameter
from eyas.ops.pixels import pad_right_and_bottom
from eyas.types import EyasError, Level, NoDetectionsError, Size, Target

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""For RGB in [0, 1]: what DINOv2, DINOv3 and most networks that saw ImageNet take."""
PROBED: Size = (6, 8)
"""(rows, columns) of cells of the blank image that shows a network's maps; unequal, to show that sides may differ."""


class FeatureSource(nn.Module):
    """A network without classes, heads or detections, as a teacher of features; satisfies `eyas.types.Detector`.

    Images are padded to a multiple of ``stride``, resized so that ``stride`` pixels become ``cell``, and normalised.
    Cell j of the coarsest map then covers exactly the pixels from ``j * stride`` to ``(j + 1) * stride``.

    Args:
        body: normalised images (batch, 3, height, width) to a map (batch, channels, rows, columns), or to a sequence or
            mapping of maps, of which the last of each stride counts. A transformer's CLS and register tokens are left
            out, and the others reshaped.
        cell: pixels of its own input to a cell of its coarsest map: the patch size of a vision transformer, 32 for most
            CNNs. Its input has sides that are multiples of this.
        stride: pixels of the student's image to a cell of the coarsest map; ``cell`` when left out, which leaves the
            images their size.
        mean: of its normalisation, for RGB in [0, 1].
        std: likewise.

    Attributes:
        levels: ``maps:16`` and so on -> level, by the stride in the student's image.

    Raises:
        EyasError: a map is of another shape or stride, or the body fails.
    """

    classes: tuple[str, ...] = ()

    def __init__(
        self,
        body: nn.Module,
        *,
        cell: int,
        stride: int | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        stride = cell if stride is None else stride
        if cell < 1 or stride < 1:
            raise EyasError(f"FeatureSource: cell and stride are pixels, at least 1, got {cell} and {stride}")
        if min(std) <= 0:
            raise EyasError(f"FeatureSource: std is above 0, got {tuple(std)}")
        found = [_level(shape, cell, stride) for shape in _probe(body, cell)]
        names = [f"maps:{level.stride}" for level in found]
        self.levels = dict(sorted(zip(names, found, strict=True), key=lambda item: item[1].stride))
        self.maps = StudentFrame(body, [name.partition(":")[2] for name in names], cell, stride, mean, std)

    @property
    def network(self) -> nn.Module:
        """Itself: `maps` is its one submodule."""
        return self

    def predict(self, images: Tensor) -> NoReturn:
        """Run the network, then raise NoDetectionsError."""
        self.maps(images)
        raise NoDetectionsError("a source of features has feature maps, but no detections: it can be a teacher only")

    def losses(self, images: Tensor, targets: Sequence[Target]) -> NoReturn:
        """Always raises EyasError."""
        raise EyasError("a source of features has no losses: it can be a teacher only")


class StudentFrame(nn.Module):
    """The maps of a network for images as the student sees them; arguments as for `FeatureSource`."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, body: nn.Module, names: Sequence[str], cell: int, stride: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.body, self.names, self.cell, self.stride = body, tuple(names), cell, stride
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (batch, 3, height, width) in [0, 1] to maps by name."""
        rows, columns = (-(-side // self.stride) for side in images.shape[-2:])
        seen = pad_right_and_bottom(images, rows * self.stride, columns * self.stride)
        size = (rows * self.cell, columns * self.cell)
        if seen.shape[-2:] != size:
            seen = F.interpolate(seen.float(), size, mode="bilinear", align_corners=False, antialias=True)
        normalised = (seen - self.mean) / self.std
        like = next(self.body.parameters(), self.mean)
        return dict(zip(self.names, _maps(self.body(normalised.to(like.dtype))), strict=True))


def _maps(output: Any) -> list[Tensor]:
    """What a body returns, as a list."""
    if isinstance(output, Tensor):
        return [output]
    return list(output.values() if isinstance(output, Mapping) else output)


def _probe(body: nn.Module, cell: int) -> list[torch.Size]:
    """The shapes of a body's maps for a blank image of `PROBED` cells; its modules keep their modes."""
    like = floating_parameter(body)
    try:
        with eval_mode(body), torch.no_grad():
            return [found.shape for found in _maps(body(like.new_zeros(1, 3, *(side * cell for side in PROBED))))]
    except Exception as error:
        height, width = (side * cell for side in PROBED)
        raise EyasError(
            f"FeatureSource: the network fails on a blank image of {height} x {width} (height x width), or returns no "
            f"maps: {describe_failure(error)}"
        ) from error


def _level(shape: torch.Size, cell: int, stride: int) -> Level:
    """The level of a map of this shape, in the student's image. Raises EyasError for a shape that is none."""
    if len(shape) != 4:
        raise EyasError(
            f"FeatureSource: the network returns {tuple(shape)}, not (1, channels, rows, columns): leave out the "
            "tokens that belong to no patch, and reshape the others"
        )
    finer, rest = divmod(shape[-1], PROBED[1])
    if rest or not finer or shape[-2] != finer * PROBED[0]:
        asked, cells = " x ".join(str(side * cell) for side in PROBED), " x ".join(map(str, PROBED))
        raise EyasError(
            f"FeatureSource: for an image of {asked} the network returns a map of {shape[-2]} x {shape[-1]}, which is "
            f"no multiple of {cells}: cell, now {cell}, is not the pixels to a cell of its coarsest map"
        )
    if stride % finer:
        raise EyasError(f"FeatureSource: a map would have a stride of {stride}/{finer} pixels; choose another stride")
    return Level(channels=shape[1], stride=stride // finer)
