"""Eyas distils a large object detector into a small, fast one.

    import eyas

    teacher = eyas.load("runs/teacher")
    student = eyas.build("retinanet", classes=teacher.classes, backbone="resnet18")
    distiller = eyas.Distiller(student, teacher, eyas.FGFI())

`__all__` is what users need; rooms such as `eyas.data` export the rest of what is public.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eyas.data import from_coco_detection, from_hf, from_supervision, loader, read, to_supervision
    from eyas.detectors import CustomDetector, TorchvisionDetector, TransformersDetector, build, wrap
    from eyas.detectors.features import FeatureSource
    from eyas.detectors.inheritance import inherit
    from eyas.distillation.distiller import Distiller
    from eyas.evaluation import EvaluationResult
    from eyas.evaluation.detector import evaluate
    from eyas.export.pipeline import export_detector
    from eyas.methods import (
        BCKD,
        CWD,
        D3ETR,
        FGD,
        FGFI,
        FRS,
        KDDETR,
        LD,
        MGD,
        PKD,
        Auto,
        BoxMask,
        Chen2017,
        Cosine,
        CrossKD,
        DeFeat,
        DETRDistill,
        FitNets,
        Method,
        QueryLD,
        RoIMimic,
        Schedule,
        SelfSimilarity,
        TargetAware,
        Vanilla,
    )
    from eyas.ops.anchors import AnchorGrid, StrideGrid
    from eyas.ops.near_objects import near_object_masks
    from eyas.ops.pixels import as_float
    from eyas.runs.opening import load
    from eyas.runs.saving import save
    from eyas.training.freezing import freeze
    from eyas.types import Detector, EyasError, Level, Prediction, Target

__all__ = ["from_coco_detection", "from_hf", "from_supervision", "loader", "read", "to_supervision"]
__all__ += ["CustomDetector", "FeatureSource", "TorchvisionDetector", "TransformersDetector"]
__all__ += ["build", "load", "save", "wrap"]
__all__ += [
    "BCKD",
    "CWD",
    "D3ETR",
    "FGD",
    "FGFI",
    "FRS",
    "KDDETR",
    "LD",
    "MGD",
    "PKD",
    "Auto",
    "BoxMask",
    "Chen2017",
    "Cosine",
    "CrossKD",
    "DETRDistill",
    "DeFeat",
    "FitNets",
    "Method",
    "QueryLD",
    "RoIMimic",
    "Schedule",
    "SelfSimilarity",
    "TargetAware",
    "Vanilla",
]
__all__ += ["AnchorGrid", "StrideGrid", "as_float", "near_object_masks"]
__all__ += ["Distiller", "EvaluationResult", "evaluate", "export_detector", "freeze", "inherit"]
__all__ += ["Detector", "EyasError", "Level", "Prediction", "Target"]

HOMES = {
    "data": ("from_coco_detection", "from_hf", "from_supervision", "loader", "read", "to_supervision"),
    "detectors": ("CustomDetector", "TorchvisionDetector", "TransformersDetector", "build", "wrap"),
    "detectors.features": ("FeatureSource",),
    "detectors.inheritance": ("inherit",),
    "distillation.distiller": ("Distiller",),
    "evaluation": ("EvaluationResult",),
    "evaluation.detector": ("evaluate",),
    "export.pipeline": ("export_detector",),
    "methods": (
        "BCKD",
        "CWD",
        "D3ETR",
        "FGD",
        "FGFI",
        "FRS",
        "KDDETR",
        "LD",
        "MGD",
        "PKD",
        "Auto",
        "BoxMask",
        "Chen2017",
        "Cosine",
        "DETRDistill",
        "DeFeat",
        "CrossKD",
        "FitNets",
        "Method",
        "QueryLD",
        "RoIMimic",
        "Schedule",
        "SelfSimilarity",
        "TargetAware",
        "Vanilla",
    ),
    "ops.anchors": ("AnchorGrid", "StrideGrid"),
    "ops.near_objects": ("near_object_masks",),
    "ops.pixels": ("as_float",),
    "runs.opening": ("load",),
    "runs.saving": ("save",),
    "training.freezing": ("freeze",),
    "types": ("Detector", "EyasError", "Level", "Prediction", "Target"),
}
"""Module -> its names here. Each is imported when first used, so that a command answers without importing torch."""

if not TYPE_CHECKING:  # or mypy would accept every name

    def __getattr__(name: str) -> object:
        for module, names in HOMES.items():
            if name in names:
                return globals().setdefault(name, getattr(import_module(f"eyas.{module}"), name))
        raise AttributeError(f"module 'eyas' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
