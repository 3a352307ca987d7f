"""A YOLOv9 or YOLOX of libreyolo as an Eyas detector.

libreyolo is an extra, ``pip install eyas[libreyolo]``, and is imported only when such a detector is built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from eyas.detectors.cell_scores import cell_scores
from eyas.detectors.deployed import DROPPED, Candidates, Deployed, as_predictions, detections
from eyas.detectors.head_checks import check_anchors, check_heads
from eyas.detectors.libreyolo.deployed import DeployedYolo
from eyas.detectors.libreyolo.family import Family, Outputs, cells_of
from eyas.detectors.libreyolo.files import NATIVE_FILE
from eyas.detectors.libreyolo.names import of_libreyolo
from eyas.detectors.libreyolo.yolov9 import YoloV9
from eyas.detectors.libreyolo.yolox import YoloX
from eyas.detectors.padding import Padding
from eyas.ops.anchors import StrideGrid
from eyas.ops.boxes import clip
from eyas.types import EyasError, HeadOutputs, Level, Prediction, Size, Target, image_sizes, size_of

GREY = 114 / 255
"""What both families pad images with."""
DIVISOR = 32
FAMILIES: Mapping[str, tuple[type[YoloV9] | type[YoloX], str, str]] = {
    "LibreYOLO9Model": (YoloV9, "DDetect", "LibreYOLO9"),
    "LibreYOLOXModel": (YoloX, "YOLOXHead", "LibreYOLOX"),
}
"""Class of the network -> its family, the class of its head, and the class that tells the levels to distil."""
SCORE_THRESHOLD, NMS_THRESHOLD, DETECTIONS = 0.001, 0.6, 300
"""Those of the library's validation."""


