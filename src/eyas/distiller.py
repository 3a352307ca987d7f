"""The distiller: a teacher, a student, taps on both, and methods that compare what was tapped.

It is a module whose forward returns every loss of a batch by name, so a training loop only sums them. The teacher is
held outside the module tree: it is not trained, not saved, not wrapped by DDP, and ``train()`` does not reach it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eyas.methods.method import LevelPair, Method
from eyas.taps import Taps, teacher_features
from eyas.types import Detector, EyasError, Level, Size, Target, View

PROBE_SIZE: Size = (128, 160)


class Distiller(nn.Module):
    """Trains a student detector with its own losses and those of distillation methods.

    Args:
        student: the detector to train, a module.
        teacher: a trained detector. It is put in evaluation mode and frozen.
        methods: distillation losses. Their adapters are made here, so build the optimiser from
            ``distiller.parameters()`` afterwards. None at all trains the student plainly.
        pairs: student tap name -> teacher tap name, where the automatic pairing by stride is not what you want.

    Attributes:
        pairs: the level pairs in use, fine to coarse.

    Raises:
        EyasError: no levels can be paired, or two methods have the same name.
    """

    def __init__(
        self, student: Detector, teacher: Detector, *methods: Method, pairs: Mapping[str, str] | None = None
    ) -> None:
        super().__init__()
        names = [method.name for method in methods]
        if len(set(names)) < len(names):
            raise EyasError(f"each method of a distiller needs a name of its own, got {', '.join(names)}")
        self.student = student
        self.methods = nn.ModuleList(methods)
        self._outside = (_frozen(teacher),)
        self._batches = 0
        self.pairs = pair_levels(student, teacher, pairs)
        for method in methods:
            method.setup(self.pairs)

    @property
    def teacher(self) -> Detector:
        return self._outside[0]

    def forward(self, images: Tensor | Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Every loss of a batch, scalars by name: the student's own, then one or more for each method.

        Args:
            images: (batch, 3, height, width) in [0, 1], or a sequence of (3, height, width), padded here.
            targets: one for each image, boxes in the frame of its tensor.
        """
        images = images if isinstance(images, Tensor) else pad_to_batch(images)
        losses, student = self._student_pass(images, targets)
        active = [method for method in self.methods if self._batches >= method.start_step]
        waiting = [method for method in self.methods if self._batches < method.start_step]
        if active:
            teacher = self._teacher_view(images)
            for method in active:
                losses |= method(student, teacher, targets)
        for method in waiting:
            losses[method.name] = _zero_of(method)
        if self.training:
            self._batches += 1
        return losses

    def _student_pass(self, images: Tensor, targets: Sequence[Target]) -> tuple[dict[str, Tensor], View]:
        taps = Taps(self.student.network, [pair.student_tap for pair in self.pairs])
        with taps:
            losses = dict(self.student.losses(images, targets))
        features = [taps.features[pair.student_tap] for pair in self.pairs]
        return losses, View(features, [pair.student for pair in self.pairs], _size(images))

    def _teacher_view(self, images: Tensor) -> View:
        features = teacher_features(self.teacher, [pair.teacher_tap for pair in self.pairs], images)
        ordered = [features[pair.teacher_tap] for pair in self.pairs]
        return View(ordered, [pair.teacher for pair in self.pairs], _size(images))

    def balance(self, images: Tensor, targets: Sequence[Target]) -> Balance:
        """How the imitation terms compare with the detection loss on one batch, at the student's imitated features.

        Leaves no gradient behind and does not count as a batch. Adapters that have just been initialised near zero pass
        almost no gradient on: the ratio is worth reading after some steps too.
        """
        losses, student = self._student_pass(images, targets)
        with torch.no_grad():
            teacher = self._teacher_view(images)
        imitation: dict[str, Tensor] = {}
        for method in self.methods:
            imitation |= method(student, teacher, targets)
        detection = torch.stack(list(losses.values())).sum()
        return Balance(
            detection=float(detection.detach()),
            detection_gradient=_gradient_norm(detection, student.features),
            imitation={name: float(loss.detach()) for name, loss in imitation.items()},
            imitation_gradient={name: _gradient_norm(loss, student.features) for name, loss in imitation.items()},
        )

    def get_extra_state(self) -> dict[str, int]:
        return {"batches": self._batches}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self._batches = state["batches"]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Distiller:
        # .to(), .cuda() and the like: the teacher, outside the module tree, follows.
        if isinstance(self.teacher, nn.Module):
            self.teacher._apply(fn)
        return super()._apply(fn, recurse)


