"""How a teacher's features vary near objects and far from them: the premise of the near-object mask.

Wang et al. (CVPR 2019) imitate near objects only, for two reasons: there the teacher's responses differ from cell to
cell, and the differences show how it generalises; elsewhere they follow a diverse background, which is noise to
imitate. Both statements are about variance over cells, channel by channel, so they can be measured.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from eyas.methods.masks import near_masks
from eyas.nn.eval_mode import eval_mode
from eyas.nn.taps import tapped_view
from eyas.ops.near_objects import AssignmentRule
from eyas.ops.pixels import as_float, image_cells
from eyas.tools.tables import as_text
from eyas.types import Detector, Level, Size, Target, View, image_sizes, size_of


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and squared deviations of C channels over ``count`` cells; float64, on the CPU.

    Attributes:
        mean: (C,), 0 where there is no cell.
        deviation: (C,), the sum over the cells of ``(value - mean)**2``.
    """

    count: int
    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, features: Tensor, cells: Tensor) -> Moments:
        """The moments of the chosen cells, (B, H, W) bool, of features (B, C, H, W) of any floating type."""
        values = features.permute(0, 2, 3, 1)[cells].cpu().double()
        if not len(values):
            nothing = torch.zeros(features.shape[1], dtype=torch.float64)
            return cls(0, nothing, nothing)
        mean = values.mean(dim=0)
        return cls(len(values), mean, (values - mean).square().sum(dim=0))

    def merge(self, other: Moments) -> Moments:
        """The moments of the cells of both, from the moments alone (Chan, Golub, LeVeque 1979, equation 1.5)."""
        count = self.count + other.count
        if not count:
            return self
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        between = apart.square() * (self.count * other.count / count)
        return Moments(count, mean, self.deviation + other.deviation + between)

    @property
    def variance(self) -> Tensor | None:
        """(C,): population variance, as `numpy.var`; None where there is no cell."""
        return self.deviation / self.count if self.count else None


@dataclass(frozen=True, eq=False)
class LevelInspection:
    """One feature level over a data set; ``name`` is that of its tap.

    Attributes:
        near: moments of the cells near an object; ``far`` has those of all others.
        ratios: variance near over variance far of each image that has both, each the mean over channels.
    """

    name: str
    level: Level
    near: Moments
    far: Moments
    ratios: tuple[float, ...] = ()

    @property
    def whole(self) -> Moments:
        """Moments of every cell."""
        return self.near.merge(self.far)

    @property
    def near_share(self) -> float | None:
        """Near cells among all, in [0, 1]; None where there is no cell at all."""
        return _quotient(self.near.count, self.whole.count)

    @property
    def near_to_far(self) -> float | None:
        """Variance near over variance far, each the mean over channels. None where either has none, or far has 0."""
        return _quotient(_mean(self.near.variance), _mean(self.far.variance))

    @property
    def near_to_far_of_images(self) -> float | None:
        """The median over images of `near_to_far` within one image; a few odd images do not affect it."""
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def far_above_near(self) -> float | None:
        """The share of channels that vary more far from objects than near them, in [0, 1]."""
        near, far = self.near.variance, self.far.variance
        return None if near is None or far is None else float((far > near).double().mean())

    @property
    def far_part(self) -> float | None:
        """Far cells' part of the whole map's squared deviations from its mean, in [0, 1], summed over channels.

        The share that a loss on the whole map spends far from objects while the student gives the mean everywhere.
        """
        whole, far = self.whole, self.far
        from_mean = far.deviation + far.count * (far.mean - whole.mean).square()
        return _quotient(float(from_mean.sum()), float(whole.deviation.sum()))

    def variances(self) -> dict[str, Tensor | None]:
        """(C,) per-channel variance: "whole", "near" and "far"."""
        return {"whole": self.whole.variance, "near": self.near.variance, "far": self.far.variance}

    def to_json(self) -> dict[str, Any]:
        """The level as an entry of inspection.json; None where a number is undefined."""
        variances = self.variances()
        return {
            "name": self.name,
            "stride": self.level.stride,
            "channels": len(self.near.mean),
            "cells": self.whole.count,
            "near_cells": self.near.count,
            "near_share": self.near_share,
            "variance": {where: _mean(values) for where, values in variances.items()},
            "near_to_far": self.near_to_far,
            "near_to_far_of_images": self.near_to_far_of_images,
            "far_above_near": self.far_above_near,
            "far_part": self.far_part,
            "per_channel": {
                where: None if values is None else [float(f"{value:.6g}") for value in values.tolist()]
                for where, values in variances.items()
            },
        }