class LibreYoloDetector(nn.Module):
    """A detector of libreyolo, built by you or by `eyas.build`; satisfies `eyas.types.DetectorWithHeads`.

    Its heads are ``anchors`` and, for YOLOv9, ``distances``, for YOLOX ``objectness``; see the families' docstrings.

    `network` stays the library's module with its own names: its state dict, and the checkpoint that `export_native`
    writes, load in plain libreyolo. YOLOv9's auxiliary branch, which only training has, is removed. Images come
    resized, in [0, 1], and are padded on the right and at the bottom to multiples of 32, with the grey of the
    library's letterbox; the padding that a loader gives the smaller images of a batch becomes that grey, too. Heads,
    losses and boxes are computed in float32 under autocast as well.

    None of these detectors has anchors. The grid of every level has ``anchor_ratios`` of side ``anchor_scale`` times
    the stride in each cell.

    Ignore regions are background to these losses: the library does not know them.

    Args:
        model: a ``LibreYOLO9Model`` or ``LibreYOLOXModel``, such as the ``model`` of a ``LibreYOLO(...)``.
        classes: class names in label order.
        score_threshold: detections must score above this.
        nms_threshold: IoU above which NMS drops the lower-scoring of two detections of one class.
        detections: maximum number per image.
        anchor_scale: side of the square anchor of every level, in strides.
        anchor_ratios: height over width.

    Raises:
        EyasError: another kind of model, or a head for another number of classes.
    """

    def __init__(
        self,
        model: nn.Module,
        classes: Sequence[str],
        *,
        score_threshold: float = SCORE_THRESHOLD,
        nms_threshold: float = NMS_THRESHOLD,
        detections: int = DETECTIONS,
        anchor_scale: float = StrideGrid.scale,
        anchor_ratios: Sequence[float] = StrideGrid.ratios,
    ) -> None:
        super().__init__()
        network: Any = model
        family, head, wrapper = FAMILIES.get(type(model).__name__, (None, "", ""))
        if family is None or type(network.head).__name__ != head:
            raise EyasError(
                f"a {type(model).__name__} is not one of libreyolo's {', '.join(FAMILIES)} for detection; of a "
                "LibreYOLO(...) take its `model`"
            )
        self.network, self.classes = model, tuple(classes)
        # The library asks a whole model, of which only the size is read.
        config = of_libreyolo(wrapper).get_distill_config(SimpleNamespace(size=network.config))
        strides = tuple(int(stride) for stride in config["strides"])
        self.family: Family = family(network, strides)
        if self.family.num_classes != len(self.classes):
            raise EyasError(
                f"the {type(model).__name__} distinguishes {self.family.num_classes} classes and there are "
                f"{len(self.classes)} names; build it by eyas.build, which makes a head for them"
            )
        self.levels = {
            tap: Level(int(channels), stride, StrideGrid(stride, anchor_scale, tuple(anchor_ratios)))
            for tap, channels, stride in zip(config["tap_points"], config["channels"], strides, strict=True)
        }
        self.padding = Padding(DIVISOR)
        self.score_threshold, self.nms_threshold, self.detections = score_threshold, nms_threshold, detections

    @property
    def backbone_name(self) -> str:
        """The image network, without the feature pyramid."""
        return self.family.backbone

    def forward(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The same as `losses`."""
        return self.losses(images, targets)

    def losses(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The library's own loss terms by its names, with its weights; an image may have no boxes.

        The library divides them, for YOLOX by the number of positive cells of all processes, for YOLOv9 by the sum of
        their soft class targets.

        Args:
            images: (batch, 3, height, width) in [0, 1].
            targets: one per image, with boxes of positive width and height.

        Raises:
            EyasError: the network is in evaluation mode, in which BatchNorm would not follow the batch.
        """
        batch = self._training_batch(images, targets)
        maps = self.family.maps(batch)
        with torch.autocast(images.device.type, enabled=False):
            return self.family.losses(maps, targets, size_of(batch))

    def losses_and_heads(self, images: Tensor, targets: Sequence[Target]) -> tuple[dict[str, Tensor], HeadOutputs]:
        """`losses`, and the head outputs they were computed from. Arguments and errors as in `losses`."""
        batch = self._training_batch(images, targets)
        maps = self.family.maps(batch)
        with torch.autocast(images.device.type, enabled=False):
            return self.family.losses_and_heads(maps, targets, size_of(batch))

    def score_boxes(
        self, images: Tensor, boxes: Mapping[str, Sequence[Tensor]], *, proposals: bool = False, scores: bool = False
    ) -> HeadOutputs:
        """The head outputs for given boxes, which must be its own cells.

        Args:
            images: (batch, 3, height, width) in [0, 1].
            boxes: head name -> for each image (n, 4) xyxy.
            proposals: ignored; this detector has none and gives None.
            scores: also give the scores of all cells: the highest class probability, for YOLOX times the objectness.

        Raises:
            EyasError: the network is in training mode, has no such head, or has other cells.
        """
        self._require_evaluation("scoring boxes")
        check_heads(boxes, self.family.head_names, type(self.network).__name__)
        heads = self.family.heads(self._maps(images))
        for name, given in boxes.items():
            check_anchors(name, given, heads[name].boxes)
        found = cell_scores(self.levels, heads["anchors"], confidence=heads.get("objectness")) if scores else {}
        return HeadOutputs({name: heads[name] for name in boxes}, scores=found)

    @torch.no_grad()
    def predict(self, images: Tensor) -> list[Prediction]:
        """Detections by descending score, clipped to the images before NMS, as the library finds them.

        Args:
            images: (batch, 3, height, width) in [0, 1].

        Raises:
            EyasError: the network is in training mode.
        """
        self._require_evaluation("detecting")
        return as_predictions(self.detect(*self.outputs(images), size_of(images)))

    def outputs(self, images: Tensor) -> tuple[Outputs, Tensor]:
        """The head outputs of images, and their cells, see `cells_of`."""
        maps = self._maps(images)
        return self.family.split(maps), cells_of(maps, self.family.strides)

    def detect(self, outputs: Outputs, cells: Tensor, size: Size) -> Candidates:
        """Detections in images of (height, width), in slots, see `eyas.detectors.deployed.detections`."""
        found = self.family.candidates(outputs, cells)
        boxes = clip(found.boxes, size)
        real = (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
        found = Candidates(boxes, torch.where(real, found.scores, DROPPED), found.labels)
        score, nms = self.score_threshold, self.nms_threshold
        return detections(found, len(self.classes), threshold=score, nms=nms, count=self.detections)

    def export_native(self, folder: Path, input_size: Mapping[str, int] | None = None) -> None:
        """Write a checkpoint for ``LibreYOLO(path)``.

        Args:
            folder: it exists; the file in it is `NATIVE_FILE`.
            input_size: that of the detector's images, by the names of `eyas.data.options.Resize`; where it is None or
                empty, the checkpoint has the library's own size.
        """
        network: Any = self.network
        checkpoint = of_libreyolo("wrap_libreyolo_checkpoint")(
            {name: value.detach().cpu() for name, value in network.state_dict().items()},
            model_family=self.family.key,
            size=network.config,
            task="detect",
            nc=len(self.classes),
            names=dict(enumerate(self.classes)),
            **as_library_size(input_size or {}),
        )
        torch.save(checkpoint, folder / NATIVE_FILE)

    def deployed(self) -> Deployed:
        """The detector as a graph of fixed output shapes; it shares the weights."""
        return DeployedYolo(self)

    def _maps(self, images: Tensor) -> list[Tensor]:
        """The head's maps of images without padding of their own."""
        return self.family.maps(self.family.pixels(self.padding.filled(images, GREY)))

    def _training_batch(self, images: Tensor, targets: Sequence[Target]) -> Tensor:
        """The batch that the network is trained on."""
        if not self.network.training:
            raise EyasError("losses need the training mode: call detector.train() first")
        full = size_of(images)
        sizes = image_sizes(targets, full)
        if set(sizes) != {full}:
            images = images.clone()
            for image, (height, width) in zip(images, sizes, strict=True):
                image[:, height:] = GREY
                image[:, :, width:] = GREY
        return self.family.pixels(self.padding.filled(images, GREY))

    def _require_evaluation(self, what: str) -> None:
        if self.network.training:
            raise EyasError(f"{what} needs the evaluation mode: call detector.eval() first")


def as_library_size(size: Mapping[str, int]) -> dict[str, int]:
    """A size by the names of `Resize` as a checkpoint states it: the sides that an image is fitted into.

    Empty where the size limits only the shorter side, or nothing.
    """
    height, width = (size.get(side, size.get("longer")) for side in ("height", "width"))
    if height is None or width is None:
        return {}
    return {"imgsz": max(height, width), **({"imgsz_h": height, "imgsz_w": width} if height != width else {})}
