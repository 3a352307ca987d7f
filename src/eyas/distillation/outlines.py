"""Views without values: the shapes of a detector's maps, from which anchors, masks and their counts follow."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from eyas.nn.eval_mode import eval_mode
from eyas.nn.taps import some_parameter, tapped_view
from eyas.ops.anchors import AnchorGrid
from eyas.types import Detector, Size, View


def anchor_grids(detector: Detector, image_size: Size) -> Sequence[AnchorGrid]:
    """The anchors of every level for an input of (height, width), by a forward pass of a blank image."""
    return Outlines(detector, list(detector.levels), "detector")(image_size, 1).grids


class Outlines:
    """The outlines of a detector's views, at its taps, by image size.

    One blank image of each size runs, as far as the last tap, in evaluation mode.
    """

    def __init__(self, detector: Detector, taps: Sequence[str], role: str) -> None:
        self._detector, self._taps, self._role = detector, tuple(taps), role
        self._shapes: dict[Size, list[torch.Size]] = {}

    def __call__(self, size: Size, images: int) -> View:
        """The view of a batch of images (height, width), whose maps have the right shapes and no memory."""
        if size not in self._shapes:
            blank = torch.zeros(1, 3, *size).to(some_parameter(self._detector))
            with eval_mode(self._detector.network):
                view = tapped_view(self._detector, self._taps, blank, self._role)
            self._shapes[size] = [feature.shape[1:] for feature in view.features]
        maps = [torch.zeros(()).expand(images, *shape) for shape in self._shapes[size]]
        return View(maps, [self._detector.levels[tap] for tap in self._taps], size)
