"""Imitating feature maps on chosen cells: the loss and the module that FGFI, box masks and whole-map hints share.

Equation 2 of Wang et al., CVPR 2019: ``L = 1/(2 N_p) * sum_ij I_ij sum_c (adapt(s)_ijc - t_ijc)^2``. It is a sum over
channels, not a mean, and one average over the chosen cells of the whole batch. A weight meant for it is several hundred
times too small for a plain mean. What the methods differ in is the mask I.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eyas.methods.adapter import Adapter, Cells
from eyas.methods.method import LevelPair, Method, Weight, global_count, ratio
from eyas.tools.timing import span
from eyas.types import EyasError, Target, View

Rectify = Literal["auto", "always", "never"]


class TeacherTargets(NamedTuple):
    """What the student is to imitate on one level of a batch.

    Attributes:
        cells: N of them, on the teacher's map, image by image and row by row.
        vectors: (N, C), the teacher's there; (B, H, W, C) in place of it where every cell is wanted.
        size: (B, H, W) of the teacher's map.
    """

    cells: Cells
    vectors: Tensor
    size: tuple[int, int, int]

    @property
    def whole(self) -> bool:
        """Every cell is wanted."""
        return len(self.cells[0]) == prod(self.size)


@dataclass(frozen=True)
class CachedView(View):
    """A teacher that was not run: it has no maps and no grids.

    Attributes:
        read: reads the targets of a method, by its name, level by level.
    """

    read: Callable[[str], Sequence[TeacherTargets]] = field(kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "grids", ())


def imitation_loss(adapted: Tensor, teacher: Tensor, mask: Tensor, chosen: Tensor | float) -> Tensor:
    """Equation 2 on whole maps, as it is written; what `sparse_imitation_loss` is tested and timed against.

    Args:
        adapted: (batch, C, H, W), the student's features after the adaptation layer.
        teacher: (batch, C, H, W).
        mask: (batch, H, W) bool.
        chosen: N_p, the chosen cells of all levels; 0 gives a loss of 0 that still has a gradient path.

    Returns:
        A float32 scalar.
    """
    squared = (adapted.float() - teacher.float()).square().sum(dim=1)
    return ratio((squared * mask).sum(), 2 * chosen)


def sparse_imitation_loss(adapted: Tensor, teacher: Tensor, chosen: Tensor | float) -> Tensor:
    """Equation 2 from the chosen cells alone: both (N, C), see `eyas.methods.adapter.convolve_at`."""
    return ratio((adapted.float() - teacher.float()).square().sum(), 2 * chosen)


def gather(features: Tensor, mask: Tensor) -> TeacherTargets:
    """A teacher's map (batch, C, H, W) at the cells of a mask (batch, H, W).

    How many they are has to be known here: of a mask on a GPU, the host has to wait for it.
    """
    image, row, column = (to_device_async(axis, features.device) for axis in mask.nonzero(as_tuple=True))
    cells = (image, row, column)
    vectors, size = features.permute(0, 2, 3, 1), (mask.shape[0], mask.shape[1], mask.shape[2])
    if len(cells[0]) < mask.numel():
        vectors = vectors[cells]
    return TeacherTargets(cells, vectors, size)


def to_device_async(values: Tensor, device: torch.device) -> Tensor:
    """The values on a device; the host does not wait for a GPU to take them."""
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def chosen_cells(wanted: Sequence[TeacherTargets]) -> Tensor:
    """N_p: the chosen cells of all levels and images of the batch, as a float32 scalar; see `global_count`."""
    count = sum(len(level.cells[0]) for level in wanted)
    return global_count(torch.full((), count, dtype=torch.float32, device=wanted[0].vectors.device))


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
        """The cells of each level that are imitated, (batch, H, W) bool, on the teacher's grids.

        On the host if it can be, see `eyas.types.host_boxes`.
        """
        raise NotImplementedError

    def fingerprint(self) -> dict[str, object]:
        raise EyasError(
            f"{type(self).__name__} has no fingerprint() of its own, by which a cache tells its masks from others: add "
            "one that returns the options of masks(), or leave --cache out"
        )

    def select(self, teacher: View, targets: Sequence[Target]) -> list[TeacherTargets]:
        """What the student is to imitate, level by level."""
        with span("mask"):
            masks = self.masks(teacher, targets)
            return [gather(feature, mask) for feature, mask in zip(teacher.features, masks, strict=True)]

    def imitate(self, student: View, wanted: Sequence[TeacherTargets]) -> Tensor:
        """The loss of one batch; one N_p for all levels."""
        chosen = chosen_cells(wanted)
        adapters = cast(list[Adapter], list(self.adapters))
        levels = zip(adapters, student.features, wanted, strict=True)
        with span("adapter"):
            compared = [self._compared(*level) for level in levels]
        return torch.stack([sparse_imitation_loss(*pair, chosen) for pair in compared]).sum()

    def forward(self, student: View, teacher: View, targets: Sequence[Target]) -> Tensor:
        return self.imitate(student, self.teacher_targets(teacher, targets))

    def teacher_targets(self, teacher: View, targets: Sequence[Target]) -> Sequence[TeacherTargets]:
        """`wanted`, as the cache has it where the teacher was not run."""
        return teacher.read(self.name) if isinstance(teacher, CachedView) else self.select(teacher, targets)

    def _compared(self, adapter: Adapter, student: Tensor, wanted: TeacherTargets) -> tuple[Tensor, Tensor]:
        """The adapted student at the wanted cells, and the teacher's vectors there, in one shape."""
        resized = student.shape[-2:] != wanted.size[1:]
        if not resized and len(wanted.cells[0]) < self.sparse_below * prod(wanted.size):
            return adapter.at(student, wanted.cells), wanted.vectors.flatten(0, -2)
        adapted = adapter(student)
        if resized:
            # The resized map mixes neighbouring cells, so it is not a function of the chosen cells alone.
            adapted = F.interpolate(adapted, wanted.size[1:], mode="bilinear", align_corners=False)
        adapted = adapted.permute(0, 2, 3, 1)
        if wanted.whole:
            return adapted, wanted.vectors.view(adapted.shape)
        return vectors_at(adapted, wanted.cells), wanted.vectors


def vectors_at(features: Tensor, cells: Cells) -> Tensor:
    """(N, C) of (batch, H, W, C) at cells. By index_select, whose backward is several times faster than indexing's."""
    image, row, column = cells
    _, height, width, channels = features.shape
    return features.reshape(-1, channels).index_select(0, (image * height + row) * width + column)


def describe_cells(wanted: Sequence[TeacherTargets], teacher: View, what: str) -> str:
    """The share of wanted cells, in all and on each level."""
    counts, sizes = [len(level.cells[0]) for level in wanted], [prod(level.size) for level in wanted]
    levels = ", ".join(
        f"{count / size:.0%} at stride {level.stride}"
        for count, size, level in zip(counts, sizes, teacher.levels, strict=True)
    )
    return f"{sum(counts) / sum(sizes):.0%} of cells {what}: {levels}"
