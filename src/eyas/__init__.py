"""Eyas distils a large object detector into a small, fast one.

import eyas

teacher = eyas.load("runs/teacher")
student = eyas.build("retinanet", classes=teacher.classes, backbone="resnet18")
distiller = eyas.Distiller(student, teacher, eyas.FGFI())
"""

from eyas.data import from_coco_detection, from_supervision, to_supervision
from eyas.detectors import build
from eyas.distillation.distiller import Distiller
from eyas.methods import FGFI, Auto, BoxMask, Chen2017, FitNets, Method, RoIMimic, Vanilla
from eyas.ops.pixels import as_float
from eyas.runs.opening import load
from eyas.types import Detector, EyasError, Level, Prediction, Target

__all__ = [
    "FGFI",
    "Auto",
    "BoxMask",
    "Chen2017",
    "Detector",
    "Distiller",
    "EyasError",
    "FitNets",
    "Level",
    "Method",
    "Prediction",
    "RoIMimic",
    "Target",
    "Vanilla",
    "as_float",
    "build",
    "from_coco_detection",
    "from_supervision",
    "load",
    "to_supervision",
]
