"""`eyas distill`: a student under a teacher."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from eyas.args import DataArgs, OptimArgs, RunArgs
from eyas.cache.store import CacheDtype
from eyas.distillation.distiller import Distiller
from eyas.evaluation import EvaluationResult
from eyas.methods import Method
from eyas.runs.checkpoint import ModelSpec
from eyas.runs.opening import resolve
from eyas.training.preflight import check_classes, check_teacher_score, describe_distillation, describe_student
from eyas.training.reproducibility import seed_epoch
from eyas.training.setup import RunSetup, chosen_methods


def distill(
    data: Path,
    teacher: str,
    model: str,
    out: Path,
    backbone: str | None = None,
    weights: str | None = None,
    options: dict[str, Any] | None = None,
    method: Method | list[Method] | None = None,
    pairs: dict[str, str] | None = None,
    any_teacher: bool = False,
    teacher_scale: float = 1.0,
    cache: Path | None = None,
    cache_dtype: CacheDtype = "bfloat16",
    dataset: DataArgs = DataArgs(),  # noqa: B008
    optim: OptimArgs = OptimArgs(),  # noqa: B008
    run: RunArgs = RunArgs(),  # noqa: B008
) -> EvaluationResult:
    """Train a student detector under a teacher.

    Args:
        data: folder of a data set: COCO, VOC, KITTI or YOLO, recognised from what is in it.
        teacher: run folder of a trained detector; a folder of save_pretrained, or a hub id, of transformers; or
            package.module:function, which is called and returns one.
        model: detector family of the student: faster_rcnn, retinanet, fcos, ssd, shuffledet or transformers.
        out: run folder to make.
        backbone: backbone of the student's family, such as resnet18, vgg11 or timm:NAME.
        weights: torchvision's name of pretrained weights, or a file (.safetensors, or .pt read without pickle).
        options: further keyword arguments of the family's builder.
        method: distillation losses, by class; fine-grained feature imitation when left out.
        pairs: student level: teacher level, where pairing by stride is not what you want.
        any_teacher: go on with a teacher that scores near zero, or that has other classes than the data.
        teacher_scale: how many times larger the teacher sees the images, in [1, 4]; --dataset.resize is the student's
            size.
        cache: folder for the teacher's vectors: what is missing there is computed before the first step, and the
            teacher does not run in training. The same folder serves every run.
        cache_dtype: of the vectors in the cache: bfloat16, float16 or float32.
        dataset: how the data is read and fed.
        optim: the optimiser.
        run: the run.
    """
    methods, source = chosen_methods(method), resolve(teacher)
    with RunSetup(data, out, dataset, optim, run, teacher_scale) as setup:
        spec = ModelSpec(model, setup.train.classes, backbone, options or {}, dataset.resize)
        student = spec.build(weights)
        session = setup.teacher_session(source, methods, cache, cache_dtype)
        if not any_teacher:
            check_classes(session.teacher, setup.train, teacher)
        distiller = Distiller(
            student, session.teacher, *methods, pairs=pairs, teacher_scale=teacher_scale, seed=run.seed
        )
        trainer = setup.trainer(distiller, spec)
        taught = setup.score_teacher(session)
        if taught is not None and not any_teacher:
            check_teacher_score(taught, teacher)
        setup.say(f"student   {describe_student(spec, student)}")
        session.prepare(distiller.pairs)
        # As the first step will draw it, whatever was drawn before: with a full cache, say, no teacher was made.
        seed_epoch(run.seed, 0, setup.accelerator.process_index)
        balance = distiller.balance(*trainer.first_batch())
        describe_distillation(distiller, balance, setup.say)
        # Only now, when nothing speaks against the run, does its folder come to be.
        setup.start()
        if taught is not None:
            trainer.log.once("teacher", name=teacher, summary=taught.summary, per_class=taught.per_class)
        trainer.log.once("balance", step=trainer.state.step, **asdict(balance))
        result = trainer.fit(setup.progress)
        if taught is not None:
            setup.say(f"teacher   {taught.headline()}\nstudent   {result.headline()}")
        return result
