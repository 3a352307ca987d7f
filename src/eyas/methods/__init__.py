"""Distillation methods, one file per paper."""

from eyas.methods.box_mask import BoxMask
from eyas.methods.fgfi import FGFI
from eyas.methods.fitnets import FitNets
from eyas.methods.method import Auto, LevelPair, Method

__all__ = ["FGFI", "Auto", "BoxMask", "FitNets", "LevelPair", "Method"]
