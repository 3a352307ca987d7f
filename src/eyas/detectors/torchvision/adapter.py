"""Any torchvision Faster R-CNN, RetinaNet, FCOS or SSD as an Eyas detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torchvision.models.detection import FCOS, FasterRCNN, KeypointRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from eyas.detectors.cell_scores import cell_scores
from eyas.detectors.deployed import Deployed
from eyas.detectors.head_checks import check_anchors, check_heads
from eyas.detectors.padding import Padding
from eyas.detectors.torchvision import heads_one_stage, heads_two_stage
from eyas.detectors.torchvision.branches import branches
from eyas.detectors.torchvision.deployed import DeployedFasterRCNN, DeployedOneStage
from eyas.detectors.torchvision.levels import PROBE_SIZE, derive_levels
from eyas.types import Branch, EyasError, HeadOutputs, Prediction, Size, Target, size_of

TRUNKS = ("body", "features")
"""What torchvision calls the trunk, where its ``backbone`` has more than that."""


class FixedSizeTransform(GeneralizedRCNNTransform):
    """torchvision's inner transform without its resizing; normalises and pads a whole batch of one size at a time."""

    def __init__(self, inner: GeneralizedRCNNTransform, padding: Padding) -> None:
        sizes = (inner.size_divisible, inner.fixed_size)
        super().__init__(inner.min_size, inner.max_size, inner.image_mean, inner.image_std, *sizes)
        self.padding = padding

    def normalised(self, images: Tensor) -> Tensor:
        """The batch that the network sees."""
        return self.padding.normalised(images, self.image_mean, self.image_std)

    def forward(
        self, images: Tensor | Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None = None
    ) -> tuple[ImageList, list[dict[str, Tensor]] | None]:
        """That batch with the images' sizes before padding, and the targets unchanged."""
        batch = images if isinstance(images, Tensor) else torch.stack(list(images))
        sizes = [size_of(batch)] * len(batch)
        return ImageList(self.normalised(batch), sizes), None if targets is None else list(targets)


