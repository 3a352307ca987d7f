"""From a trained detector to a file for another runtime, and back to a detector that predicts."""

from eyas.export.formats import open_detector
from eyas.export.pipeline import export_detector

__all__ = ["export_detector", "open_detector"]
