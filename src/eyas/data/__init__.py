"""Data sets in the four common formats and of other libraries, as records, samples and batches."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from eyas.data.formats.coco import write_coco
from eyas.data.formats.records import DataSource, Problem
from eyas.data.options import Augmentation, Resize
from eyas.data.reading import read
from eyas.data.summary import check_images, report

if TYPE_CHECKING:
    from eyas.data.dataset import DetectionDataset, collate, loader, to_record_frame
    from eyas.data.interop import from_coco_detection, from_supervision, to_supervision
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
    "write_coco",
]

NEED_TORCH = {
    "dataset": ("DetectionDataset", "collate", "loader", "to_record_frame"),
    "interop": ("from_coco_detection", "from_supervision", "to_supervision"),
    "transforms": ("eval_transform", "train_transform"),
}
"""The modules that import torch, and what they export here. Each is imported when a name of its is first used."""

if not TYPE_CHECKING:  # or mypy would take every name for one of this package

    def __getattr__(name: str) -> object:
        for module, names in NEED_TORCH.items():
            if name in names:
                return getattr(import_module(f"{__name__}.{module}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
