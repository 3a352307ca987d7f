"""Target-aware feature distillation: the student imitates the teacher's maps where the teacher's queries look.

Chang, Wang, Xu, Chen, Yang, Zhao, "DETRDistill: A Universal Knowledge Distillation Framework for DETR-families", ICCV
2023, its "target-aware feature distillation". In each layer of the teacher's decoder, a cell weighs as much as its
feature resembles the states of the best queries, by cosine. The paper's term on answers is `eyas.DETRDistill`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eyas.methods.maps import MapImitation
from eyas.methods.method import LevelPair, Need, Reads, Weight
from eyas.methods.queries import class_probabilities
from eyas.methods.schedule import ALWAYS, Schedule
from eyas.methods.weighted import image_share
from eyas.ops.boxes import iou
from eyas.types import EyasError, Target, View

LEAST = 0.01
"""Least value of a mask before it is divided by its largest."""


def query_weights(logits: Tensor, boxes: Tensor, targets: Sequence[Target], background: bool, best: int) -> Tensor:
    """How much each of the teacher's queries counts, (layers, batch, queries) float32.

    The ``best`` pairs of query and class with the highest probabilities count, in each layer and image: the probability
    times the IoU of the query's box with the nearest object, or the probability alone in an image without objects.

    Args:
        logits: (layers, batch, queries, C).
        boxes: (layers, batch, queries, 4) xyxy, pixels.
        targets: one for each image.
        background: whether the last column stands for no object.
        best: how many pairs count; all where there are fewer.
    """
    probabilities = class_probabilities(logits, background)
    flat = probabilities.flatten(2)
    kept = torch.zeros_like(flat)
    chosen = flat.topk(min(best, flat.shape[2]), dim=2)
    kept.scatter_(2, chosen.indices, chosen.values)
    overlaps = [
        iou(boxes[:, image, :, None], target["boxes"].to(boxes)).amax(-1)
        if len(target["boxes"])
        else boxes.new_ones(boxes[:, image].shape[:2])
        for image, target in enumerate(targets)
    ]
    return kept.view_as(probabilities).sum(-1) * torch.stack(overlaps, dim=1)


def target_masks(states: Tensor, weights: Tensor, features: Tensor) -> Tensor:
    """The mask of each layer, (layers, batch, H, W) float32 in (0, 1]: the cosines of a cell with the queries' states,
    weighted and summed, at least `LEAST`, over the largest of the image.

    Args:
        states: (layers, batch, queries, C), of the teacher's queries.
        weights: (layers, batch, queries), see `query_weights`.
        features: (batch, C, H, W), the teacher's map.
    """
    # The weighted sum of cosines is one inner product, with the weighted sum of the directions.
    direction = (weights[..., None] * F.normalize(states.float(), dim=-1)).sum(2)
    with torch.autocast(features.device.type, enabled=False):
        masks = torch.einsum("lbc,bchw->lbhw", direction, F.normalize(features.float(), dim=1)).clamp(min=LEAST)
    return masks / masks.amax((2, 3), keepdim=True)


def masked_loss(student: Tensor, teacher: Tensor, masks: Tensor) -> Tensor:
    """The sum over layers of the mean of ``(m s - m t)^2``, a float32 scalar; maps (batch, C, H, W), masks as above."""
    return (masks.square().sum(0)[:, None] * (student.float() - teacher.float()).square()).mean()


class TargetAware(MapImitation):
    """Target-aware feature distillation (Chang et al., ICCV 2023), for a teacher of the DETR family.

    Unit: a mean over the images of all processes, channels and cells of each level, summed over the layers of the
    teacher's decoder and over levels. Published weight in this unit: 2, by TPRD's port for Deformable DETR with six
    layers. The student may be of any family. The first level pair of each stride is compared, which is the encoder's;
    the teacher's map must have as many channels as the states of its queries, and other levels are left out.

    Args:
        weight: factor of the loss, or auto.
        best: how many pairs of query and class make the mask, in each layer and image.
        schedule: when the loss counts, see `Schedule`.
        name: key of the loss.

    Raises:
        EyasError: an option is out of range; or, at the first batch, the teacher has no queries, or no level with their
            channels.
    """

    reads: frozenset[Reads] = frozenset({"teacher_queries"})
    needs: tuple[Need, ...] = ("feature maps", "queries")

    def __init__(
        self,
        weight: Weight = "auto",
        *,
        best: int = 100,
        schedule: Schedule = ALWAYS,
        name: str = "target_aware",
    ) -> None:
        super().__init__(name, weight, schedule)
        self.require(best > 0, f"best must be positive, got {best}")
        self.best = best

    def setup(self, pairs: Sequence[LevelPair]) -> None:
        super().setup(pairs)
        first = {pair.teacher.stride: index for index, pair in reversed(list(enumerate(pairs)))}
        self.chosen = tuple(sorted(first.values()))
        self.adapters = nn.ModuleList(self.adapters[index] for index in self.chosen)

    def levels(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], view: View, targets: Sequence[Target]
    ) -> list[Tensor]:
        if view.decoder is None:
            raise EyasError("target_aware: the teacher has no queries; choose a detector of transformers")
        own, states = view.decoder.own, view.decoder.states
        suits = [theirs.shape[1] == states.shape[-1] for theirs in teacher]
        if not any(suits):
            raise EyasError(
                f"target_aware: no paired level of the teacher has {states.shape[-1]} channels, as its queries have; "
                f"they have {', '.join(str(theirs.shape[1]) for theirs in teacher)}. Pair levels of its encoder"
            )
        weights = query_weights(own.logits, own.boxes, targets, own.background, self.best)
        share = image_share(student[0])
        return [
            share * masked_loss(mine, theirs, target_masks(states, weights, theirs)) if suit else 0 * mine.sum()
            for mine, theirs, suit in zip(student, teacher, suits, strict=True)
        ]
