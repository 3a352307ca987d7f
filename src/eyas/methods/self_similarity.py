"""Self-similarity: which cells of an image are alike to the student, as to the teacher.

Two cells are alike as the cosine of their vectors. Each cell has a distribution over all cells of its image, a softmax
of its cosines with them at a temperature, and the student's is drawn to the teacher's by the Kullback-Leibler
divergence. Student and teacher may have any channels, so nothing adapts one to the other: what is learned is the
student's own map. No paper has this loss for detectors. LightlyTrain's description of how it distils DINOv3 into a
backbone has it among the tokens of an image, with the temperature 0.07; a cell's similarity with itself counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from eyas.methods.cells import to_device_async
from eyas.methods.maps import MapImitation
from eyas.methods.method import LevelPair, Weight
from eyas.methods.schedule import ALWAYS, Schedule
from eyas.methods.weighted import image_share
from eyas.ops.maps import inner_products, unit_vectors
from eyas.types import Target, View


def log_similarity(vectors: Tensor, temperature: float) -> Tensor:
    """The logarithm of each cell's softmax over cells of the cosines, (batch, n, n) float32; rows sum to 1.

    Args:
        vectors: (batch, C, n), those of n cells.
        temperature: T of the softmax, above 0.
    """
    return (inner_products(unit_vectors(vectors)) / temperature).log_softmax(dim=2)


def similarity_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``KL(p_t || p_s)`` of the cells' distributions over cells, mean over batch and cells, in nats.

    A float32 scalar, at least 0. It does not change when a vector of either is multiplied by a positive number, or all
    vectors of one are rotated.

    Args:
        student: (batch, C_s, n), the vectors of n cells.
        teacher: (batch, C_t, n).
        temperature: T of both softmaxes, above 0.
    """
    own, other = log_similarity(student, temperature), log_similarity(teacher, temperature)
    return (other.exp() * (other - own)).sum(dim=2).mean()


class SelfSimilarity(MapImitation):
    """Imitation of the similarities between the cells of an image, for a teacher such as DINOv2 or DINOv3.

    Unit: the divergence, in nats, of one cell's distribution over the cells of its image, as a mean over the images of
    all processes and the cells, padding included, on each level; then summed over levels. It is not multiplied by T^2.
    No weight for a detector was published. Memory grows with the square of the cells, so from a larger map cells are
    drawn by chance, other ones in each batch and the same for all of its images; a resumed run draws the same again.

    Args:
        weight: factor of the loss, or auto.
        temperature: T of the softmax over cells, above 0.
        max_cells: the most cells of a map to compare with each other, at least 2: 1,024 take 4 MiB for each image and
            each of about six matrices.
        finest: how many of the finest strides to compare; None for all.
        schedule: when the loss counts, see `Schedule`.
        name: key of the loss.

    Raises:
        EyasError: an option is out of range.
    """

    def __init__(
        self,
        weight: Weight = "auto",
        *,
        temperature: float = 0.07,
        max_cells: int = 1024,
        finest: int | None = None,
        schedule: Schedule = ALWAYS,
        name: str = "self_similarity",
    ) -> None:
        super().__init__(name, weight, schedule, finest)
        self.require(temperature > 0, f"temperature must be positive, got {temperature}")
        self.require(max_cells > 1, f"max_cells is at least 2, got {max_cells}")
        self.temperature, self.max_cells = temperature, max_cells

    def adapter(self, pair: LevelPair) -> nn.Module:
        """None: similarities do not depend on the number of channels."""
        return nn.Identity()

    def levels(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], view: View, targets: Sequence[Target]
    ) -> list[Tensor]:
        losses, share = [], image_share(student[0])
        for own, other in zip(student, teacher, strict=True):
            one, two = own.flatten(2), other.flatten(2)
            if one.shape[2] > self.max_cells:
                cells = self._drawn(one.shape[2], view.batch, one.device)
                one, two = one.index_select(2, cells), two.index_select(2, cells)
            losses.append(share * similarity_divergence(one, two, self.temperature))
        return losses

    def _drawn(self, cells: int, batch: int, device: torch.device) -> Tensor:
        """The indices of the cells to compare in a batch, on the device."""
        drawn = torch.randperm(cells, generator=torch.Generator().manual_seed(batch))[: self.max_cells]
        return to_device_async(drawn, device)
