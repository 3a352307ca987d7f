"""Detectors of Hugging Face transformers, DETR and its relatives, as teachers and as students.

transformers is an extra, ``pip install eyas[transformers]``, and is imported only when such a detector is built.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from eyas.detectors.deployed import Deployed
from eyas.detectors.padding import Padding
from eyas.detectors.transformers.deployed import DeployedTransformers, pixel_statistics
from eyas.detectors.transformers.families import FAMILIES
from eyas.detectors.transformers.input_size import write_input_size
from eyas.detectors.transformers.levels import add_token_maps, derive_levels
from eyas.detectors.transformers.loading import class_names, library, load_model, reading
from eyas.detectors.transformers.queries import RecordedDecoder, recorded_decoder
from eyas.ops.anchors import StrideGrid
from eyas.ops.boxes import to_centre_size
from eyas.types import EyasError, Prediction, Size, Target, size_of


class TransformersDetector(nn.Module):
    """A detector of transformers, built by you or by `transformers_detector`; satisfies `eyas.types.Detector`.

    `network` stays the library's module with its own names: its state dict, and the folder that `export_native` writes,
    load in plain transformers. Images come resized, in [0, 1]. They are normalised as the model's image processor does
    (RT-DETR, D-FINE and DEIMv2 with an HGNet do not normalise), and padded on the right and at the bottom to a size
    that the model's strides and windows divide. There is no padding mask: all images of a batch have one size, and the
    model sees a loader's padding.

    None of these detectors has anchors. The grid of every level has ``anchor_ratios`` of side ``anchor_scale`` times
    the stride in each cell. Among levels of one stride the encoder's come before the backbone's, and are paired first.
    Image tokens of a transformer become levels too, see `eyas.detectors.transformers.levels.TokenMaps`.

    Ignore regions are background to these losses: the library does not know them.

    Args:
        model: one of the classes in `eyas.detectors.transformers.families.FAMILIES`.
        classes: class names in label order; by default those of the model's config.
        processor: the model's image processor; by default the library's for this kind of model.
        score_threshold: detections must score above this.
        anchor_scale: side of the square anchor of every level, in strides.
        anchor_ratios: height over width.

    Raises:
        EyasError: another kind of model, a head for another number of classes, or a model without maps to tap.
    """

    def __init__(
        self,
        model: nn.Module,
        classes: Sequence[str] | None = None,
        *,
        processor: Any = None,
        score_threshold: float = 0.0,
        anchor_scale: float = StrideGrid.scale,
        anchor_ratios: Sequence[float] = StrideGrid.ratios,
    ) -> None:
        super().__init__()
        family = FAMILIES.get(type(model).__name__)
        if family is None:
            raise EyasError(f"{type(model).__name__} is not one of transformers' {', '.join(FAMILIES)}")
        config: Any = model.config
        if not getattr(config, "use_focal_loss", True):
            raise EyasError("use_focal_loss is false in this config; transformers cannot read such a model's outputs")
        self.network = model
        self.classes = _class_names(config, classes)
        config.id2label = dict(enumerate(self.classes))
        config.label2id = {name: label for label, name in config.id2label.items()}
        self.processor = processor or getattr(library(), family.processor)(**family.processing(config))
        self.padding = Padding(family.divisor(config))
        self.score_threshold = score_threshold
        if family.tokens is not None:
            add_token_maps(model, family.tokens(config))
        self.levels = derive_levels(model, family.divisor(config), anchor_scale, anchor_ratios)

    @property
    def backbone_name(self) -> str:
        """The image network, as the library has it: without an encoder or a projector behind it."""
        return FAMILIES[type(self.network).__name__].backbone(self.network.config)

    def forward(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The same as `losses`."""
        return self.losses(images, targets)

    def losses(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The library's own loss, whose terms add up to its total; an image may have no boxes.

        A term is the sum of its kind (such as ``loss_bbox``) over decoder layers, encoder and denoising queries, each
        times the library's weight. Without gradients (under ``no_grad``, or a frozen network) the weights are unknown
        and there is one term, ``loss``.

        Args:
            images: (batch, 3, height, width) in [0, 1].
            targets: one per image, with boxes of positive width and height.

        Raises:
            EyasError: the network is in evaluation mode, in which the queries of some of these models differ from those
                their losses expect.
        """
        if not self.network.training:
            raise EyasError("losses need the training mode: call detector.train() first")
        batch, size = self._prepare(images)
        output = self.network(pixel_values=batch, labels=[as_labels(target, size) for target in targets])
        terms = loss_terms(output.loss, output.loss_dict)
        # DDP waits for a gradient of every parameter in every batch.
        first, starts = next(iter(terms)), tuple(FAMILIES[type(self.network).__name__].idle(self.network.config))
        idle = (parameter.sum() for name, parameter in self.network.named_parameters() if name.startswith(starts))
        return {**terms, first: terms[first] + 0 * sum(idle, output.loss.new_zeros(()))}

    def predict(self, images: Tensor) -> list[Prediction]:
        """Detections by the library's own post-processing, by descending score, without NMS. Boxes may extend beyond
        the image.

        Args:
            images: (batch, 3, height, width) in [0, 1].

        Raises:
            EyasError: the network is in training mode, in which some of these models have more queries.
        """
        if self.network.training:
            raise EyasError("detecting needs the evaluation mode: call detector.eval() first")
        batch, size = self._prepare(images)
        output = self.network(pixel_values=batch)
        # In bfloat16, coordinates would be wrong by pixels.
        raw = SimpleNamespace(logits=output.logits.float(), pred_boxes=output.pred_boxes.float())
        found = self.processor.post_process_object_detection(
            raw, threshold=self.score_threshold, target_sizes=[size] * len(images)
        )
        predictions: list[Prediction] = []
        for entry in found:
            order = entry["scores"].argsort(descending=True, stable=True)
            boxes, scores, labels = (entry[name][order] for name in ("boxes", "scores", "labels"))
            predictions.append({"boxes": boxes, "scores": scores, "labels": labels})
        return predictions

    def decoding(self) -> AbstractContextManager[RecordedDecoder]:
        """Run `losses` or `predict` once in this context; then the decoder answers for that batch, see
        `eyas.types.QueryDecoder`."""
        return recorded_decoder(self.network, self.classes)

    def export_native(self, folder: Path, input_size: Mapping[str, int] | None = None) -> None:
        """Write config, weights and image processor, for ``from_pretrained(folder)`` of transformers.

        Args:
            folder: it exists.
            input_size: what the image processor resizes to, see `write_input_size`; None leaves its own size.
        """
        network: Any = self.network
        # Among the names of a tied tensor the library may save one from which it does not read the others again.
        tied = network.all_tied_weights_keys
        state = {name: tensor for name, tensor in network.state_dict().items() if name not in tied}
        network.save_pretrained(folder, state_dict=state)
        self.processor.save_pretrained(folder)
        if input_size is not None:
            write_input_size(folder, input_size)

    def deployed(self) -> Deployed:
        """The detector as a graph of fixed output shapes; it shares the weights."""
        return DeployedTransformers(self)

    def _prepare(self, images: Tensor) -> tuple[Tensor, Size]:
        """The normalised and padded batch, and its (height, width)."""
        batch = self.padding.normalised(images, *pixel_statistics(self.processor))
        return batch, size_of(batch)


def transformers_detector(
    classes: Sequence[str] | None,
    backbone: str,
    *,
    weights: str | Path | None = None,
    config: Mapping[str, Any] | None = None,
    score_threshold: float = 0.0,
    anchor_scale: float = StrideGrid.scale,
    anchor_ratios: Sequence[float] = StrideGrid.ratios,
) -> TransformersDetector:
    """A detector of transformers, in training mode on the CPU.

    Args:
        classes: class names in label order; None for those of the configuration.
        backbone: the source of the configuration: a hub id, a folder that ``save_pretrained`` wrote, a config.json, or
            a checkpoint of rfdetr.
        weights: None starts at random; "pretrained" loads those of ``backbone``; or another hub id or folder, or a file
            of the same architecture (.safetensors, or .pt read without pickle). Tensors whose shapes depend on the
            number of classes start anew if it differs, and a warning says so.
        config: values that replace those of the configuration, such as num_queries.
        score_threshold: detections must score above this.
        anchor_scale: side of the square anchor of every level, in strides.
        anchor_ratios: height over width.

    Raises:
        EyasError: transformers is not installed, nothing is found at the source, it describes no detector, or weights
            that do not fit.
    """
    with reading(backbone):
        model, processor = load_model(backbone, weights, classes, config or {})
        return TransformersDetector(
            model,
            classes,
            processor=processor,
            score_threshold=score_threshold,
            anchor_scale=anchor_scale,
            anchor_ratios=anchor_ratios,
        ).train()


def loss_terms(total: Tensor, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The terms of a loss by kind, weighted so that they add up to the total.

    The total is a weighted sum of some of the terms. Names such as ``loss_bbox``, ``loss_bbox_0`` and
    ``loss_bbox_dn_1`` are of one kind.
    """
    if not total.requires_grad:
        return {"loss": total}
    trained = {name: term for name, term in terms.items() if term.requires_grad}
    # The gradient of a weighted sum with respect to a term is the term's weight.
    weights = torch.autograd.grad(total, list(trained.values()), retain_graph=True, allow_unused=True)
    kinds: dict[str, Tensor] = {}
    for (name, term), weight in zip(trained.items(), weights, strict=True):
        if weight is not None:
            found = re.match(r"loss_[a-z]+", name)
            kind, part = found.group() if found else name, (weight * term).float().sum()
            kinds[kind] = kinds[kind] + part if kind in kinds else part
    return kinds


def as_labels(target: Target, size: Size) -> dict[str, Tensor]:
    """A target as transformers expects it: boxes as centre, width and height in [0, 1] of an image of ``size``."""
    boxes = target["boxes"]
    scale = boxes.new_tensor((size[1], size[0], size[1], size[0]))
    return {"class_labels": target["labels"], "boxes": to_centre_size(boxes) / scale}


def _class_names(config: Any, classes: Sequence[str] | None) -> tuple[str, ...]:
    own = class_names(config, "the model's config")
    if classes is not None and len(classes) != len(own):
        raise EyasError(
            f"the head distinguishes {len(own)} classes and there are {len(classes)} names; build it through "
            "eyas.build('transformers', classes, ...), which makes a head for them"
        )
    return own if classes is None else tuple(classes)
