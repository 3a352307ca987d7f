"""`eyas cache`: write a teacher's vectors once, before or between trainings."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from eyas.args import DataArgs, OptimArgs, RunArgs, StudentArgs, TeacherArgs

if TYPE_CHECKING:
    from eyas.evaluation import EvaluationResult
    from eyas.training.setup import Setup
    from eyas.types import Detector


def cache(
    data: Path,
    teacher: str,
    student: StudentArgs,
    cache: Path,
    teaching: TeacherArgs = TeacherArgs(),
    dataset: DataArgs = DataArgs(),
    optim: OptimArgs = OptimArgs(),
    run: RunArgs = RunArgs(),
) -> None:
    """Write the teacher's vectors that a distillation reads, so that the teacher need not run in it.

    Args:
        data: folder of a data set: COCO, VOC, KITTI or YOLO, recognised from its files.
        teacher: run folder of a trained detector; a folder of save_pretrained, or a hub id, of transformers; or
            package.module:function, which is called and returns one.
        model: detector family of the student, whose levels decide which of the teacher's are imitated.
        weights: ignored here, so that a student's recipe may be given as it is.
        cache: folder for the vectors; those that are there already are not computed again.
        dataset: how the data is read and fed.
        optim: ignored here, so that a student's recipe may be given as it is.
        run: the run of the distillation; the teacher takes its precision and device.
    """
    from eyas.distillation.distiller import Distiller
    from eyas.runs.checkpoint import ModelSpec
    from eyas.training.setup import Setup, check_classes, check_teacher_score, chosen_methods

    methods, scale = chosen_methods(teaching.method), teaching.teacher_scale
    with Setup(data, dataset, optim, run, scale) as setup:
        spec = ModelSpec(student.model, setup.train.classes, student.backbone, student.options or {}, dataset.resize)
        detector = spec.build()
        store = setup.caching(teacher, methods, cache, teaching.cache_dtype)
        if not teaching.any_teacher:
            check_classes(store.guide, setup.train, teacher)
        if store.guide.classes == setup.val.classes:
            result = store.score(setup.val, setup.metric, partial(_score, setup))
            setup.say(f"teacher   {result.headline()} on {len(setup.val.records)} images")
            if not teaching.any_teacher:
                check_teacher_score(result, teacher)
        distiller = Distiller(detector, store.guide, *methods, pairs=teaching.pairs, teacher_scale=scale, seed=run.seed)
        store.fill(distiller.pairs)


def _score(setup: Setup, teacher: Detector) -> EvaluationResult:
    from eyas.evaluation.predict import score_detector, val_loader

    batches = setup.accelerator.prepare(val_loader(setup.val, setup.larger))
    return score_detector(teacher, batches, setup.val, setup.metric, setup.progress, "teacher")
