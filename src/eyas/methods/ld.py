"""Localisation distillation: the student's distributions of box sides learn the teacher's.

Zheng, Ye, Wang, Ren, Zuo, Hou, Cheng, "Localization Distillation for Dense Object Detection", CVPR 2022 (arXiv
2102.12252), section 3: LD at the positives, and in the valuable localisation region (VLR) around them, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from eyas.methods.method import Weight
from eyas.methods.outputs import HeadPair, OutputDistillation, binary_logits, pair_heads
from eyas.methods.schedule import ALWAYS, Schedule
from eyas.methods.vanilla import kl_softmax, kl_softmax_rows
from eyas.methods.weighted import whole_count
from eyas.ops.losses import ratio
from eyas.ops.valuable_region import scaled, valuable_region
from eyas.types import EyasError, HeadOutput, Target, View

ANCHOR_SCALE = 8.0
"""Side of the square anchors that GFL, the authors' detector, assigns by, in strides."""
SUITED = "take a student and a teacher of one family that predicts them, such as YOLOv9"


def localisation_loss(student: Tensor, teacher: Tensor, weights: Tensor, temperature: float = 10.0) -> Tensor:
    """``sum_i w_i mean_sides mean_bins T^2 KL(p_t || p_s)``, a float32 scalar, at least 0.

    The mean over bins of the terms of the divergence is that of the authors' code: the divergence over their number.

    Args:
        student: (M, 4, bins) logits.
        teacher: (M, 4, bins) logits, detached.
        weights: (M,), w, detached.
        temperature: T, above 0.
    """
    divergence = kl_softmax_rows(student.float(), teacher.float(), temperature).mean(dim=1) / student.shape[2]
    return (weights.detach().float() * divergence).sum()


def confidence(head: HeadOutput) -> Tensor:
    """The highest probability of a class in each row, (N,) float32, without gradient."""
    return binary_logits(head.logits.detach().float(), head.activation, head.background).sigmoid().amax(dim=1)


class LD(OutputDistillation):
    """Localisation distillation between detectors whose boxes are distributions (Zheng et al., CVPR 2022).

    Unit: the mean over the four sides and over bins of ``T^2 KL``, summed over the positives of all levels, each with
    the student's confidence there, plus ``region_weight`` times its sum over the rest of the region, each anchor with
    its IoU. The sum is divided by what the student divides its class loss by, over all processes. The authors' code has
    no such divisor: its sum grows with the batch, so its weight 0.25 is 0.25 times the divisor here.

    The region needs anchors. Those of a row are its scored box, larger by ``anchor_scale``.

    Args:
        weight: factor of the whole loss, or auto.
        temperature: T of the distributions, above 0.
        region_weight: factor of an anchor in the region beside that of a positive one; 0 leaves the region out.
        gamma: lower end of the region, as a share of an object's threshold, in [0, 1).
        anchor_scale: sides of an anchor in sides of the scored box, which is a cell in YOLOv9; 1 where the scored boxes
            are anchors.
        class_weight: factor of ``T^2 KL`` of the softmax over classes at the positives, the mean over classes and over
            the positives of all processes; 0 leaves it out. The authors' code has 10, beside 0.25 of the sum above.
        class_temperature: T of the classes, above 0.
        heads: names of the heads to distil; None for all of the student's that have distributions.
        schedule: when the loss counts, see `Schedule`.
        name: key of the loss.

    Raises:
        EyasError: an option is out of range; or, at the first batch, a head has no distributions, or student and
            teacher differ on it.
    """

    needs = ("heads", "distributions", "equal classes")

    def __init__(
        self,
        weight: Weight = "auto",
        *,
        temperature: float = 10.0,
        region_weight: float = 0.25,
        gamma: float = 0.25,
        anchor_scale: float = ANCHOR_SCALE,
        class_weight: float = 0.0,
        class_temperature: float = 2.0,
        heads: Sequence[str] | None = None,
        schedule: Schedule = ALWAYS,
        name: str = "ld",
    ) -> None:
        super().__init__(name, weight, heads, schedule)
        positive = {"temperature": temperature, "class_temperature": class_temperature, "anchor_scale": anchor_scale}
        for option, value in positive.items():
            self.require(value > 0, f"{option} must be positive, got {value}")
        for option, value in (("region_weight", region_weight), ("class_weight", class_weight)):
            self.require(value >= 0, f"{option} cannot be negative, got {value}")
        self.require(0 <= gamma < 1, f"gamma must lie in [0, 1), got {gamma}")
        self.temperature = temperature
        self.region_weight, self.gamma, self.anchor_scale = region_weight, gamma, anchor_scale
        self.class_weight, self.class_temperature = class_weight, class_temperature

    def forward(self, student: View, teacher: View, targets: Sequence[Target]) -> Tensor:
        names = self.heads or [name for name, head in student.heads.items() if head.distributions is not None]
        self.require(bool(names), f"no head of the student has distributions of box sides; {SUITED}")
        pairs = pair_heads(student, teacher, names)
        return self.total({pair.name: self.localisation(pair, targets) for pair in pairs})

    def localisation(self, pair: HeadPair, targets: Sequence[Target]) -> Tensor:
        """The loss of one head, a float32 scalar."""
        own, other = pair.student.distributions, pair.teacher.distributions
        if own is None or other is None:
            raise EyasError(f"head {pair.name} has no distributions of box sides; {SUITED}")
        positives, scores = pair.matched.positives, confidence(pair.student)
        in_region = self.region(pair.student, targets) if self.region_weight else torch.zeros_like(scores)
        weights = (self.region_weight * in_region).index_put((positives,), scores[positives])
        rows = weights.nonzero()[:, 0]
        term = ratio(localisation_loss(own[rows], other[rows], weights[rows], self.temperature), pair.divisor)
        return term + self.class_weight * self._classes(pair) if self.class_weight else term

    def region(self, head: HeadOutput, targets: Sequence[Target]) -> Tensor:
        """The IoU of each row in the region of an object, else 0; (N,) float32."""
        if head.layout is None:
            raise EyasError(f"{self.name}: the head does not say which row is which cell; set region_weight to 0")
        counts, scale = head.layout.counts, self.anchor_scale
        images = zip(head.boxes, targets, strict=True)
        return torch.cat(
            [valuable_region(scaled(boxes, scale), counts, target["boxes"], self.gamma) for boxes, target in images]
        )

    def _classes(self, pair: HeadPair) -> Tensor:
        rows, classes = pair.matched.positives, pair.student.logits.shape[1]
        self.require(classes > 1, "class_weight: the softmax over one class says nothing; leave it at 0")
        positives = whole_count(len(rows), rows.device)
        divergence = kl_softmax(pair.student.logits[rows], pair.teacher.logits[rows], self.class_temperature)
        return ratio(divergence, classes * positives)
