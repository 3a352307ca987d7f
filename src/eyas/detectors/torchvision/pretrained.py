"""Weights for torchvision's detectors and their backbones: torchvision's by name, or a file.

A name is one of torchvision's: ``COCO_V1`` is a whole detector, ``IMAGENET1K_V1`` a backbone, ``DEFAULT`` the best
available, a whole detector before a backbone. Named weights are downloaded. A file (see `eyas.detectors.weight_files`)
holds one of

- the state dict of the same detector; if its number of classes differs, the class predictor keeps its random weights
  and a warning says so;
- the state dict of the backbone as a classification network, whose last layers are left out;
- the backbone's tensors in order, as a list or under other names, if their shapes agree one by one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torch import nn
from torchvision.models import VGG16_Weights, WeightsEnum, get_model_weights
from torchvision.models.detection import (
    FasterRCNN_ResNet50_FPN_Weights,
    FCOS_ResNet50_FPN_Weights,
    RetinaNet_ResNet50_FPN_Weights,
    SSD300_VGG16_Weights,
)

from eyas.detectors.weight_files import COUNTER, SUFFIXES, Weights, read_weights_file, refuse_mismatch
from eyas.types import EyasError

Family = Literal["faster_rcnn", "retinanet", "fcos", "ssd"]
DETECTORS: dict[tuple[str, str, bool], type[WeightsEnum]] = {
    ("faster_rcnn", "resnet50", True): FasterRCNN_ResNet50_FPN_Weights,
    ("retinanet", "resnet50", True): RetinaNet_ResNet50_FPN_Weights,
    ("fcos", "resnet50", True): FCOS_ResNet50_FPN_Weights,
    ("ssd", "vgg16", False): SSD300_VGG16_Weights,
}
"""(family, trunk, FPN) -> torchvision's weights of the whole detector."""
ZERO_EPSILON = (FasterRCNN_ResNet50_FPN_Weights.COCO_V1, RetinaNet_ResNet50_FPN_Weights.COCO_V1)
"""Weights trained when torchvision's frozen BatchNorm had no epsilon; its own builders set it to 0 for them."""
EPSILON = 1e-5
PREDICTORS = (
    "roi_heads.box_predictor.",
    "head.classification_head.cls_logits.",
    "head.classification_head.module_list.",
)
"""Prefixes of the tensors whose shapes depend on the number of classes."""
CLASSIFIERS = ("fc.", "classifier.", "head.", "global_pool.")
"""Prefixes of a classification network's layers that a backbone leaves out."""


def is_whole_detector(weights: Weights) -> bool:
    """Whether weights are those of a whole detector, not of a backbone."""
    return any(name.startswith("backbone.") for name in weights.tensors)


def read_weights(weights: str | Path, family: Family, trunk: str, *, fpn: bool) -> Weights:
    """Find and read weights, a name or a file, for a family's detector on a trunk, the backbone's name without suffix.

    Raises:
        EyasError: an unknown name, a failed download, a missing or unreadable file.
    """
    path = Path(weights)
    if path.suffix in SUFFIXES or path.exists():
        found = read_weights_file(path)
        zero_epsilon = any(Path(entry.url).name == path.name for entry in ZERO_EPSILON)
        return without_epsilon(found) if zero_epsilon else found
    names: dict[str, WeightsEnum] = {}
    for enum in (DETECTORS.get((family, trunk, fpn)), _trunk_enum(trunk)):
        for name, entry in (enum.__members__ if enum else {}).items():
            if not _fits(family, entry):
                continue
            names.setdefault(name, entry)
            names[f"{type(entry).__name__}.{name}"] = entry  # as in torchvision's pages: ResNet50_Weights.DEFAULT
    if str(weights) not in names:
        known_names = ", ".join(name for name in names if "." not in name) or "none for this model"
        raise EyasError(f"there are no weights {str(weights)!r}: no such file; torchvision's names are {known_names}")
    entry = names[str(weights)]
    try:
        found = Weights(str(weights), entry.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except (OSError, RuntimeError) as error:  # RuntimeError: the download has the wrong hash
        raise EyasError(
            f"weights {weights} could not be downloaded ({error}); fetch {entry.url} on another machine and give the "
            "file's path instead of the name"
        ) from error
    return without_epsilon(found) if entry in ZERO_EPSILON else found


def load_trunk(module: nn.Module, weights: Weights) -> None:
    """Load a classification network's weights into its convolutional part. Raises EyasError where they do not fit."""
    own = module.state_dict()
    counters = {name: tensor for name, tensor in own.items() if name.endswith(COUNTER)}
    expected = {name: tensor for name, tensor in own.items() if name not in counters}
    given = {name: tensor for name, tensor in weights.tensors.items() if not name.endswith(COUNTER) and tensor.ndim}
    named = {name.removeprefix("features."): t for name, t in given.items() if not name.startswith(CLASSIFIERS)}
    shapes, own_shapes = ([tensor.shape for tensor in tensors.values()] for tensors in (given, expected))
    if named.keys() != expected.keys() and shapes == own_shapes:
        named = dict(zip(expected, given.values(), strict=True))
    refuse_mismatch(weights.source, expected, named)
    module.load_state_dict(named | counters)


def without_epsilon(weights: Weights) -> Weights:
    """Convert weights for a BatchNorm of epsilon 0 to one of 1e-5, by subtracting it from the variances.

    A state dict does not record its epsilon, so the variances have to carry it.
    """
    tensors = {
        name: tensor - EPSILON if name.endswith("running_var") else tensor for name, tensor in weights.tensors.items()
    }
    return Weights(weights.source, tensors)


def _fits(family: Family, entry: WeightsEnum) -> bool:
    """Whether weights were trained on images as the family's detector normalises them: SSD300 does not divide by the
    deviation, as the VGG-16 that torchvision has for it alone."""
    return not isinstance(entry, VGG16_Weights) or (entry is VGG16_Weights.IMAGENET1K_FEATURES) == (family == "ssd")


def _trunk_enum(trunk: str) -> type[WeightsEnum] | None:
    """torchvision's weights of a classification network; None for half-width and timm networks."""
    try:
        weights: type[WeightsEnum] = get_model_weights(trunk)
        return weights
    except ValueError:
        return None
