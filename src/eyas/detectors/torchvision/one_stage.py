"""RetinaNet, FCOS and SSD by the name of their backbone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from math import gcd
from pathlib import Path

from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.ssd import SSD, SSDFeatureExtractorVGG

from eyas.detectors.torchvision.adapter import TorchvisionDetector
from eyas.detectors.torchvision.backbones import Norm, Top, Trunk, split_name
from eyas.detectors.torchvision.building import RATIOS, AnchorSizes, finish, make_anchors, make_backbone, read_trunk
from eyas.types import EyasError

SSD300_SIZE = (300, 300)
SSD300_SCALES = [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05]
SSD300_STEPS = [8, 16, 32, 64, 100, 300]
SSD300_MEAN = [0.48235, 0.45882, 0.40784]
SSD300_STD = [1 / 255, 1 / 255, 1 / 255]
"""SSD300's VGG was trained on pixels in [0, 255]."""
NOMINAL_SIZE = (256, 256)
"""The input size torchvision is given for the other backbones. Here images keep their size."""


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
        fpn_norm: whether the FPN has BatchNorm.
        strides: strides of the trunk's maps that enter an FPN.
        top: "p6p7" adds levels of 2 and 4 times the last stride, "pool" one of 2 times.
        anchor_sizes: pixels. With an FPN one number, or a list of numbers, per level; else all for the single map.
            Default: 4 times the stride, and 2^(1/3) and 2^(2/3) times that, rounded down.
        anchor_ratios: height over width.
        head_convs: 3x3 convolutions before the last one, for classes and for boxes; 0 to 4.
        head_norm: GroupNorm after each, so that a network trains from scratch at the usual learning rates.
        score_threshold: lowest score of a detection.
        nms_threshold: IoU above which NMS drops the lower-scoring of two detections of one class.
        detections: maximum number per image.

    Raises:
        EyasError: an unknown backbone, options that contradict it, or weights that do not fit.
    """
    base = make_backbone("retinanet", backbone, weights, norm, strides, fpn_channels, top, fpn_norm)
    octaves = [[int(4 * stride * 2 ** (third / 3)) for third in range(3)] for stride in base.strides]
    anchors = make_anchors(len(base.strides), anchor_sizes, anchor_ratios, octaves)
    per_cell = anchors.num_anchors_per_location()[0]
    head = RetinaNetHead(base.channels, per_cell, len(classes), norm_layer=group_norm if head_norm else None)
    for half in (head.classification_head, head.regression_head):
        if not 0 <= head_convs <= len(half.conv):
            raise EyasError(f"head_convs is {head_convs}; it can be 0 to {len(half.conv)}")
        half.conv = half.conv[:head_convs]
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
        fpn_norm: whether the FPN has BatchNorm.
        strides: strides of the trunk's maps that enter an FPN.
        top: "p6p7" adds levels of 2 and 4 times the last stride, "pool" one of 2 times.
        head_convs: 3x3 convolutions before the last one, for classes and for boxes.
        center_radius: cells within this many strides of a box's centre are trained to detect it.
        score_threshold: lowest score of a detection.
        nms_threshold: IoU above which NMS drops the lower-scoring of two detections of one class.
        detections: maximum number per image.

    Raises:
        EyasError: an unknown backbone, options that contradict it, or weights that do not fit.
    """
    base = make_backbone("fcos", backbone, weights, norm, strides, fpn_channels, top, fpn_norm)
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


