"""YOLOX of libreyolo: BGR from 0 to 255, a box and an objectness for each cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from eyas.detectors.deployed import Candidates
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
from eyas.ops.boxes import to_centre_size
from eyas.types import HeadOutput, HeadOutputs, MatchedAnchors, Size, Target

TERMS = ("iou_loss", "obj_loss", "cls_loss")
"""The terms of the loss; ``l1_loss`` is one more where the head has it switched on."""
CODING = ("yolox",)
"""In strides: the centre's distance from the cell's upper left corner, and the logarithms of width and height."""


class YoloX:
    """Satisfies `eyas.detectors.libreyolo.family.Family`.

    Its heads are ``anchors``, a sigmoid for each class with box deltas, and ``objectness``, a sigmoid.

    The library's assignment waits for the device once per image, and several times per object.
    """

    key, backbone = "yolox", "backbone.backbone"
    raw_names: tuple[str, ...] = ("class_logits", "object_logits", "box_deltas")
    head_names: tuple[str, ...] = ("anchors", "objectness")

    def __init__(self, network: Any, strides: tuple[int, ...]) -> None:
        self.network, self.strides = network, strides

    @property
    def num_classes(self) -> int:
        return int(self.network.nb_classes)

    def pixels(self, images: Tensor) -> Tensor:
        return images.flip(1) * 255

    def maps(self, batch: Tensor) -> list[Tensor]:
        head, found = self.network.head, []
        for level, feature in enumerate(self.network.backbone(batch)):
            stem = head.stems[level](feature)
            scores, boxes = head.cls_convs[level](stem), head.reg_convs[level](stem)
            outputs = (head.reg_preds[level](boxes), head.obj_preds[level](boxes), head.cls_preds[level](scores))
            found.append(torch.cat(outputs, dim=1).float())
        return found

    def split(self, maps: Sequence[Tensor]) -> Outputs:
        deltas, objects, scores = flat(maps).split((4, 1, self.network.head.num_classes), dim=2)
        return scores, objects.squeeze(2), deltas

    def losses(self, maps: Sequence[Tensor], targets: Sequence[Target], size: Size) -> dict[str, Tensor]:
        head, (scores, objects, deltas) = self.network.head, self.split(maps)
        cells = cells_of(maps, self.strides)
        columns, rows, strides = cells.T[:, None]
        outputs = torch.cat((to_centre_boxes(deltas, cells), objects[..., None], scores), dim=2)
        # As `YOLOXHead.forward` does it, with all levels at once; the images are not read.
        found = head.get_losses(
            None, [columns], [rows], [strides], labels(targets), outputs, [deltas.contiguous()], dtype=outputs.dtype
        )
        return {name: found[name] for name in (*TERMS, *(("l1_loss",) if head.use_l1 else ()))}

    def losses_and_heads(
        self, maps: Sequence[Tensor], targets: Sequence[Target], size: Size
    ) -> tuple[dict[str, Tensor], HeadOutputs]:
        head = self.network.head
        with inputs_of(head.iou_loss, head.bcewithlog_loss) as (box_calls, binary_calls):
            losses = self.losses(maps, targets, size)
        cells = cells_of(maps, self.strides)
        (_, boxes), (_, objects) = box_calls[0], binary_calls[0]  # the first binary loss is that of the objectness
        matched = matched_cells(boxes, objects.flatten(), cells)
        return losses, with_matched(self.heads(maps), matched)

    def heads(self, maps: Sequence[Tensor]) -> dict[str, HeadOutput]:
        scores, objects, deltas = self.split(maps)
        anchors, layout = [anchors_of(cells_of(maps, self.strides))] * len(scores), layout_of(maps)
        return {
            "anchors": HeadOutput(
                anchors,
                scores.flatten(0, 1),
                "sigmoid",
                deltas=deltas.reshape(-1, 1, 4),
                coding=CODING,
                layout=layout,
                decoder=decode,
            ),
            "objectness": HeadOutput(anchors, objects.reshape(-1, 1), "sigmoid", layout=layout),
        }

    def candidates(self, outputs: Outputs, cells: Tensor) -> Candidates:
        """The best class of each cell."""
        logits, objects, deltas = outputs
        scores, classes = (objects.sigmoid()[..., None] * logits.sigmoid()).max(dim=2)
        return Candidates(to_corners(to_centre_boxes(deltas, cells)), scores, classes)


def labels(targets: Sequence[Target]) -> Tensor:
    """(batch, most, 5): class, then centre x, centre y, width and height in pixels."""
    return packed(targets, [to_centre_size(target["boxes"]) for target in targets])


def to_centre_boxes(deltas: Tensor, cells: Tensor) -> Tensor:
    """Deltas (batch, A, 4) at cells (A, 3) to boxes, (batch, A, 4): centre x, centre y, width and height in pixels."""
    return torch.cat((deltas[..., :2] + cells[:, :2], deltas[..., 2:].exp()), dim=-1) * cells[:, 2:]


def to_corners(boxes: Tensor) -> Tensor:
    """(..., 4): centre x, centre y, width and height to xyxy."""
    half = boxes[..., 2:] / 2
    return torch.cat((boxes[..., :2] - half, boxes[..., :2] + half), dim=-1)


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Deltas (n, 4) at cells, which are (n, 4) boxes, to boxes, xyxy in pixels."""
    return to_corners(to_centre_boxes(deltas, as_cells(anchors)))


def matched_cells(boxes: Tensor, objects: Tensor, cells: Tensor) -> dict[str, MatchedAnchors]:
    """What both heads are trained on.

    The losses of classes and boxes count the positive cells, that of the objectness all; each is divided by the number
    of positive ones, at least 1.

    Args:
        boxes: (P, 4) centre and size in pixels, of the object of each positive cell.
        objects: (batch * A,): 1 where a cell is positive, else 0.
        cells: (A, 3).
    """
    positives = torch.where(objects > 0)[0]
    own, divisor = cells[positives % len(cells)], objects.sum()
    targets = torch.cat((boxes[:, :2] / own[:, 2:] - own[:, :2], (boxes[:, 2:] / own[:, 2:]).log()), dim=1)
    slots, none = torch.zeros_like(positives), positives[:0]
    everywhere = torch.arange(len(objects), device=objects.device)
    return {
        "anchors": MatchedAnchors(positives, positives, slots, targets, divisor, "cls_loss", "iou_loss", least=1),
        "objectness": MatchedAnchors(everywhere, none, none, targets[:0], divisor, "obj_loss", "", least=1),
    }
