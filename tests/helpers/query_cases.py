"""Decoders whose answers are given, for the methods on queries."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Generator, Tensor

from eyas.types import QueryOutput, QueryPoints, Size, View

IMAGE: Size = (50, 100)
CLASSES = ("cat", "dog", "owl")


def random_output(
    seed: int, layers: int = 2, batch: int = 2, queries: int = 5, *, background: bool = False, scale: float = 1.0
) -> QueryOutput:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(layers, batch, queries, len(CLASSES) + background, generator=generator)
    low = torch.rand(layers, batch, queries, 2, generator=generator) * 40
    sides = 2 + torch.rand(layers, batch, queries, 2, generator=generator) * 20
    return QueryOutput(logits, torch.cat((low, low + sides), -1), CLASSES, background)


def trained(output: QueryOutput) -> QueryOutput:
    """The same, with gradients."""
    return replace(output, logits=output.logits.clone().requires_grad_(), boxes=output.boxes.clone().requires_grad_())


@dataclass
class GivenDecoder:
    """Satisfies `eyas.types.QueryDecoder`: ``own`` for the teacher's points, ``other`` for random ones."""

    own: QueryOutput
    to_points: QueryOutput | None = None
    to_drawn: QueryOutput | None = None
    asked: list[Tensor] = field(default_factory=list)

    @property
    def points(self) -> QueryPoints:
        return QueryPoints(("boxes", 4), torch.zeros(self.own.logits.shape[1], self.own.logits.shape[2], 4))

    def draw(self, count: int, generator: Generator) -> QueryPoints:
        return QueryPoints(("boxes", 4), torch.rand(self.own.logits.shape[1], count, 4, generator=generator))

    def answer(self, points: QueryPoints) -> QueryOutput:
        self.asked.append(points.values)
        chosen = self.to_drawn if points.values.any() else self.to_points
        assert chosen is not None
        return chosen


def query_view(decoder: GivenDecoder | None, batch: int = 0) -> View:
    return View([], [], IMAGE, decoder=decoder, batch=batch)
