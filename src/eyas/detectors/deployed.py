"""Detectors as graphs of fixed output shapes, which an exporter can trace for any batch size.

In a detector's own post-processing the shapes depend on the data: scores above a threshold, boxes that survive NMS.
Here every candidate keeps its slot, and a dropped one gets the score -1, so every shape follows from the input's shape.
The detections are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eyas.types import Detector, EyasError, Prediction, Size, size_of

DROPPED = -1.0
"""The score of a dropped candidate and of an empty slot."""
DETECTIONS = ("boxes", "scores", "labels")
"""Names of the detections: (batch, D, 4), (batch, D) and (batch, D), where D is the detector's limit."""


class Candidates(NamedTuple):
    """Boxes on their way to detections, M slots per image.

    Boxes are (batch, M, 4) float32 xyxy in pixels, scores (batch, M) float32 in [0, 1] or `DROPPED`, labels (batch, M)
    int64.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class Deployed(nn.Module):
    """A detector in evaluation mode as a graph: images to head outputs and detections.

    Attributes:
        raw_names: names of the head outputs.
        matched: the outputs whose row order depends on rounding, ``proposals`` and their scores and boxes. A comparison
            matches their rows by proposal.
        coupled: whether the outputs of a proposal depend on the other proposals.
        ordered: whether they also depend on its slot, so that a proposal in another slot does not match.
        strict: trace with TorchDynamo. It is slower, but keeps the batch size open in a detector that takes the ``len``
            of a batch.
    """

    raw_names: tuple[str, ...] = ()
    matched: tuple[str, ...] = ()
    coupled: bool = False
    ordered: bool = False
    strict: bool = False

    def raw(self, images: Tensor) -> tuple[tuple[Tensor, ...], Sequence[int]]:
        """The head outputs for images (batch, 3, height, width) in [0, 1], and the number of rows of each level."""
        raise NotImplementedError

    def detect(self, raw: Sequence[Tensor], rows: Sequence[int], size: Size) -> Candidates:
        """Detections, best first, from the outputs of `raw` for images of (height, width); see `as_predictions`."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The head outputs, then boxes, scores and labels of the detections."""
        raw, rows = self.raw(images)
        return (*raw, *self.detect(raw, rows, size_of(images)))


def deploy(detector: Detector) -> Deployed:
    """A detector as a graph of fixed output shapes, in evaluation mode; it shares the detector's weights.

    Raises:
        EyasError: a detector without ``deployed()``, or a `CustomDetector` made without it.
    """
    detector.network.eval()
    if not hasattr(detector, "deployed"):
        raise EyasError(
            f"{type(detector).__name__} has no deployed form; give it a method deployed(), or bring it in through a "
            "CustomDetector made with `deployed`"
        )
    graph: Deployed = detector.deployed()
    return graph.eval()


class HeadsOnly(nn.Module):
    """The head outputs of a deployed detector, without detections."""

    def __init__(self, deployed: Deployed) -> None:
        super().__init__()
        self.deployed = deployed

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The outputs that ``deployed.raw_names`` names."""
        return self.deployed.raw(images)[0]


def as_predictions(found: Candidates) -> list[Prediction]:
    """Detections by image, without the empty slots, which have the label -1."""
    predictions: list[Prediction] = []
    for boxes, scores, labels in zip(*found, strict=True):
        real = labels >= 0
        predictions.append({"boxes": boxes[real], "scores": scores[real], "labels": labels[real]})
    return predictions


@torch.library.custom_op("eyas::nms_kept", mutates_args=())
def nms_kept(boxes: Tensor, scores: Tensor, groups: Tensor, num_groups: int, threshold: float) -> Tensor:
    """The candidates that survive NMS in each image and group: (batch, M) bool.

    A custom operator, because ONNX has NMS for a batch and PyTorch does not; exporters translate it.

    Args:
        boxes: (batch, M, 4) xyxy.
        scores: (batch, M); a candidate below 0 is dropped and suppresses nothing.
        groups: (batch, M) int64 in [0, num_groups); boxes suppress each other only within a group.
        num_groups: number of groups.
        threshold: IoU above which the lower-scoring box is dropped.
    """
    from torchvision.ops import batched_nms  # importing it takes longer than importing all of Eyas

    kept = torch.zeros_like(scores, dtype=torch.bool)
    for image in range(len(boxes)):
        real = torch.where(scores[image] >= 0)[0]
        left = batched_nms(boxes[image, real], scores[image, real], groups[image, real], threshold)
        kept[image, real[left]] = True
    return kept


@nms_kept.register_fake
def _(boxes: Tensor, scores: Tensor, groups: Tensor, num_groups: int, threshold: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def top_scores(scores: Tensor, count: int, missing: float = DROPPED) -> tuple[Tensor, Tensor]:
    """The highest ``count`` >= 1 of scores (batch, N), descending, and their indices; all N where there are fewer.

    In a trace that keeps N open there are always ``count``; ``missing`` fills those beyond N.
    """
    length = scores.shape[1]
    if isinstance(length, int):
        return scores.topk(min(count, length), dim=1)
    values, indices = F.pad(scores, (0, count), value=missing).topk(count, dim=1)
    return values, indices.clamp(max=length - 1)


def take_rows(rows: Tensor, indices: Tensor) -> Tensor:
    """Rows (batch, N, D) at indices (batch, k): (batch, k, D)."""
    return rows.gather(1, indices[..., None].expand(-1, -1, rows.shape[2]))


def joined(parts: Sequence[Candidates]) -> Candidates:
    """The candidates of all parts, image by image."""
    return Candidates(*(torch.cat(field, dim=1) for field in zip(*parts, strict=True)))


def after_nms(found: Candidates, groups: Tensor, num_groups: int, threshold: float, count: int) -> Candidates:
    """The best candidates after NMS, see `nms_kept`: (batch, count) or fewer, best first, `DROPPED` ones last."""
    kept = nms_kept(found.boxes, found.scores, groups, num_groups, threshold)
    scores, indices = top_scores(torch.where(kept, found.scores, DROPPED), count)
    return Candidates(take_rows(found.boxes, indices), scores, found.labels.gather(1, indices))


def detections(
    found: Candidates, num_labels: int, *, threshold: float, nms: float, count: int, first_label: int = 0
) -> Candidates:
    """Candidates to detections: threshold, NMS per label, the best of each image.

    Args:
        found: the candidates.
        num_labels: number of labels, background included.
        threshold: detections must score above this.
        nms: IoU above which the lower-scoring of two boxes of one label is dropped.
        count: the maximum number of detections per image.
        first_label: label of the first class; lower labels are background, which is dropped last.

    Returns:
        Labels from 0. Empty slots have the label -1, the score 0 and a box of zeros.
    """
    scores = torch.where(found.scores > threshold, found.scores, DROPPED)
    left = after_nms(found._replace(scores=scores), found.labels, num_labels, nms, count)
    if first_label:  # once more by score, so that what is dropped leaves no gap
        scores, order = top_scores(torch.where(left.labels >= first_label, left.scores, DROPPED), left.scores.shape[1])
        left = Candidates(take_rows(left.boxes, order), scores, left.labels.gather(1, order))
    real = left.scores >= 0
    return Candidates(
        torch.where(real[..., None], left.boxes, 0.0),
        torch.where(real, left.scores, 0.0),
        torch.where(real, left.labels - first_label, -1),
    )
