"""Region mimicry: the student imitates only the features that the teacher's head would pool for proposals.

Li, Jin, Yan, "Mimicking Very Efficient Network for Object Detection", CVPR 2017, section 3.2:
``L_m = 1/(2N) * sum_i 1/m_i * ||u_i - r(v_i)||^2``. ``u_i`` and ``v_i`` are the teacher's and the student's features of
proposal i of N, ``r`` the transform from the student's channels to the teacher's, ``m_i`` the size of a region in
cells. Every region is pooled to the same size here, so ``m_i`` is a constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from eyas.methods.adapter import Adapter
from eyas.methods.method import LevelPair, Method, Weight
from eyas.methods.schedule import ALWAYS, Schedule
from eyas.methods.weighted import whole_count
from eyas.ops.boxes import area
from eyas.ops.losses import ratio
from eyas.types import EyasError, Level, Target, View

Source = Literal["teacher", "student"]
"""The detector whose proposals are pooled."""
CANONICAL_SIDE, CANONICAL_LEVEL = 224, 4
"""The FPN paper's 224 and k0 = 4: a box with a side of 224 pixels is pooled from the level of stride 2^4."""
EPSILON = 1e-6
"""Added to the logarithm of the side, as in torchvision, so that a box of 224 pixels is not rounded down."""


