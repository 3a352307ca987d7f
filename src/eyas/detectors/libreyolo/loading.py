"""YOLOv9 and YOLOX of libreyolo by name, with random weights or those of a checkpoint, and checkpoints as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from eyas.detectors.class_names import warn_renamed
from eyas.detectors.libreyolo.adapter import DETECTIONS, NMS_THRESHOLD, SCORE_THRESHOLD, LibreYoloDetector
from eyas.detectors.libreyolo.names import of_libreyolo
from eyas.detectors.origin import Origin, with_origin
from eyas.detectors.weight_files import Weights, load_detector, read_weights_file
from eyas.ops.anchors import StrideGrid
from eyas.tools.tensor_files import check_weights, read_pt
from eyas.types import EyasError

SIZES: Mapping[str, Sequence[str]] = {"yolov9": "tsmc", "yolox": "ntsmlx"}
MODELS = {"yolo9": "yolov9", "yolox": "yolox"}
"""The library's name of a family -> the model's name here."""
PREDICTORS = {"yolov9": ("head.cv3.",), "yolox": ("head.cls_preds.",)}
"""Prefixes of the tensors whose shapes depend on the number of classes."""
AUXILIARY = ("aux.", "aux_head.")
"""Prefixes of the tensors of YOLOv9's auxiliary branch, which only the library's training has."""
PRIOR = 0.01
"""The score of every cell before training, as in YOLOX's own training; YOLOv9's constructor sets its own."""
WIDEST = 1024
CLASS_TOWER = "head.cv3.0.0.conv.weight"
"""The first convolution of YOLOv9's class tower, whose width a checkpoint keeps when it is trained on other classes."""


def yolov9(
    classes: Sequence[str],
    *,
    size: str = "s",
    weights: str | Path | None = None,
    class_channels: int | None = None,
    score_threshold: float = SCORE_THRESHOLD,
    nms_threshold: float = NMS_THRESHOLD,
    detections: int = DETECTIONS,
    anchor_scale: float = StrideGrid.scale,
    anchor_ratios: Sequence[float] = StrideGrid.ratios,
) -> LibreYoloDetector:
    """YOLOv9 (Wang et al., 2024), without its auxiliary branch.

    Args:
        classes: class names in label order.
        size: t, s, m or c.
        weights: a checkpoint of libreyolo, or a file of tensors; the class towers start anew where their shapes differ.
        class_channels: width of the class towers. By default the library's for that many classes: in size t 64 to 100,
            in the others always the same. The towers of weights for COCO are 80 wide in size t.
        score_threshold: lowest score of a detection.
        nms_threshold: IoU above which NMS drops the lower-scoring of two detections of one class.
        detections: maximum number per image.
        anchor_scale: side of the square anchor of every level, in strides.
        anchor_ratios: height over width.

    Raises:
        EyasError: libreyolo is not installed, an unknown size, or weights that do not fit.
    """
    _check_size("yolov9", size)
    network = of_libreyolo("LibreYOLO9Model")(config=size, nb_classes=len(classes))
    if class_channels is not None:
        if not 1 <= class_channels <= WIDEST:
            raise EyasError(f"class_channels must lie in [1, {WIDEST}], got {class_channels}")
        _widen_class_towers(network.head, class_channels)
    _load(network, weights, "yolov9", classes)
    return LibreYoloDetector(
        network,
        classes,
        score_threshold=score_threshold,
        nms_threshold=nms_threshold,
        detections=detections,
        anchor_scale=anchor_scale,
        anchor_ratios=anchor_ratios,
    ).train()


def yolox(
    classes: Sequence[str],
    *,
    size: str = "s",
    weights: str | Path | None = None,
    l1: bool = False,
    score_threshold: float = SCORE_THRESHOLD,
    nms_threshold: float = NMS_THRESHOLD,
    detections: int = DETECTIONS,
    anchor_scale: float = StrideGrid.scale,
    anchor_ratios: Sequence[float] = StrideGrid.ratios,
) -> LibreYoloDetector:
    """YOLOX (Ge et al., 2021).

    Args:
        classes: class names in label order.
        size: n, t, s, m, l or x.
        weights: a checkpoint of libreyolo, or a file of tensors; the class predictors start anew where their shapes
            differ.
        l1: add the L1 loss of the boxes, which YOLOX's own training has in its last epochs, without mosaic.
        score_threshold: lowest score of a detection.
        nms_threshold: IoU above which NMS drops the lower-scoring of two detections of one class.
        detections: maximum number per image.
        anchor_scale: side of the square anchor of every level, in strides.
        anchor_ratios: height over width.

    Raises:
        EyasError: libreyolo is not installed, an unknown size, or weights that do not fit.
    """
    _check_size("yolox", size)
    network = of_libreyolo("LibreYOLOXModel")(config=size, nb_classes=len(classes))
    network.init_weights(PRIOR)
    network.head.use_l1 = l1
    _load(network, weights, "yolox", classes)
    return LibreYoloDetector(
        network,
        classes,
        score_threshold=score_threshold,
        nms_threshold=nms_threshold,
        detections=detections,
        anchor_scale=anchor_scale,
        anchor_ratios=anchor_ratios,
    ).train()


