"""Two decoders of the DETR family, layer by layer and class by class: the parts that the methods on queries share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from eyas.methods.method import Method, Need, Reads, Weight
from eyas.methods.schedule import Schedule
from eyas.methods.weighted import whole_count
from eyas.ops.boxes import to_centre_size
from eyas.ops.losses import giou_loss
from eyas.ops.matching import match
from eyas.types import EyasError, QueryDecoder, QueryOutput, Size, Target, View


class Factors(NamedTuple):
    """The factors of the terms of classes, boxes and overlaps, in a loss and in a matching cost."""

    classes: float = 1.0
    boxes: float = 5.0
    giou: float = 2.0


def align(student: QueryOutput, teacher: QueryOutput) -> tuple[QueryOutput, QueryOutput]:
    """Both answers with as many layers as the student's have, and the columns of the classes that both name.

    A layer of the student is paired with the teacher's at the same share of its depth, the last with the last. Columns
    are in the student's order. The lists of sigmoids may differ, as each asks for one class; those of softmaxes may
    not.

    Raises:
        EyasError: no class has the same name in both, or the columns mean different things.
    """
    if student.background != teacher.background:
        kinds = ["a sigmoid for each class", "a softmax with a column for no object"]
        own, other = (kinds[output.background] for output in (student, teacher))
        raise EyasError(
            f"the student's queries have {own}, the teacher's {other}: these scores mean different things. Choose both "
            "among DETR, Table Transformer and YOLOS, or both among the other families"
        )
    shared = [name for name in student.classes if name in teacher.classes]
    if not shared or (student.background and set(student.classes) != set(teacher.classes)):
        what = "must have the same classes in their softmaxes" if shared else "share no class name"
        raise EyasError(
            f"student and teacher {what}; the student has {', '.join(student.classes[:8])}, the teacher "
            f"{', '.join(teacher.classes[:8])}. Give both the same names"
        )
    depth, deeper = len(student.logits), len(teacher.logits)
    layers = [-(-(layer + 1) * deeper // depth) - 1 for layer in range(depth)]
    if layers != list(range(deeper)):
        teacher = teacher.of_layers(layers)
    return _of_classes(student, shared), _of_classes(teacher, shared)


def _of_classes(output: QueryOutput, names: Sequence[str]) -> QueryOutput:
    if tuple(names) == output.classes:
        return output
    columns = [output.classes.index(name) for name in names]
    if output.background:
        columns.append(len(output.classes))
    return replace(output, logits=output.logits[..., columns], classes=tuple(names))


def soft_cross_entropy(student: Tensor, teacher: Tensor, background: bool) -> Tensor:
    """The cross-entropy of the student under the teacher, (..., C) logits to (...).

    It is summed over the sigmoids of the classes; with a background column it is that of one softmax. Where both agree
    it is the teacher's entropy, and its gradient 0.
    """
    if background:
        return -(teacher.softmax(-1) * student.log_softmax(-1)).sum(-1)
    return F.binary_cross_entropy_with_logits(student, teacher.sigmoid(), reduction="none").sum(-1)


def class_probabilities(logits: Tensor, background: bool) -> Tensor:
    """The probability of each class, (..., C) logits to (..., classes)."""
    return logits.softmax(-1)[..., :-1] if background else logits.sigmoid()


def confidence(logits: Tensor, background: bool) -> Tensor:
    """The highest class probability of each query, (..., C) logits to (...)."""
    return class_probabilities(logits, background).amax(-1)


def relative(boxes: Tensor, size: Size) -> Tensor:
    """Boxes (..., 4) xyxy in pixels as centre and sides in units of an image of (height, width)."""
    return to_centre_size(boxes) / boxes.new_tensor((size[1], size[0], size[1], size[0]))


ClassLoss = Callable[[Tensor, Tensor], Tensor]
"""(..., C) logits of the student and of the teacher -> (...)."""


def row_losses(
    student: QueryOutput, teacher: QueryOutput, size: Size, factors: Factors, class_loss: ClassLoss | None = None
) -> Tensor:
    """The weighted sum of the three terms of each query of aligned answers, (layers, batch, queries) float32.

    It is ``a L_class + b |b_s - b_t| + c (1 - GIoU)``. The distance of the boxes is summed over centre and sides, in
    units of the image.

    Args:
        student: aligned answers, see `align`.
        teacher: the same, without gradients.
        size: (height, width) of the images, pixels.
        factors: a, b and c.
        class_loss: L_class; None for `soft_cross_entropy`.
    """
    class_loss = class_loss or partial(soft_cross_entropy, background=student.background)
    distance = (relative(student.boxes, size) - relative(teacher.boxes, size)).abs().sum(-1)
    classes, apart = class_loss(student.logits, teacher.logits), giou_loss(student.boxes, teacher.boxes)
    return factors.classes * classes + factors.boxes * distance + factors.giou * apart


def mean_over_queries(rows: Tensor) -> Tensor:
    """(layers, batch, queries) losses as the mean over the batches of all processes, (layers,)."""
    return rows.sum((1, 2)) / whole_count(rows[0].numel(), rows.device)


@torch.no_grad()
def matching_cost(student: QueryOutput, teacher: QueryOutput, size: Size, factors: Factors) -> Tensor:
    """`row_losses` of each pair of queries, (layers, batch, the student's queries, the teacher's queries)."""
    own, other = student.logits, teacher.logits
    with torch.autocast(own.device.type, enabled=False):
        if student.background:
            classes = -own.log_softmax(-1) @ other.softmax(-1).mT
        else:
            classes = F.softplus(own).sum(-1, keepdim=True) - own @ other.sigmoid().mT
        distance = torch.cdist(relative(student.boxes, size), relative(teacher.boxes, size), p=1)
        cost = factors.classes * classes + factors.boxes * distance
        # Layer by layer: the overlap of all pairs needs several times the memory of its result.
        for layer, (mine, theirs) in enumerate(zip(student.boxes, teacher.boxes, strict=True)):
            cost[layer] += factors.giou * giou_loss(mine[:, :, None], theirs[:, None])
    return cost


def matched(
    student: QueryOutput, teacher: QueryOutput, size: Size, factors: Factors
) -> tuple[QueryOutput, QueryOutput]:
    """Aligned answers, of which row i of both is a matched pair; the pairs of a layer have the least total cost."""
    rows, columns = match(matching_cost(student, teacher, size, factors))
    return _of_rows(student, rows), _of_rows(teacher, columns)


def _of_rows(output: QueryOutput, rows: Tensor) -> QueryOutput:
    def chosen(values: Tensor) -> Tensor:
        return values.gather(2, rows[..., None].expand(*rows.shape, values.shape[-1]))

    return replace(output, logits=chosen(output.logits), boxes=chosen(output.boxes), distributions=None)


class QueryDistillation(Method):
    """Base class of the methods that compare the answers to queries. A subclass states the losses of the layers.

    Args:
        name, weight, schedule: see `Method`.
        factors: of the three terms.

    Raises:
        EyasError: a factor is negative; or, at the first batch, student and teacher cannot be compared.
    """

    reads: frozenset[Reads] = frozenset({"queries"})
    needs: tuple[Need, ...] = ("queries", "equal classes")

    def __init__(self, name: str, weight: Weight, schedule: Schedule, factors: Factors) -> None:
        super().__init__(name, weight, schedule)
        self.require(min(factors) >= 0, f"the weights of classes, boxes and overlaps cannot be negative: {factors}")
        self.factors = factors

    def count(self, student: View, teacher: View, targets: Sequence[Target]) -> int:
        """The number of images; all have equally many queries."""
        return len(targets)

    def losses(self, student: QueryDecoder, teacher: QueryDecoder, view: View) -> Tensor:
        """The loss of each of the student's layers, (layers,) float32; ``view`` is the student's."""
        raise NotImplementedError

    def forward(self, student: View, teacher: View, targets: Sequence[Target]) -> Tensor:
        for role, view in (("student", student), ("teacher", teacher)):
            if view.decoder is None:
                raise EyasError(f"the {role} has no queries to compare; choose a detector of transformers")
        assert student.decoder is not None and teacher.decoder is not None
        losses = self.losses(student.decoder, teacher.decoder, student)
        return self.total({f"layer {index}": loss for index, loss in enumerate(losses)})

    def describe(self, teacher: View, targets: Sequence[Target]) -> str:
        if teacher.decoder is None:
            return ""
        layers, _, queries, _ = teacher.decoder.own.boxes.shape
        return f"{queries} queries of the teacher, in {layers} layer{'s' * (layers > 1)} of its decoder"
