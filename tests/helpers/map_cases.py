"""Feature maps drawn by a seed, and methods on whole maps that are set up for them."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from eyas.methods import LevelPair
from eyas.methods.maps import MapImitation
from eyas.types import Level, View

AnyMapMethod = TypeVar("AnyMapMethod", bound=MapImitation)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def map_view(*maps: Tensor, batch: int = 0) -> View:
    """Maps on strides 8, 16, ... of one image size, with scores of their cells."""
    levels = [Level(map.shape[1], 8 * 2**index) for index, map in enumerate(maps)]
    scores = [map.detach().float().mean(dim=1).sigmoid() for map in maps]
    return View(list(maps), levels, (maps[0].shape[-2] * 8, maps[0].shape[-1] * 8), batch=batch, scores=scores)


def set_up(method: AnyMapMethod, student: View, teacher: View, *, step: float = 1.0) -> AnyMapMethod:
    """The method with its layers for the levels of two views, in their order."""
    pairs = [
        LevelPair(f"s{index}", own, f"t{index}", other, scale=1 / step, place=index)
        for index, (own, other) in enumerate(zip(student.levels, teacher.levels, strict=True))
    ]
    method.setup(pairs)
    return method
