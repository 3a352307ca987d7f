"""`eyas distill`: a student under a teacher."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from eyas.args import DataArgs, OptimArgs, RunArgs, StudentArgs, TeacherArgs

if TYPE_CHECKING:
    from eyas.distillation.teachers import Teacher
    from eyas.evaluation import EvaluationResult
    from eyas.types import Detector

TRIED = 256
"""Sides in pixels of the images in `try_out`, where the options give no size."""


def distill(
    data: Path,
    teacher: str,
    student: StudentArgs,
    out: Path,
    teaching: TeacherArgs = TeacherArgs(),
    dataset: DataArgs = DataArgs(),
    optim: OptimArgs = OptimArgs(),
    run: RunArgs = RunArgs(),
) -> EvaluationResult:
    """Train a student detector under a teacher.

    Args:
        data: folder of a data set, its format recognised from its files: COCO, VOC, KITTI, YOLO or one of Hugging Face
            datasets; or hf:ORG/NAME.
        teacher: run folder of a trained detector; a folder of save_pretrained, or a hub id, of transformers; a
            checkpoint of rfdetr or libreyolo; package.module:function, which is called and returns one; or
            features:timm:NAME or features:transformers:ID, whose last map is imitated.
        out: run folder to make.
    """
    from eyas.detectors.inheritance import inherit
    from eyas.distillation.distiller import Distiller
    from eyas.export.exportable import check_export
    from eyas.runs.opening import resolve_detector
    from eyas.training.preflight import (
        check_classes,
        describe_anchors,
        describe_distillation,
        describe_idle,
        describe_late_start,
        describe_student,
    )
    from eyas.training.reproducibility import seed_epoch
    from eyas.training.setup import RunSetup, chosen_methods

    methods, source = chosen_methods(teaching.method), resolve_detector(teacher)
    scale, pairs = teaching.teacher_scale, teaching.pairs
    with RunSetup(data, out, dataset, optim, run, scale, source) as setup:
        spec = setup.spec(student)
        with setup.progress.waiting(f"student   building {spec.model}"):
            detector = spec.build(student.weights)
        describe_anchors(detector, setup.train, spec.resize, setup.say)
        if setup.accelerator.is_main_process:
            with setup.progress.waiting("student   trying its export"):
                check_export(detector, setup.train, spec.resize, run, setup.say)
        with setup.progress.waiting(f"teacher   opening {teacher}"):
            session = setup.teacher_session(source, methods, teaching.cache, teaching.cache_dtype)
        check_classes(session.teacher, setup.train, methods, teacher, any_classes=teaching.any_classes)
        if teaching.inherit:
            setup.say(f"student   {inherit(detector, source.open())}")
        distiller = Distiller(detector, session.teacher, *methods, pairs=pairs, teacher_scale=scale, seed=run.seed)
        trainer = setup.trainer(distiller, spec)
        first = trainer.first_batch()
        distiller.try_out(*first)  # before the teacher's long work
        taught = setup.score_teacher(session, teacher, any_score=teaching.any_score)
        setup.say(f"student   {describe_student(spec, detector)}")
        filling = session.prepare(distiller.pairs)
        # Draw as the first step will, whatever was drawn before: with a full cache, for one, no teacher was made.
        seed_epoch(run.seed, 0, setup.accelerator.process_index)
        balance = distiller.balance(*first)
        describe_distillation(distiller, balance, setup.say)
        describe_late_start(methods, trainer.total_batches, setup.say)
        # Only after every check: a run that is refused leaves no folder.
        setup.start(trainer.log)
        if taught is not None:
            trainer.log.once("teacher", name=teacher, summary=taught.summary, per_class=taught.per_class)
        if filling is not None:
            trainer.log.once("cache", seconds=filling)
        trainer.log.once("balance", step=trainer.state.step, **asdict(balance))
        result = trainer.fit(setup.progress)
        if taught is not None:
            setup.say(f"teacher   {taught.headline()}\nstudent   {result.headline()}")
        describe_idle(distiller, setup.say)
        setup.say_where_it_is()
        return result


def tried_classes(teacher: Detector | Teacher) -> tuple[str, ...]:
    """Classes of a student that is only tried: the teacher's, or one for a source of features, which has none."""
    return teacher.classes or ("object",)


def try_out(
    data: Path,
    teacher: str,
    student: StudentArgs,
    out: Path,
    teaching: TeacherArgs = TeacherArgs(),
    dataset: DataArgs = DataArgs(),
    optim: OptimArgs = OptimArgs(),
    run: RunArgs = RunArgs(),
) -> None:
    """Run what a first step of `distill` with the same arguments would run, on images of noise. No data is read.

    Raises:
        EyasError: these detectors and methods do not go together.
    """
    from eyas.detectors import build
    from eyas.distillation.distiller import Distiller
    from eyas.distillation.trials import noise_batch
    from eyas.runs.opening import load
    from eyas.training.setup import chosen_methods

    opened, scale = load(teacher), teaching.teacher_scale
    classes = tried_classes(opened)
    detector = build(student.model, classes, backbone=student.backbone, options=student.options)
    methods = chosen_methods(teaching.method)
    distiller = Distiller(detector, opened, *methods, pairs=teaching.pairs, teacher_scale=scale, seed=run.seed)
    distiller.try_out(*noise_batch(dataset.resize.times(scale).output_size((TRIED, TRIED))))
