"""YOLOv9 of libreyolo: RGB in [0, 1], boxes as distributions of distances from the centres of cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from eyas.detectors.deployed import Candidates, take_rows, top_scores
from eyas.detectors.libreyolo.family import (
    Outputs,
    anchors_of,
    as_cells,
    cells_of,
    flat,
    inputs_of,
    layout_of,
    packed,
    with_matched,
)
from eyas.detectors.libreyolo.names import of_libreyolo
from eyas.types import HeadOutput, HeadOutputs, MatchedAnchors, Size, Target

TERMS = ("box_loss", "dfl_loss", "cls_loss")
"""The differentiable terms of the loss. The library's dictionary also has their sum, and detached copies."""
CODING = ("ltrb", "strides")
"""Distances from the centre of a cell to the left, top, right and bottom side, in strides."""
SIDES = 4
CANDIDATES = 30_000
"""Pairs of cell and class that enter NMS at most, as in the library."""


class YoloV9:
    """Satisfies `eyas.detectors.libreyolo.family.Family`.

    Its heads are ``anchors``, a sigmoid for each class with the distributions of the distances, and the expected
    distances as deltas; and ``distances``, the same distributions as a softmax with four rows for each cell: left, top,
    right, bottom. Bin b stands for b strides.
    """

    key, backbone = "yolo9", "backbone"
    raw_names: tuple[str, ...] = ("class_logits", "distance_logits")
    head_names: tuple[str, ...] = ("anchors", "distances")

    def __init__(self, network: Any, strides: tuple[int, ...]) -> None:
        self.network, self.strides = network, strides
        network.disable_aux()
        self._criterion: Any = None

    @property
    def num_classes(self) -> int:
        return int(self.network.nc)

    def pixels(self, images: Tensor) -> Tensor:
        return images

    def maps(self, batch: Tensor) -> list[Tensor]:
        head, features = self.network.head, self.network.neck(*self.network.backbone(batch))
        towers = zip(head.cv2, head.cv3, features, strict=True)
        return [torch.cat((box(feature), score(feature)), dim=1).float() for box, score, feature in towers]

    def split(self, maps: Sequence[Tensor]) -> Outputs:
        bins, classes = self.network.head.reg_max, self.network.head.nc
        distances, scores = flat(maps).split((SIDES * bins, classes), dim=2)
        return scores, distances.unflatten(2, (SIDES, bins))

    def losses(self, maps: Sequence[Tensor], targets: Sequence[Target], size: Size) -> dict[str, Tensor]:
        found = self._loss(maps[0].device, size)(list(maps), labels(targets, size))
        return {name: found[name] for name in TERMS}

    def losses_and_heads(
        self, maps: Sequence[Tensor], targets: Sequence[Target], size: Size
    ) -> tuple[dict[str, Tensor], HeadOutputs]:
        criterion = self._loss(maps[0].device, size)
        with inputs_of(criterion.cls_loss, criterion.box_loss) as (class_calls, box_calls):
            losses = self.losses(maps, targets, size)
        cells = cells_of(maps, self.strides)
        ((_, _, divisor),) = class_calls
        matched = matched_cells(box_calls, cells, len(targets), divisor)
        return losses, with_matched(self.heads(maps), matched)

    def heads(self, maps: Sequence[Tensor]) -> dict[str, HeadOutput]:
        logits, distances = self.split(maps)
        anchors = [anchors_of(cells_of(maps, self.strides))] * len(logits)
        deltas = expected(distances).reshape(-1, 1, SIDES)
        each = [boxes.repeat_interleave(SIDES, dim=0) for boxes in anchors]
        return {
            "anchors": HeadOutput(
                anchors,
                logits.flatten(0, 1),
                "sigmoid",
                deltas=deltas,
                coding=CODING,
                layout=layout_of(maps),
                decoder=decode,
                distributions=distances.flatten(0, 1),
            ),
            "distances": HeadOutput(each, distances.flatten(0, 2), "softmax", coding=CODING),
        }

    def candidates(self, outputs: Outputs, cells: Tensor) -> Candidates:
        """The best pairs of a cell and a class."""
        logits, distances = outputs
        classes = logits.shape[2]
        scores, pairs = top_scores(logits.sigmoid().flatten(1), CANDIDATES)
        boxes = to_boxes(expected(distances), cells)
        return Candidates(take_rows(boxes, pairs // classes), scores, pairs % classes)

    def _loss(self, device: torch.device, size: Size) -> Any:
        """The library's loss for images of (height, width). Its points stay on the device from batch to batch."""
        head = self.network.head
        if self._criterion is None or self._criterion.device != device:
            self._criterion = of_libreyolo("YOLO9Loss")(
                num_classes=head.nc,
                reg_max=head.reg_max,
                strides=list(self.strides),
                image_size=None,
                device=device,
            )
        self._criterion.update_anchors([size[1], size[0]])
        return self._criterion


def labels(targets: Sequence[Target], size: Size) -> Tensor:
    """(batch, most, 5): class, then x1, y1, x2, y2 as fractions of the batch's (height, width)."""
    # Divided by numbers of the host: a tensor of them would be copied to the device in every step.
    height, width = size
    parts = [(target["boxes"][:, 0::2] / width, target["boxes"][:, 1::2] / height) for target in targets]
    return packed(targets, [torch.stack(part, dim=-1).flatten(1) for part in parts])


def expected(distances: Tensor) -> Tensor:
    """The expected distances, (..., bins) logits to (...), in strides."""
    bins = torch.arange(distances.shape[-1], device=distances.device, dtype=distances.dtype)
    return (distances.softmax(dim=-1) * bins).sum(dim=-1)


def to_boxes(distances: Tensor, cells: Tensor) -> Tensor:
    """Distances (batch, A, 4) in strides from the centres of cells (A, 3) to boxes, xyxy in pixels."""
    centres = cells[:, :2] + 0.5
    return torch.cat((centres - distances[..., :2], centres + distances[..., 2:]), dim=-1) * cells[:, 2:]


def decode(distances: Tensor, anchors: Tensor) -> Tensor:
    """Distances (n, 4) in strides from the centres of cells, which are (n, 4) boxes, to boxes, xyxy in pixels."""
    return to_boxes(distances, as_cells(anchors))


def matched_cells(
    calls: Sequence[tuple[Any, ...]], cells: Tensor, batch: int, divisor: Tensor
) -> dict[str, MatchedAnchors]:
    """What both heads are trained on, from the arguments of the library's box loss; no call: no cell is positive.

    The class loss counts all cells. The loss of distances counts those of the positive cells, and averages over the
    four sides. The divisor, the sum of the class targets, is averaged over processes already.
    """
    count = batch * len(cells)
    positives, targets = torch.zeros(0, dtype=torch.int64, device=cells.device), cells.new_zeros(0, SIDES)
    for _, boxes, valid, *_ in calls:  # at most one; boxes are (batch, A, 4) xyxy in strides
        positives = torch.where(valid.flatten())[0]
        own, centres = boxes.flatten(0, 1)[positives], (cells[:, :2] + 0.5)[positives % len(cells)]
        targets = torch.cat((centres - own[:, :2], own[:, 2:] - centres), dim=1)
    rows, slots = torch.arange(count, device=cells.device), torch.zeros_like(positives)
    sides = (positives[:, None] * SIDES + torch.arange(SIDES, device=cells.device)).flatten()
    none = positives[:0]
    return {
        "anchors": MatchedAnchors(rows, positives, slots, targets, divisor, "cls_loss", "box_loss"),
        "distances": MatchedAnchors(sides, none, none, targets[:0], SIDES * divisor, "dfl_loss", ""),
    }
