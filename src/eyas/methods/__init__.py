"""Distillation methods, one file each, and the parts they share.

These are `method`, the contract, with `schedule`; for maps `cells`, `masks`, `box_weights`, `maps`, `imitation`,
`weighted`, `adapter` and `global_context`; for heads `outputs`; for queries `queries`.
"""

from eyas.methods.adapter import Adapter, convolve_at, patches_at
from eyas.methods.bckd import BCKD
from eyas.methods.box_mask import BoxMask
from eyas.methods.chen2017 import Chen2017
from eyas.methods.cosine import Cosine
from eyas.methods.crosskd import CrossKD
from eyas.methods.cwd import CWD
from eyas.methods.d3etr import D3ETR
from eyas.methods.defeat import DeFeat
from eyas.methods.detr_distill import DETRDistill
from eyas.methods.fgd import FGD
from eyas.methods.fgfi import FGFI
from eyas.methods.fitnets import FitNets
from eyas.methods.frs import FRS
from eyas.methods.imitation import imitation_loss, sparse_imitation_loss
from eyas.methods.kd_detr import KDDETR
from eyas.methods.ld import LD
from eyas.methods.method import Auto, LevelPair, Method
from eyas.methods.mgd import MGD
from eyas.methods.pkd import PKD
from eyas.methods.query_ld import QueryLD
from eyas.methods.roi_mimic import RoIMimic
from eyas.methods.schedule import Schedule
from eyas.methods.self_similarity import SelfSimilarity
from eyas.methods.target_aware import TargetAware
from eyas.methods.vanilla import Vanilla

__all__ = [
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
    "Adapter",
    "Auto",
    "BoxMask",
    "Chen2017",
    "Cosine",
    "CrossKD",
    "DETRDistill",
    "DeFeat",
    "FitNets",
    "LevelPair",
    "Method",
    "QueryLD",
    "RoIMimic",
    "Schedule",
    "SelfSimilarity",
    "TargetAware",
    "Vanilla",
    "convolve_at",
    "imitation_loss",
    "patches_at",
    "sparse_imitation_loss",
]
