"""What the adapter asks of a family, YOLOv9 or YOLOX, and what both share.

A head's maps have all outputs of a cell as channels, (batch, channels, H, W), one map per level. The cells of all
levels, A of them, are in the order of levels, rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from eyas.detectors.deployed import Candidates
from eyas.ops.cells import CellLayout
from eyas.types import HeadOutput, HeadOutputs, MatchedAnchors, Size, Target, size_of

Outputs = tuple[Tensor, ...]
"""The head outputs, (batch, A, ...) float32 each, in the order of `Family.raw_names`."""


class Family(Protocol):
    """One of libreyolo's families around a network of it.

    Attributes:
        key: the library's name of the family, as in its checkpoints.
        backbone: name of the image network, without the feature pyramid.
        strides: of the levels, pixels.
        raw_names: names of the head outputs.
        head_names: names of the heads that can be distilled.
    """

    key: str
    backbone: str
    strides: tuple[int, ...]
    raw_names: tuple[str, ...]
    head_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """The number of classes that the head distinguishes."""

    def pixels(self, images: Tensor) -> Tensor:
        """RGB images in [0, 1] as the network takes them."""

    def maps(self, batch: Tensor) -> list[Tensor]:
        """The head's maps of a batch as `pixels` gives it, float32, fine to coarse."""

    def split(self, maps: Sequence[Tensor]) -> Outputs:
        """The head outputs in the maps."""

    def losses(self, maps: Sequence[Tensor], targets: Sequence[Target], size: Size) -> dict[str, Tensor]:
        """The library's loss terms, weighted by it, of a batch of (height, width)."""

    def losses_and_heads(
        self, maps: Sequence[Tensor], targets: Sequence[Target], size: Size
    ) -> tuple[dict[str, Tensor], HeadOutputs]:
        """`losses`, and the heads with the rows that these count."""

    def heads(self, maps: Sequence[Tensor]) -> dict[str, HeadOutput]:
        """Every head by name."""

    def candidates(self, outputs: Outputs, cells: Tensor) -> Candidates:
        """What enters NMS: boxes of any extent, their scores and labels."""


def cells_of(maps: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
    """Column, row and stride in pixels of every cell of the maps, (A, 3) float32. Sizes may be open in a trace."""
    found = []
    for feature, stride in zip(maps, strides, strict=True):
        height, width = feature.shape[-2:]
        axes = (torch.arange(side, device=feature.device, dtype=torch.float32) for side in (height, width))
        rows, columns = torch.meshgrid(*axes, indexing="ij")
        found.append(torch.stack((columns, rows, torch.full_like(rows, stride)), dim=-1).reshape(-1, 3))
    return torch.cat(found)


def layout_of(maps: Sequence[Tensor]) -> CellLayout:
    """One row for each cell of the maps."""
    return CellLayout(tuple(size_of(feature) for feature in maps), (1,) * len(maps))


def anchors_of(cells: Tensor) -> Tensor:
    """The cells themselves as boxes, (A, 4) xyxy in pixels: what stands for anchors in detectors without any."""
    return torch.cat((cells[:, :2], cells[:, :2] + 1), dim=1) * cells[:, 2:]


def as_cells(anchors: Tensor) -> Tensor:
    """Column, row and stride of cells (n, 4) as boxes, (n, 3): the inverse of `anchors_of`."""
    stride = anchors[:, 2:3] - anchors[:, :1]
    return torch.cat((anchors[:, :2] / stride, stride), dim=1)


def flat(maps: Sequence[Tensor]) -> Tensor:
    """(batch, A, channels)."""
    return torch.cat([feature.flatten(2) for feature in maps], dim=2).transpose(1, 2)


def packed(targets: Sequence[Target], boxes: Sequence[Tensor]) -> Tensor:
    """Targets as the library's losses take them, (batch, most, 5): the class, then the box in the family's form.

    Images with fewer objects than the most have rows of zeros, which both families take for none.
    """
    rows = [
        torch.cat((target["labels"][:, None].to(box), box), dim=1) for target, box in zip(targets, boxes, strict=True)
    ]
    return pad_sequence(rows, batch_first=True)


def with_matched(heads: Mapping[str, HeadOutput], matched: Mapping[str, MatchedAnchors]) -> HeadOutputs:
    """The heads of a training pass, each with the rows that the losses count."""
    return HeadOutputs({name: replace(head, matched=matched[name]) for name, head in heads.items()})


@contextmanager
def inputs_of(*modules: nn.Module) -> Iterator[list[list[tuple[Any, ...]]]]:
    """The arguments of every call of each module within the context."""
    calls: list[list[tuple[Any, ...]]] = [[] for _ in modules]
    handles = [
        module.register_forward_pre_hook(lambda _, arguments, to=found: to.append(arguments))
        for module, found in zip(modules, calls, strict=True)
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
