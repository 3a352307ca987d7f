"""SSD by the name of its backbone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD, SSDFeatureExtractorVGG

from eyas.detectors.torchvision.adapter import TorchvisionDetector
from eyas.detectors.torchvision.backbones import Norm, Trunk, group_norm, split_name
from eyas.detectors.torchvision.building import finish, trunk_and_weights
from eyas.types import EyasError

SSD300_SIZE = (300, 300)
SSD300_SCALES = [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05]
SSD300_STEPS = [8, 16, 32, 64, 100, 300]
SSD300_MEAN = [0.48235, 0.45882, 0.40784]
SSD300_STD = [1 / 255, 1 / 255, 1 / 255]
"""SSD300's VGG was trained on pixels in [0, 255]."""
NOMINAL_SIZE = (256, 256)
"""The input size torchvision is given for the other backbones. Here images keep their size."""


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
    size, and further maps, each of twice the stride, follow the trunk's maps of stride 16 and 32.

    Args:
        classes: class names in label order.
        backbone: name without suffix, see `eyas.detectors.torchvision.backbones`.
        weights: name of torchvision weights, or a file; see `eyas.detectors.torchvision.pretrained`.
        norm: "batch" or "frozen" BatchNorm in the backbone.
        extra_levels: maps after the trunk's; SSD300 has its own four.
        extra_channels: of these maps.
        min_scale: side of the smallest default boxes, as a fraction of the image; SSD300 has its own.
        max_scale: side of the largest default boxes, as a fraction of the image; SSD300 has its own.
        score_threshold: lowest score of a detection.
        nms_threshold: IoU above which NMS drops the lower-scoring of two detections of one class.
        detections: the most per image.

    Raises:
        EyasError: an unknown backbone, options that contradict it, or weights that do not fit.
    """
    name, _ = split_name(backbone)
    if name != backbone or extra_levels < 1:
        raise EyasError(f"backbone {backbone}, extra_levels {extra_levels}: SSD takes {name} and at least 1 level")
    trunk, found = trunk_and_weights("ssd", name, norm, weights, fpn=False)
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
    """A trunk's maps of stride 16 and 32, and further maps, each half the size of the previous one.

    Args:
        trunk: with maps of these strides.
        levels: number of further maps.
        channels: of the further maps.
    """

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
