"""The distiller: a teacher, a student, taps on both, and methods that compare what was tapped.

It is a module whose forward returns every loss of a batch by name, so a training loop only sums them. The teacher is
held outside the module tree: it is not trained, not saved, not wrapped by DDP, and ``train()`` does not reach it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eyas.methods.method import Method
from eyas.pairing import describe_levels, pair_levels, some_parameter
from eyas.taps import Taps, teacher_features
from eyas.types import Detector, EyasError, Size, Target, View

__all__ = ["Balance", "Distiller", "describe_levels", "pad_to_batch", "pair_levels"]


class Distiller(nn.Module):
    """Trains a student detector with its own losses and those of distillation methods.

    Args:
        student: the detector to train, a module.
        teacher: a trained detector. It is put in evaluation mode, frozen, and moved to the student's device.
        methods: distillation losses. Their adapters are made here, so build the optimiser from
            ``distiller.parameters()`` afterwards. None at all trains the student plainly.
        pairs: student tap name -> teacher tap name, where the automatic pairing by stride is not what you want.
        seed: of the adapters' initial weights. They are drawn apart from the global random state, so that a plain and a
            distilled student of one global seed have the same initial weights, dropout and data order.

    Attributes:
        pairs: the level pairs in use, fine to coarse.

    Raises:
        EyasError: no levels can be paired, two methods have the same name, or the student is no module or the teacher.
    """

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        *methods: Method,
        pairs: Mapping[str, str] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check(student, teacher, methods)
        self.student = student
        self.methods = nn.ModuleList(methods)
        self._outside = (_frozen(teacher),)
        self._batches = 0
        device = some_parameter(student).device
        self.to(device)
        self.pairs = pair_levels(student, teacher, pairs)
        with _own_random_numbers(seed):
            for method in methods:
                method.setup(self.pairs)
        self.methods.to(device)

    @property
    def teacher(self) -> Detector:
        return self._outside[0]

    def forward(self, images: Tensor | Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Every loss of a batch, scalars by name: the student's own, then one or more for each method.

        Args:
            images: (batch, 3, height, width) in [0, 1], or a sequence of (3, height, width), padded here.
            targets: one for each image, boxes in the frame of its tensor.
        """
        images, targets = _batch(images, targets)
        losses, student = self._student_pass(images, targets)
        active = [method for method in self.methods if self._batches >= method.start_step]
        waiting = [method for method in self.methods if self._batches < method.start_step]
        if active:
            teacher = self._teacher_view(images)
            for method in active:
                losses = _merge(losses, method(student, teacher, targets))
        for method in waiting:
            losses = _merge(losses, {method.name: _zero_of(method, images)})
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
        # Scoring the teacher elsewhere may have put it in training mode, where BatchNorm would follow the batch.
        self.teacher.network.eval()
        features = teacher_features(self.teacher, [pair.teacher_tap for pair in self.pairs], images)
        ordered = [features[pair.teacher_tap] for pair in self.pairs]
        return View(ordered, [pair.teacher for pair in self.pairs], _size(images))

    def balance(self, images: Tensor | Sequence[Tensor], targets: Sequence[Target]) -> Balance:
        """How the imitation terms compare with the detection loss on one batch, at the student's imitated features.

        Nothing is left behind: no gradient, no BatchNorm statistics, no random number drawn, no batch counted. Adapters
        that have just been initialised near zero pass almost no gradient on: the ratio is worth reading after some
        steps too. Under several processes all must call it, because N_p is that of all.
        """
        images, targets = _batch(images, targets)
        with torch.enable_grad(), _put_back(self, images.device):
            losses, student = self._student_pass(images, targets)
            teacher = self._teacher_view(images)
            imitation: dict[str, Tensor] = {}
            for method in self.methods:
                imitation = _merge(imitation, method(student, teacher, targets))
            detection = torch.stack(list(losses.values())).sum()
            return Balance(
                detection=float(detection.detach()),
                detection_gradient=_gradient_norm(detection, student.features),
                imitation={name: float(loss.detach()) for name, loss in imitation.items()},
                imitation_gradient={name: _gradient_norm(loss, student.features) for name, loss in imitation.items()},
                notes={method.name: method.describe(teacher, targets) for method in self.methods},
            )

    def get_extra_state(self) -> dict[str, int]:
        return {"batches": self._batches}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self._batches = state["batches"]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Distiller:
        # .to(), .cuda() and the like: the teacher, outside the module tree, follows.
        _module(self.teacher)._apply(fn, recurse)
        return super()._apply(fn, recurse)


