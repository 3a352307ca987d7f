"""A detector small enough to compute by hand, with two feature levels of stride 8 and 16."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from eyas.ops.anchors import AnchorGrid, ratio_cell_anchors
from eyas.types import HeadOutputs, Level, Prediction, Size, Target


def toy_grid(size: Size, image_size: Size) -> AnchorGrid:
    """Two square anchors per cell, centred in it: three and five cells wide."""
    step = (image_size[0] / size[0], image_size[1] / size[1])
    cell_anchors = torch.cat([ratio_cell_anchors(side * step[0], (1.0,)) for side in (3, 5)])
    return AnchorGrid(cell_anchors, size, step, (step[0] / 2, step[1] / 2))


class Neck(nn.Module):
    """Strides 8 and 16 from the image, in one mapping."""

    def __init__(self, channels: int, *, norm: bool, dropout: float) -> None:
        super().__init__()
        self.fine = nn.Conv2d(3, channels, 8, stride=8)
        self.norm = nn.BatchNorm2d(channels) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.coarse = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        fine = self.dropout(self.norm(self.fine(images)).relu())
        return {"fine": fine, "coarse": self.coarse(fine)}


class ToyDetector(nn.Module):
    """Satisfies `eyas.types.Detector`. Its loss draws the mean of one head map per level to the number of boxes."""

    def __init__(
        self, channels: int = 4, *, norm: bool = False, dropout: float = 0.0, strides: tuple[int, int] = (8, 16)
    ) -> None:
        super().__init__()
        self.classes = ("thing",)
        self.neck = Neck(channels, norm=norm, dropout=dropout)
        self.heads = nn.ModuleDict({"fine": nn.Conv2d(channels, 1, 1), "coarse": nn.Conv2d(2 * channels, 1, 1)})
        self.levels = {
            "neck:fine": Level(channels, strides[0], toy_grid),
            "neck:coarse": Level(2 * channels, strides[1], toy_grid),
        }
        self.predictions = 0

    @property
    def network(self) -> nn.Module:
        return self

    def head_losses(self, features: dict[str, Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        counts = torch.tensor([len(target["boxes"]) for target in targets], dtype=features["fine"].dtype)
        found = {name: self.heads[name](feature).mean((1, 2, 3)) for name, feature in features.items()}
        return {f"loss_{name}": (value - counts).square().mean() for name, value in found.items()}

    def losses(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        return self.head_losses(self.neck(images), targets)

    def predict(self, images: Tensor) -> list[Prediction]:
        self.predictions += 1
        features = self.neck(images)
        for name, head in self.heads.items():
            head(features[name])
        nothing: Prediction = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0).long()}
        return [nothing for _ in images]


class ScoringToy(ToyDetector):
    """A teacher that scores the cells of the levels in ``scored``: 1 where they are brighter than usual, else 0."""

    scored = ("neck:fine", "neck:coarse")

    def losses_and_heads(self, images: Tensor, targets: Sequence[Target]) -> tuple[dict[str, Tensor], HeadOutputs]:
        raise AssertionError("a teacher is not trained")

    def score_boxes(
        self, images: Tensor, boxes: Mapping[str, Sequence[Tensor]], *, proposals: bool = False, scores: bool = False
    ) -> HeadOutputs:
        assert scores and not proposals and not boxes and not torch.is_grad_enabled()
        maps = self.neck(images)
        found = {f"neck:{name}": (feature.mean(1) > feature.mean()).float() for name, feature in maps.items()}
        return HeadOutputs(scores={name: found[name] for name in self.scored})


def toy_target(*boxes: tuple[float, float, float, float]) -> Target:
    return {"boxes": torch.tensor(boxes).view(-1, 4), "labels": torch.zeros(len(boxes), dtype=torch.int64)}


def toy_batch(size: Size = (64, 96)) -> tuple[Tensor, list[Target]]:
    """Two images, three boxes on the first and one on the second."""
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(7))
    first = toy_target((8, 8, 30, 30), (50, 20, 95, 60), (0, 40, 20, 64))
    return images, [first, toy_target((30, 4, 76, 50))]


def seeded(seed: int, channels: int = 4, *, norm: bool = False, dropout: float = 0.0) -> ToyDetector:
    """A toy whose weights depend on the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ToyDetector(channels, norm=norm, dropout=dropout)


def relative(value: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what is expected."""
    value, expected = value.detach().double(), expected.detach().double()
    return float((value - expected).norm() / expected.norm().clamp(min=1e-30))
