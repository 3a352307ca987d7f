"""Localisation distillation between decoders whose boxes are distributions, D-FINE's and DEIMv2's.

LD (Zheng et al., CVPR 2022, `eyas.methods.ld`) compares distributions bin by bin. In D-FINE (Peng et al., ICLR 2025,
section 4.2) a bin is a move of a side away from a draft box, of which each detector has its own. So the teacher's
distribution is first brought to the student's places. Every layer learns the teacher's last, as in D-FINE's
self-distillation; and the student answers the teacher's queries, as in KD-DETR (Wang et al., CVPR 2024).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from eyas.methods.method import Weight
from eyas.methods.queries import Factors, QueryDistillation, confidence
from eyas.methods.schedule import ALWAYS, Schedule
from eyas.nn.processes import count_per_process
from eyas.ops.losses import ratio
from eyas.types import EyasError, QueryDecoder, SideDistributions, View

OUTWARDS = (-1.0, -1.0, 1.0, 1.0)
"""The sign of the axis along which the left, top, right and bottom side moves outwards."""


def at_places(mass: Tensor, places: Tensor, others: Tensor) -> Tensor:
    """Mass (..., bins) at places (..., bins) as mass at other places (..., bins), which rise from bin to bin.

    What lies between two of the others is shared between both, so that its mean place stays. What lies beyond the
    first or the last belongs to it.
    """
    places = places.clamp(others[..., :1], others[..., -1:])
    high = torch.searchsorted(others.contiguous(), places.contiguous()).clamp(1, others.shape[-1] - 1)
    below, above = others.gather(-1, high - 1), others.gather(-1, high)
    share = (places - below) / (above - below).clamp(min=torch.finfo(places.dtype).tiny)
    empty = torch.zeros_like(others)
    return empty.scatter_add(-1, high - 1, mass * (1 - share)).scatter_add(-1, high, mass * share)


def side_divergence(student: SideDistributions, teacher: SideDistributions, temperature: float = 5.0) -> Tensor:
    """``T^2 KL(p_t || p_s)`` of each side, averaged over the four and over bins; (layers, batch, queries) float32.

    The softmax of both is over logits / T; then the teacher's is brought to the student's places.

    Args:
        student: any number of layers; gradients reach its logits.
        teacher: one layer.
        temperature: T, above 0.
    """
    signs = student.logits.new_tensor(OUTWARDS)[:, None]
    own, others = (signs * sides.places.detach().float() for sides in (student, teacher))
    mass = (teacher.logits.detach().float() / temperature).softmax(dim=-1)
    goal = at_places(mass.expand_as(own), others.expand_as(own), own)
    answer = (student.logits.float() / temperature).log_softmax(dim=-1)
    return temperature**2 * F.kl_div(answer, goal, reduction="none").mean(dim=(-2, -1))


class QueryLD(QueryDistillation):
    """Localisation distillation (after Zheng et al., CVPR 2022) on queries, with distributions of box sides.

    Unit: the mean over the four sides and over bins of ``T^2 KL``, as the mean over the queries of the batch and of all
    processes, each with the teacher's confidence, the highest probability of a class. Layers are added up. There is no
    published weight: D-FINE's own, for its self-distillation, is 1.5 at T 5.

    The student's decoder runs once more. A box that is a query does not tell a decoder everything: each adds the
    content of its own image features at the box.

    Args:
        weight: factor of the loss, or auto.
        temperature: T of the distributions, above 0.
        schedule: when the loss counts, see `Schedule`.
        name: key of the loss.

    Raises:
        EyasError: an option is out of range; or, at the first batch, a detector has no distributions on queries, or
            they have different numbers of bins.
    """

    needs = ("queries", "distributions")

    def __init__(
        self,
        weight: Weight = "auto",
        *,
        temperature: float = 5.0,
        schedule: Schedule = ALWAYS,
        name: str = "query_ld",
    ) -> None:
        super().__init__(name, weight, schedule, Factors(0, 0, 0))  # none of the terms that the other methods share
        self.require(temperature > 0, f"temperature must be positive, got {temperature}")
        self.temperature = temperature

    def losses(self, student: QueryDecoder, teacher: QueryDecoder, view: View) -> Tensor:
        own, other = student.answer(teacher.points), teacher.own
        mine, theirs = own.distributions, other.distributions
        if mine is None or theirs is None or mine.logits.shape[2:] != theirs.logits.shape[2:]:
            raise EyasError(
                f"{self.name}: student and teacher need distributions of box sides over as many bins; take D-FINE or "
                "DEIMv2 for both, with one max_num_bins"
            )
        last = SideDistributions(theirs.logits[-1:], theirs.places[-1:])
        weights = confidence(other.logits[-1], other.background)
        total = (weights * side_divergence(mine, last, self.temperature)).sum(dim=(1, 2))
        return ratio(total, count_per_process(weights.sum()))
