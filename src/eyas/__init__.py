"""Eyas distils a large object detector into a small, fast one.

    import eyas

    teacher = eyas.load("runs/teacher")
    student = eyas.build("retinanet", classes=teacher.classes, backbone="resnet18")
    distiller = eyas.Distiller(student, teacher, eyas.FGFI())
"""

from eyas.checkpoint import load
from eyas.detectors import build
from eyas.distiller import Distiller
from eyas.methods import FGFI, Auto, BoxMask, FitNets, Method
from eyas.types import Detector, EyasError, Level, Prediction, Target

__all__ = [
    "FGFI",
    "Auto",
    "BoxMask",
    "Detector",
    "Distiller",
    "EyasError",
    "FitNets",
    "Level",
    "Method",
    "Prediction",
    "Target",
    "build",
    "load",
]
