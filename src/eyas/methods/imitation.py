"""Imitating feature maps on chosen cells: the loss and the module that FGFI, box masks and whole-map hints share.

Equation 2 of Wang et al., CVPR 2019: ``L = 1/(2 N_p) * sum_ij I_ij sum_c (adapt(s)_ijc - t_ijc)^2``. It is a sum over
channels, not a mean, and one average over the chosen cells of the whole batch. A weight meant for it is several hundred
times too small for a plain mean. What the methods differ in is the mask I.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eyas.methods.adapter import Adapter
from eyas.methods.method import LevelPair, Method, Weight, global_count, ratio
from eyas.types import Target, View

Rectify = Literal["auto", "always", "never"]


def imitation_loss(adapted: Tensor, teacher: Tensor, mask: Tensor, chosen: Tensor | float) -> Tensor:
    """Equation 2 on whole maps.

    Args:
        adapted: (batch, C, H, W), the student's features after the adaptation layer.
        teacher: (batch, C, H, W).
        mask: (batch, H, W) bool.
        chosen: N_p, see `chosen_cells`; 0 gives a loss of 0 that still has a gradient path.

    Returns:
        A float32 scalar.
    """
    squared = (adapted.float() - teacher.float()).square().sum(dim=1)
    return ratio((squared * mask).sum(), 2 * chosen)


def sparse_imitation_loss(adapted: Tensor, teacher: Tensor, chosen: Tensor | float) -> Tensor:
    """Equation 2 from the chosen cells alone: both (N, C), see `eyas.methods.adapter.convolve_at`."""
    return ratio((adapted.float() - teacher.float()).square().sum(), 2 * chosen)


def chosen_cells(masks: Sequence[Tensor]) -> Tensor:
    """N_p: the chosen cells of all levels and images of the batch, as a float32 scalar; see `global_count`."""
    return global_count(torch.stack([mask.sum() for mask in masks]).sum())


class FeatureImitation(Method):
    """The base of the methods that imitate feature maps on chosen cells; a subclass says which, in `masks`.

    Args:
        name: the key of its loss term.
        weight: lambda of the total loss, or auto.
        kernel_size: of the adaptation layer.
        rectify: end the adaptation layer in a ReLU: always, never, or where the teacher's features have none below 0.
        init_std: of the adaptation layer's weights.
        start_step: training batches before the loss counts.
        sparse_below: share of chosen cells below which the adaptation layer is evaluated at those cells only. The value
            and the gradients are the same; see `benchmarks/loss.py` for the crossover.

    Raises:
        EyasError: an option outside its range.
    """

    def __init__(
        self,
        name: str,
        weight: Weight,
        *,
        kernel_size: int,
        rectify: Rectify,
        init_std: float,
        start_step: int,
        sparse_below: float = 0.4,
    ) -> None:
        super().__init__(name, weight, start_step)
        self.require(kernel_size > 0 and kernel_size % 2 == 1, f"kernel_size must be odd and positive: {kernel_size}")
        self.require(rectify in get_args(Rectify), f"rectify is one of {get_args(Rectify)}, got {rectify!r}")
        self.require(init_std > 0, f"init_std must be positive, got {init_std}")
        self.kernel_size = kernel_size
        self.rectify = rectify
        self.init_std = init_std
        self.sparse_below = sparse_below
        self.adapters = nn.ModuleList()

    def setup(self, pairs: Sequence[LevelPair]) -> None:
        self.adapters = nn.ModuleList(
            Adapter(
                pair.student.channels,
                pair.teacher.channels,
                kernel_size=self.kernel_size,
                rectified=pair.rectified if self.rectify == "auto" else self.rectify == "always",
                init_std=self.init_std,
            )
            for pair in pairs
        )

    def masks(self, teacher: View, targets: Sequence[Target]) -> list[Tensor]:
        """The cells of each level that are imitated, (batch, H, W) bool, on the teacher's grids."""
        raise NotImplementedError

    def forward(self, student: View, teacher: View, targets: Sequence[Target]) -> Tensor:
        masks = self.masks(teacher, targets)
        chosen = chosen_cells(masks)
        levels = zip(self.adapters, student.features, teacher.features, masks, strict=True)
        return torch.stack([self._level_loss(*level, chosen) for level in levels]).sum()

    def _level_loss(self, adapter: Adapter, student: Tensor, teacher: Tensor, mask: Tensor, chosen: Tensor) -> Tensor:
        if student.shape[-2:] != teacher.shape[-2:]:
            # The resized map mixes neighbouring cells, so it is not a function of the chosen cells alone.
            adapted = F.interpolate(adapter(student), teacher.shape[-2:], mode="bilinear", align_corners=False)
            return imitation_loss(adapted, teacher, mask, chosen)
        image, row, column = mask.nonzero(as_tuple=True)
        if len(image) >= self.sparse_below * mask.numel():
            return imitation_loss(adapter(student), teacher, mask, chosen)
        wanted = teacher.permute(0, 2, 3, 1)[image, row, column]
        return sparse_imitation_loss(adapter.at(student, (image, row, column)), wanted, chosen)


def describe_masks(masks: Sequence[Tensor], teacher: View, what: str) -> str:
    """The share of chosen cells, in all and on each level."""
    share = sum(float(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
    levels = ", ".join(
        f"{float(mask.float().mean()):.0%} at stride {level.stride}"
        for mask, level in zip(masks, teacher.levels, strict=True)
    )
    return f"{share:.0%} of cells {what}: {levels}"
