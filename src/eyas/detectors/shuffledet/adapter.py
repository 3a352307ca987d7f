"""ShuffleDet, the one-stage detector of the FGFI paper: ShuffleNet, one level of stride 16, SqueezeDet's head and loss.

Sources: Wang et al., CVPR 2019, section 4.1, and the constants of the authors' repository
(twangnh/Distilling-Object-Detectors-Shuffledet).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from eyas.detectors.cell_scores import cell_scores
from eyas.detectors.deployed import Deployed
from eyas.detectors.head_checks import check_anchors, check_heads
from eyas.detectors.shuffledet.anchors import STRIDE, BatchAnchors, anchor_step
from eyas.detectors.shuffledet.deployed import DeployedShuffleDet
from eyas.detectors.shuffledet.heads import HEADS, Raw, head_outputs, matched_heads
from eyas.detectors.shuffledet.loss import (
    OBJECT_WEIGHT,
    class_loss,
    confidence_loss,
    decode,
    encode,
    ignored_anchors,
    match_anchors,
)
from eyas.detectors.shuffledet.shufflenet import ShuffleNet
from eyas.ops.anchors import AnchorGrid, shapes_to_cell_anchors
from eyas.ops.boxes import clip, iou, to_centre_size
from eyas.types import EyasError, HeadOutputs, Level, Prediction, Size, Target, image_sizes, size_of

KITTI_ANCHORS = (
    (36.0, 37.0),
    (366.0, 174.0),
    (115.0, 59.0),
    (162.0, 87.0),
    (38.0, 90.0),
    (258.0, 173.0),
    (224.0, 108.0),
    (78.0, 170.0),
    (72.0, 43.0),
)
"""(width, height) in pixels of the authors' anchors for KITTI at 384 x 1248."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ShuffleDet(nn.Module):
    """The detector; satisfies `eyas.types.DetectorWithHeads`.

    Its heads are ``classes``, a softmax without background, and ``confidence``, a sigmoid without boxes.

    Args:
        classes: class names, in label order.
        width: multiplies the backbone's channels; the paper's are 1, 0.5 and 0.25.
        stem_channels: output channels of the first convolution (24; the authors' 1x teacher has 16).
        anchor_shapes: (width, height) in pixels; `anchors_for` computes them for a data set.
        zero_init_residual: start the units that have a shortcut as identities, see `ShuffleNet`.
        dropout: probability, on the last feature map, before the head.
        head_std: standard deviation of the head's initial weights.
        confidence_prior: the confidence of every anchor before training, in (0, 1). Where it is low, sigmoid and square
            are flat, and learning starts slowly.
        score_threshold: detections must score above this.
        detections: number of best anchors of an image that enter NMS.
        nms_threshold: IoU above which NMS drops the lower-scoring of two detections of one class.
        mean: per channel, for images in [0, 1].
        std: per channel, likewise.
        class_weight: weight of the class loss.
        box_weight: weight of the box loss.
        object_weight: weight of the mean confidence loss on matched anchors.
        rest_weight: weight of the mean confidence loss on the others.
    """

    def __init__(
        self,
        classes: Sequence[str],
        *,
        width: float = 1.0,
        stem_channels: int = 24,
        anchor_shapes: Sequence[tuple[float, float]] = KITTI_ANCHORS,
        zero_init_residual: bool = False,
        dropout: float = 0.5,
        head_std: float = 0.001,
        confidence_prior: float = 0.1,
        score_threshold: float = 0.005,
        detections: int = 64,
        nms_threshold: float = 0.4,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        class_weight: float = 1.0,
        box_weight: float = 5.0,
        object_weight: float = OBJECT_WEIGHT,
        rest_weight: float = 100.0,
    ) -> None:
        super().__init__()
        if not classes:
            raise EyasError("ShuffleDet needs at least one class: give `classes` the names")
        if not anchor_shapes or min(min(shape) for shape in anchor_shapes) <= 0:
            raise EyasError("anchor_shapes: give at least one (width, height), each above 0 pixels")
        if not 0 < confidence_prior < 1:
            raise EyasError(f"confidence_prior is a probability between 0 and 1, got {confidence_prior}")
        if width <= 0 or not 0 < stem_channels < 240 * width:
            raise EyasError(f"stem_channels {stem_channels}, width {width}: the stem must stay below 240 * width")
        self.classes = tuple(classes)
        self.anchor_shapes = tuple(anchor_shapes)
        self.score_threshold, self.detections, self.nms_threshold = score_threshold, detections, nms_threshold
        self.class_weight, self.box_weight = class_weight, box_weight
        self.object_weight, self.rest_weight = object_weight, rest_weight
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.backbone = ShuffleNet(width, stem_channels, zero_init_residual=zero_init_residual)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Conv2d(self.backbone.out_channels, len(anchor_shapes) * (len(classes) + 5), 3, padding=1)
        self.levels = {
            "backbone": Level(self.backbone.out_channels, STRIDE, grid=self.grid, per_image=True, matched_by_iou=True)
        }
        self._initialise_head(head_std, confidence_prior)

    @property
    def network(self) -> nn.Module:
        """The module itself: tap names and the state dict are relative to it."""
        return self

    @property
    def backbone_name(self) -> str:
        """The ShuffleNet."""
        return "backbone"

    def grid(self, size: Size, image_size: Size) -> AnchorGrid:
        """The anchors of a feature map for one image of (height, width), see `anchor_step`."""
        step = anchor_step(image_size)
        return AnchorGrid(shapes_to_cell_anchors(self.anchor_shapes), size, step, offset=step)

    def forward(self, images: Tensor) -> tuple[Raw, Tensor]:
        """Images (batch, 3, height, width) in [0, 1] to the raw output and its anchors, (A, 4) xyxy."""
        raw, size = self.outputs(images)
        anchors = self.grid(size, size_of(images)).anchors().reshape(-1, 4)
        return raw, anchors.to(images.device)

    def outputs(self, images: Tensor) -> tuple[Raw, Size]:
        """Images to the raw output, and the (H, W) of its map."""
        normal = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        features = self.backbone(normal)
        output: Tensor = self.head(self.dropout(features)).float().permute(0, 2, 3, 1)
        batch, height, width, _ = output.shape
        classes, shapes = len(self.classes), len(self.anchor_shapes)
        logits, confidence, deltas = output.split((shapes * classes, shapes, shapes * 4), dim=3)
        raw = Raw(logits.reshape(batch, -1, classes), confidence.reshape(batch, -1), deltas.reshape(batch, -1, 4))
        return raw, (height, width)

    def losses(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The three terms of SqueezeDet's loss, scalars; images without boxes are background.

        An image has the anchors of its own size, ``target["size"]``, so neither they nor what they are matched to
        depend on the other images of a batch. Padding is neither object nor background.
        """
        return self.losses_and_heads(images, targets)[0]

    def losses_and_heads(self, images: Tensor, targets: Sequence[Target]) -> tuple[dict[str, Tensor], HeadOutputs]:
        """`losses`, and the head outputs they were computed from."""
        raw, size = self.outputs(images)
        sizes = image_sizes(targets, size_of(images))
        anchors = BatchAnchors.of(shapes_to_cell_anchors(self.anchor_shapes), size, sizes, images.device)
        with torch.autocast(images.device.type, enabled=False):
            matches, ignored = match_anchors(anchors, targets), ignored_anchors(anchors, targets)
            where = (matches.image, matches.anchor)
            own, deltas = anchors.matched(*where), raw.deltas[where]
            quality = iou(anchors.clip(decode(deltas.detach(), own), matches.image), matches.boxes)
            count = max(len(own), 1)
            confidence, weights = raw.confidence, (self.object_weight, self.rest_weight)
            losses = {
                "loss_class": self.class_weight / count * class_loss(raw.classes[where], matches.labels),
                "loss_box": self.box_weight / count * (deltas - encode(matches.boxes, own)).square().sum(),
                "loss_confidence": confidence_loss(confidence, quality, matches, ignored, *weights),
            }
            return losses, HeadOutputs(matched_heads(raw, anchors, size, matches, ignored))

    def score_boxes(
        self, images: Tensor, boxes: Mapping[str, Sequence[Tensor]], *, proposals: bool = False, scores: bool = False
    ) -> HeadOutputs:
        """The head outputs for given anchors, which must be its own.

        Args:
            images: (batch, 3, height, width) in [0, 1].
            boxes: head name -> for each image (A, 4) xyxy.
            proposals: ignored; this detector has none and gives None.
            scores: also give the scores of all cells: the confidence times the highest class probability.

        Raises:
            EyasError: training mode, an unknown head, or anchors that are not its own.
        """
        if self.training:
            raise EyasError("scoring boxes needs the evaluation mode: call detector.eval() first")
        check_heads(boxes, HEADS, type(self).__name__)
        raw, size = self.outputs(images)
        heads = {}
        for name, given in boxes.items():
            own = self._anchors_like(given, size, size_of(images))
            check_anchors(name, given, own)
            heads[name] = head_outputs(raw, own, size)[name]
        if not scores:
            return HeadOutputs(heads)
        dense = head_outputs(raw, [], size)
        return HeadOutputs(heads, scores=cell_scores(self.levels, dense["classes"], confidence=dense["confidence"]))

    @torch.no_grad()
    def predict(self, images: Tensor) -> list[Prediction]:
        """Detections in each image: one class per anchor, the best `detections` above the threshold, NMS per class."""
        raw, anchors = self(images)
        scores, labels = raw.classes.softmax(dim=2).mul(raw.confidence[..., None]).max(dim=2)
        best, order = scores.topk(min(self.detections, scores.shape[1]), dim=1)
        image_size = size_of(images)
        predictions: list[Prediction] = []
        for score, label, delta, index in zip(best, labels, raw.deltas, order, strict=True):
            index = index[score > self.score_threshold]
            score = score[: len(index)]
            boxes, label = clip(decode(delta[index], anchors[index]), image_size), label[index]
            kept = batched_nms(boxes, score, label, self.nms_threshold)
            predictions.append({"boxes": boxes[kept], "scores": score[kept], "labels": label[kept]})
        return predictions

    def deployed(self) -> Deployed:
        """The detector as a graph of fixed output shapes; it shares the weights."""
        return DeployedShuffleDet(self)

    def _anchors_like(self, given: Sequence[Tensor], size: Size, batch: Size) -> list[Tensor]:
        """This detector's anchors, (A, 4) for each image, in the steps of the given ones.

        Only the targets say which part of a padded batch is the image, and the student's anchors follow them. The first
        anchor is one step from the corner.
        """
        corner = torch.stack([to_centre_size(boxes[0])[:2] if len(boxes) else boxes.new_zeros(2) for boxes in given])
        steps = [(y, x) if min(x, y) > 0 else anchor_step(batch) for x, y in corner.tolist()]
        shapes = shapes_to_cell_anchors(self.anchor_shapes)
        made = {step: AnchorGrid(shapes, size, step, step).anchors().reshape(-1, 4).to(corner) for step in set(steps)}
        return [made[step] for step in steps]

    def _initialise_head(self, std: float, prior: float) -> None:
        nn.init.normal_(self.head.weight, std=std)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)
        shapes, classes = len(self.anchor_shapes), len(self.classes)
        with torch.no_grad():
            confidence = self.head.bias[shapes * classes : shapes * (classes + 1)]
            confidence.fill_(math.log(prior / (1 - prior)))


def anchors_for(boxes_wh: Tensor, k: int = 9, *, steps: int = 300) -> list[tuple[float, float]]:
    """Anchor shapes for a data set: k-means on IoU of centred boxes (Redmon & Farhadi, 2017, section 2). Deterministic.

    Args:
        boxes_wh: (n, 2) widths and heights, pixels of the network's input; n >= 1.
        k: number of shapes.
        steps: maximum number of iterations; they end once no box changes its cluster.

    Returns:
        At most k distinct (width, height), by ascending area; fewer where there are fewer distinct boxes.
    """
    sizes = boxes_wh.to(torch.float64)
    sizes = sizes[(sizes > 0).all(dim=1)]
    if len(sizes) == 0:
        raise EyasError("anchors_for: no box with a width and a height above 0; are there annotations?")
    # Starting at quantiles of the area needs no random numbers and gives every scale a centre.
    ordered = sizes[sizes.prod(dim=1).argsort(stable=True)]
    centres = ordered[((torch.arange(k) + 0.5) / k * len(ordered)).long()]
    owner = torch.full((len(sizes),), -1)
    for _ in range(steps):
        shared = torch.minimum(sizes[:, None], centres).prod(dim=2)
        new_owner = (shared / (sizes.prod(dim=1)[:, None] + centres.prod(dim=1) - shared)).argmax(dim=1)
        if torch.equal(new_owner, owner):
            break
        owner = new_owner
        for index in owner.unique().tolist():
            centres[index] = sizes[owner == index].mean(dim=0)
    centres = centres[owner.unique()]
    centres = centres[centres.prod(dim=1).argsort(stable=True)]
    return list(dict.fromkeys((width, height) for width, height in centres.tolist()))
