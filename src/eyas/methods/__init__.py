"""Distillation methods, one file per paper."""

from eyas.methods.fgfi import FGFI
from eyas.methods.method import LevelPair, Method

__all__ = ["FGFI", "LevelPair", "Method"]
