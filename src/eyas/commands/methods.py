"""`eyas methods`: the methods that come with Eyas, what each needs, and which of them work with two detectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from eyas.args import StudentArgs
from eyas.commands.distill import TRIED, tried_classes
from eyas.commands.names import METHODS
from eyas.commands.parsing import summary
from eyas.commands.presets import published
from eyas.data.options import Resize
from eyas.tools.output_paths import check_output_files
from eyas.tools.tables import print_table
from eyas.types import EyasError

if TYPE_CHECKING:
    from eyas.distillation.pairing import Pairing
    from eyas.distillation.teachers import Teacher
    from eyas.distillation.trials import Trial
    from eyas.methods import Method


def methods(
    teacher: str | None = None,
    model: str | None = None,
    backbone: str | None = None,
    options: dict[str, Any] | None = None,
    pairs: dict[str, str] | Literal["index"] | None = None,
    teacher_scale: float = 1.0,
    resize: Resize = Resize(),
    presets: bool = False,
    json_file: Path | None = None,
) -> None:
    """List the methods, with what each needs; with a teacher and a model, which of them apply and what a step costs.

    With both, each method is tried on a batch of noise, as the first step of `eyas distill` would use it.

    Args:
        teacher: run folder of a trained detector; a folder of save_pretrained, or a hub id, of transformers; a
            checkpoint of rfdetr or libreyolo; package.module:function, which is called and returns one; or
            features:timm:NAME or features:transformers:ID.
        model: the student's detector family, as for distill.
        backbone: backbone of the student's family, such as resnet18.
        options: further keyword arguments of the family's builder.
        pairs: student level: teacher level, where pairing by stride is not what you want; or index, which pairs the
            finest levels, then the next, whatever their strides.
        teacher_scale: how many times larger the teacher sees the images, in [1, 4].
        resize: size of the student's input.
        presets: list the published constants instead, which --method NAME:FAMILY takes.
        json_file: also write what is printed there.
    """
    check_output_files(json_file)
    if (teacher is None) != (model is None):
        given, other = ("--teacher", "--model") if model is None else ("--model", "--teacher")
        raise EyasError(f"{given} without {other}: methods are tried on a pair; give both, or neither to list them")
    from eyas.tools.files import write_json

    if presets:
        print_table(preset_rows(), numbers=False)
        print(
            "next: eyas distill --method NAME:FAMILY takes them; without a family, the defaults and an automatic weight"
        )
        if json_file is not None:
            of_families = {name: {of: asdict(one) for of, one in own.items()} for name, own in published().items()}
            write_json(json_file, of_families)
        return
    listed = {name: facts(name) for name in METHODS}
    trials: Mapping[str, Trial] = {}
    if teacher is not None and model is not None:
        student = StudentArgs(model, backbone, options=options)
        trials = on_pair(teacher, student, pairs=pairs, scale=teacher_scale, resize=resize)
        print_table(trial_rows(trials), numbers=False)
        print("step: with the method over the student's alone, on two images of noise; the teacher's pass is in it")
    else:
        print_table(rows(listed), numbers=False)
        print("next: eyas methods --teacher RUN --model NAME says which of them apply to a pair, and why others do not")
    if json_file is not None:
        tried = {name: {"applies": trial.reason is None, **asdict(trial)} for name, trial in trials.items()}
        content = {name: {**asdict(each), **tried.get(name, {})} for name, each in listed.items()}
        write_json(json_file, {"teacher": teacher, "model": model, "methods": content})


@dataclass(frozen=True)
class Facts:
    """What is listed of a method: its class, where it is from, what it needs and runs, whether a cache serves it."""

    class_path: str
    summary: str
    needs: tuple[str, ...]
    teacher: str
    cached: bool


def method_class(name: str) -> Callable[..., Method]:
    """The class of a method by its short name."""
    package, _, own = METHODS[name].rpartition(".")
    found: Callable[..., Method] = getattr(import_module(package), own)
    return found


def facts(name: str) -> Facts:
    """What is listed of a method, taken from its class; ``teacher`` is what of the teacher runs in a step."""
    method = method_class(name)
    made, cached = method(), True
    try:
        made.fingerprint()
    except EyasError:
        cached = False
    runs = "with its heads" if made.reads - {"student_proposals"} else "up to its last level"
    return Facts(METHODS[name], summary(method), made.needs, runs, cached)


def rows(listed: Mapping[str, Facts]) -> list[list[str]]:
    """The table of all methods."""
    head = ["method", "class", "needs", "teacher runs", "cache", "published for", "what it is"]
    return [head] + [
        [
            name,
            each.class_path,
            ", ".join(each.needs),
            each.teacher,
            "yes" if each.cached else "-",
            ", ".join(published().get(name, {})) or "-",
            each.summary,
        ]
        for name, each in listed.items()
    ]


def preset_rows() -> list[list[str]]:
    """The table of the published constants."""
    head = ["method", "options", "source"]
    return [head] + [
        [f"{name}:{family}", ", ".join(f"{key} {value}" for key, value in preset.options.items()), preset.source]
        for name, families in published().items()
        for family, preset in families.items()
    ]


def trial_rows(trials: Mapping[str, Trial]) -> list[list[str]]:
    """The table of methods on a pair: those that apply first, the cheapest of them on top."""
    ordered = sorted(trials.items(), key=lambda item: (item[1].reason is not None, item[1].cost or 0.0))
    return [["method", "applies", "step", "why not"]] + [
        [
            name,
            "yes" if trial.reason is None else "no",
            "-" if trial.cost is None else f"{trial.cost:.2f}",
            " ".join((trial.reason or "").split()),
        ]
        for name, trial in ordered
    ]


def on_pair(
    teacher: str,
    student: StudentArgs,
    *,
    pairs: Pairing,
    scale: float,
    resize: Resize,
    check: Callable[[Teacher, Method], None] | None = None,
    timed: bool = True,
) -> dict[str, Trial]:
    """Try every method on a teacher and a new student of its classes.

    Args:
        teacher, student, pairs, scale, resize: as for `eyas.commands.distill.distill`.
        check: raises EyasError for a method that is refused for another reason, such as the data's classes.
        timed: also measure what a step costs with each.

    Raises:
        EyasError: the teacher cannot be opened, or the student not be built.
    """
    from eyas.detectors import build
    from eyas.distillation.teachers import RunningTeacher
    from eyas.distillation.trials import noise_batch, try_methods
    from eyas.runs.opening import load
    from eyas.tools.progress import Progress

    with Progress() as progress:
        with progress.waiting(f"teacher   opening {teacher}"):
            opened = RunningTeacher(load(teacher))
        with progress.waiting(f"student   building {student.model}"):
            classes = tried_classes(opened)
            detector = build(student.model, classes, backbone=student.backbone, options=student.options)
        batch = noise_batch(resize.times(scale).output_size((TRIED, TRIED)))
        with progress.waiting(f"methods   trying {len(METHODS)} on a batch"):
            makers = {name: method_class(name) for name in METHODS}
            checked = None if check is None else partial(check, opened)
            return try_methods(detector, opened, makers, batch, pairs=pairs, scale=scale, check=checked, timed=timed)
