"""FRS: the teacher's own scores weight the cells, not the boxes of the ground truth.

Du, Zhang, Chang, Zhang, Liu, Chen, Chen, "Distilling Object Detectors with Feature Richness", NeurIPS 2021. A cell
counts as much as the highest class score that the teacher has there, in the background too, and without any label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from eyas.methods.maps import MapImitation
from eyas.methods.method import LevelPair, Need, Reads, Weight
from eyas.methods.outputs import pair_heads
from eyas.methods.schedule import ALWAYS, Schedule
from eyas.methods.weighted import squared_distances, weighted_means
from eyas.ops.losses import soft_bce
from eyas.types import EyasError, Target, View


class FRS(MapImitation):
    """Imitation where the teacher is sure of a class, by its feature richness score (Du et al., NeurIPS 2021).

    Unit: the squared difference, summed over channels, as a mean over cells weighted by the teacher's scores, on each
    level; then summed over levels. The class part has the same mean of the binary cross-entropy, summed over the
    classes and anchors of a cell. Means are over the images of all processes. Published weight in this unit: 1, with
    the factors below for RetinaNet; other families have factors of their own, see the page, because their scores
    differ. A 3x3 convolution adapts the student's map in any case.

    Args:
        weight: factor of the loss, or auto.
        features: factor of the feature maps.
        classes: factor of the class outputs; 0 leaves them out, and then the student needs no heads like the teacher's.
            The authors have four times that of the features, for RetinaNet.
        finest: how many of the finest strides to compare; None for all.
        schedule: when the loss counts, see `Schedule`. The authors have a ramp of 500 steps.
        name: key of the loss.

    Raises:
        EyasError: an option is out of range; or, at the first batch, class outputs cannot be compared.
    """

    reads: frozenset[Reads] = frozenset({"teacher_scores"})
    needs: tuple[Need, ...] = ("feature maps", "teacher scores")

    def __init__(
        self,
        weight: Weight = "auto",
        *,
        features: float = 0.005,
        classes: float = 0.0,
        finest: int | None = None,
        schedule: Schedule = ALWAYS,
        name: str = "frs",
    ) -> None:
        super().__init__(name, weight, schedule, finest)
        self.require(min(features, classes) >= 0, "no factor can be negative")
        self.features, self.classes = features, classes
        if classes:
            self.reads = frozenset({"teacher_scores", "heads"})
        self.places: list[int] = []

    def setup(self, pairs: Sequence[LevelPair]) -> None:
        super().setup(pairs)
        self.places = [pairs[index].place for index in self.chosen]

    def adapter(self, pair: LevelPair) -> nn.Module:
        return nn.Conv2d(pair.student.channels, pair.teacher.channels, 3, padding=1)

    def describe(self, teacher: View, targets: Sequence[Target]) -> str:
        return f"{super().describe(teacher, targets)}, weighted by the teacher's scores"

    def levels(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], view: View, targets: Sequence[Target]
    ) -> list[Tensor]:
        squared = [squared_distances(own, other) for own, other in zip(student, teacher, strict=True)]
        scores = [view.scores[index] for index in self.chosen]
        covered = [own[:, : map.shape[1], : map.shape[2]] for own, map in zip(scores, squared, strict=True)]
        return [self.features * mean for mean in weighted_means(squared, covered)]

    def others(self, student: View, teacher: View) -> Mapping[str, Tensor]:
        """The class part of each level, where there is a factor for it."""
        return self._class_losses(student, teacher) if self.classes else {}

    def _class_losses(self, student: View, teacher: View) -> dict[str, Tensor]:
        # Heads without boxes, such as centerness and objectness, are no classes.
        dense = [
            name
            for name, head in student.heads.items()
            if head.layout is not None and head.activation == "sigmoid" and head.deltas is not None
        ]
        if not dense:
            raise EyasError("FRS: the student has no dense head with sigmoids of classes; leave the option classes 0")
        losses: dict[str, Tensor] = {}
        for pair in pair_heads(student, teacher, dense, decodes=True):  # boxes are not compared
            layout = pair.student.layout
            assert layout is not None
            entropy = layout.maps(soft_bce(pair.student.logits, pair.teacher.logits, beta=0).sum(dim=1))
            scores = [teacher.scores[index] for index in self.chosen]
            for place, own in zip(self.places, scores, strict=True):
                if layout.sizes[place : place + 1] != (tuple(own.shape[1:]),):
                    raise EyasError(
                        f"FRS: head {pair.name} of the student has no cells like those of its level {place}, counted "
                        "from 0; leave the option classes 0, or compare other levels (pairs, finest)"
                    )
            means = weighted_means([entropy[place].sum(dim=-1) for place in self.places], scores)
            losses |= {f"{pair.name} {at}": self.classes * mean for at, mean in zip(self.places, means, strict=True)}
        return losses