class TorchvisionDetector(nn.Module):
    """A torchvision detector, built by you or by `eyas.detectors.build`; satisfies `eyas.types.DetectorWithHeads`.

    Its heads are ``rpn`` and ``roi`` for Faster R-CNN, ``anchors`` for the others, and ``centerness`` for FCOS.

    `network` stays the torchvision module with its own names, so its state dict loads in plain torchvision. Three
    things change. Its inner transform no longer resizes: images come resized. Its heads and anchors compute in float32
    under autocast too, because coordinates do not fit into 16 bits. Faster R-CNN fixes the scales of its levels at
    construction, not at its first image.

    The inner transform still normalises, and pads on the right and at the bottom to torchvision's multiple of 32.
    Feature maps and grids then belong to the padded image, boxes to the image: the frames share their origin.

    Ignore regions are background to these losses: torchvision does not know them.

    Args:
        model: the detector.
        classes: class names in label order, without the background.
        min_size: (height, width) that smaller images are padded to. By default an SSD's own input size, which the last
            layers of SSD300 need, and no minimum for the others.

    Raises:
        EyasError: another kind of model, or a head for another number of classes.
    """

    def __init__(self, model: nn.Module, classes: Sequence[str], *, min_size: Size | None = None) -> None:
        super().__init__()
        if not isinstance(model, (FasterRCNN, RetinaNet, FCOS, SSD)):
            raise EyasError(
                f"{type(model).__name__} is not a torchvision FasterRCNN, RetinaNet, FCOS or SSD; "
                "bring other modules in through eyas.detectors.custom.CustomDetector"
            )
        self.network = model
        self.classes = tuple(classes)
        self._first_label = first_label(model, len(self.classes))
        own_size = model.transform.fixed_size[::-1] if model.transform.fixed_size else (1, 1)
        padding = Padding(model.transform.size_divisible, min_size or own_size)
        model.transform = FixedSizeTransform(model.transform, padding)
        generator = model.rpn.anchor_generator if isinstance(model, FasterRCNN) else model.anchor_generator
        _keep_float32(model, generator)
        probe_size = own_size if isinstance(model, SSD) else PROBE_SIZE
        self.levels = derive_levels(model, generator, padding, probe_size)

    @property
    def backbone_name(self) -> str:
        """The trunk of the network's ``backbone``, without a feature pyramid or an SSD's further maps.

        torchvision has VGG-16's conv5 among the further maps of SSD300.
        """
        trunks = [f"backbone.{part}" for part, _ in self.network.backbone.named_children() if part in TRUNKS]
        return trunks[0] if trunks else "backbone"

    @property
    def branches(self) -> Mapping[str, Branch]:
        """Those of RetinaNet's and FCOS's heads."""
        return branches(self.network)

    def forward(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The same as `losses`."""
        return self.losses(images, targets)

    def losses(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """torchvision's loss terms by torchvision's names; an image may have no boxes.

        Args:
            images: (batch, 3, height, width) in [0, 1].
            targets: one per image, with boxes of positive width and height.

        Raises:
            EyasError: the network is in evaluation mode, in which torchvision computes no losses, or it learns masks or
                key points. To freeze BatchNorm while training, build with ``norm="frozen"``.
        """
        if not self.network.training:
            raise EyasError("losses need the training mode: call detector.train() first")
        if isinstance(self.network, (MaskRCNN, KeypointRCNN)):
            raise EyasError(
                f"{type(self.network).__name__} also learns masks or key points, of which Eyas has no labels: it can "
                "teach, and cannot be trained here"
            )
        shifted = [{"boxes": t["boxes"], "labels": t["labels"] + self._first_label} for t in targets]
        losses: dict[str, Tensor] = self.network(images, shifted)
        return losses

    def losses_and_heads(self, images: Tensor, targets: Sequence[Target]) -> tuple[dict[str, Tensor], HeadOutputs]:
        """`losses`, bit for bit, and the head outputs they were computed from. Arguments and errors as in `losses`.

        The proposals are those that Faster R-CNN's second stage was trained on.
        """
        network = self.network
        if isinstance(network, FasterRCNN):
            with heads_two_stage.record_stages(network) as calls:
                losses = self.losses(images, targets)
            return losses, heads_two_stage.training_head_outputs(network, calls)
        with heads_one_stage.record_loss(network) as recorded:
            losses = self.losses(images, targets)
        return losses, heads_one_stage.training_head_outputs(network, recorded)

    def score_boxes(
        self, images: Tensor, boxes: Mapping[str, Sequence[Tensor]], *, proposals: bool = False, scores: bool = False
    ) -> HeadOutputs:
        """The head outputs for given boxes, after one pass of the backbone and without post-processing.

        Args:
            images: (batch, 3, height, width) in [0, 1].
            boxes: head name -> for each image (n, 4) xyxy. Anchors must be the network's own; ``roi`` takes any boxes.
            proposals: also give the RPN's proposals after NMS. One-stage detectors have none and give None.
            scores: also give the scores of all cells: the highest class probability, of Faster R-CNN the objectness.

        Raises:
            EyasError: the network is in training mode, has no such head, or has other anchors.
        """
        network = self.network
        if network.training:
            raise EyasError("scoring boxes needs the evaluation mode: call detector.eval() first")
        two_stages = isinstance(network, FasterRCNN)
        known = heads_two_stage.HEADS if two_stages else heads_one_stage.head_names(network)
        check_heads(boxes, known, type(network).__name__)
        batch, _ = network.transform(images)
        maps = network.backbone(batch.tensors)
        maps = {"0": maps} if isinstance(maps, Tensor) else maps
        if two_stages:
            return heads_two_stage.score_boxes(network, batch, maps, boxes, proposals, self.levels if scores else ())
        dense = heads_one_stage.score_anchors(network, batch, maps) if boxes or scores else {}
        for name, given in boxes.items():
            check_anchors(name, given, dense[name].boxes)
        found = cell_scores(self.levels, dense["anchors"], first_column=self._first_label) if scores else {}
        return HeadOutputs({name: dense[name] for name in boxes}, scores=found)

    def predict(self, images: Tensor) -> list[Prediction]:
        """Detections after NMS, by descending score, clipped to the images.

        Args:
            images: (batch, 3, height, width) in [0, 1].

        Raises:
            EyasError: the network is in training mode.
        """
        if self.network.training:
            raise EyasError("detecting needs the evaluation mode: call detector.eval() first")
        predictions: list[Prediction] = []
        for found in self.network(images):
            order = found["scores"].argsort(descending=True, stable=True)
            # A head with a sigmoid column for the background can predict the background.
            order = order[found["labels"][order] >= self._first_label]
            boxes, labels = found["boxes"][order], found["labels"][order] - self._first_label
            predictions.append({"boxes": boxes, "scores": found["scores"][order], "labels": labels})
        return predictions

    def deployed(self) -> Deployed:
        """The detector as a graph of fixed output shapes; it shares the weights."""
        if isinstance(self.network, FasterRCNN):
            return DeployedFasterRCNN(self.network)
        return DeployedOneStage(self.network, self._first_label)


def first_label(model: FasterRCNN | RetinaNet | FCOS | SSD, num_classes: int) -> int:
    """torchvision's label of the first class: 1 where label 0 is the background, else 0.

    Faster R-CNN and SSD always count the background. RetinaNet and FCOS do not need to, but torchvision's own COCO
    weights leave their label 0 unused.

    Raises:
        EyasError: the head is for another number of classes.
    """
    if isinstance(model, FasterRCNN):
        outputs = int(model.roi_heads.box_predictor.cls_score.out_features)
    else:
        head = model.head.classification_head
        outputs = int(head.num_columns if isinstance(model, SSD) else head.num_classes)
    allowed = (1,) if isinstance(model, (FasterRCNN, SSD)) else (0, 1)
    if outputs - num_classes not in allowed:
        raise EyasError(
            f"the {type(model).__name__} distinguishes {outputs} classes, background included; for {num_classes} class "
            f"names it must be {' or '.join(str(num_classes + background) for background in allowed)}"
        )
    return outputs - num_classes


def _keep_float32(model: Any, generator: nn.Module) -> None:
    """Hooks that convert the generator's inputs and the heads' outputs to float32.

    torchvision computes anchors and boxes in the type of the features, and bfloat16 counts whole pixels only up to 256.
    It also converts the generator's cell anchors permanently.
    """
    generator.register_forward_pre_hook(_maps_as_float32)
    heads = [model.rpn.head, model.roi_heads.box_predictor] if isinstance(model, FasterRCNN) else [model.head]
    for head in heads:
        head.register_forward_hook(_outputs_as_float32)


def _maps_as_float32(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    images, maps = args
    # Only the shape, type and device of the maps are read, so they need no memory.
    return images, [feature.new_empty((), dtype=torch.float32).expand(feature.shape) for feature in maps]


def _outputs_as_float32(_: nn.Module, args: tuple[Any, ...], outputs: Any) -> Any:
    return tree_map(Tensor.float, outputs)
