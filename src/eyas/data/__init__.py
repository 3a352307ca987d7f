"""Data sets in the common formats and of other libraries, as records, samples and batches."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from eyas.data.options import Augmentation, Resize, SplitOptions

if TYPE_CHECKING:
    from eyas.data.dataset import DetectionDataset, collate, loader, to_record_frame
    from eyas.data.formats.checks import require_objects, without_objects
    from eyas.data.formats.coco_write import write_coco
    from eyas.data.formats.records import DataSource, Problem, difficult_as_objects
    from eyas.data.interop import from_coco_detection, from_hf, from_supervision, to_supervision
    from eyas.data.reading import read, read_part, read_splits
    from eyas.data.summary import check_images, copies, report
    from eyas.data.transforms import eval_transform, train_transform

__all__ = [
    "Augmentation",
    "DataSource",
    "DetectionDataset",
    "Problem",
    "Resize",
    "SplitOptions",
    "check_images",
    "collate",
    "copies",
    "difficult_as_objects",
    "eval_transform",
    "from_coco_detection",
    "from_hf",
    "from_supervision",
    "loader",
    "read",
    "read_part",
    "read_splits",
    "report",
    "require_objects",
    "to_record_frame",
    "to_supervision",
    "train_transform",
    "without_objects",
    "write_coco",
]

HOMES = {
    "dataset": ("DetectionDataset", "collate", "loader", "to_record_frame"),
    "formats.checks": ("require_objects", "without_objects"),
    "formats.coco_write": ("write_coco",),
    "formats.records": ("DataSource", "Problem", "difficult_as_objects"),
    "interop": ("from_coco_detection", "from_hf", "from_supervision", "to_supervision"),
    "reading": ("read", "read_part", "read_splits"),
    "summary": ("check_images", "copies", "report"),
    "transforms": ("eval_transform", "train_transform"),
}
"""Module -> the names it provides. It is imported when first used, so reading annotations does not import torch."""

if not TYPE_CHECKING:  # or mypy would accept every name

    def __getattr__(name: str) -> object:
        for module, names in HOMES.items():
            if name in names:
                return getattr(import_module(f"{__name__}.{module}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
