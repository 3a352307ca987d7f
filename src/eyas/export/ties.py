"""Equal scores in a top-k: which of them come first, or at all, is rounding, and two runtimes need not agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

EQUAL = 1e-5
"""Scores whose difference is at most this, relative to the larger or to 1 if that is more, are equal."""


Take = Literal["first", "last"]
TAKES: tuple[Take, ...] = ("first", "last")
"""Which of equal scores come first: those of the lowest indices, or of the highest."""


class BreakTies(TorchFunctionMode):
    """In the context, ``topk`` takes equal scores in the order of their indices: the first ones, or the last ones.

    What an output has under both is not a matter of rounding. ONNX takes the first of exactly equal scores.

    Args:
        take: which of equal scores come first.
    """

    def __init__(self, take: Take) -> None:
        super().__init__()
        self.take = take

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func in (torch.topk, Tensor.topk):
            given = dict(zip(("input", "k", "dim", "largest", "sorted"), args, strict=False)) | options
            if given.get("largest", True):
                return topk(given["input"], given["k"], given.get("dim", -1), take=self.take)
        return func(*args, **options)


def topk(scores: Tensor, count: int, dim: int = -1, *, take: Take) -> torch.return_types.topk:
    """The highest ``count`` scores along ``dim``, descending but for equal ones, and their indices.

    Args:
        scores: of any shape.
        count: at most the length of that dimension.
        dim: the dimension.
        take: which of equal scores come first, those of the lowest or of the highest indices. Neighbours in descending
            order are equal by `EQUAL`, and so are all of a chain of them.
    """
    values, indices = scores.movedim(dim, -1).sort(dim=-1, descending=True, stable=True)
    gaps = values[..., :-1] - values[..., 1:] > EQUAL * values[..., :-1].abs().clamp(min=1)
    group = torch.nn.functional.pad(gaps.long().cumsum(dim=-1), (1, 0))
    by_index = indices.argsort(dim=-1, descending=take == "last")
    order = by_index.gather(-1, group.gather(-1, by_index).argsort(dim=-1, stable=True))[..., :count]
    found = values.gather(-1, order).movedim(-1, dim), indices.gather(-1, order).movedim(-1, dim)
    return torch.return_types.topk(found)
