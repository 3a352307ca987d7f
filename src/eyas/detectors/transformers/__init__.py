"""DETR and its relatives from Hugging Face transformers."""

from __future__ import annotations

from eyas.detectors.library import Library
from eyas.detectors.transformers.loading import SavedPretrained

LIBRARY = Library(
    adapter="eyas.detectors.transformers.adapter:TransformersDetector",
    builders={"transformers": "eyas.detectors.transformers.adapter:transformers_detector"},
    backbones=lambda: "what has its configuration, a hub id, a folder or a config.json",
    meta_device=False,
    native=SavedPretrained(),
)
