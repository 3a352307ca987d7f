"""What a distiller asks of a teacher: levels to pair with, and a view of each batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from eyas.distillation.outlines import Outlines
from eyas.distillation.views import decoding, recorded_branches, with_heads
from eyas.methods.method import Reads
from eyas.nn.failures import running
from eyas.nn.taps import Taps, as_parameters, probe, tapped_view
from eyas.tools.timing import span
from eyas.types import Detector, EyasError, HeadOutputs, Level, Target, View, size_of


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

    def outline(self, request: TeacherRequest) -> View:
        """What `view` returns, with the right shapes but without values: no network runs for it on each batch."""


class RunningTeacher:
    """A trained detector that runs on every batch; `view` puts it in evaluation mode."""

    def __init__(self, detector: Detector) -> None:
        self.detector, self.classes, self.levels = detector, detector.classes, detector.levels
        self.networks = (detector if isinstance(detector, nn.Module) else detector.network,)
        self._outlines: dict[tuple[str, ...], Outlines] = {}

    def rectified(self, taps: Sequence[str]) -> dict[str, bool]:
        """By a forward pass of one random image."""
        return {name: bool((feature >= 0).all()) for name, feature in probe(self.detector, taps, "teacher").items()}

    @span("teacher")
    def view(self, request: TeacherRequest) -> View:
        """The maps at the taps; where methods read them, scored boxes, proposals, scores of cells and queries."""
        request = replace(request, images=as_parameters(request.images, self.detector))
        images, taps, reads = request.images, request.taps, request.reads
        # Scoring the teacher elsewhere may leave it in training mode, where BatchNorm would follow the batch.
        self.detector.network.eval()
        if reads <= {"student_proposals"}:
            return tapped_view(self.detector, taps, images, "teacher")
        tapped = Taps(self.detector.network, taps)
        with (
            running("the teacher", images),
            torch.no_grad(),
            tapped,
            decoding(self.detector, "teacher", reads) as decoder,
            recorded_branches(self.detector, "teacher", reads) as branches,
        ):
            outputs = self._outputs(request)
        features, levels = [tapped.features[tap] for tap in taps], [self.levels[tap] for tap in taps]
        scores = [level_scores(outputs.scores, tap) for tap in taps] if "teacher_scores" in reads else []
        return View(
            features,
            levels,
            size_of(images),
            outputs.heads,
            outputs.proposals,
            decoder=decoder,
            scores=scores,
            branches=branches,
        )

    def _outputs(self, request: TeacherRequest) -> HeadOutputs:
        """Run the whole network, and not just up to the last tap."""
        reads = request.reads
        if reads.isdisjoint({"heads", "teacher_proposals", "teacher_scores"}):
            self.detector.predict(request.images)
            return HeadOutputs()
        detector = with_heads(self.detector, "teacher")
        proposals, scores = "teacher_proposals" in reads, "teacher_scores" in reads
        return detector.score_boxes(request.images, request.boxes, proposals=proposals, scores=scores)

    def outline(self, request: TeacherRequest) -> View:
        """From one blank image for each size of images."""
        taps = tuple(request.taps)
        outlines = self._outlines.setdefault(taps, Outlines(self.detector, taps, "teacher"))
        return outlines(size_of(request.images), len(request.images))


def level_scores(scores: Mapping[str, Tensor], tap: str) -> Tensor:
    """The scores of one level, (batch, H, W). Raises EyasError where the detector gives none for it."""
    if tap not in scores:
        has = ", ".join(scores) or "none"
        raise EyasError(
            f"a method weights the cells of {tap} by the teacher's scores, and the teacher scores those of {has}; pair "
            "other levels, or use a method that does not read teacher_scores"
        )
    return scores[tap]
