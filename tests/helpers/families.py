"""One small detector of random weights for every family in docs/families.md, in its own library's own form."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.ssd import SSD
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from eyas.detectors import CustomDetector, TorchvisionDetector, TransformersDetector, build
from eyas.types import Detector, Size, Target
from helpers.tiny import MODEL
from helpers.tiny_transformers import random_model
from helpers.tiny_yolo import tiny_yolo

SIZE: Size = (64, 96)
CLASSES = ("cat", "dog", "owl")
PAGE = Path(__file__).parents[2] / "docs" / "your_own_detector.md"
INNER = {"min_size": SIZE[0], "max_size": SIZE[1]}
"""torchvision's inner resize, made to do nothing."""


class Maps(nn.Module):
    """Maps of stride 16 and 32, for an SSD."""

    out_channels = (8, 16)

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 8, 16, stride=16), nn.Conv2d(8, 16, 2, stride=2)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        fine = self.fine(images).relu()
        return {"0": fine, "1": self.coarse(fine).relu()}


def pyramid() -> nn.Module:
    """Maps of stride 8, 16 and 32."""
    return resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        trainable_layers=5,
        returned_layers=[2, 3],
        extra_blocks=LastLevelMaxPool(),
        norm_layer=nn.BatchNorm2d,
    )


def squares(*ratios: float) -> AnchorGenerator:
    return AnchorGenerator(((24,), (32,), (64,)), (ratios,) * 3)


TORCHVISION: dict[str, Callable[[], nn.Module]] = {
    "Faster R-CNN": lambda: FasterRCNN(
        pyramid(), 4, rpn_anchor_generator=squares(0.5, 1.0, 2.0), rpn_post_nms_top_n_test=20, **INNER
    ),
    "RetinaNet": lambda: RetinaNet(
        pyramid(), 3, anchor_generator=squares(0.5, 1.0, 2.0), score_thresh=0.0, detections_per_img=20, **INNER
    ),
    "FCOS": lambda: FCOS(pyramid(), 3, anchor_generator=squares(1.0), score_thresh=0.0, detections_per_img=20, **INNER),
    "SSD": lambda: SSD(Maps(), DefaultBoxGenerator([[2], [2]]), SIZE[::-1], 4, detections_per_img=20),
}
TRANSFORMERS = {
    "DETR": "DetrForObjectDetection",
    "Deformable DETR": "DeformableDetrForObjectDetection",
    "Table Transformer": "TableTransformerForObjectDetection",
    "Conditional DETR": "ConditionalDetrForObjectDetection",
    "DAB-DETR": "DabDetrForObjectDetection",
    "RT-DETR": "RTDetrForObjectDetection",
    "RT-DETRv2": "RTDetrV2ForObjectDetection",
    "D-FINE": "DFineForObjectDetection",
    "DEIMv2": "Deimv2ForObjectDetection",
    "DEIMv2, lite encoder": "Deimv2ForObjectDetection lite",
    "DEIMv2, DINOv3 backbone": "Deimv2ForObjectDetection DINOv3",
    "LW-DETR": "LwDetrForObjectDetection",
    "RF-DETR": "RfDetrForObjectDetection",
    "YOLOS": "YolosForObjectDetection",
}
LIBREYOLO = {"YOLOv9": "yolov9", "YOLOX": "yolox"}
OWN = "Your own module"
SHUFFLEDET = "ShuffleDet"


def of_transformers(name: str) -> TransformersDetector:
    return TransformersDetector(random_model(TRANSFORMERS[name]))


@functools.cache
def page_of_own() -> dict[str, Any]:
    """What the Python blocks of docs/your_own_detector.md define."""
    namespace: dict[str, Any] = {"__name__": "your_own_detector"}
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        exec(compile(block, PAGE.name, "exec"), namespace)
    return namespace


def make(name: str, seed: int = 0) -> Detector:
    """A detector of the family, in training mode.

    Raises:
        KeyError: there is no family of that name here.
    """
    torch.manual_seed(seed)
    if name == SHUFFLEDET:
        return build("shuffledet", CLASSES, options=MODEL)
    if name in LIBREYOLO:
        return tiny_yolo(LIBREYOLO[name], CLASSES, seed, detections=20)
    if name == OWN:
        page = page_of_own()
        parts = {part: page[part] for part in ("losses", "predict")}
        network = page["CellNet"](4)
        return CustomDetector(network, page["CLASSES"], **parts, levels=["body"], deployed=page["CellGraph"]).train()
    if name in TORCHVISION:
        return TorchvisionDetector(TORCHVISION[name](), CLASSES).train()
    return of_transformers(name).train()


def batch() -> tuple[Tensor, list[Target]]:
    """An image with two objects and one without any."""
    images = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(3))
    boxes = torch.tensor([[5.0, 6, 45, 50], [50, 10, 90, 40]])
    none: Target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    return images, [{"boxes": boxes, "labels": torch.tensor([0, 1])}, none]


def trained(name: str) -> Detector:
    """In evaluation mode, its BatchNorms with the statistics of a batch: scores are nearly all the same without."""
    detector = make(name)
    with torch.no_grad():
        for module in detector.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
        detector.losses(*batch())
    detector.network.eval()
    return detector


FIRST_LABEL = {"Faster R-CNN": 1, "SSD": 1}
"""The first object label of torchvision's families that label the background 0."""
FAMILIES = (*TORCHVISION, SHUFFLEDET, *LIBREYOLO, *TRANSFORMERS, OWN)
