"""Detectors: one adapter per library, your own through `CustomDetector`, and builders by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from eyas.detectors.custom import CustomDetector
from eyas.detectors.deployed import Candidates, Deployed
from eyas.detectors.pretrained import Weights, load_detector, read_tensors
from eyas.detectors.shuffledet.adapter import ShuffleDet
from eyas.detectors.torchvision.adapter import TorchvisionDetector
from eyas.detectors.torchvision.backbones import TRUNKS
from eyas.detectors.torchvision.faster_rcnn import faster_rcnn
from eyas.detectors.torchvision.one_stage import fcos, retinanet
from eyas.detectors.torchvision.ssd import ssd
from eyas.detectors.transformers.adapter import TransformersDetector, transformers_detector
from eyas.types import Detector, EyasError

__all__ = [
    "BUILDERS",
    "Candidates",
    "CustomDetector",
    "Deployed",
    "ShuffleDet",
    "TorchvisionDetector",
    "TransformersDetector",
    "build",
    "faster_rcnn",
    "fcos",
    "retinanet",
    "ssd",
    "transformers_detector",
]

BUILDERS: Mapping[str, Callable[..., Detector]] = {
    "faster_rcnn": faster_rcnn,
    "retinanet": retinanet,
    "fcos": fcos,
    "ssd": ssd,
    "shuffledet": ShuffleDet,
    "transformers": transformers_detector,
}
"""What `build` and the command line know by name."""


def build(
    model: str,
    classes: Sequence[str],
    *,
    backbone: str | None = None,
    weights: str | Path | None = None,
    options: Mapping[str, object] | None = None,
) -> Detector:
    """A detector by name, in training mode on the CPU.

    Args:
        model: a key of `BUILDERS`.
        classes: class names in label order.
        backbone: its name, for the families that have a choice; see `eyas.detectors.torchvision.backbones`. For
            transformers what has the configuration: a hub id, a folder, a config.json.
        weights: a name of torchvision's, or a file; see `eyas.detectors.pretrained`. For transformers also
            "pretrained", a hub id or a folder. None starts at random.
        options: further keyword arguments of the builder.

    Raises:
        EyasError: an unknown model, backbone or option (the message lists those there are), or weights that do not fit.
    """
    if model not in BUILDERS:
        raise EyasError(f"there is no model {model!r}; known are {', '.join(BUILDERS)}")
    if not classes:
        raise EyasError(f"{model} needs at least one class name")
    builder = BUILDERS[model]
    known = [name for name in inspect.signature(builder).parameters if name != "classes"]
    own = {"backbone", "weights"} & set(known)
    allowed = [name for name in known if name not in own]
    chosen = dict(options or {})
    unknown = [name for name in chosen if name not in allowed]
    if unknown:
        raise EyasError(f"{model} has no option {unknown[0]!r}; it has {', '.join(allowed)}")
    if "backbone" in own:
        if backbone is None:
            choice = f"{', '.join(TRUNKS)} or timm:NAME"
            if builder is transformers_detector:
                choice = "what has its configuration, a hub id, a folder or a config.json"
            raise EyasError(f"{model} needs a backbone: {choice}")
        chosen["backbone"] = backbone
    elif backbone is not None:
        raise EyasError(f"{model} has its own backbone; leave out backbone {backbone!r}")
    if "weights" in own:
        return builder(classes, weights=weights, **chosen)
    detector = builder(classes, **chosen)
    if weights is not None:
        load_detector(detector.network, Weights(str(weights), read_tensors(Path(weights))))
    return detector
