"""Before the first step: what a run refuses, and what it says so that nothing fails silently."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from eyas.data import DataSource
from eyas.detectors.class_names import listed
from eyas.distillation.balance import Balance
from eyas.distillation.distiller import Distiller
from eyas.distillation.pairing import describe_levels
from eyas.distillation.teachers import Teacher
from eyas.evaluation import EvaluationResult
from eyas.methods import Method
from eyas.runs.checkpoint import ModelSpec
from eyas.types import Detector, EyasError

WEAK_TEACHER = 0.05


def check_classes(
    teacher: Teacher, source: DataSource, methods: Sequence[Method], name: str, *, any_classes: bool
) -> None:
    """Raises EyasError, listing both, when the teacher's classes do not serve for the data.

    Features need no class: the names only tell whether the teacher was trained for such objects, and it may know more
    classes, in any order. Head outputs are compared column by column, so their classes must be equal.
    """
    if tuple(teacher.classes) == tuple(source.classes):
        return
    both = f"  teacher: {listed(teacher.classes)}\n  data:    {listed(source.classes)}"
    readers = [method.name for method in methods if "heads" in method.reads]
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
            weight = f"without a weight; automatic, which will hold {balance.fractions[name]:g} : 1"
        say(
            f"{name:<9} {balance.notes[name]}\n{'':<9} imitation : detection   loss "
            f"{balance.imitation[name]:.3g} : {balance.detection:.3g}   gradient {ratio:.2g} : 1 {weight}"
        )
