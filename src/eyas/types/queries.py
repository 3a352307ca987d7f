"""Queries: what the decoder of a detector of the DETR family answers, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from eyas.types.detectors import Detector

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True)
class SideDistributions:
    """Where the left, top, right and bottom side of the box of each query may be, layer by layer.

    Attributes:
        logits: (layers, batch, queries, 4, bins) float32: their softmax over the bins is the distribution.
        places: where each bin puts the side, in the same shape: x of the left and the right, y of the others, in
            pixels. From the first bin to the last, sides move outwards.
    """

    logits: Tensor
    places: Tensor


@dataclass(frozen=True)
class QueryOutput:
    """What the layers of a decoder answer to queries, first layer first.

    Attributes:
        logits: (layers, batch, queries, C) float32, before the activation.
        boxes: (layers, batch, queries, 4) float32 xyxy, pixels. They may extend beyond the image.
        classes: class name of each column; without the background's, which is the last one where there is one.
        background: whether a last column stands for no object, in a softmax; else each column is a sigmoid of its own.
        distributions: of the sides of the boxes; None where the detector predicts boxes alone.
    """

    logits: Tensor
    boxes: Tensor
    classes: tuple[str, ...]
    background: bool = False
    distributions: SideDistributions | None = None

    def of_layers(self, layers: Sequence[int]) -> QueryOutput:
        """The answers of some of the layers, in this order."""
        sides = self.distributions
        if sides is not None:
            sides = SideDistributions(sides.logits[layers], sides.places[layers])
        return replace(self, logits=self.logits[layers], boxes=self.boxes[layers], distributions=sides)

    def of_queries(self, queries: slice) -> QueryOutput:
        """The answers to some of the queries."""
        sides = self.distributions
        if sides is not None:
            sides = SideDistributions(sides.logits[:, :, queries], sides.places[:, :, queries])
        return replace(self, logits=self.logits[:, :, queries], boxes=self.boxes[:, :, queries], distributions=sides)


@dataclass(frozen=True)
class QueryPoints:
    """Queries that several decoders can answer.

    Attributes:
        kind: what the values are, and D. Decoders can answer each other's points where their kinds are equal.
        values: (batch, queries, D). Boxes for the kind ``("boxes", 4)``, xyxy, pixels; else embeddings of D channels.
        references: (batch, queries, 2), where in the image embeddings look, x and y in pixels; None leaves that to each
            decoder.
    """

    kind: tuple[str, int]
    values: Tensor
    references: Tensor | None = None


class QueryDecoder(Protocol):
    """A detector's decoder, once the detector has run on a batch; it can be asked more about the same images."""

    @property
    def own(self) -> QueryOutput:
        """The answers to the detector's own queries, without those of denoising and of further training groups."""
        ...

    @property
    def states(self) -> Tensor:
        """(layers, batch, queries, D), from which the answers to its own queries are read."""
        ...

    @property
    def points(self) -> QueryPoints:
        """The detector's own queries. Raises EyasError if no other detector could answer them."""
        ...

    def draw(self, count: int, generator: Generator) -> QueryPoints:
        """Random queries, the same for each image. Errors as `points`."""
        ...

    def answer(self, points: QueryPoints) -> QueryOutput:
        """The answers to other queries; gradients as in the detector's own pass. Raises EyasError for another kind."""
        ...


@runtime_checkable
class DetectorWithQueries(Detector, Protocol):
    """A detector whose decoder turns queries into classes and boxes, as DETR's does."""

    def decoding(self) -> AbstractContextManager[QueryDecoder]:
        """Run the detector once in this context, in either mode; then its decoder answers for that batch."""
        ...
