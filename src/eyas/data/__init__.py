"""Data sets in the four common formats and of other libraries, as records, samples and batches."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from eyas.data.options import Augmentation, Resize

if TYPE_CHECKING:
    from eyas.data.dataset import DetectionDataset, collate, loader, to_record_frame
    from eyas.data.formats.coco import write_coco
    from eyas.data.formats.records import DataSource, Problem
    from eyas.data.interop import from_coco_detection, from_supervision, to_supervision
    from eyas.data.reading import read
    from eyas.data.summary import check_images, report, without_objects
    from eyas.data.transforms import eval_transform, train_transform

__all__ = [
    "Augmentation",
    "DataSource",
    "DetectionDataset",
    "Problem",
    "Resize",
    "check_images",
    "collate",
    "eval_transform",
    "from_coco_detection",
    "from_supervision",
    "loader",
    "read",
    "report",
    "to_record_frame",
    "to_supervision",
    "train_transform",
    "without_objects",
    "write_coco",
]

HOMES = {
    "dataset": ("DetectionDataset", "collate", "loader", "to_record_frame"),
    "formats.coco": ("write_coco",),
    "formats.records": ("DataSource", "Problem"),
    "interop": ("from_coco_detection", "from_supervision", "to_supervision"),
    "reading": ("read",),
    "summary": ("check_images", "report", "without_objects"),
    "transforms": ("eval_transform", "train_transform"),
}
"""Module -> the names it provides. It is imported when first used, so reading annotations does not import torch."""

if not TYPE_CHECKING:  # or mypy would accept every name

    def __getattr__(name: str) -> object:
        for module, names in HOMES.items():
            if name in names:
                return getattr(import_module(f"{__name__}.{module}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
