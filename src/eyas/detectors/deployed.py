"""Detectors as graphs of fixed output shapes: what an exporter can trace, for any number of images at once.

A detector's own post-processing lets the data decide the shapes: scores above a threshold, boxes that NMS leaves. Here
candidates keep their places and those that drop out get the score -1, so that every shape follows from the input's.
The detections are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms

from eyas.detectors.padding import Padding
from eyas.types import Prediction, Size

DROPPED = -1.0
"""The score of a candidate that is out, and of an empty place."""


class Candidates(NamedTuple):
    """Boxes on their way to detections; M places per image."""

    boxes: Tensor
    """(batch, M, 4) float32, xyxy, pixels."""
    scores: Tensor
    """(batch, M) float32 in [0, 1], or `DROPPED`."""
    labels: Tensor
    """(batch, M) int64."""


class Deployed(nn.Module):
    """A detector in evaluation mode as a graph: images to its heads' outputs and its detections.

    Attributes:
        raw_names: names of the heads' outputs.
        matched: those of them whose rows are in an order that the smallest difference changes: ``proposals``, and
            what is said of each.
        coupled: what is said of a proposal depends on the other ones too.
        ordered: and on its place, so that one in another place is another one.
        strict: to be traced by TorchDynamo, which is slower and leaves more open: a detector that takes the ``len`` of
            a batch fixes its size otherwise.
    """

    raw_names: tuple[str, ...] = ()
    matched: tuple[str, ...] = ()
    coupled: bool = False
    ordered: bool = False
    strict: bool = False

    def raw(self, images: Tensor) -> tuple[tuple[Tensor, ...], Sequence[int]]:
        """The heads' outputs for images (batch, 3, height, width) in [0, 1], and how many rows each level has."""
        raise NotImplementedError

    def detect(self, raw: Sequence[Tensor], rows: Sequence[int], size: Size) -> Candidates:
        """Detections from what `raw` gave for images of (height, width), by falling score; see `as_predictions`."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The heads' outputs, then boxes, scores and labels of the detections."""
        raw, rows = self.raw(images)
        return (*raw, *self.detect(raw, rows, (images.shape[-2], images.shape[-1])))


class HeadsOnly(nn.Module):
    """The heads' outputs of a deployed detector and nothing after them."""

    def __init__(self, deployed: Deployed) -> None:
        super().__init__()
        self.deployed = deployed

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images to the outputs that ``deployed.raw_names`` names."""
        return self.deployed.raw(images)[0]


def as_predictions(found: Candidates) -> list[Prediction]:
    """Without the empty places, which have the label -1."""
    predictions: list[Prediction] = []
    for boxes, scores, labels in zip(*found, strict=True):
        real = labels >= 0
        predictions.append({"boxes": boxes[real], "scores": scores[real], "labels": labels[real]})
    return predictions


@torch.library.custom_op("eyas::nms_kept", mutates_args=())
def nms_kept(boxes: Tensor, scores: Tensor, groups: Tensor, num_groups: int, threshold: float) -> Tensor:
    """Which candidates NMS leaves, image by image and group by group: (batch, M) bool.

    An operator of its own, because ONNX has NMS for a batch and PyTorch has not; exporters translate it.

    Args:
        boxes: (batch, M, 4) xyxy.
        scores: (batch, M); those below 0 are out, and suppress nothing.
        groups: (batch, M) int64 in [0, num_groups): only boxes of one group suppress each other.
        num_groups: how many there are.
        threshold: IoU above which the lower of two goes.
    """
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for image in range(len(boxes)):
        real = torch.where(scores[image] >= 0)[0]
        left = batched_nms(boxes[image, real], scores[image, real], groups[image, real], threshold)
        kept[image, real[left]] = True
    return kept


@nms_kept.register_fake
def _(boxes: Tensor, scores: Tensor, groups: Tensor, num_groups: int, threshold: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def normalised(images: Tensor, mean: Sequence[float], std: Sequence[float], padding: Padding) -> Tensor:
    """Images (batch, 3, height, width), whose sizes may stay open, normalised and then padded with zeros.

    Args:
        images: in [0, 1].
        mean: of each channel.
        std: of each channel.
        padding: on the right and at the bottom.
    """
    means, deviations = (images.new_tensor(values).view(-1, 1, 1) for values in (mean, std))
    size: Size = (images.shape[-2], images.shape[-1])
    bottom, right = (after - before for after, before in zip(open_size(size, padding), size, strict=True))
    return F.pad((images - means) / deviations, (0, right, 0, bottom))


def open_size(size: Size, padding: Padding) -> Size:
    """`Padding.padded` of a size that may stay open.

    Without negative numbers: dividing them, ONNX rounds towards zero.
    """
    height, width = (
        (torch.sym_max(side, least) + padding.divisible - 1) // padding.divisible * padding.divisible
        for side, least in zip(size, padding.minimum, strict=True)
    )
    return height, width  # type: ignore[return-value]  # symbols in a trace


def best(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The highest ``count`` scores of each image, falling, and their places; all of them where there are fewer.

    Args:
        scores: (batch, N). Where N is not known when a graph is made, the result is filled up with `DROPPED`.
        count: at least 1.
    """
    length = scores.shape[1]
    if isinstance(length, int):
        return scores.topk(min(count, length), dim=1)
    values, places = F.pad(scores, (0, count), value=DROPPED).topk(count, dim=1)
    return values, places.clamp(max=length - 1)


def take(rows: Tensor, places: Tensor) -> Tensor:
    """Rows (batch, N, D) at places (batch, k) to (batch, k, D)."""
    return rows.gather(1, places[..., None].expand(-1, -1, rows.shape[2]))


def after_nms(found: Candidates, groups: Tensor, num_groups: int, threshold: float, count: int) -> Candidates:
    """The best that NMS leaves: (batch, count) or less, by falling score, with `DROPPED` at the end.

    Args:
        found: the candidates.
        groups: (batch, M) in [0, num_groups).
        num_groups: how many there are.
        threshold: IoU.
        count: the most per image.
    """
    kept = nms_kept(found.boxes, found.scores, groups, num_groups, threshold)
    scores, places = best(torch.where(kept, found.scores, DROPPED), count)
    return Candidates(take(found.boxes, places), scores, found.labels.gather(1, places))


def detections(
    found: Candidates, num_labels: int, *, threshold: float, nms: float, count: int, first_label: int = 0
) -> Candidates:
    """Candidates to detections: threshold, NMS per label, the best of each image.

    Args:
        found: the candidates.
        num_labels: labels are below it.
        threshold: scores must be above it.
        nms: IoU above which the lower of two of one label goes.
        count: the most per image.
        first_label: what the first class is called; lower ones are the background and go, last of all.

    Returns:
        Labels from 0. Empty places have the label -1, the score 0 and a box of zeros.
    """
    scores = torch.where(found.scores > threshold, found.scores, DROPPED)
    left = after_nms(found._replace(scores=scores), found.labels, num_labels, nms, count)
    real = (left.scores >= 0) & (left.labels >= first_label)
    return Candidates(
        torch.where(real[..., None], left.boxes, 0.0),
        torch.where(real, left.scores, 0.0),
        torch.where(real, left.labels - first_label, -1),
    )
