"""`eyas cache`: write a teacher's vectors once, before or between trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eyas.args import DataArgs, OptimArgs, RunArgs
from eyas.cache.store import CacheDtype
from eyas.distillation.distiller import Distiller
from eyas.methods import Method
from eyas.runs.checkpoint import ModelSpec
from eyas.runs.opening import resolve
from eyas.training.preflight import check_classes, check_teacher_score
from eyas.training.setup import Setup, chosen_methods


def cache(
    data: Path,
    teacher: str,
    model: str,
    cache: Path,
    backbone: str | None = None,
    weights: str | None = None,
    options: dict[str, Any] | None = None,
    method: Method | list[Method] | None = None,
    pairs: dict[str, str] | None = None,
    any_teacher: bool = False,
    teacher_scale: float = 1.0,
    cache_dtype: CacheDtype = "bfloat16",
    dataset: DataArgs = DataArgs(),  # noqa: B008 (frozen: the signature is the schema)
    optim: OptimArgs = OptimArgs(),  # noqa: B008
    run: RunArgs = RunArgs(),  # noqa: B008
) -> None:
    """Write the teacher's vectors that a distillation reads, so that the teacher need not run in it.

    Args:
        data: folder of a data set: COCO, VOC, KITTI or YOLO, recognised from what is in it.
        teacher: run folder of a trained detector; a folder of save_pretrained, or a hub id, of transformers; or
            package.module:function, which is called and returns one.
        model: detector family of the student, whose levels decide which of the teacher's are imitated.
        cache: folder for the vectors; what is there already is not computed again.
        backbone: backbone of the student's family, such as resnet18, vgg11 or timm:NAME.
        weights: of the student, which do not matter here; a recipe may be given as it is.
        options: further keyword arguments of the family's builder.
        method: distillation losses, by class; fine-grained feature imitation when left out.
        pairs: student level: teacher level, where pairing by stride is not what you want.
        any_teacher: go on with a teacher that scores near zero, or that has other classes than the data.
        teacher_scale: how many times larger the teacher sees the images than the student.
        cache_dtype: of the vectors: bfloat16, float16 or float32.
        dataset: how the data is read and fed.
        optim: the optimiser of the distillation, which does not matter here either.
        run: the run of the distillation; its precision and device are the teacher's here.
    """
    methods, source = chosen_methods(method), resolve(teacher)
    with Setup(data, dataset, optim, run, teacher_scale) as setup:
        student = ModelSpec(model, setup.train.classes, backbone, options or {}, dataset.resize).build()
        session = setup.teacher_session(source, methods, cache, cache_dtype)
        if not any_teacher:
            check_classes(session.teacher, setup.train, teacher)
        distiller = Distiller(
            student, session.teacher, *methods, pairs=pairs, teacher_scale=teacher_scale, seed=run.seed
        )
        taught = setup.score_teacher(session)
        if taught is not None and not any_teacher:
            check_teacher_score(taught, teacher)
        session.prepare(distiller.pairs)
