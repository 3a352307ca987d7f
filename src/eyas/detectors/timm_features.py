"""The last map of a model of timm, such as DINOv2 or DINOv3, as a source of features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from eyas.detectors.features import FeatureSource
from eyas.detectors.weight_files import read_weights_file
from eyas.types import EyasError


class LastMap(nn.Module):
    """Normalised images to the last map of a model of timm, after its last normalisation where it has one."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) to (batch, channels, rows, columns); CLS and register tokens are left out."""
        maps = self.model.forward_intermediates(
            images, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        found: Tensor = maps[-1]
        return found


def open_features(model: str, stride: int, weights: Path | None = None) -> FeatureSource:
    """The last map of a model of timm.

    Args:
        model: its name, as in `timm.list_models`.
        stride: pixels of the student's image to a cell of the map.
        weights: a file in the format of the model's checkpoints; those that timm downloads when None.

    Raises:
        EyasError: timm is not installed, has no such model or no weights of it, or the model gives no map.
    """
    try:
        import timm
    except ImportError as error:
        raise EyasError(f'features:timm:{model} needs timm: pip install "eyas[timm]"') from error
    remedy = "correct the name, or give a file of its weights, as features:timm:NAME@FILE"
    options: dict[str, Any] = {"pretrained": True, "num_classes": 0}
    if weights is not None:
        tensors, config = read_weights_file(weights).tensors, timm.get_pretrained_cfg(model, allow_unregistered=True)
        options["pretrained_cfg_overlay"] = _overlay(tensors, None if config is None else config.classifier)
        remedy = f"check {weights}"
    try:
        try:
            network: Any = timm.create_model(model, dynamic_img_size=True, **options)  # positions are interpolated
        except TypeError:  # only vision transformers have positions
            network = timm.create_model(model, **options)
    except Exception as error:  # an unknown name, a hub that is out of reach, weights that do not fit
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise EyasError(f"features:timm:{model}: timm cannot make it ({reason}); {remedy}") from error
    if not hasattr(network, "forward_intermediates"):
        raise EyasError(f"features:timm:{model}: timm gives no maps of it; take a vision transformer or a CNN")
    config, cell = network.pretrained_cfg, network.feature_info[-1]["reduction"]
    return FeatureSource(LastMap(network), cell=cell, stride=stride, mean=config["mean"], std=config["std"])


def _overlay(tensors: Mapping[str, Tensor], classifier: str | Sequence[str] | None) -> dict[str, Any]:
    """What replaces parts of timm's description of a model's weights: these tensors, without those of the classifier.

    timm loads them strictly only where they have as many classes as the model: none.
    """
    names = [classifier] if isinstance(classifier, str) else classifier or ()
    left_out = tuple(f"{name}." for name in names)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(left_out)}
    return {"state_dict": kept, "num_classes": 0}
