"""What a distiller sees of each batch: its images, the student's view, and the teacher's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eyas.methods.method import LevelPair, Reads
from eyas.nn.taps import Taps, probe, tap_features
from eyas.ops.pixels import as_float
from eyas.tools.timing import span
from eyas.types import Detector, DetectorWithHeads, EyasError, HeadOutputs, Level, Size, Target, View


@dataclass(frozen=True)
class TeacherRequest:
    """What the methods need of a teacher for one batch.

    Attributes:
        images: (batch, 3, height, width) in [0, 1], as the teacher sees them.
        targets: one for each image.
        taps: names of the levels to give, in this order.
        reads: what the methods look at besides feature maps.
        boxes: head name -> the student's boxes of each image, to score; empty unless ``reads`` has "heads".
    """

    images: Tensor
    targets: Sequence[Target]
    taps: Sequence[str]
    reads: frozenset[Reads]
    boxes: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)


@runtime_checkable
class Teacher(Protocol):
    """A running detector, a cache of one, or a source of features alone.

    Attributes:
        classes: class names, in label order.
        levels: tap name -> level, from fine to coarse.
        networks: the modules that run: the distiller freezes them and moves them with the student. None for a cache.
    """

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def levels(self) -> Mapping[str, Level]: ...

    @property
    def networks(self) -> tuple[nn.Module, ...]: ...

    def rectified(self, taps: Sequence[str]) -> dict[str, bool]:
        """Tap name -> whether the map is never negative, as the output of a ReLU is."""

    def view(self, request: TeacherRequest) -> View:
        """What the methods see of the teacher for one batch, without gradients."""


class RunningTeacher:
    """A trained detector that runs on every batch; `view` puts it in evaluation mode."""

    def __init__(self, detector: Detector) -> None:
        self.detector, self.classes, self.levels = detector, detector.classes, detector.levels
        self.networks = (detector if isinstance(detector, nn.Module) else detector.network,)

    def rectified(self, taps: Sequence[str]) -> dict[str, bool]:
        """By a forward pass of one random image."""
        return {name: bool((feature >= 0).all()) for name, feature in probe(self.detector, taps, "teacher").items()}

    @span("teacher")
    def view(self, request: TeacherRequest) -> View:
        """The maps at the taps; head outputs for the student's boxes and proposals where a method reads them."""
        images, taps, reads = request.images, request.taps, request.reads
        # Scoring the teacher elsewhere may leave it in training mode, where BatchNorm would follow the batch.
        self.detector.network.eval()
        if reads.isdisjoint({"heads", "teacher_proposals"}):
            features, outputs = tap_features(self.detector, taps, images), HeadOutputs()
        else:
            with torch.no_grad(), Taps(self.detector.network, taps) as tapped:
                detector = with_heads(self.detector, "teacher")
                outputs = detector.score_boxes(images, request.boxes, proposals="teacher_proposals" in reads)
            features = tapped.features
        levels = [self.levels[tap] for tap in taps]
        return View([features[tap] for tap in taps], levels, image_size(images), outputs.heads, outputs.proposals)


@span("student")
def student_view(
    student: Detector, images: Tensor, targets: Sequence[Target], pairs: Sequence[LevelPair], reads: frozenset[Reads]
) -> View:
    """Run the student, in training mode: its losses, its maps at the paired taps, and the heads that the methods read.

    The images (batch, 3, height, width), in [0, 1], are as the student sees them.

    Raises:
        EyasError: a method reads heads or proposals, and the student gives none.
    """
    with Taps(student.network, [pair.student_tap for pair in pairs]) as taps:
        if reads & {"heads", "student_proposals"}:
            losses, outputs = with_heads(student, "student").losses_and_heads(images, targets)
        else:
            losses, outputs = student.losses(images, targets), HeadOutputs()
    features = [taps.features[pair.student_tap] for pair in pairs]
    levels = [pair.student for pair in pairs]
    return View(features, levels, image_size(images), outputs.heads, outputs.proposals, dict(losses))


def with_heads(detector: Detector, role: str) -> DetectorWithHeads:
    """The detector itself. Raises EyasError when it gives no head outputs."""
    if not isinstance(detector, DetectorWithHeads):
        raise EyasError(
            f"the {role}, a {type(detector).__name__}, gives no head outputs or proposals, which a method asks for; "
            "use methods that compare features, or give it losses_and_heads() and score_boxes(), see "
            "eyas.types.DetectorWithHeads"
        )
    return detector


def as_batch(images: Tensor | Sequence[Tensor], targets: Sequence[Target]) -> tuple[Tensor, Sequence[Target]]:
    """Images as one float batch; targets of images that were padded here say the size of their image inside it.

    The images are (batch, 3, height, width), float32 in [0, 1] or uint8; or a sequence of (3, height, width).
    """
    if isinstance(images, Tensor):
        return as_float(images), targets
    return pad_to_batch([as_float(image) for image in images]), [
        {**target, "size": image_size(image)} for image, target in zip(images, targets, strict=True)
    ]


def pad_to_batch(images: Sequence[Tensor]) -> Tensor:
    """Images (3, height, width) as one batch, zeros on the right and at the bottom; its sides are multiples of 32."""
    height, width = (math.ceil(max(image.shape[axis] for image in images) / 32) * 32 for axis in (1, 2))
    return torch.stack([F.pad(image, (0, width - image.shape[2], 0, height - image.shape[1])) for image in images])


def image_size(images: Tensor) -> Size:
    """(height, width) of images (..., height, width)."""
    return images.shape[-2], images.shape[-1]
