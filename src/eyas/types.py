"""The types that every part shares: records, targets, predictions, feature levels, head outputs and detectors.

Boxes are ``xyxy``, pixels, float32, in the frame of the tensor the network sees. Labels are 0-based class indices.
Images are float32 in [0, 1], RGB, (batch, 3, height, width); each detector normalises with its own mean and std. From
the file to the device they are uint8, see `eyas.ops.pixels`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, NotRequired, Protocol, TypedDict, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    # Records are read without torch, which takes seconds to import.
    from torch import Generator, Tensor, nn

    from eyas.ops.anchors import AnchorGrid
    from eyas.ops.cells import CellLayout

Size = tuple[int, int]
"""(height, width)."""


class EyasError(Exception):
    """Bad input from outside. The message names the file or option and the remedy; a command then exits with 2."""


@dataclass(frozen=True, eq=False)
class Record:
    """One image of a data set and its annotations, in the frame of the image file. Arrays are numpy's.

    Attributes:
        image_id: the image's name in predictions, messages and reports, unique in the data set.
        path: the image file, decoded only when the record is read; for messages alone where there is ``content``.
        width, height: pixels.
        boxes: (n, 4) float32, xyxy: the objects.
        labels: (n,) int64, 0-based.
        ignore: (m, 4) float32, xyxy: crowd, difficult, DontCare. Losses, masks and recall leave them out, and
            detections on them are not false positives.
        ignore_labels: (m,) int64: the one class an ignore region applies to, or -1 for every class.
        attributes: more per object, each (n,) float32: ``area`` (square pixels, COCO's segment area), ``truncated`` in
            [0, 1] and ``occluded`` in {0, 1, 2, 3} (KITTI). Empty where the format has none.
        content: opens an image that is no file of its own; it travels to the workers. None for a file.
    """

    image_id: str
    path: Path
    width: int
    height: int
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    ignore: npt.NDArray[np.float32]
    ignore_labels: npt.NDArray[np.int64]
    attributes: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    content: Callable[[], BinaryIO] | None = None


class Target(TypedDict):
    """The ground truth of one image, as a detector and a method see it."""

    boxes: Tensor
    """(n, 4) float32, xyxy, pixels of the network's input."""
    labels: Tensor
    """(n,) int64, 0-based."""
    ignore: NotRequired[Tensor]
    """(m, 4) float32 ignore regions (crowd, difficult, DontCare): neither objects nor background."""
    index: NotRequired[int]
    """Which record of the data set this is."""
    size: NotRequired[Size]
    """(height, width) of the image inside the batch, before padding to the batch's common size."""
    host_boxes: NotRequired[npt.NDArray[np.float32]]
    """A copy of ``boxes`` as an array, which stays on the CPU when a batch moves to a device; see `host_boxes`."""
    variant: NotRequired[int]
    """The geometric variant of the record: 0 unchanged, 1 flipped. Other geometric augmentation is not recorded."""


def host_boxes(targets: Sequence[Target]) -> list[Tensor]:
    """CPU copies of the boxes where there are any, so that building masks never synchronises with the GPU."""
    import torch

    return [torch.from_numpy(t["host_boxes"]) if "host_boxes" in t else t["boxes"] for t in targets]


def image_sizes(targets: Sequence[Target], batch: Size) -> list[Size]:
    """(height, width) of each image without its padding; that of the batch where a target does not say."""
    return [target.get("size", batch) for target in targets]


class Prediction(TypedDict):
    """The detections in one image, by descending score."""

    boxes: Tensor
    """(n, 4) float32, xyxy, pixels."""
    scores: Tensor
    """(n,) float32 in [0, 1]."""
    labels: Tensor
    """(n,) int64, 0-based."""


GridBuilder = Callable[[Size, Size], "AnchorGrid"]
"""(feature map size in cells, image size in pixels) -> the anchors of that map."""


@dataclass(frozen=True)
class Level:
    """One feature level of a detector, which a student can imitate.

    Attributes:
        channels: C of the feature map.
        stride: nominal input pixels per cell; levels of two detectors are paired by it.
        grid: builds the detector's own anchors on this level; a `StrideGrid` of the stride if left out.
        box_range: (low, high), pixels: the detector assigns boxes with low <= sqrt(area) < high to this level. None if
            it has no such rule.
        per_image: whether ``grid`` takes the size of an image itself, and not that of the padded batch it is in. Images
            of one batch then have anchors of their own, see `eyas.methods.masks.batch_masks`.
        matched_by_iou: whether the detector's own losses match objects to these anchors by IoU, so that it hardly
            learns an object that fits none of them.
    """

    channels: int
    stride: int
    grid: GridBuilder = None  # type: ignore[assignment]  # set below, since it depends on the stride
    box_range: tuple[float, float] | None = None
    per_image: bool = False
    matched_by_iou: bool = False

    def __post_init__(self) -> None:
        if self.grid is None:
            from eyas.ops.anchors import StrideGrid

            object.__setattr__(self, "grid", StrideGrid(self.stride))


@runtime_checkable
class Detector(Protocol):
    """Any detector. Adapters in `eyas.detectors` are `nn.Module`s that satisfy this protocol.

    Attributes:
        network: the library's own module. Tap names are relative to it, and its state dict is saved.
        classes: class names, in label order.
        levels: tap name -> level, from fine to coarse. A tap name is a submodule's dotted name, followed by
            ``:key`` where that submodule returns a mapping or sequence, as in ``backbone:0``.
    """

    # Read-only, so that a property or an attribute of a narrower type satisfies each.
    @property
    def network(self) -> nn.Module: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def levels(self) -> Mapping[str, Level]: ...

    def losses(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The detection losses of a batch in training mode, scalars by name. Images without boxes are allowed."""
        ...

    def predict(self, images: Tensor) -> list[Prediction]:
        """The detections in each image after NMS, in the frame of ``images``. Evaluation mode."""
        ...


@dataclass(frozen=True)
class MatchedAnchors:
    """The rows of a `HeadOutput` that the detector's own losses count, and their regression targets.

    Attributes:
        rows: (M,) int64, the rows of the class loss.
        positives: (P,) int64, the rows of the box loss.
        slots: (P,) int64, the trained one of the ``D`` box deltas of each positive row; 0 where D is 1.
        box_targets: (P, 4), the deltas of the matched ground-truth boxes.
        divisor: scalar; the detector divides the sum of its class loss by it.
        class_loss, box_loss: names of both losses among the detector's losses.
    """

    rows: Tensor
    positives: Tensor
    slots: Tensor
    box_targets: Tensor
    divisor: Tensor
    class_loss: str
    box_loss: str


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


class Branch(Protocol):
    """One branch of a dense head: convolutions that every level passes alike, then the layer that predicts.

    Position i is after i convolutions with their norms and before the activation; 0 is the map that enters.
    """

    def record(self, position: int) -> AbstractContextManager[list[Tensor]]:
        """Collects the maps at a position in the passes of the context, (batch, C, H, W) each, level by level.

        Raises:
            EyasError: the branch has fewer convolutions.
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


@dataclass(frozen=True)
class View:
    """One detector's features and outputs for one batch, as a method reads them.

    Entry i of features, levels and grids belongs to level pair i, in the student's view and in the teacher's.

    Attributes:
        features: (batch, C, H, W) maps. The teacher's carry no gradient.
        levels: the level of each map.
        image_size: (height, width) of the batch in pixels.
        grids: the anchors of each level.
        heads: outputs by head name, if a method reads ``heads``; the teacher's are for the student's boxes.
        proposals: for each image, (n_i, 4) xyxy in pixels, if a method reads this detector's proposals.
        scores: the teacher's (batch, H, W) float32 in [0, 1] on each level, the highest class probability of each cell,
            if a method reads ``teacher_scores``.
        branches: position -> ``HEAD.FIELD`` -> maps, if a method reads `BranchesAt` it.
        losses: the student's own detection losses; empty for the teacher.
        decoder: the decoder, if a method reads ``queries``.
        batch: the number of training batches before this one. Random numbers that a method draws are seeded by it, so
            that a resumed run draws the same.
    """

    features: Sequence[Tensor]
    levels: Sequence[Level]
    image_size: Size
    heads: Mapping[str, HeadOutput] = field(default_factory=dict)
    proposals: Sequence[Tensor] | None = None
    losses: Mapping[str, Tensor] = field(default_factory=dict)
    decoder: QueryDecoder | None = None
    batch: int = 0
    scores: Sequence[Tensor] = ()
    branches: Mapping[BranchesAt, Mapping[str, BranchMaps]] = field(default_factory=dict)
    grids: Sequence[AnchorGrid] = field(init=False)

    def __post_init__(self) -> None:
        sizes = [(feature.shape[-2], feature.shape[-1]) for feature in self.features]
        grids = [level.grid(size, self.image_size) for level, size in zip(self.levels, sizes, strict=True)]
        object.__setattr__(self, "grids", grids)

    def detached(self) -> View:
        """The same view with detached feature maps."""
        return replace(self, features=[feature.detach() for feature in self.features])