@dataclass(frozen=True)
class Balance:
    """The detection loss against the imitation terms on one batch, each with the norm of its gradient at the student's
    imitated features, and what each method says of the batch."""

    detection: float
    detection_gradient: float
    imitation: dict[str, float]
    imitation_gradient: dict[str, float]
    notes: dict[str, str]

    def gradient_ratio(self) -> dict[str, float]:
        """Imitation gradient over detection gradient, by loss name."""
        return {name: _ratio(norm, self.detection_gradient) for name, norm in self.imitation_gradient.items()}


def pad_to_batch(images: Sequence[Tensor], divisor: int = 32) -> Tensor:
    """Images of different sizes, (3, height, width), as one batch: padded right and bottom with zeros."""
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    height, width = (math.ceil(side / divisor) * divisor for side in (height, width))
    batch = images[0].new_zeros(len(images), images[0].shape[0], height, width)
    for slot, image in zip(batch, images, strict=True):
        slot[:, : image.shape[1], : image.shape[2]] = image
    return batch


def _check(student: Detector, teacher: Detector, methods: Sequence[Method]) -> None:
    names = [method.name for method in methods]
    if len(set(names)) < len(names):
        raise EyasError(f"each method of a distiller needs a name of its own, got {', '.join(names)}")
    if not isinstance(student, nn.Module):
        raise EyasError(f"the student must be a torch module, or nothing would train it; got {type(student).__name__}")
    if student.network is teacher.network:
        raise EyasError("student and teacher are one and the same network, which would be frozen; give two")


def _module(detector: Detector) -> nn.Module:
    return detector if isinstance(detector, nn.Module) else detector.network


@contextmanager
def _own_random_numbers(seed: int) -> Iterator[None]:
    """What is drawn inside, on the CPU, comes from the seed and leaves the global random state as it was."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the accelerators too
        yield


@contextmanager
def _put_back(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Afterwards the buffers (BatchNorm's statistics) and the random state are as they were."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for buffer, values in before:
                buffer.detach().copy_(values)


def _batch(images: Tensor | Sequence[Tensor], targets: Sequence[Target]) -> tuple[Tensor, Sequence[Target]]:
    """One padded tensor, and targets that know the size of their image inside it."""
    if isinstance(images, Tensor):
        return images, targets
    return pad_to_batch(images), [
        {**target, "size": _size(image)} for image, target in zip(images, targets, strict=True)
    ]


def _merge(losses: dict[str, Tensor], more: Mapping[str, Tensor]) -> dict[str, Tensor]:
    twice = losses.keys() & more.keys()
    if twice:
        raise EyasError(f"two losses are called {', '.join(sorted(twice))}: give the method another name")
    return losses | more


def _frozen(teacher: Detector) -> Detector:
    _module(teacher).eval().requires_grad_(False)
    return teacher


def _zero_of(module: nn.Module, images: Tensor) -> Tensor:
    """A zero that depends on every parameter of the module, so that DDP sees all of them in every step."""
    parameters = [parameter.float().sum() for parameter in module.parameters()]
    return torch.stack(parameters).sum() * 0 if parameters else images.new_zeros((), dtype=torch.float32)


def _gradient_norm(loss: Tensor, features: Sequence[Tensor]) -> float:
    trained = [feature for feature in features if feature.requires_grad]
    if not trained or not loss.requires_grad:
        return 0.0
    gradients: list[Any] = list(torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True))
    norms = [gradient.float().norm() for gradient in gradients if gradient is not None]
    return float(torch.stack(norms).norm()) if norms else 0.0


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan


def _size(images: Tensor) -> Size:
    return images.shape[-2], images.shape[-1]
