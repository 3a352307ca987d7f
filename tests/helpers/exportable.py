"""A detector that is exported in a second: two convolutions, decoding, NMS."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from eyas.detectors import CustomDetector
from eyas.detectors.deployed import Candidates, Deployed, as_predictions, detections
from eyas.types import Prediction, Size, Target
from helpers.tiny import CLASSES

STRIDE = 8


class Cells(nn.Module):
    """Images to (batch, 6, height / 8, width / 8): logits of two classes, and the sides of a box."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, STRIDE, STRIDE), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.1))
        self.head = nn.Conv2d(16, 6, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


class CellsGraph(Deployed):
    raw_names = ("logits", "sides")

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def raw(self, images: Tensor) -> tuple[tuple[Tensor, ...], Sequence[int]]:
        maps = self.network(images)
        return (maps[:, :2], maps[:, 2:]), []

    def detect(self, raw: Sequence[Tensor], rows: Sequence[int], size: Size) -> Candidates:
        logits, sides = (one.flatten(2).transpose(1, 2) for one in raw)
        height, width = raw[0].shape[-2:]
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        centres = (torch.stack((x, y), dim=2).view(1, -1, 2) + 0.5) * STRIDE
        boxes = torch.cat((centres - 16 * sides[..., :2].sigmoid(), centres + 16 * sides[..., 2:].sigmoid()), dim=2)
        scores, labels = logits.sigmoid().max(dim=2)
        return detections(Candidates(boxes, scores, labels), 2, threshold=0.3, nms=0.3, count=20)


def cells_detector(seed: int = 0, graph: type[Deployed] | None = CellsGraph) -> CustomDetector:
    """In training mode, with random weights, and statistics of noise in its BatchNorm."""
    torch.manual_seed(seed)
    network = Cells()
    with torch.no_grad():
        network(torch.rand(8, 3, 64, 64))
        network.head.weight.mul_(3)

    def predict(module: nn.Module, images: Tensor) -> list[Prediction]:
        return as_predictions(Candidates(*CellsGraph(module)(images)[-3:]))

    def losses(module: nn.Module, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        return {"loss": module(images).square().mean()}

    return CustomDetector(network, CLASSES, losses=losses, predict=predict, levels=["body"], deployed=graph).train()
