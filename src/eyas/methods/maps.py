"""Whole feature maps, level by level: the base class of the methods that need every cell, not some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from eyas.methods.cells import CachedView, CellMethod, at_teacher_cells, every_cell, whole_map
from eyas.methods.method import LevelPair, Method, Weight
from eyas.methods.schedule import Schedule
from eyas.tools.timing import span
from eyas.types import Target, View, size_of


class MapImitation(CellMethod):
    """Base class of the methods that compare whole maps. A subclass states the loss of the levels in `levels`.

    A level pair whose channels differ has a 1x1 convolution from the student's to the teacher's, with torch's default
    initial weights; where they are equal there is none, unless ``always`` adapts. The student's map is then taken at
    the teacher's cells, see `eyas.methods.cells`.

    Args:
        name: key of the loss.
        weight: factor of the loss, or auto.
        schedule: when the loss counts.
        finest: how many strides to compare, from the finest on, each with all of its level pairs; None for all.
        adapt_always: adapt a student's map that has the teacher's channels, too.

    Raises:
        EyasError: an option is out of range.
    """

    def __init__(
        self, name: str, weight: Weight, schedule: Schedule, finest: int | None = None, *, adapt_always: bool = False
    ) -> None:
        super().__init__(name, weight, schedule)
        self.require(
            finest is None or (isinstance(finest, int) and finest > 0), f"finest is a whole number from 1, got {finest}"
        )
        self.finest, self.adapt_always = finest, adapt_always
        self.chosen: tuple[int, ...] = ()
        self.adapters = nn.ModuleList()

    def setup(self, pairs: Sequence[LevelPair]) -> None:
        super().setup(pairs)
        # Pairs that the user names come in any order, and several may have one stride: encoder and backbone of a DETR.
        strides = sorted({pair.teacher.stride for pair in pairs})[: self.finest]
        self.chosen = tuple(index for index, pair in enumerate(pairs) if pair.teacher.stride in strides)
        self.adapters = nn.ModuleList(self.adapter(pairs[index]) for index in self.chosen)

    def adapter(self, pair: LevelPair) -> nn.Module:
        """The layer from the student's channels to the teacher's on one level."""
        own, other = pair.student.channels, pair.teacher.channels
        return nn.Conv2d(own, other, 1) if own != other or self.adapt_always else nn.Identity()

    def count(self, student: View, teacher: View, targets: Sequence[Target]) -> int:
        """The number of images."""
        return len(targets)

    def masks(self, teacher: View, targets: Sequence[Target]) -> list[Tensor]:
        """Every cell of each level, (batch, H, W) bool."""
        return every_cell(teacher)

    def fingerprint(self) -> dict[str, object]:
        return Method.fingerprint(self) if self.reads else {}  # a cache holds maps alone

    def describe(self, teacher: View, targets: Sequence[Target]) -> str:
        strides = ", ".join(dict.fromkeys(f"{teacher.levels[index].stride}" for index in self.chosen))
        return f"every cell at stride {strides}"

    def levels(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], view: View, targets: Sequence[Target]
    ) -> list[Tensor]:
        """The loss of each compared level, float32 scalars.

        Args:
            student: (batch, C, H, W) float32 maps, adapted and at the teacher's cells.
            teacher: the teacher's, in the same shapes, without gradients.
            view: the teacher's view; `chosen` are the indices of the compared levels in it.
            targets: one for each image.
        """
        raise NotImplementedError

    def others(self, student: View, teacher: View) -> Mapping[str, Tensor]:
        """Losses of a method beside those of its maps, float32 scalars by name; none by default."""
        return {}

    def forward(self, student: View, teacher: View, targets: Sequence[Target]) -> Tensor:
        """The sum of the levels' losses and of the others, a float32 scalar without the weight."""
        theirs = self._teacher_maps(student, teacher, targets)
        with span("adapter"):
            own = [
                at_teacher_cells(adapter(student.features[index]), size_of(other), self.steps[index]).float()
                for adapter, index, other in zip(self.adapters, self.chosen, theirs, strict=True)
            ]
        taps, losses = [self.taps[index] for index in self.chosen], self.levels(own, theirs, teacher, targets)
        return self.total({**dict(zip(taps, losses, strict=True)), **self.others(student, teacher)})

    def _teacher_maps(self, student: View, teacher: View, targets: Sequence[Target]) -> list[Tensor]:
        """The teacher's maps as far as the student's cover them."""
        extents = self.extents(student)
        if isinstance(teacher, CachedView):
            maps = [whole_map(level) for level in self.teacher_targets(teacher, targets, extents)]
        else:
            maps = [
                feature[..., :height, :width]
                for feature, (height, width) in zip(teacher.features, extents, strict=True)
            ]
        return [maps[index].float() for index in self.chosen]
