"""From a trained detector to a file that other runtimes read."""

from eyas.export.pipeline import export_detector

__all__ = ["export_detector"]