@dataclass(frozen=True)
class Balance:
    """The detection loss against the imitation terms on one batch, each with the norm of its gradient at the student's
    imitated features."""

    detection: float
    detection_gradient: float
    imitation: dict[str, float]
    imitation_gradient: dict[str, float]

    def gradient_ratio(self) -> dict[str, float]:
        """Imitation gradient over detection gradient, by loss name."""
        return {name: _ratio(norm, self.detection_gradient) for name, norm in self.imitation_gradient.items()}


def pair_levels(student: Detector, teacher: Detector, names: Mapping[str, str] | None = None) -> tuple[LevelPair, ...]:
    """The levels of the student and the teacher's levels of the same stride, checked by a forward pass of both.

    Args:
        names: student tap -> teacher tap, to override the pairing by stride.

    Raises:
        EyasError: a name that is no level, or no stride in common. The message lists the levels of both.
    """
    chosen = names or _same_stride(student.levels, teacher.levels)
    known = all(s in student.levels and t in teacher.levels for s, t in chosen.items())
    if not chosen or not known:
        problem = "these level names are unknown" if names else "no level of the student has the stride of a teacher's"
        raise EyasError(
            f"{problem}.\n  student: {describe_levels(student.levels)}\n  teacher: {describe_levels(teacher.levels)}\n"
            "Name the pairs yourself as student level: teacher level; maps of different size are resized."
        )
    _probe(student, list(chosen), "student")
    features = _probe(teacher, list(chosen.values()), "teacher")
    return tuple(
        LevelPair(s, student.levels[s], t, teacher.levels[t], rectified=bool((features[t] >= 0).all()))
        for s, t in chosen.items()
    )


def describe_levels(levels: Mapping[str, Level]) -> str:
    """One line: tap name, stride and channels of each level."""
    return ", ".join(f"{name} (stride {level.stride}, {level.channels} channels)" for name, level in levels.items())


def pad_to_batch(images: Sequence[Tensor], divisor: int = 32) -> Tensor:
    """Images of different sizes, (3, height, width), as one batch: padded right and bottom with zeros."""
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    height, width = (math.ceil(side / divisor) * divisor for side in (height, width))
    batch = images[0].new_zeros(len(images), images[0].shape[0], height, width)
    for slot, image in zip(batch, images, strict=True):
        slot[:, : image.shape[1], : image.shape[2]] = image
    return batch


def _same_stride(student: Mapping[str, Level], teacher: Mapping[str, Level]) -> dict[str, str]:
    by_stride: dict[int, str] = {}
    for name, level in teacher.items():
        by_stride.setdefault(level.stride, name)
    pairs: dict[str, str] = {}
    for name, level in student.items():
        if level.stride in by_stride:
            pairs[name] = by_stride.pop(level.stride)
    return pairs


def _probe(detector: Detector, names: Sequence[str], role: str) -> dict[str, Tensor]:
    """The feature maps of one random image, with the channels that the detector's levels promise."""
    network = detector.network
    was_training = network.training
    parameter = next(network.parameters())
    images = torch.rand(1, 3, *PROBE_SIZE, generator=torch.Generator().manual_seed(0)).to(parameter)
    network.eval()
    try:
        features = teacher_features(detector, names, images)
    finally:
        network.train(was_training)
    for name in names:
        channels, promised = features[name].shape[1], detector.levels[name].channels
        if channels != promised:
            raise EyasError(f"level {name!r} of the {role} has {channels} channels, not the {promised} it declares")
    return features


def _frozen(teacher: Detector) -> Detector:
    teacher.network.eval()
    teacher.network.requires_grad_(False)
    return teacher


def _zero_of(module: nn.Module) -> Tensor:
    """A zero that depends on every parameter of the module, so that DDP sees all of them in every step."""
    parameters = [parameter.float().sum() for parameter in module.parameters()]
    return torch.stack(parameters).sum() * 0 if parameters else torch.zeros(())


def _gradient_norm(loss: Tensor, features: Sequence[Tensor]) -> float:
    if not loss.requires_grad:
        return 0.0
    gradients: list[Any] = list(torch.autograd.grad(loss, list(features), retain_graph=True, allow_unused=True))
    norms = [gradient.float().norm() for gradient in gradients if gradient is not None]
    return float(torch.stack(norms).norm()) if norms else 0.0


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan


def _size(images: Tensor) -> Size:
    return images.shape[-2], images.shape[-1]
