"""RetinaNet and FCOS by the name of their backbone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead

from eyas.detectors.torchvision.adapter import TorchvisionDetector
from eyas.detectors.torchvision.backbones import Norm, Top, group_norm
from eyas.detectors.torchvision.building import RATIOS, AnchorSizes, Pyramid, finish, make_anchors, make_backbone
from eyas.types import EyasError


def retinanet(
    classes: Sequence[str],
    backbone: str,
    *,
    weights: str | Path | None = None,
    norm: Norm = "batch",
    fpn_channels: int = 256,
    fpn_norm: bool = False,
    strides: Sequence[int] = (8, 16, 32),
    top: Top = "p6p7",
    anchor_sizes: AnchorSizes | None = None,
    anchor_ratios: Sequence[float] = RATIOS,
    head_convs: int = 4,
    head_norm: bool = False,
    score_threshold: float = 0.05,
    nms_threshold: float = 0.5,
    detections: int = 300,
) -> TorchvisionDetector:
    """RetinaNet (Lin et al., 2017).

    Args:
        classes: class names in label order.
        backbone: name, see `eyas.detectors.torchvision.backbones`.
        weights: name of torchvision weights, or a file; see `eyas.detectors.torchvision.pretrained`.
        norm: "batch" or "frozen" BatchNorm in the backbone.
        fpn_channels: channels of every level of an FPN, and of the head.
        fpn_norm: BatchNorm in the FPN.
        strides: of the trunk's maps that enter an FPN.
        top: "p6p7" adds levels of 2 and 4 times the last stride, "pool" one of 2 times.
        anchor_sizes: pixels. With an FPN one number, or a list of numbers, per level; else all for the single map.
            Default: 4 times the stride, and 2^(1/3) and 2^(2/3) times that, rounded down.
        anchor_ratios: height over width.
        head_convs: 3x3 convolutions before the last one, for classes and for boxes; 0 to 4.
        head_norm: GroupNorm after each, so that a network trains from scratch at the usual learning rates.
        score_threshold: lowest score of a detection.
        nms_threshold: IoU above which NMS drops the lower-scoring of two detections of one class.
        detections: the most per image.

    Raises:
        EyasError: an unknown backbone, options that contradict it, or weights that do not fit.
    """
    base = make_backbone("retinanet", backbone, weights, norm, Pyramid(strides, fpn_channels, top, fpn_norm))
    octaves = [[int(4 * stride * 2 ** (third / 3)) for third in range(3)] for stride in base.strides]
    anchors = make_anchors(len(base.strides), anchor_sizes, anchor_ratios, octaves)
    head = _retinanet_head(base.channels, anchors.num_anchors_per_location()[0], len(classes), head_convs, head_norm)
    model = RetinaNet(
        base.module,
        num_classes=len(classes),
        anchor_generator=anchors,
        head=head,
        score_thresh=score_threshold,
        nms_thresh=nms_threshold,
        detections_per_img=detections,
    )
    return finish(model, classes, base.weights)


def fcos(
    classes: Sequence[str],
    backbone: str,
    *,
    weights: str | Path | None = None,
    norm: Norm = "batch",
    fpn_channels: int = 256,
    fpn_norm: bool = False,
    strides: Sequence[int] = (8, 16, 32),
    top: Top = "p6p7",
    head_convs: int = 4,
    center_radius: float = 1.5,
    score_threshold: float = 0.2,
    nms_threshold: float = 0.6,
    detections: int = 100,
) -> TorchvisionDetector:
    """FCOS (Tian et al., 2019), with one square anchor of the stride's size at every cell.

    Args:
        classes: class names in label order.
        backbone: name, see `eyas.detectors.torchvision.backbones`.
        weights: name of torchvision weights, or a file; see `eyas.detectors.torchvision.pretrained`.
        norm: "batch" or "frozen" BatchNorm in the backbone.
        fpn_channels: channels of every level of an FPN, and of the head; 64 or more, in steps of 32 (GroupNorm).
        fpn_norm: BatchNorm in the FPN.
        strides: of the trunk's maps that enter an FPN.
        top: "p6p7" adds levels of 2 and 4 times the last stride, "pool" one of 2 times.
        head_convs: 3x3 convolutions before the last one, for classes and for boxes.
        center_radius: cells within this many strides of a box's centre are trained to detect it.
        score_threshold: lowest score of a detection.
        nms_threshold: IoU above which NMS drops the lower-scoring of two detections of one class.
        detections: the most per image.

    Raises:
        EyasError: an unknown backbone, options that contradict it, or weights that do not fit.
    """
    base = make_backbone("fcos", backbone, weights, norm, Pyramid(strides, fpn_channels, top, fpn_norm))
    channels = base.channels
    if channels % 32 or channels == 32:
        raise EyasError(f"FCOS's head normalises 32 groups of 2 channels or more; fpn_channels cannot be {channels}")
    cells = [[stride] for stride in base.strides]
    model = FCOS(
        base.module,
        num_classes=len(classes),
        anchor_generator=make_anchors(len(cells), None, (1.0,), cells),
        head=FCOSHead(channels, 1, len(classes), head_convs),
        center_sampling_radius=center_radius,
        score_thresh=score_threshold,
        nms_thresh=nms_threshold,
        detections_per_img=detections,
    )
    return finish(model, classes, base.weights)


def _retinanet_head(channels: int, anchors: int, classes: int, convs: int, norm: bool) -> RetinaNetHead:
    """torchvision's head with its first ``convs`` convolutions."""
    head = RetinaNetHead(channels, anchors, classes, norm_layer=group_norm if norm else None)
    for half in (head.classification_head, head.regression_head):
        if not 0 <= convs <= len(half.conv):
            raise EyasError(f"head_convs is {convs}; it can be 0 to {len(half.conv)}")
        half.conv = half.conv[:convs]
    return head
