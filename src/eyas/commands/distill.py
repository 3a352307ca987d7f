"""`eyas distill`: a student under a teacher."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from eyas.args import DataArgs, OptimArgs, RunArgs, StudentArgs, TeacherArgs

if TYPE_CHECKING:
    from eyas.evaluation import EvaluationResult


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
        data: folder of a data set: COCO, VOC, KITTI or YOLO, recognised from its files.
        teacher: run folder of a trained detector; a folder of save_pretrained, or a hub id, of transformers; or
            package.module:function, which is called and returns one.
        out: run folder to make.
        dataset: how the data is read and fed.
        optim: the optimiser.
        run: the run.
    """
    from eyas.distillation.distiller import Distiller
    from eyas.runs.checkpoint import ModelSpec
    from eyas.training.reproducibility import seed_epoch
    from eyas.training.setup import (
        RunSetup,
        _describe,
        _figures,
        check_classes,
        check_teacher_score,
        chosen_methods,
        preflight,
    )

    methods, scale = chosen_methods(teaching.method), teaching.teacher_scale
    with RunSetup(data, out, dataset, optim, run, scale) as setup:
        spec = ModelSpec(student.model, setup.train.classes, student.backbone, student.options or {}, dataset.resize)
        detector = spec.build(student.weights)
        guide, store = setup.guide(teacher, methods, teaching.cache, teaching.cache_dtype)
        if not teaching.any_teacher:
            check_classes(guide, setup.train, teacher)
        distiller = Distiller(detector, guide, *methods, pairs=teaching.pairs, teacher_scale=scale, seed=run.seed)
        trainer = setup.trainer(distiller, spec)
        teacher_result = None
        if tuple(guide.classes) == setup.val.classes:
            score = partial(
                trainer.score,
                progress=setup.progress,
                name="teacher",
                data=setup.larger if scale != 1 else None,
            )
            teacher_result = score(guide) if store is None else store.score(setup.val, trainer.metric, score)
            setup.say(f"teacher   {teacher_result.headline()} on {len(setup.val.records)} images")
            if not teaching.any_teacher:
                check_teacher_score(teacher_result, teacher)
        setup.say(f"student   {_describe(spec, detector)}")
        setup.prepare_teacher(distiller, store)
        # As the first step will draw it, whatever was drawn before: with a full cache, say, no teacher was made.
        seed_epoch(run.seed, 0, setup.accelerator.process_index)
        balance = distiller.balance(*trainer.first_batch())
        preflight(distiller, balance, setup.say)
        # Only now, when nothing speaks against the run, does its folder come to be.
        setup.start()
        if teacher_result is not None:
            trainer.log.once("teacher", name=teacher, **_figures(teacher_result))
        trainer.log.once("balance", step=trainer.step, **asdict(balance))
        result = trainer.fit(setup.progress)
        if teacher_result is not None:
            setup.say(f"teacher   {teacher_result.headline()}\nstudent   {result.headline()}")
        return result
