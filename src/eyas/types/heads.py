"""Head outputs: what a detector answers for anchors and proposals, and the branches of its dense heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from eyas.types.basics import EyasError
from eyas.types.detectors import Detector
from eyas.types.images import Target

if TYPE_CHECKING:
    from torch import Tensor

    from eyas.ops.cells import CellLayout


@dataclass(frozen=True)
class MatchedAnchors:
    """The rows of a `HeadOutput` that the detector's own losses count, and their regression targets.

    Attributes:
        rows: (M,) int64, the rows of the class loss.
        positives: (P,) int64, the rows of the box loss.
        slots: (P,) int64, the trained one of the ``D`` box deltas of each positive row; 0 where D is 1.
        box_targets: (P, 4), the deltas of the matched ground-truth boxes.
        divisor: scalar; the detector divides the sum of its class loss by it. It may be added up over processes.
        class_loss, box_loss: names of both losses among the detector's losses.
        least: lower bound of the divisor summed over processes: torchvision clamps it at 1.
    """

    rows: Tensor
    positives: Tensor
    slots: Tensor
    box_targets: Tensor
    divisor: Tensor
    class_loss: str
    box_loss: str
    least: float = 0.0


@dataclass(frozen=True)
class HeadOutput:
    """The output of one head for given boxes: the anchors of the image, or proposals.

    The N rows are the boxes of the first image, then those of the second, and so on. Two detectors agree on a head when
    their boxes, columns and coding are the same; then row i of both is about the same box.

    Attributes:
        boxes: for each image, the scored boxes, (n_i, 4) xyxy in pixels. The n_i add up to N.
        logits: (N, C) float32, before the activation.
        activation: "softmax" over the C columns, or "sigmoid" on each.
        background: the background's column; None if there is none.
        deltas: (N, D, 4) float32, box deltas in the detector's coding, D = 1 or D = C; or None.
        coding: defines the deltas, for example by the weights of the box coder.
        matched: the rows that the detector's losses count; only from a training pass.
        layout: which row is which anchor of which cell, level by level as in the detector's ``levels``; None where rows
            are no anchors, such as proposals.
        decoder: (deltas (n, 4), boxes (n, 4)) -> boxes, (n, 4) xyxy in pixels; with deltas alone.
        distributions: (N, 4, bins) float32 logits: the softmax over the bins is the distribution of the place of the
            left, top, right and bottom side; or None.
    """

    boxes: Sequence[Tensor]
    logits: Tensor
    activation: Literal["softmax", "sigmoid"]
    background: int | None = None
    deltas: Tensor | None = None
    coding: tuple[object, ...] = ()
    matched: MatchedAnchors | None = None
    layout: CellLayout | None = None
    decoder: Callable[[Tensor, Tensor], Tensor] | None = None
    distributions: Tensor | None = None

    def decode(self, rows: Tensor, slots: Tensor | int = 0) -> Tensor:
        """The boxes that rows (n,) int64 predict with their deltas of these slots: (n, 4) xyxy, pixels, float32.

        Gradients reach the deltas, not the scored boxes. Predicted boxes are not clipped to the image.

        Raises:
            EyasError: the head has no deltas, or its detector does not say how they are decoded.
        """
        import torch

        if self.deltas is None or self.decoder is None:
            raise EyasError("this head predicts no boxes, or its HeadOutput has no decoder")
        return self.decoder(self.deltas[rows, slots].float(), torch.cat(list(self.boxes))[rows].detach().float())

    def detached(self) -> HeadOutput:
        """The same output without gradients."""
        deltas, distributions = (None if part is None else part.detach() for part in (self.deltas, self.distributions))
        return replace(self, logits=self.logits.detach(), deltas=deltas, distributions=distributions)


@dataclass(frozen=True)
class HeadOutputs:
    """A detector's outputs beyond its feature maps, for methods that compare outputs or regions.

    Attributes:
        heads: head name -> output. The names are the detector's own: ``rpn`` and ``roi`` for two stages, ``anchors``
            for most one-stage detectors.
        proposals: for each image, (n_i, 4) xyxy in pixels: in training mode the proposals that the second stage is
            trained on, in evaluation mode those that it classifies. None for a one-stage detector, or if not
            requested.
        scores: tap name -> (batch, H, W) float32 in [0, 1], for each level the highest class probability of each cell,
            or its objectness where a head proposes; empty if not requested.
    """

    heads: Mapping[str, HeadOutput] = field(default_factory=dict)
    proposals: Sequence[Tensor] | None = None
    scores: Mapping[str, Tensor] = field(default_factory=dict)


@runtime_checkable
class DetectorWithHeads(Detector, Protocol):
    """A detector whose head outputs can be distilled as well as its feature maps."""

    def losses_and_heads(self, images: Tensor, targets: Sequence[Target]) -> tuple[dict[str, Tensor], HeadOutputs]:
        """`losses` and the head outputs they were computed from, with gradients, in one pass. Training mode."""
        ...

    def score_boxes(
        self, images: Tensor, boxes: Mapping[str, Sequence[Tensor]], *, proposals: bool = False, scores: bool = False
    ) -> HeadOutputs:
        """This detector's outputs for boxes that another one scored. Evaluation mode; nothing after the heads runs.

        Args:
            images: (batch, 3, height, width) in [0, 1].
            boxes: head name -> the boxes of each image, as in `HeadOutput.boxes`. Only these heads are returned.
            proposals: also return this detector's own proposals.
            scores: also return the scores of its cells, which need no box.

        Raises:
            EyasError: this detector has no such head, or the anchors are not its own.
        """
        ...


class Branch(Protocol):
    """One branch of a dense head: convolutions that every level passes alike, then the layer that predicts.

    Position i is after i convolutions with their norms and before the activation; 0 is the map that enters. A negative
    one counts from the end: -1 is before the last convolution.
    """

    def record(self, position: int) -> AbstractContextManager[list[Tensor]]:
        """Collects the maps at a position in the passes of the context, (batch, C, H, W) each, level by level.

        Raises:
            EyasError: the branch has no such position.
        """
        ...

    def resume(self, position: int, maps: Sequence[Tensor]) -> Tensor:
        """What the rest of the branch predicts from such maps: rows as in the field of `HeadOutput`, float32.

        Gradients reach the maps through the branch's parameters. Evaluation mode.
        """
        ...


@runtime_checkable
class DetectorWithBranches(DetectorWithHeads, Protocol):
    """A detector whose dense heads can be cut inside, and entered there with another's maps."""

    @property
    def branches(self) -> Mapping[str, Branch]:
        """``HEAD.FIELD`` -> branch, such as ``anchors.logits`` and ``anchors.deltas``; the same order in all."""
        ...


@dataclass(frozen=True)
class BranchesAt:
    """A method reads the maps at one position of the branches of both detectors, see `Branch`."""

    position: int

    def __str__(self) -> str:
        return "branches"


@dataclass(frozen=True)
class BranchMaps:
    """The maps of one pass at a position of a branch, (batch, C, H, W) for each level, and what follows it there."""

    maps: Sequence[Tensor]
    resume: Callable[[Sequence[Tensor]], Tensor]
