"""Fine-grained feature imitation: the student imitates the teacher's features near objects, and only there.

Wang, Yuan, Zhang, Feng, "Distilling Object Detectors with Fine-grained Feature Imitation", CVPR 2019, equation 2:
``L = 1/(2 N_p) * sum_ij I_ij sum_c (adapt(s)_ijc - t_ijc)^2``. It is a sum over channels, not a mean, and one average
over the near cells of the whole batch. A weight meant for it is several hundred times too small for a plain mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from eyas.masks import Assignment, near_object_masks
from eyas.methods.adapter import Adapter
from eyas.methods.method import LevelPair, Method
from eyas.types import EyasError, Target, View

Rectify = Literal["auto", "always", "never"]


def imitation_loss(adapted: Tensor, teacher: Tensor, mask: Tensor, near: Tensor | float) -> Tensor:
    """Equation 2 on whole maps.

    Args:
        adapted: (batch, C, H, W), the student's features after the adaptation layer.
        teacher: (batch, C, H, W).
        mask: (batch, H, W) bool.
        near: N_p, see `near_cells`; 0 gives a loss of 0 that still has a gradient path.

    Returns:
        A float32 scalar.
    """
    squared = (adapted.float() - teacher.float()).square().sum(dim=1)
    return _normalise((squared * mask).sum(), near)


def sparse_imitation_loss(adapted: Tensor, teacher: Tensor, near: Tensor | float) -> Tensor:
    """Equation 2 from the near cells alone: both (N, C), see `eyas.methods.adapter.convolve_at`."""
    return _normalise((adapted.float() - teacher.float()).square().sum(), near)


def near_cells(masks: Sequence[Tensor]) -> Tensor:
    """N_p: the near cells of all levels and images of the batch, as a float32 scalar.

    Under `torch.distributed` the batch is that of all processes. The count is then divided by their number, because
    gradients are averaged over processes, not summed: the average of ``S_r / (2 N_p / R)`` is ``sum_r S_r / (2 N_p)``.
    """
    count = torch.stack([mask.sum() for mask in masks]).sum().float()
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(count)
        count /= distributed.get_world_size()
    return count


def _normalise(total: Tensor, near: Tensor | float) -> Tensor:
    # Any positive divisor does where no cell is near, the sum being 0; under several processes N_p may be below 1.
    return total / (2 * torch.as_tensor(near, device=total.device).float().clamp(min=torch.finfo(torch.float32).eps))


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise EyasError(f"FGFI: {rule}")


class FGFI(Method):
    """Fine-grained feature imitation (Wang et al., CVPR 2019).

    Args:
        weight: lambda of the total loss. The published 0.01 belongs to the published detectors; what matters is the
            ratio of the imitation gradient to the detection gradient, which a run prints before its first step.
        psi: share of an object's best IoU that an anchor must exceed for its cell to be near, in [0, 1].
        assignment: what that best IoU is the maximum of when there are several levels, see `eyas.masks.Assignment`.
        kernel_size: of the adaptation layer.
        rectify: end the adaptation layer in a ReLU: always, never, or where the teacher's features have none below 0.
        init_std: of the adaptation layer's weights.
        start_step: training batches before the loss counts: 400 in the authors' code, of tens of thousands.
        sparse_below: share of near cells below which the adaptation layer is evaluated at those cells only. The value
            and the gradients are the same; see `benchmarks/loss.py` for the crossover.

    Raises:
        EyasError: an option outside its range.
    """

    name = "fgfi"

    def __init__(
        self,
        weight: float = 0.01,
        *,
        psi: float = 0.5,
        assignment: Assignment = "global",
        kernel_size: int = 3,
        rectify: Rectify = "auto",
        init_std: float = 1e-4,
        start_step: int = 0,
        sparse_below: float = 0.4,
    ) -> None:
        super().__init__()
        _require(weight >= 0, f"weight cannot be negative, got {weight}")
        _require(0 <= psi <= 1, f"psi must lie in [0, 1], got {psi}")
        _require(assignment in get_args(Assignment), f"assignment is one of {get_args(Assignment)}, got {assignment!r}")
        _require(kernel_size > 0 and kernel_size % 2 == 1, f"kernel_size must be odd and positive, got {kernel_size}")
        _require(rectify in get_args(Rectify), f"rectify is one of {get_args(Rectify)}, got {rectify!r}")
        _require(init_std > 0, f"init_std must be positive, got {init_std}")
        _require(start_step >= 0, f"start_step cannot be negative, got {start_step}")
        self.weight = weight
        self.psi = psi
        self.assignment: Assignment = assignment
        self.kernel_size = kernel_size
        self.rectify = rectify
        self.init_std = init_std
        self.start_step = start_step
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
        """The near-object mask of each level, (batch, H, W), on the teacher's grids."""
        return near_object_masks(
            teacher.grids,
            [target["boxes"] for target in targets],
            psi=self.psi,
            assignment=self.assignment,
            box_ranges=[level.box_range for level in teacher.levels],
        )

    def describe(self, teacher: View, targets: Sequence[Target]) -> str:
        masks = self.masks(teacher, targets)
        cells = sum(mask.numel() for mask in masks)
        levels = ", ".join(
            f"{float(mask.float().mean()):.0%} at stride {level.stride}"
            for mask, level in zip(masks, teacher.levels, strict=True)
        )
        near = float(torch.stack([mask.sum() for mask in masks]).sum()) / cells
        return f"{near:.0%} of cells near (psi {self.psi:g}, {self.assignment}): {levels}"

    def forward(self, student: View, teacher: View, targets: Sequence[Target]) -> dict[str, Tensor]:
        masks = self.masks(teacher, targets)
        near = near_cells(masks)
        levels = zip(self.adapters, student.features, teacher.features, masks, strict=True)
        return {self.name: self.weight * torch.stack([self._level_loss(*level, near) for level in levels]).sum()}

    def _level_loss(self, adapter: Adapter, student: Tensor, teacher: Tensor, mask: Tensor, near: Tensor) -> Tensor:
        if student.shape[-2:] != teacher.shape[-2:]:
            # The resized map mixes neighbouring cells, so it is not a function of the near cells alone.
            adapted = F.interpolate(adapter(student), teacher.shape[-2:], mode="bilinear", align_corners=False)
            return imitation_loss(adapted, teacher, mask, near)
        image, row, column = mask.nonzero(as_tuple=True)
        if len(image) >= self.sparse_below * mask.numel():
            return imitation_loss(adapter(student), teacher, mask, near)
        wanted = teacher.permute(0, 2, 3, 1)[image, row, column]
        return sparse_imitation_loss(adapter.at(student, (image, row, column)), wanted, near)
