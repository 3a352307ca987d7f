"""A teacher that sees the images larger than the student does.

The loader's batch is the teacher's. The student's is resized from it here, so both see the same crop and flip. Masks
are computed on the teacher's grids with boxes in the teacher's frame; IoU does not depend on the scale. Levels pair
where a cell covers the same part of the image: the teacher's stride is the scale times the student's. Where strides
still differ, the student's adapted map is sampled at the centres of the teacher's cells, so that the imitated cells and
vectors stay exact; see `eyas.methods.imitation`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from eyas.methods.method import Method
from eyas.types import EyasError, Size, Target, size_of

TOLERANCE = 1e-9
"""Relative, of a size that is a product or quotient of floats."""


def check_scale(scale: float, methods: Sequence[Method] = ()) -> None:
    """Raises EyasError for a scale outside [1, 4], or above 1 with a method that compares more than feature maps."""
    if not 1 <= scale <= 4:
        raise EyasError(
            f"teacher_scale must lie in [1, 4], got {scale}: how many times larger the teacher sees the images"
        )
    for method in methods:
        both = method.reads - {"teacher_queries", "teacher_scores"}  # which belong to the teacher's maps
        if scale != 1 and both:
            raise EyasError(
                f"{method.name} compares {', '.join(sorted(map(str, both)))}, which belong to one size of the images; "
                "leave teacher_scale at 1, or take a method that compares feature maps"
            )


def resize_for_student(images: Tensor, targets: Sequence[Target], scale: float) -> tuple[Tensor, Sequence[Target]]:
    """Resize the teacher's batch for the student.

    Args:
        images: (batch, 3, height, width) in [0, 1].
        targets: boxes in the frame of the images.
        scale: how many times larger the teacher sees the images, at least 1; 1 returns both unchanged.

    Returns:
        Images (batch, 3, height, width) of `student_size`, antialiased, and targets in their frame.
    """
    if scale == 1:
        return images, targets
    before: Size = size_of(images)
    # By the scale itself, not by the quotient of two rounded sizes: the cells of both would drift apart towards the far
    # border. Where rounding adds a part of a pixel, the border is repeated.
    down, across = (
        max(0, math.ceil(small * scale - TOLERANCE) - large)
        for small, large in zip(student_size(before, scale), before, strict=True)
    )
    small = F.interpolate(
        F.pad(images, (0, across, 0, down), mode="replicate"),
        scale_factor=(1 + TOLERANCE) / scale,  # the size is rounded down
        mode="bilinear",
        align_corners=False,
        antialias=True,
        recompute_scale_factor=False,
    )
    return small.clamp(0, 1), [_resized(target, scale) for target in targets]


def student_size(size: Size, scale: float) -> Size:
    """(height, width) that the student sees of images of a size."""
    return max(1, round(size[0] / scale)), max(1, round(size[1] / scale))


def _resized(target: Target, scale: float) -> Target:
    result: Target = {**target, "boxes": target["boxes"] / scale}
    result.pop("host_boxes", None)
    if "ignore" in target:
        result["ignore"] = target["ignore"] / scale
    if "size" in target:
        result["size"] = student_size(target["size"], scale)
    return result