def ssd(
    classes: Sequence[str],
    backbone: str,
    *,
    weights: str | Path | None = None,
    norm: Norm = "batch",
    extra_levels: int = 3,
    extra_channels: int = 128,
    min_scale: float = 0.1,
    max_scale: float = 0.9,
    score_threshold: float = 0.01,
    nms_threshold: float = 0.45,
    detections: int = 200,
) -> TorchvisionDetector:
    """SSD (Liu et al., 2016).

    ``vgg16`` is torchvision's SSD300: smaller images are padded to 300 x 300. With other backbones images have any
    size, and further maps, each of twice the stride, follow the trunk's maps of stride 16 and 32. The default boxes are
    fractions of the batch, padding included, as in torchvision: train on images of one height and width.

    Args:
        classes: class names in label order.
        backbone: name without suffix, see `eyas.detectors.torchvision.backbones`.
        weights: name of torchvision weights, or a file; see `eyas.detectors.torchvision.pretrained`.
        norm: "batch" or "frozen" BatchNorm in the backbone.
        extra_levels: maps after the trunk's; SSD300 has its own four.
        extra_channels: channels of each of these maps.
        min_scale: side of the smallest default boxes, as a fraction of the image; SSD300 has its own.
        max_scale: side of the largest default boxes, as a fraction of the image; SSD300 has its own.
        score_threshold: lowest score of a detection.
        nms_threshold: IoU above which NMS drops the lower-scoring of two detections of one class.
        detections: maximum number per image.

    Raises:
        EyasError: an unknown backbone, options that contradict it, or weights that do not fit.
    """
    name, _ = split_name(backbone)
    if name != backbone or extra_levels < 1:
        raise EyasError(f"backbone {backbone}, extra_levels {extra_levels}: SSD takes {name} and at least 1 level")
    trunk, found = read_trunk("ssd", name, norm, weights, fpn=False)
    original = name == "vgg16"
    if original:
        extractor: nn.Module = SSDFeatureExtractorVGG(trunk.module, highres=False)
        boxes = DefaultBoxGenerator([[2], [2, 3], [2, 3], [2, 3], [2], [2]], scales=SSD300_SCALES, steps=SSD300_STEPS)
    else:
        extractor = ExtraMaps(trunk, extra_levels, extra_channels)
        boxes = DefaultBoxGenerator([[2, 3]] * (2 + extra_levels), min_ratio=min_scale, max_ratio=max_scale)
    model = SSD(
        extractor,
        boxes,
        SSD300_SIZE if original else NOMINAL_SIZE,
        len(classes) + 1,
        image_mean=SSD300_MEAN if original else None,
        image_std=SSD300_STD if original else None,
        score_thresh=score_threshold,
        nms_thresh=nms_threshold,
        detections_per_img=detections,
    )
    return finish(model, classes, found, min_size=SSD300_SIZE if original else (1, 1))


class ExtraMaps(nn.Module):
    """A trunk's maps of stride 16 and 32, and ``levels`` further maps, each half the size of the previous one."""

    def __init__(self, trunk: Trunk, levels: int, channels: int) -> None:
        super().__init__()
        trunk.require((16, 32))
        if not isinstance(trunk.module, nn.Sequential):
            raise EyasError(f"backbone {trunk.name}: SSD takes torchvision's backbones only")
        layers = [trunk.layers[stride] for stride in (16, 32)]
        names = {layer: str(index) for index, (layer, _) in enumerate(layers)}
        self.body = IntermediateLayerGetter(trunk.module, return_layers=names)
        widths = [layers[-1][1], *[channels] * levels]
        self.extra = nn.ModuleList(_halving(*pair) for pair in pairwise(widths))
        self.out_channels = [layers[0][1], *widths]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(batch, 3, height, width) to maps by position, from fine to coarse."""
        maps = list(self.body(images).values())
        for layer in self.extra:
            maps.append(layer(maps[-1]))
        return OrderedDict((str(index), feature) for index, feature in enumerate(maps))


def _halving(inputs: int, outputs: int) -> nn.Sequential:
    # Not BatchNorm: the last maps may have one cell, and in a batch of one image its variance is undefined.
    return nn.Sequential(
        nn.Conv2d(inputs, outputs // 2, 1, bias=False),
        group_norm(outputs // 2),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs // 2, outputs, 3, stride=2, padding=1, bias=False),
        group_norm(outputs),
        nn.ReLU(inplace=True),
    )


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm of up to 32 groups of at least two channels: on a map of one cell, one channel has no variance."""
    return nn.GroupNorm(gcd(32, channels // 2) if channels % 2 == 0 else 1, channels)
