"""The deployed form of any detector that has one."""

from __future__ import annotations

from torchvision.models.detection import FasterRCNN

from eyas.detectors.custom import CustomDetector
from eyas.detectors.deployed import Deployed
from eyas.detectors.shuffledet.adapter import ShuffleDet
from eyas.detectors.shuffledet.deployed import DeployedShuffleDet
from eyas.detectors.torchvision.adapter import TorchvisionDetector, first_label
from eyas.detectors.torchvision.deployed_one_stage import DeployedOneStage
from eyas.detectors.torchvision.deployed_two_stage import DeployedFasterRCNN
from eyas.detectors.transformers.adapter import TransformersDetector
from eyas.detectors.transformers.deployed import DeployedTransformers
from eyas.types import Detector, EyasError


def deploy(detector: Detector) -> Deployed:
    """A detector as a graph of fixed output shapes, in evaluation mode; it shares the detector's weights.

    Raises:
        EyasError: a detector of another kind, or a `CustomDetector` that has none.
    """
    detector.network.eval()
    if isinstance(detector, ShuffleDet):
        return DeployedShuffleDet(detector).eval()
    if isinstance(detector, CustomDetector):
        return detector.deployed().eval()
    if isinstance(detector, TransformersDetector):
        return DeployedTransformers(detector).eval()
    if not isinstance(detector, TorchvisionDetector):
        raise EyasError(
            f"{type(detector).__name__} has no deployed form; export knows ShuffleDet, torchvision's RetinaNet, FCOS, "
            "SSD and Faster R-CNN, the detectors of transformers, and a CustomDetector made with `deployed`"
        )
    network = detector.network
    if isinstance(network, FasterRCNN):
        return DeployedFasterRCNN(network).eval()
    return DeployedOneStage(network, first_label(network, len(detector.classes))).eval()
