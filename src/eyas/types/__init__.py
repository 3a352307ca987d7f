"""The types that every part shares: records, targets, predictions, feature levels, head outputs and detectors.

Boxes are ``xyxy``, pixels, float32, in the frame of the tensor the network sees. Labels are 0-based class indices.
Images are float32 in [0, 1], RGB, (batch, 3, height, width); each detector normalises with its own mean and std. From
the file to the device they are uint8, see `eyas.ops.pixels`.
"""

from eyas.types.basics import EyasError, NoDetectionsError, Size
from eyas.types.detectors import Detector, GridBuilder, Level
from eyas.types.heads import (
    Branch,
    BranchesAt,
    BranchMaps,
    DetectorWithBranches,
    DetectorWithHeads,
    HeadOutput,
    HeadOutputs,
    MatchedAnchors,
)
from eyas.types.images import Prediction, Record, Target, host_boxes, image_sizes, size_of
from eyas.types.queries import DetectorWithQueries, QueryDecoder, QueryOutput, QueryPoints, SideDistributions
from eyas.types.views import View

__all__ = [
    "Branch",
    "BranchMaps",
    "BranchesAt",
    "Detector",
    "DetectorWithBranches",
    "DetectorWithHeads",
    "DetectorWithQueries",
    "EyasError",
    "GridBuilder",
    "HeadOutput",
    "HeadOutputs",
    "Level",
    "MatchedAnchors",
    "NoDetectionsError",
    "Prediction",
    "QueryDecoder",
    "QueryOutput",
    "QueryPoints",
    "Record",
    "SideDistributions",
    "Size",
    "Target",
    "View",
    "host_boxes",
    "image_sizes",
    "size_of",
]
