"""What a method sees of one detector for one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from eyas.types.basics import Size
from eyas.types.detectors import Level
from eyas.types.heads import BranchesAt, BranchMaps, HeadOutput
from eyas.types.images import size_of
from eyas.types.queries import QueryDecoder

if TYPE_CHECKING:
    from torch import Tensor

    from eyas.ops.anchors import AnchorGrid


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
        sizes = [size_of(feature) for feature in self.features]
        grids = [level.grid(size, self.image_size) for level, size in zip(self.levels, sizes, strict=True)]
        object.__setattr__(self, "grids", grids)

    def detached(self) -> View:
        """The same view with detached feature maps, head outputs and losses."""
        return replace(
            self,
            features=[feature.detach() for feature in self.features],
            heads={name: head.detached() for name, head in self.heads.items()},
            losses={name: loss.detach() for name, loss in self.losses.items()},
        )
