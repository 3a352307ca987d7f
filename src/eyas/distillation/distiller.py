"""The distiller: a teacher, a student, taps on both, and methods that compare what was tapped.

It is a module whose forward returns every loss of a batch by name, so a training loop only sums them. The teacher is
held outside the module tree: it is not trained, not saved, not wrapped by DDP, and ``train()`` does not reach it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import cast

import torch
from torch import Tensor, nn

from eyas.cache.teacher import CachedTeacher
from eyas.distillation.pairing import describe_levels, pair_levels
from eyas.distillation.teacher_scale import check_scale, resize_for_student
from eyas.distillation.weights import AutoWeight, RatioMonitor, divide_by_own_value, gradient_norm, ratio_of
from eyas.methods.method import Auto, Method, Reads
from eyas.nn.taps import Taps, some_parameter, tap_features
from eyas.ops.pixels import as_float
from eyas.tools.timing import span
from eyas.types import Detector, DetectorWithHeads, EyasError, HeadOutput, HeadOutputs, Size, Target, View

__all__ = ["Balance", "Distiller", "describe_levels", "pad_to_batch", "pair_levels"]


class Distiller(nn.Module):
    """Trains a student detector with its own losses and those of distillation methods.

    Args:
        student: the detector to train, a module.
        teacher: a trained detector. It is put in evaluation mode, frozen, and moved to the student's device. Or, in
            place of one that runs, an `eyas.cache.teacher.CachedTeacher`.
        methods: distillation losses. Their adapters are made here, so build the optimiser from
            ``distiller.parameters()`` afterwards. None at all trains the student plainly.
        pairs: student tap name -> teacher tap name, where the automatic pairing by stride is not what you want.
        teacher_scale: how many times larger the teacher sees the images, in [1, 4]. The images and targets of a batch
            are then the teacher's, and the student's are made of them, see `eyas.distillation.teacher_scale`. Only
            methods that compare feature maps can do that.
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
        teacher_scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check(student, teacher, methods)
        _check_scale(teacher_scale, methods)
        self.teacher_scale = teacher_scale
        self.student = student
        self.methods = nn.ModuleList(methods)
        self.followed = nn.ModuleDict(
            {
                method.name: AutoWeight(method.weight, method.start_step)
                for method in methods
                if isinstance(method.weight, Auto)
            }
        )
        self.watched = nn.ModuleDict({method.name: RatioMonitor(method.start_step) for method in methods})
        self._outside = (_frozen(teacher),)
        self._batches = 0
        device = some_parameter(student).device
        self.to(device)
        self.pairs = pair_levels(student, teacher, pairs, scale=teacher_scale)
        with _own_random_numbers(seed):
            for method in methods:
                method.setup(self.pairs)
        self.methods.to(device)

    @property
    def teacher(self) -> Detector:
        return self._outside[0]

    def forward(self, images: Tensor | Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Every loss of a batch, scalars by name: the student's own, then one for each method, times its weight.

        Args:
            images: (batch, 3, height, width), float32 in [0, 1] or uint8, or a sequence of (3, height, width), padded
                here. As the teacher sees them.
            targets: one for each image, boxes in the frame of its tensor.
        """
        images, targets = _batch(images, targets)
        methods = self._all_methods()
        active = [method for method in methods if self._active(method)]
        student, teacher = self._views(images, targets, active)
        self._check_names(student)
        detection = cache(partial(_detection_gradient, student))  # one for all methods, and none where none measures
        terms = {
            method.name: _zero_of(method, images)
            if teacher is None or method not in active
            else self._weighted(method, student, teacher, targets, detection)
            for method in methods
        }
        if self.training:
            self._batches += 1
        return {**student.losses, **terms}

    def weights(self) -> dict[str, float]:
        """The weight of each method in the next batch; an automatic one is 0 until it has been measured."""
        return {
            method.name: float(self._followed(method).value() if isinstance(method.weight, Auto) else method.weight)
            for method in self._all_methods()
        }

    def gradient_ratios(self) -> dict[str, float]:
        """The gradient of each method, times its weight, over that of the detection loss, at the imitated features.

        A running mean over batches that are measured now and then; methods that none has been measured of are left out.
        """
        watched = {method.name: self._watched(method) for method in self._all_methods()}
        return {name: float(ratio.ratio()) for name, ratio in watched.items() if int(ratio.measurements)}

    def _all_methods(self) -> list[Method]:
        return cast(list[Method], list(self.methods))

    def _followed(self, method: Method) -> AutoWeight:
        return cast(AutoWeight, self.followed[method.name])

    def _watched(self, method: Method) -> RatioMonitor:
        return cast(RatioMonitor, self.watched[method.name])

    def _active(self, method: Method) -> bool:
        """Whether the method has anything to do in this batch: one without adapters has not while it warms up."""
        if self._batches < method.start_step:
            return False
        learns = any(parameter.requires_grad for parameter in method.parameters())
        return learns or not self._warming_up(method)

    def _warming_up(self, method: Method) -> bool:
        return isinstance(method.weight, Auto) and self._followed(method).warming_up(self._batches)

    def _check_names(self, student: View) -> None:
        twice = student.losses.keys() & {method.name for method in self._all_methods()}
        if twice:
            raise EyasError(f"two losses are called {', '.join(sorted(twice))}: give the method another name")

    def _weighted(
        self,
        method: Method,
        student: View,
        teacher: View,
        targets: Sequence[Target],
        detection_gradient: Callable[[], Tensor],
    ) -> Tensor:
        if self._warming_up(method):
            student = student.detached()
        with span("loss"):
            loss: Tensor = method(student, teacher, targets)
        if self._warming_up(method):
            return divide_by_own_value(loss)
        weight = self._weight(method, lambda: gradient_norm(loss, student.features), detection_gradient)
        return weight * loss

    def _weight(
        self, method: Method, imitation_gradient: Callable[[], Tensor], detection_gradient: Callable[[], Tensor]
    ) -> Tensor | float:
        """The weight of a method in this batch, which is measured where it is due."""
        measured = self.training and torch.is_grad_enabled()
        if not isinstance(method.weight, Auto):
            if measured and method.weight and self._watched(method).due(self._batches):
                with span("weight"):
                    self._watched(method).update(method.weight * imitation_gradient(), detection_gradient())
            return method.weight
        followed = self._followed(method)
        if measured and followed.due(self._batches):
            with span("weight"):
                detection, imitation = detection_gradient(), imitation_gradient()
                followed.measure(detection, imitation)
                self._watched(method).update(followed.value() * imitation, detection)
        return followed.value()

    def _views(self, images: Tensor, targets: Sequence[Target], methods: Sequence[Method]) -> tuple[View, View | None]:
        """The student's and the teacher's of a batch; of the teacher there is none where no method is active.

        The teacher goes first, unless it is to score the boxes of the student: what it takes in memory is then free
        again before the student's maps come, all of which stay for the backward pass.
        """
        shrunk = resize_for_student(images, targets, self.teacher_scale)
        if not methods:
            return self._student_view(*shrunk, methods), None
        if "heads" in _reads(methods):
            student = self._student_view(*shrunk, methods)
            with span("teacher"):
                return student, self._teacher_view(images, targets, student.heads, methods)
        with span("teacher"):
            teacher = self._teacher_view(images, targets, {}, methods)
        return self._student_view(*shrunk, methods), teacher

    def _student_view(self, images: Tensor, targets: Sequence[Target], methods: Iterable[Method]) -> View:
        reads = _reads(methods)
        with span("student"), Taps(self.student.network, [pair.student_tap for pair in self.pairs]) as taps:
            if reads & {"heads", "student_proposals"}:
                losses, response = _responding(self.student, "student").losses_and_heads(images, targets)
            else:
                losses, response = self.student.losses(images, targets), HeadOutputs()
        features = [taps.features[pair.student_tap] for pair in self.pairs]
        levels = [pair.student for pair in self.pairs]
        return View(features, levels, _size(images), response.heads, response.proposals, dict(losses))

    def _teacher_view(
        self, images: Tensor, targets: Sequence[Target], heads: Mapping[str, HeadOutput], methods: Iterable[Method]
    ) -> View:
        if isinstance(self.teacher, CachedTeacher):
            return self.teacher.view(images, targets, methods, [pair.teacher_tap for pair in self.pairs])
        # Scoring the teacher elsewhere may have put it in training mode, where BatchNorm would follow the batch.
        self.teacher.network.eval()
        reads, names = _reads(methods), [pair.teacher_tap for pair in self.pairs]
        response = HeadOutputs()
        if reads & {"heads", "teacher_proposals"}:
            boxes = {name: head.boxes for name, head in heads.items()}
            with torch.no_grad(), Taps(self.teacher.network, names) as taps:
                teacher = _responding(self.teacher, "teacher")
                response = teacher.score_boxes(images, boxes, proposals="teacher_proposals" in reads)
            features = taps.features
        else:
            features = tap_features(self.teacher, names, images)
        levels = [pair.teacher for pair in self.pairs]
        return View([features[name] for name in names], levels, _size(images), response.heads, response.proposals)

    def balance(self, images: Tensor | Sequence[Tensor], targets: Sequence[Target]) -> Balance:
        """How the imitation terms compare with the detection loss on one batch, at the student's imitated features.

        Nothing is left behind: no gradient, no BatchNorm statistics, no random number drawn, no batch counted. Adapters
        that have just been initialised near zero pass almost no gradient on: the ratio is worth reading after some
        steps too. Under several processes all must call it, because N_p is that of all.
        """
        images, targets = _batch(images, targets)
        methods = self._all_methods()
        with torch.enable_grad(), _put_back(self, images.device):
            student, teacher = self._views(images, targets, methods)
            # An automatic weight is not known before the first step; its loss is reported as it is.
            automatic = {method.name: method.weight for method in methods if isinstance(method.weight, Auto)}
            losses = {
                method.name: method(student, teacher, targets) * (1 if method.name in automatic else method.weight)
                for method in methods
            }
            gradients = {name: gradient_norm(loss, student.features) for name, loss in losses.items()}
            return Balance(
                detection=float(_detection_loss(student).detach()),
                detection_gradient=float(_detection_gradient(student)),
                imitation={name: float(loss.detach()) for name, loss in losses.items()},
                imitation_gradient={name: float(norm) for name, norm in gradients.items()},
                fractions={name: rule.fraction for name, rule in automatic.items()},
                notes={method.name: method.describe(teacher, targets) for method in methods if teacher is not None},
            )

    def get_extra_state(self) -> dict[str, int]:
        return {"batches": self._batches}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self._batches = state["batches"]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Distiller:
        # .to(), .cuda() and the like: the teacher, outside the module tree, follows.
        _module(self.teacher)._apply(fn, recurse)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


@dataclass(frozen=True)
class Balance:
    """The detection loss against the imitation terms on one batch, each with the norm of its gradient at the student's
    imitated features; the fractions of the automatic weights, whose terms are unweighted here; and what each method
    says of the batch."""

    detection: float
    detection_gradient: float
    imitation: dict[str, float]
    imitation_gradient: dict[str, float]
    fractions: dict[str, float]
    notes: dict[str, str]

    def gradient_ratio(self) -> dict[str, float]:
        """Imitation gradient over detection gradient, by loss name."""
        return {name: ratio_of(norm, self.detection_gradient) for name, norm in self.imitation_gradient.items()}


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


def _check_scale(scale: float, methods: Sequence[Method]) -> None:
    check_scale(scale)
    for method in methods:
        if scale != 1 and method.reads:
            raise EyasError(
                f"{method.name} compares {', '.join(sorted(method.reads))}, which belong to one size of the images; "
                "leave teacher_scale at 1, or take a method that compares feature maps"
            )


def _detection_loss(student: View) -> Tensor:
    return torch.stack(list(student.losses.values())).sum()


def _detection_gradient(student: View) -> Tensor:
    return gradient_norm(_detection_loss(student), student.features)


def _reads(methods: Iterable[Method]) -> frozenset[Reads]:
    return frozenset(read for method in methods for read in method.reads)


def _responding(detector: Detector, role: str) -> DetectorWithHeads:
    if not isinstance(detector, DetectorWithHeads):
        raise EyasError(
            f"the {role}, a {type(detector).__name__}, gives no head outputs or proposals, which a method asks for; "
            "use methods that compare features, or give it losses_and_heads() and score_boxes(), see "
            "eyas.types.DetectorWithHeads"
        )
    return detector


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
        return as_float(images), targets
    return pad_to_batch([as_float(image) for image in images]), [
        {**target, "size": _size(image)} for image, target in zip(images, targets, strict=True)
    ]


def _frozen(teacher: Detector) -> Detector:
    _module(teacher).eval().requires_grad_(False)
    return teacher


def _zero_of(module: nn.Module, images: Tensor) -> Tensor:
    """A zero that depends on every parameter of the module, so that DDP sees all of them in every step."""
    parameters = [parameter.float().sum() for parameter in module.parameters()]
    return torch.stack(parameters).sum() * 0 if parameters else images.new_zeros((), dtype=torch.float32)


def _size(images: Tensor) -> Size:
    return images.shape[-2], images.shape[-1]
