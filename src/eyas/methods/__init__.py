"""Distillation methods, one file each, and the parts they share: method, imitation, adapter, outputs."""

from eyas.methods.box_mask import BoxMask
from eyas.methods.chen2017 import Chen2017
from eyas.methods.fgfi import FGFI
from eyas.methods.fitnets import FitNets
from eyas.methods.method import Auto, LevelPair, Method
from eyas.methods.roi_mimic import RoIMimic
from eyas.methods.vanilla import Vanilla

__all__ = ["FGFI", "Auto", "BoxMask", "Chen2017", "FitNets", "LevelPair", "Method", "RoIMimic", "Vanilla"]
