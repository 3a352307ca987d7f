"""A teacher that sees the images larger than the student does.

The loader's batch is the teacher's. The student's is resized from it here, so both see the same crop and flip. Masks
are computed on the teacher's grids with boxes in the teacher's frame; IoU does not depend on the scale. Levels pair
where a cell covers the same part of the image: the teacher's stride is the scale times the student's. Where the maps of
a pair still differ in size, the student's adapted map is resized to the teacher's (bilinear), so that the imitated
cells and vectors stay exact; see `eyas.methods.imitation.FeatureImitation`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from eyas.methods.method import Method
from eyas.types import EyasError, Size, Target


def check_scale(scale: float, methods: Sequence[Method] = ()) -> None:
    """Raises EyasError for a scale outside [1, 4], or above 1 with a method that compares more than feature maps."""
    if not 1 <= scale <= 4:
        raise EyasError(
            f"teacher_scale must lie in [1, 4], got {scale}: how many times larger the teacher sees the images"
        )
    for method in methods:
        if scale != 1 and method.reads:
            raise EyasError(
                f"{method.name} compares {', '.join(sorted(method.reads))}, which belong to one size of the images; "
                "leave teacher_scale at 1, or take a method that compares feature maps"
            )


def resize_for_student(images: Tensor, targets: Sequence[Target], scale: float) -> tuple[Tensor, Sequence[Target]]:
    """Resize the teacher's batch for the student.

    Args:
        images: (batch, 3, height, width) in [0, 1].
        targets: boxes in the frame of the images.
        scale: how many times larger the teacher sees the images, at least 1; 1 returns both unchanged.

    Returns:
        Images (batch, 3, round(height / scale), round(width / scale)), antialiased, and targets in their frame.
    """
    if scale == 1:
        return images, targets
    before: Size = (images.shape[-2], images.shape[-1])
    after = (max(1, round(before[0] / scale)), max(1, round(before[1] / scale)))
    small = F.interpolate(images, after, mode="bilinear", align_corners=False, antialias=True)
    return small.clamp(0, 1), [_resized(target, before, after) for target in targets]


def _resized(target: Target, before: Size, after: Size) -> Target:
    down, across = after[0] / before[0], after[1] / before[1]
    factors = target["boxes"].new_tensor([across, down, across, down])
    result: Target = {**target, "boxes": target["boxes"] * factors}
    result.pop("host_boxes", None)
    if "ignore" in target:
        result["ignore"] = target["ignore"] * factors
    if "size" in target:
        height, width = target["size"]
        result["size"] = (round(height * down), round(width * across))
    return result
