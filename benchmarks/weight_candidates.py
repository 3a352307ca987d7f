"""Other rules for FGFI's weight, as methods, to be compared with the automatic one of docs/weight.md.

A comparison names them by their class path, such as ``benchmarks.weight_candidates.ProjectedFGFI``, and runs from the
root of the repository as ``eyas compare --allow_code true --config compare.yaml``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from eyas.distillation.balance import detection_loss
from eyas.methods.fgfi import FGFI
from eyas.types import Target, View


def gradients(loss: Tensor, features: Sequence[Tensor]) -> list[Tensor]:
    """The gradient of a loss at feature maps, in their shapes, 0 where it does not reach; the graph is kept."""
    found = torch.autograd.grad(loss, features, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(map_) if own is None else own for own, map_ in zip(found, features, strict=True)]


def moved(loss: Tensor, features: Sequence[Tensor], by: Sequence[Tensor]) -> Tensor:
    """The same loss, whose gradient at each feature map has that of ``by`` added."""
    shift = torch.stack([(change * feature).sum() for change, feature in zip(by, features, strict=True)]).sum()
    return loss + shift - shift.detach()


class ProjectedFGFI(FGFI):
    """FGFI whose gradient at the student's maps never opposes the detection loss's.

    Where their product is negative, the part along the detection gradient is taken away (PCGrad: Yu et al., NeurIPS
    2020, algorithm 1, for one of two tasks). The adaptation layers' gradients stay.

    Args:
        over: whether the product is over a whole level or over the channels of one cell.
        options: those of FGFI.
    """

    fingerprint = FGFI.fingerprint  # the same cells, under a cache

    def __init__(self, over: Literal["level", "cell"] = "level", **options: Any) -> None:
        super().__init__(**options)
        self.over = over

    def forward(self, student: View, teacher: View, targets: Sequence[Target]) -> Tensor:
        loss = super().forward(student, teacher, targets)
        features = list(student.features)
        if not all(feature.requires_grad for feature in features):  # the warm-up: only the adapters learn
            return loss
        dims = (0, 1, 2, 3) if self.over == "level" else (1,)
        opposite = []
        for detection, imitation in zip(
            gradients(detection_loss(student), features), gradients(loss, features), strict=True
        ):
            product = (detection * imitation).sum(dims, keepdim=True)
            square = detection.square().sum(dims, keepdim=True).clamp(min=torch.finfo(detection.dtype).tiny)
            opposite.append(-product.clamp(max=0) / square * detection)
        return moved(loss, features, opposite)


class LevelledFGFI(FGFI):
    """FGFI whose gradient at the student's maps is, on each level, the same multiple of the detection loss's.

    Over all levels its norm stays what it is. The adaptation layers' gradients stay.

    Args:
        options: those of FGFI.
    """

    fingerprint = FGFI.fingerprint  # the same cells, under a cache

    def forward(self, student: View, teacher: View, targets: Sequence[Target]) -> Tensor:
        loss = super().forward(student, teacher, targets)
        features = list(student.features)
        if not all(feature.requires_grad for feature in features):  # the warm-up: only the adapters learn
            return loss
        imitation = gradients(loss, features)
        norms = torch.stack([gradient.norm() for gradient in imitation])
        wanted = torch.stack([gradient.norm() for gradient in gradients(detection_loss(student), features)])
        tiny = torch.finfo(norms.dtype).tiny
        # A level without near cells keeps its 0, and the others share the norm.
        wanted = wanted * (norms > 0)
        factors = wanted / norms.clamp(min=tiny) * norms.norm() / wanted.norm().clamp(min=tiny)
        return moved(loss, features, [(factor - 1) * own for factor, own in zip(factors, imitation, strict=True)])


class UncertaintyFGFI(FGFI):
    """FGFI weighted by a learned uncertainty: ``exp(-s) L + s`` (Kendall et al., CVPR 2018, section 3, without halves).

    The detection losses keep the weight 1, as in every arm. At its optimum the weight is 1 / L.

    Args:
        start: s at the start.
        options: those of FGFI but its weight, which is 1.
    """

    fingerprint = FGFI.fingerprint  # the same cells, under a cache

    def __init__(self, start: float = 0.0, **options: Any) -> None:
        super().__init__(weight=1.0, **options)
        self.log_variance = nn.Parameter(torch.tensor(start))

    def forward(self, student: View, teacher: View, targets: Sequence[Target]) -> Tensor:
        return super().forward(student, teacher, targets) * torch.exp(-self.log_variance) + self.log_variance


class MeasuredFGFI(FGFI):
    """FGFI that writes what both gradients are at the student's maps, one line of JSON for every ``every`` batches.

    Args:
        file: the lines are appended to it: ``batch``, and for each level the norms of the detection and the imitation
            gradient without its weight, the former's norm at near cells alone, and the cosine between the two.
        every: batches between two lines.
        options: those of FGFI.
    """

    fingerprint = FGFI.fingerprint  # the same cells, under a cache

    def __init__(self, file: str, every: int = 10, **options: Any) -> None:
        super().__init__(**options)
        self.file, self.every = Path(file), every

    def forward(self, student: View, teacher: View, targets: Sequence[Target]) -> Tensor:
        loss = super().forward(student, teacher, targets)
        features = list(student.features)
        if student.batch % self.every or not all(feature.requires_grad for feature in features):
            return loss
        cells = [level.cells for level in self.teacher_targets(teacher, targets, self.extents(student))]
        rows = []
        pairs = zip(gradients(detection_loss(student), features), gradients(loss, features), cells, strict=True)
        for detection, imitation, (image, row, column) in pairs:
            norms = detection.norm(), imitation.norm()
            cosine = (detection * imitation).sum() / (norms[0] * norms[1]).clamp(min=1e-30)
            near = detection[image, :, row, column].norm()
            rows.append([float(value) for value in (*norms, near, cosine)])
        with self.file.open("a") as out:
            out.write(json.dumps({"batch": student.batch, "levels": rows}) + "\n")
        return loss