@dataclass(frozen=True)
class CheckpointContent:
    """What a checkpoint of libreyolo says.

    Attributes:
        model: yolov9 or yolox.
        size: the size of the model.
        classes: class names in label order.
        weights: the tensors of the network.
        input_size: the size of its images, by the names of `eyas.data.options.Resize`.
    """

    model: str
    size: str
    classes: tuple[str, ...]
    weights: Weights
    input_size: Mapping[str, Any]


def open_checkpoint(path: Path) -> LibreYoloDetector:
    """The detector of a checkpoint, in evaluation mode on the CPU.

    Raises:
        EyasError: see `read_checkpoint`; or libreyolo is not installed, or the weights do not fit.
    """
    found = read_checkpoint(path)
    options: dict[str, Any] = {"size": found.size}
    if found.model == "yolov9" and CLASS_TOWER in found.weights.tensors:
        options["class_channels"] = len(found.weights.tensors[CLASS_TOWER])
    builder: Callable[..., LibreYoloDetector] = yolov9 if found.model == "yolov9" else yolox
    detector = builder(found.classes, **options)
    load_detector(detector.network, found.weights)
    with_origin(detector, Origin(found.model, None, options))
    return detector.eval()


def read_checkpoint(path: Path) -> CheckpointContent:
    """What a checkpoint says, read without pickle; libreyolo is not needed.

    Raises:
        EyasError: it is damaged or holds code, is of another family or task, or contradicts itself.
    """
    loaded: Any = read_pt(path)
    if not isinstance(loaded, dict) or not isinstance(loaded.get("model"), dict):
        raise EyasError(f"{path}: not a checkpoint of libreyolo: it has no `model`")
    family, task, listed = loaded.get("model_family"), loaded.get("task"), _names_in(loaded)
    if not isinstance(family, str) or family not in MODELS or task != "detect":
        known = " and ".join(MODELS)
        raise EyasError(f"{path}: a libreyolo {family!s:.40} for {task!s:.40}; Eyas knows its {known} for detect")
    if listed is None:
        names = loaded.get("names")
        raise EyasError(f"{path}: its class names must be texts with labels from 0 without gaps, got {names!s:.100}")
    if len(set(listed)) != len(listed) or loaded.get("nc") != len(listed):
        raise EyasError(f"{path}: for {loaded.get('nc')!s:.20} classes it has the names {', '.join(listed):.200}")
    size = loaded.get("size")
    model = MODELS[family]
    _check_size(model, size, str(path))
    weights = Weights(str(path), network_tensors(loaded["model"], str(path)))
    return CheckpointContent(model, str(size), tuple(listed), weights, stated_size(loaded))


def _names_in(loaded: Mapping[str, Any]) -> list[str] | None:
    """The class names of a checkpoint, in label order; None where it has no such list."""
    names = loaded.get("names")
    listed = [names.get(label) for label in range(len(names))] if isinstance(names, Mapping) else names
    return listed if isinstance(listed, list) and listed and all(_is_name(name) for name in listed) else None


def stated_size(loaded: Mapping[str, Any]) -> dict[str, Any]:
    """The size of the images in a checkpoint: the library fits images into it and keeps their shape."""
    if "imgsz_h" in loaded and "imgsz_w" in loaded:
        sides = (loaded["imgsz_h"], loaded["imgsz_w"])
        if all(isinstance(side, int) for side in sides):
            return {"shorter": min(sides), "longer": max(sides)}
    return {"longer": loaded["imgsz"]} if isinstance(loaded.get("imgsz"), int) else {}


def network_tensors(tensors: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """The network's own tensors of a state dict: the auxiliary branch is left out, an older name of the head replaced.

    Raises:
        EyasError: something else than tensors, or tensors that cannot be weights.
    """
    strange = [str(name) for name, tensor in tensors.items() if not isinstance(tensor, Tensor)]
    if strange or not tensors:
        raise EyasError(f"{source}: its `model` must hold tensors alone, and has {', '.join(strange[:4]) or 'nothing'}")
    found = {
        f"head.{name.removeprefix('detect.')}" if name.startswith("detect.") else name: tensor
        for name, tensor in tensors.items()
        if not name.startswith(AUXILIARY)
    }
    check_weights(source, found)
    return found


def _load(network: Any, weights: str | Path | None, model: str, classes: Sequence[str]) -> None:
    """Load a file's weights into a network, if any are given."""
    if weights is not None:
        read = read_weights_file(Path(weights))
        loaded = read_pt(Path(weights)) if Path(weights).suffix == ".pt" else None
        if isinstance(loaded, dict):
            warn_renamed(read.source, _names_in(loaded) or (), classes)
        load_detector(network, Weights(read.source, network_tensors(read.tensors, read.source)), PREDICTORS[model])


def _widen_class_towers(head: Any, channels: int) -> None:
    """Class towers of another width, as the library's own loading of checkpoints makes them."""
    inputs = [int(tower[0].conv.weight.shape[1]) for tower in head.cv3]
    head.cv3 = head._build_class_towers(inputs, channels, head.nc)
    head._init_bias()


def _check_size(model: str, size: Any, source: str = "") -> None:
    if size not in list(SIZES[model]):
        where = f"{source}: " if source else ""
        raise EyasError(f"{where}{model} has no size {size!s:.40}; choose from {', '.join(SIZES[model])}")


def _is_name(name: object) -> bool:
    return isinstance(name, str) and bool(name) and name.isprintable()
