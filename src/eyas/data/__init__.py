"""Data sets in the four common formats and of other libraries, as records, samples and batches."""

from __future__ import annotations

from eyas.data.dataset import DetectionDataset, collate, loader, to_record_frame
from eyas.data.formats.coco import write_coco
from eyas.data.formats.records import DataSource, Problem
from eyas.data.interop import from_coco_detection, from_supervision, to_supervision
from eyas.data.reading import read
from eyas.data.summary import check_images, report
from eyas.data.transforms import Augmentation, Resize, eval_transform, train_transform

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