def assign_levels(boxes: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
    """The level that each box is pooled from: Lin et al., "Feature Pyramid Networks", CVPR 2017, equation 1.

    If the strides are consecutive powers of two, the levels are those that torchvision's `MultiScaleRoIAlign` chooses.

    Args:
        boxes: for each image, (n_i, 4) xyxy in pixels. The n_i add up to N.
        strides: stride of each level, ascending. The next finer level replaces a missing power of two; the first of
            several levels with the same stride is used.

    Returns:
        (N,) int64, indices into ``strides``, image by image.
    """
    side = area(torch.cat(list(boxes)).float()).sqrt()
    level = torch.floor(CANONICAL_LEVEL + torch.log2(side / CANONICAL_SIDE) + EPSILON)
    distinct = sorted(set(strides))
    exponents = torch.tensor(distinct, dtype=torch.float32, device=side.device).log2()
    chosen = (torch.searchsorted(exponents, level, right=True) - 1).clamp(min=0)
    return torch.tensor([list(strides).index(stride) for stride in distinct], device=side.device)[chosen]


def pool_regions(
    features: Sequence[Tensor], strides: Sequence[int], boxes: Sequence[Tensor], levels: Tensor, *, output_size: int = 7
) -> list[Tensor]:
    """RoIAlign (He et al., ICCV 2017) of every box from its own level, as torchvision's detectors pool for their heads.

    That takes two samples along each side of a cell. Map and image share their origin, and a cell is ``stride`` pixels
    wide and high. The quotient of their sizes would be wrong for a detector that pads the image internally.

    Args:
        features: for each level, a (batch, C, H, W) map; C may differ between levels.
        strides: image pixels per cell of each map.
        boxes: for each image of the batch, (n_i, 4) xyxy in pixels. The n_i add up to N.
        levels: (N,) int64, the level of each box, image by image; see `assign_levels`.
        output_size: cells along each side of a region.

    Returns:
        For each level, the regions of its boxes in their order: (n, C, output_size, output_size) float32.
    """
    image = torch.cat([torch.full_like(own[:, :1], index) for index, own in enumerate(boxes)])
    rows = torch.cat((image, torch.cat(list(boxes))), dim=1).float()
    return [
        roi_align(feature.float(), rows[levels == index], output_size, 1 / stride, sampling_ratio=2)
        for index, (feature, stride) in enumerate(zip(features, strides, strict=True))
    ]


def mimic_loss(adapted: Tensor, teacher: Tensor, count: Tensor | float) -> Tensor:
    """L_m of Li et al. (CVPR 2017, section 3.2), a float32 scalar: the sum of squared differences over 2N*h*w.

    Args:
        adapted: (n, C, h, w), the student's regions after the transform.
        teacher: (n, C, h, w), the teacher's regions of the same boxes.
        count: N, the proposals of the whole batch on all levels, see `eyas.nn.processes.count_per_process`. 0 gives a
            loss of 0 that still has a gradient path.
    """
    cells = teacher.shape[-2] * teacher.shape[-1]
    return ratio((adapted.float() - teacher.float()).square().sum(), 2 * cells * count)


class RoIMimic(Method):
    """The student mimics the teacher's pooled features of proposals (Li et al., CVPR 2017).

    The loss is the squared difference, summed over channels and averaged over the cells of all regions of the batch,
    halved. Each level pair has its own transform, because the levels of a student without FPN differ in channels and
    statistics. Levels that only propose, like the last of Faster R-CNN's FPN, are left out: heads never pool from them.
    Both detectors' regions of a box come from the same level pair, chosen by the teacher's strides.

    Args:
        weight: factor of the loss, or auto.
        proposals: whose proposals to pool, teacher or student. The paper uses the student's; the teacher's are good
            from the first step, work for a one-stage student, and are the default of the one public implementation.
        output_size: cells along each side of a pooled region.
        kernel_size: kernel of the transform, a convolution on the pooled regions; odd.
        rois_per_image: pool at most this many proposals per image, best first; None pools all.
        init_std: standard deviation of the transform's initial weights.
        schedule: when the loss counts, see `Schedule`.
        name: key of the loss.

    Raises:
        EyasError: an option is out of range.
    """

    needs = ("feature maps", "proposals")

    def __init__(
        self,
        weight: Weight = "auto",
        *,
        proposals: Source = "teacher",
        output_size: int = 7,
        kernel_size: int = 1,
        rois_per_image: int | None = None,
        init_std: float = 1e-4,
        schedule: Schedule = ALWAYS,
        name: str = "roi_mimic",
    ) -> None:
        super().__init__(name, weight, schedule)
        self.require(proposals in get_args(Source), f"proposals is one of {get_args(Source)}, got {proposals!r}")
        self.require(output_size > 0, f"output_size must be positive, got {output_size}")
        self.require(kernel_size > 0 and kernel_size % 2 == 1, f"kernel_size must be odd and positive: {kernel_size}")
        self.require(rois_per_image is None or rois_per_image > 0, f"rois_per_image must be positive: {rois_per_image}")
        self.require(init_std > 0, f"init_std must be positive, got {init_std}")
        self.proposals: Source = proposals
        self.reads = frozenset({"teacher_proposals" if proposals == "teacher" else "student_proposals"})
        self.output_size = output_size
        self.kernel_size = kernel_size
        self.rois_per_image = rois_per_image
        self.init_std = init_std
        self.chosen: tuple[int, ...] = ()
        self.taps: tuple[str, ...] = ()
        self.adapters = nn.ModuleList()

    def setup(self, pairs: Sequence[LevelPair]) -> None:
        pooled = [i for i, pair in enumerate(pairs) if not any(map(_only_proposes, (pair.student, pair.teacher)))]
        # `assign_levels` needs ascending strides; pairs that the user names come in any order.
        self.chosen = tuple(sorted(pooled, key=lambda index: pairs[index].teacher.stride))
        self.require(bool(pooled), "no pair of levels that boxes are pooled from; pair levels that the heads read")
        self.taps = tuple(pairs[index].student_tap for index in self.chosen)
        channels = [(pairs[index].student.channels, pairs[index].teacher.channels) for index in self.chosen]
        self.adapters = nn.ModuleList(
            Adapter(*both, kernel_size=self.kernel_size, init_std=self.init_std) for both in channels
        )

    def describe(self, teacher: View, targets: Sequence[Target]) -> str:
        most = "all" if self.rois_per_image is None else f"at most {self.rois_per_image}"
        if self.proposals == "student" or teacher.proposals is None:
            return f"regions of the {self.proposals}'s proposals, {most} of an image"
        boxes, strides = self._boxes(teacher), [teacher.levels[index].stride for index in self.chosen]
        levels = assign_levels(boxes, strides)
        shares = [float((levels == index).float().mean()) if len(levels) else 0 for index in range(len(strides))]
        parts = ", ".join(f"{share:.0%} at stride {stride}" for share, stride in zip(shares, strides, strict=True))
        return f"{len(levels) / len(boxes):.0f} of the teacher's proposals per image: {parts}"

    def forward(self, student: View, teacher: View, targets: Sequence[Target]) -> Tensor:
        boxes = self._boxes(teacher if self.proposals == "teacher" else student)
        levels = assign_levels(boxes, [teacher.levels[index].stride for index in self.chosen])
        count = whole_count(len(levels), levels.device)
        regions = zip(
            self.taps, self.adapters, *(self._regions(view, boxes, levels) for view in (student, teacher)), strict=True
        )
        return self.total({tap: mimic_loss(adapter(own), theirs, count) for tap, adapter, own, theirs in regions})

    def _boxes(self, view: View) -> list[Tensor]:
        if view.proposals is None:
            other = "student" if self.proposals == "teacher" else "teacher"
            raise EyasError(
                f"{type(self).__name__}: the {self.proposals} makes no proposals (one-stage detectors have none); use "
                f'a Faster R-CNN, or proposals="{other}" if the {other} is one'
            )
        return [boxes[: self.rois_per_image].detach() for boxes in view.proposals]

    def _regions(self, view: View, boxes: Sequence[Tensor], levels: Tensor) -> list[Tensor]:
        features = [view.features[index] for index in self.chosen]
        strides = [view.levels[index].stride for index in self.chosen]
        return pool_regions(features, strides, boxes, levels, output_size=self.output_size)


def _only_proposes(level: Level) -> bool:
    """Whether the heads never pool from a level: its box range is empty."""
    return level.box_range is not None and level.box_range[0] >= level.box_range[1]
