"""Data sets in the four common formats, as records, samples and batches."""

from __future__ import annotations

from eyas.data.coco import write_coco
from eyas.data.dataset import DetectionDataset, collate, loader, to_record_frame
from eyas.data.record import DataSource, Problem
from eyas.data.report import check_images, report
from eyas.data.source import read
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
    "loader",
    "read",
    "report",
    "to_record_frame",
    "train_transform",
    "write_coco",
]
