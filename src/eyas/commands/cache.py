"""`eyas cache`: write a teacher's vectors once, before or between trainings."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from eyas.args import DataArgs, OptimArgs, RunArgs
from eyas.cache.store import CacheDtype
from eyas.distillation.distiller import Distiller
from eyas.evaluation import EvaluationResult
from eyas.evaluation.predict import score_detector, val_loader
from eyas.methods import Method
from eyas.runs.checkpoint import ModelSpec
from eyas.training.setup import Setup, check_classes, check_teacher_score, chosen_methods
from eyas.types import Detector


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
    methods = chosen_methods(method)
    with Setup(data, dataset, optim, run, teacher_scale) as setup:
        student = ModelSpec(model, setup.train.classes, backbone, options or {}, dataset.resize).build()
        store = setup.caching(teacher, methods, cache, cache_dtype)
        if not any_teacher:
            check_classes(store.guide, setup.train, teacher)
        if store.guide.classes == setup.val.classes:
            result = store.score(setup.val, setup.metric, partial(_score, setup))
            setup.say(f"teacher   {result.headline()} on {len(setup.val.records)} images")
            if not any_teacher:
                check_teacher_score(result, teacher)
        distiller = Distiller(student, store.guide, *methods, pairs=pairs, teacher_scale=teacher_scale, seed=run.seed)
        store.fill(distiller.pairs)


def _score(setup: Setup, teacher: Detector) -> EvaluationResult:
    batches = setup.accelerator.prepare(val_loader(setup.val, setup.larger))
    return score_detector(teacher, batches, setup.val, setup.metric, setup.progress, "teacher")