def inspect_features(
    teacher: Detector,
    batches: Iterable[tuple[Tensor, Sequence[Target]]],
    *,
    psi: float = 0.5,
    assignment: AssignmentRule = "global",
    advance: Callable[[int], None] | None = None,
) -> list[LevelInspection]:
    """The variance of a teacher's features near objects and far from them, on every level.

    Cells of padding count neither as near nor as far, see `image_cells`. The cells of ignore regions are far.

    Args:
        teacher: left in the mode it was in.
        batches: images (B, 3, height, width), uint8 or float32 in [0, 1], on the teacher's device, and their targets.
        psi, assignment: options of the near-object mask.
        advance: called with the number of images after each batch.

    Returns:
        One entry per level, from fine to coarse; none without a batch.
    """
    found: list[LevelInspection] = []
    with eval_mode(teacher.network):
        for images, targets in batches:
            view, masks = view_and_masks(teacher, images, targets, psi=psi, assignment=assignment)
            sizes = image_sizes(targets, view.image_size)
            levels = zip(teacher.levels, view.levels, view.features, masks, strict=True)
            batch = [_level(*level, sizes) for level in levels]
            found = batch if not found else [_merge(*pair) for pair in zip(found, batch, strict=True)]
            if advance:
                advance(len(targets))
    return found


def view_and_masks(
    teacher: Detector, images: Tensor, targets: Sequence[Target], *, psi: float, assignment: AssignmentRule
) -> tuple[View, list[Tensor]]:
    """The teacher's features of a batch, and the near-object mask of each level, (B, H, W). In evaluation mode."""
    view = tapped_view(teacher, list(teacher.levels), as_float(images), "teacher")
    masks = near_masks(view, targets, psi=psi, assignment=assignment)
    return view, [mask.to(images.device) for mask in masks]


def table(levels: Sequence[LevelInspection]) -> str:
    """The levels as plain text, a line each. Variances are means over channels; "in images" is the median image."""
    places = ("whole", "near", "far")
    head = ["level", "stride", "channels", "cells", "near", *(f"var {where}" for where in places)]
    rows = [[*head, "near/far", "in images", "far > near", "far part"]]
    for level in levels:
        found = level.to_json()
        rows.append([
            level.name,
            *(str(found[name]) for name in ("stride", "channels", "cells")),
            _text(level.near_share, ".1%"),
            *(_text(found["variance"][where], ".4g") for where in places),
            _text(level.near_to_far, ".2f"),
            _text(level.near_to_far_of_images, ".2f"),
            _text(level.far_above_near, ".0%"),
            _text(level.far_part, ".0%"),
        ])  # fmt: skip
    return as_text(rows)


def verdict(levels: Sequence[LevelInspection]) -> str:
    """Whether the two halves of the paper's argument hold, a line for each level.

    The first: cells near objects differ from each other more than cells elsewhere. The second: imitating the whole map
    is mostly imitating the background, so far cells hold more than half of its squared deviations.
    """
    return "\n".join(f"stride {level.level.stride}: {_verdict(level)}" for level in levels)


def to_json(levels: Sequence[LevelInspection], **about: Any) -> Mapping[str, Any]:
    """The content of inspection.json: ``about``, the verdict, and every level."""
    return {**about, "verdict": verdict(levels).splitlines(), "levels": [level.to_json() for level in levels]}


def _verdict(level: LevelInspection) -> str:
    ratio, part = level.near_to_far, level.far_part
    if ratio is None or part is None:
        return "no comparison; it needs cells near and far, and features that are not constant"
    differ = f"{'yes' if ratio > 1 else 'no'}, their variance is {ratio:.2g} times that of far cells"
    differ += f" (median within an image {_text(level.near_to_far_of_images, '.2g')})"
    noise = f"{'yes' if part > 0.5 else 'no'}, {part:.0%} of the map's squared deviations are there"
    return f"near cells differ more: {differ}; a loss on the whole map is mostly spent far away: {noise}"


def _level(name: str, level: Level, features: Tensor, near: Tensor, sizes: Sequence[Size]) -> LevelInspection:
    image = image_cells(size_of(features), level.stride, sizes).to(near.device)
    none = Moments.of(features[:0], near[:0])
    found = LevelInspection(name, level, none, none)
    for index in range(len(features)):
        row = slice(index, index + 1)
        inner, outer = (Moments.of(features[row], cells[row] & image[row]) for cells in (near, ~near))
        one = LevelInspection(name, level, inner, outer)
        found = _merge(found, one if one.near_to_far is None else replace(one, ratios=(one.near_to_far,)))
    return found


def _merge(one: LevelInspection, other: LevelInspection) -> LevelInspection:
    ratios = one.ratios + other.ratios
    return replace(one, near=one.near.merge(other.near), far=one.far.merge(other.far), ratios=ratios)


def _mean(values: Tensor | None) -> float | None:
    return None if values is None else float(values.mean())


def _quotient(part: float | None, of: float | None) -> float | None:
    return None if part is None or not of else part / of


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
