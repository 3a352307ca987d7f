"""The smallest YOLOv9 and YOLOX, with random weights whose scores and boxes are spread."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

from eyas.detectors import LibreYoloDetector, build

CLASSES = ("cat", "dog", "owl")
MODELS = {"yolov9": "t", "yolox": "n"}
"""Model -> its smallest size."""


def tiny_yolo(model: str, classes: Sequence[str] = CLASSES, seed: int = 0, **options: Any) -> LibreYoloDetector:
    """In training mode. What `build` makes scores nearly 0 everywhere, and all boxes are alike.

    Its BatchNorms have the statistics of a batch: without them the deep layers are all but constant, and with those of
    a few cells what they return grows from layer to layer.
    """
    return copy.deepcopy(_made(model, tuple(classes), seed, tuple(options.items())))


@cache
def _made(model: str, classes: tuple[str, ...], seed: int, options: tuple[tuple[str, Any], ...]) -> LibreYoloDetector:
    torch.manual_seed(seed)
    detector = build(model, classes, options={"size": MODELS[model], "score_threshold": 0.0, **dict(options)})
    assert isinstance(detector, LibreYoloDetector)
    head: Any = detector.network.head
    scores = [tower[-1] for tower in head.cv3] if model == "yolov9" else [*head.cls_preds, *head.obj_preds]
    boxes = [tower[-1] for tower in head.cv2] if model == "yolov9" else head.reg_preds
    for layers, std in ((scores, 0.1), (boxes, 0.1 if model == "yolov9" else 0.02)):
        for layer in layers:
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)
    for layer in boxes if model == "yolov9" else ():  # or every box is larger than the image
        layer.bias.data.view(4, -1).copy_(-torch.arange(layer.bias.numel() // 4))
    norms = [module for module in detector.network.modules() if isinstance(module, nn.BatchNorm2d)]
    momentum = norms[0].momentum
    for norm in norms:
        norm.momentum = None
    with torch.no_grad():
        detector.outputs(torch.rand(4, 3, 128, 128))
    for norm in norms:
        norm.momentum = momentum
    return detector
