"""Weights for detectors and their backbones: torchvision's by name, or a file.

A name is one of torchvision's: ``COCO_V1`` is a whole detector, ``IMAGENET1K_V1`` a backbone, ``DEFAULT`` the best
there is, a whole detector first. These are downloaded. A file is ``.safetensors``, or ``.pt``/``.pth`` read without
pickle, and holds one of

- the state dict of the same detector; where it was trained for another number of classes, the class predictor starts
  anew and a warning says so;
- the state dict of the backbone as a classification network, whose last layers are left out;
- the backbone's tensors in their order, as a list or under other names, where their shapes agree one by one.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model_weights
from torchvision.models.detection import (
    FasterRCNN_ResNet50_FPN_Weights,
    FCOS_ResNet50_FPN_Weights,
    RetinaNet_ResNet50_FPN_Weights,
    SSD300_VGG16_Weights,
)

from eyas.tools.tensor_files import check_weights, read_pt, read_safetensors
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
"""Where the tensors lie whose shape depends on the number of classes."""
CLASSIFIERS = ("fc.", "classifier.", "head.", "global_pool.")
"""Where a classification network keeps what a backbone leaves out."""
COUNTER = "num_batches_tracked"
SUFFIXES = (".safetensors", ".pt", ".pth")


@dataclass(frozen=True)
class Weights:
    """Tensors and where they came from.

    Attributes:
        source: name or file, for messages.
        tensors: by name; a list's by position.
    """

    source: str
    tensors: Mapping[str, Tensor]

    @property
    def whole(self) -> bool:
        """Whether they are a whole detector's rather than a backbone's."""
        return any(name.startswith("backbone.") for name in self.tensors)


def read_weights(weights: str | Path, family: Family, trunk: str, *, fpn: bool) -> Weights:
    """Find and read weights.

    Args:
        weights: name or file.
        family: the detector's family.
        trunk: the backbone's name without suffix.
        fpn: whether an FPN lies on top.

    Raises:
        EyasError: an unknown name, a failed download, a missing or unreadable file.
    """
    path = Path(weights)
    if path.suffix in SUFFIXES or path.exists():
        found = Weights(str(path), read_tensors(path))
        known = next((entry for entry in ZERO_EPSILON if Path(entry.url).name == path.name), None)
        return without_epsilon(found) if known else found
    enums = [DETECTORS.get((family, trunk, fpn)), _trunk_enum(trunk)]
    names: dict[str, WeightsEnum] = {}
    for enum in enums:
        for name, entry in (enum.__members__ if enum else {}).items():
            names.setdefault(name, entry)
    if str(weights) not in names:
        known_names = ", ".join(names) or "none for this model"
        raise EyasError(f"there are no weights {str(weights)!r}: no such file, and torchvision's names: {known_names}")
    entry = names[str(weights)]
    try:
        found = Weights(str(weights), entry.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except (OSError, RuntimeError) as error:  # RuntimeError: the hash of what arrived is wrong
        raise EyasError(
            f"weights {weights} could not be downloaded ({error}); fetch {entry.url} on another machine and give the "
            "file's path in place of the name"
        ) from error
    return without_epsilon(found) if entry in ZERO_EPSILON else found


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name; a list's by position.

    Raises:
        EyasError: it is missing, damaged or something else, holds code, or NaN or infinite weights.
    """
    if not path.is_file():
        raise EyasError(f"{path}: no such weights file")
    loaded: Any = read_safetensors(path) if path.suffix == ".safetensors" else read_pt(path)
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if isinstance(loaded, (list, tuple)):
        loaded = {str(index): tensor for index, tensor in enumerate(loaded)}
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise EyasError(f"{path}: holds no state dict and no list of tensors")
    check_weights(str(path), loaded)
    return dict(loaded)


def load_trunk(module: nn.Module, weights: Weights) -> None:
    """Load a classification network's weights into its convolutional part. Raises EyasError where they do not fit."""
    own = module.state_dict()
    counters = {name: tensor for name, tensor in own.items() if name.endswith(COUNTER)}
    wanted = {name: tensor for name, tensor in own.items() if name not in counters}
    given = {name: tensor for name, tensor in weights.tensors.items() if not name.endswith(COUNTER) and tensor.ndim}
    named = {name.removeprefix("features."): t for name, t in given.items() if not name.startswith(CLASSIFIERS)}
    if named.keys() != wanted.keys() and _shapes(given.values()) == _shapes(wanted.values()):
        named = dict(zip(wanted, given.values(), strict=True))
    refuse_mismatch(weights.source, wanted, named)
    module.load_state_dict(named | counters)


def load_detector(network: nn.Module, weights: Weights) -> None:
    """Load a detector's state dict; the class predictor may be of another number of classes and is then left as it is.

    Raises:
        EyasError: weights of another architecture.
    """
    own = network.state_dict()
    fresh = [
        name
        for name, tensor in weights.tensors.items()
        if name.startswith(PREDICTORS) and name in own and own[name].shape != tensor.shape
    ]
    given = {name: tensor for name, tensor in weights.tensors.items() if name not in fresh}
    misshaped = {name: tensor for name, tensor in given.items() if name in own and own[name].shape != tensor.shape}
    refuse_mismatch(weights.source, {name: own[name] for name in misshaped}, misshaped)
    # The modules themselves know older names of their tensors, so they are asked what is missing.
    result = network.load_state_dict(given, strict=False)
    missing = [name for name in result.missing_keys if name not in fresh and not name.endswith(COUNTER)]
    if missing or result.unexpected_keys:
        raise EyasError(_mismatch(weights.source, missing, result.unexpected_keys, []))
    if fresh:
        warnings.warn(
            f"{weights.source} is for another number of classes; these tensors start anew: {', '.join(fresh)}",
            stacklevel=2,
        )


def without_epsilon(weights: Weights) -> Weights:
    """Weights for a BatchNorm of epsilon 0 to weights for one of 1e-5: it is subtracted from the variances.

    A state dict cannot say which epsilon it was trained with; the variances can carry it.
    """
    tensors = {
        name: tensor - EPSILON if name.endswith("running_var") else tensor for name, tensor in weights.tensors.items()
    }
    return Weights(weights.source, tensors)


def refuse_mismatch(source: str, wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raises EyasError, with some of the names, unless both have the same names and shapes."""
    missing = [name for name in wanted if name not in given]
    unexpected = [name for name in given if name not in wanted]
    misshaped = [
        f"{name} {tuple(given[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    ]
    if missing or unexpected or misshaped:
        raise EyasError(_mismatch(source, missing, unexpected, misshaped))


def _mismatch(source: str, missing: list[str], unexpected: list[str], misshaped: list[str]) -> str:
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": misshaped}
    lines = [f"\n  {len(names)} {kind}: {', '.join(names[:4])}" for kind, names in kinds.items() if names]
    return f"{source}: weights of another architecture.{''.join(lines)}"


def _shapes(tensors: Iterable[Tensor]) -> list[torch.Size]:
    return [tensor.shape for tensor in tensors]


def _trunk_enum(trunk: str) -> type[WeightsEnum] | None:
    """torchvision's weights of a classification network; none for half-width and timm networks."""
    try:
        weights: type[WeightsEnum] = get_model_weights(trunk)
        return weights
    except ValueError:
        return None
