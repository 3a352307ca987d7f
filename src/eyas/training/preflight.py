"""Before the first step: what a run refuses, and what it says so that nothing fails silently."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from eyas.data import DataSource
from eyas.data.options import Resize
from eyas.data.summary import anchor_fit
from eyas.detectors.class_names import listed
from eyas.distillation.balance import Balance
from eyas.distillation.distiller import Distiller
from eyas.distillation.outlines import anchor_grids
from eyas.distillation.pairing import describe_levels
from eyas.distillation.shares import dominant
from eyas.distillation.teachers import Teacher
from eyas.evaluation import EvaluationResult
from eyas.methods import Auto, Method
from eyas.runs.checkpoint import ModelSpec
from eyas.types import Detector, EyasError

WEAK_TEACHER = 0.05
POOR_FIT, FEW_OBJECTS = 0.45, 10
"""A class is named where half of its objects, and at least so many, reach no better IoU with an anchor. Detectors count
an anchor as an object's from an IoU of 0.5 (RetinaNet, SSD) or 0.7 (Faster R-CNN)."""


def check_classes(
    teacher: Teacher, source: DataSource, methods: Sequence[Method], name: str, *, any_classes: bool
) -> None:
    """Raises EyasError, listing both, when the teacher's classes do not serve for the data.

    Features need no class: the names only tell whether the teacher was trained for such objects, and it may know more
    classes, in any order. Head outputs are compared column by column, so their classes must be equal. A source of
    features has no classes.
    """
    if tuple(teacher.classes) == tuple(source.classes):
        return
    readers = [method.name for method in methods if "heads" in method.reads]
    if not teacher.classes:
        if readers:
            raise EyasError(f"{', '.join(readers)} reads the outputs of a teacher, and {name} has features alone")
        return
    both = f"  teacher: {listed(teacher.classes)}\n  data:    {listed(source.classes)}"
    if readers:
        raise EyasError(
            f"{', '.join(readers)} compares the outputs of student and teacher class by class, and the classes of the "
            f"teacher {name} and of {source.root} differ:\n{both}\nGive the teacher's names and order with "
            "--dataset.classes, or imitate features only"
        )
    unknown = [given for given in source.classes if given not in teacher.classes]
    if unknown and not any_classes:
        raise EyasError(
            f"the teacher {name} does not know {len(unknown)} of {len(source.classes)} classes of {source.root} by "
            f"name:\n{both}\nCorrect the names, or give --any_classes true, since only its features are imitated"
        )


def check_teacher_score(result: EvaluationResult, name: str) -> None:
    """Raises EyasError when a teacher scores near zero: wrong weights, classes, normalisation or input size.

    A metric that is undefined for the validation images says nothing about the teacher.
    """
    if result.primary < WEAK_TEACHER:
        raise EyasError(
            f"the teacher {name} scores {result.primary:.3f} on the validation images, so there is nothing to imitate. "
            "Check its weights, its classes and the input size; --any_score true continues anyway"
        )


def describe_student(spec: ModelSpec, detector: Detector) -> str:
    """One line: family, backbone, parameters and levels."""
    name = spec.model if spec.backbone is None else f"{spec.model}/{spec.backbone}"
    parameters = sum(parameter.numel() for parameter in detector.network.parameters())
    return f"{name}   {parameters / 1e6:.2f} M params   {describe_levels(detector.levels)}"


def describe_distillation(distiller: Distiller, balance: Balance, say: Callable[[str], None]) -> None:
    """Print level pairs and adapters; for each method its cells, and its loss and gradient beside detection's."""
    pairs = "   ".join(
        f"{pair.student_tap} /{pair.student.stride} {pair.student.channels}->{pair.teacher.channels}"
        for pair in distiller.pairs
    )
    adapters = sum(parameter.numel() for method in distiller.methods for parameter in method.parameters())
    say(f"pairs     {pairs}   adapters {adapters / 1e6:.2f} M params, dropped after training")
    for name, ratio in balance.gradient_ratio().items():
        weight = "(adapters just made)"
        if name in balance.fractions:
            limit = f", at most with a weight of {balance.limits[name]:g}" if name in balance.limits else ""
            weight = f"without a weight; automatic, which will hold {balance.fractions[name]:g} : 1{limit}"
        say(
            f"{name:<9} {balance.notes[name]}\n{'':<9} imitation : detection   loss "
            f"{balance.imitation[name]:.3g} : {balance.detection:.3g}   gradient {ratio:.2g} : 1 {weight}"
        )
    for name, parts in balance.parts.items():
        if (found := dominant(parts)) is not None:
            say(
                f"warning   {name}: {found[1]:.0%} of its loss is that of {found[0]}, so the others hardly count. If "
                "that is not what you want, take a method that averages over the cells of each level (docs/weight.md)"
            )
    for name, caution in balance.cautions.items():
        say(f"warning   {name}: {caution}")


def describe_anchors(detector: Detector, source: DataSource, resize: Resize, say: Callable[[str], None]) -> None:
    """Warn of classes whose objects fit no anchor of a detector that is about to be trained, built and on the CPU."""
    if not all(level.matched_by_iou for level in detector.levels.values()):
        return
    fits = anchor_fit(source, resize, partial(anchor_grids, detector))
    poor = {name: float(np.median(fit)) for name, fit in fits.items() if len(fit) >= FEW_OBJECTS}
    poor = {name: median for name, median in poor.items() if median < POOR_FIT}
    if poor:
        listing = ", ".join(
            f"{name} (median {median:.2f})" for name, median in sorted(poor.items(), key=lambda x: x[1])
        )
        say(
            f"warning   the anchors hardly fit these classes, by the best IoU of an object with an anchor: {listing}. "
            "They may not be learned: choose the anchors in --options (anchor_sizes, anchor_shapes or the like, see "
            "docs/families.md), or a larger --dataset.resize"
        )


def describe_late_start(methods: Sequence[Method], batches: int, say: Callable[[str], None]) -> None:
    """Warn of methods that begin only after the last of the planned batches."""
    for method in methods:
        warmup = method.weight.warmup if isinstance(method.weight, Auto) else 0
        start = method.schedule.start_step
        if start + warmup >= min(batches, method.schedule.last(batches)):
            parts = f"start_step {start}, and a warm-up of {warmup}" if warmup else "its start_step"
            stop = "" if method.schedule.stop == 1 else f", of which its schedule stops at {method.schedule.stop:g}"
            say(
                f"warning   {method.name} distils nothing in this run: the student feels it after "
                f"{start + warmup} batches ({parts}), and the run has {batches}{stop}. Train for more "
                "--run.epochs, in smaller batches, or with a lower start_step"
                + (", a shorter warm-up (weight: {warmup: 2}) or a number as weight" if warmup else "")
            )


def describe_idle(distiller: Distiller, say: Callable[[str], None]) -> None:
    """Warn, after a training, of methods that the student never felt."""
    batches = distiller.batches
    for term in distiller.terms:
        late = term.auto is None and term.method.schedule.start_step >= batches
        if late or (term.auto is not None and not float(term.weight())):
            start = f"start_step {term.method.schedule.start_step} was never reached"
            why = start if late else "its automatic weight was still 0"
            say(
                f"warning   {term.name} distilled nothing: after {batches} batches {why}, so this student is a baseline"
            )
