"""torchvision's Faster R-CNN, RetinaNet, FCOS and SSD."""

from __future__ import annotations

from eyas.detectors.library import Library


def _backbones() -> str:
    from eyas.detectors.torchvision.backbones import TRUNKS

    return f"{', '.join(TRUNKS)} or timm:NAME"


LIBRARY = Library(
    package="torchvision",
    adapter="eyas.detectors.torchvision.adapter:TorchvisionDetector",
    builders={
        "faster_rcnn": "eyas.detectors.torchvision.faster_rcnn:faster_rcnn",
        "retinanet": "eyas.detectors.torchvision.one_stage:retinanet",
        "fcos": "eyas.detectors.torchvision.one_stage:fcos",
        "ssd": "eyas.detectors.torchvision.one_stage:ssd",
    },
    backbones=_backbones,
)
