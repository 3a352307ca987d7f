"""`eyas cache`: write a teacher's vectors once, before or between trainings."""

from __future__ import annotations

from pathlib import Path

from eyas.args import DataArgs, OptimArgs, RunArgs, StudentArgs, TeacherArgs


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
        data: folder of a data set, its format recognised from its files: COCO, VOC, KITTI, YOLO or one of Hugging Face
            datasets; or hf:ORG/NAME.
        teacher: run folder of a trained detector; a folder of save_pretrained, or a hub id, of transformers; a
            checkpoint of rfdetr or libreyolo; package.module:function, which is called and returns one; or
            features:timm:NAME or features:transformers:ID, whose last map is imitated.
        model: detector family of the student, whose levels decide which of the teacher's are imitated.
        weights: ignored here, so that a student's recipe may be given as it is.
        cache: folder for the vectors; existing ones are not computed again.
        optim: ignored here, so that a student's recipe may be given as it is.
        run: the run of the distillation; the teacher takes its precision and device.
    """
    from eyas.distillation.distiller import Distiller
    from eyas.runs.opening import resolve_detector
    from eyas.training.preflight import check_classes
    from eyas.training.setup import Setup, chosen_methods

    methods, source = chosen_methods(teaching.method), resolve_detector(teacher)
    scale, pairs = teaching.teacher_scale, teaching.pairs
    with Setup(data, dataset, optim, run, scale) as setup:
        spec = setup.spec(student)
        detector = spec.build()
        with setup.progress.waiting(f"teacher   opening {teacher}"):
            session = setup.teacher_session(source, methods, cache, teaching.cache_dtype)
        check_classes(session.teacher, setup.train, methods, teacher, any_classes=teaching.any_classes)
        distiller = Distiller(detector, session.teacher, *methods, pairs=pairs, teacher_scale=scale, seed=run.seed)
        setup.score_teacher(session, teacher, any_score=teaching.any_score)
        session.prepare(distiller.pairs)
        setup.say(f"cache     {cache}   next: eyas distill with these options, --cache {cache} and --out")
