"""`eyas train`: a detector by its own losses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from eyas.args import DataArgs, OptimArgs, RunArgs, StudentArgs

if TYPE_CHECKING:
    from eyas.evaluation import EvaluationResult


def train(
    data: Path,
    student: StudentArgs,
    out: Path,
    dataset: DataArgs = DataArgs(),
    optim: OptimArgs = OptimArgs(),
    run: RunArgs = RunArgs(),
) -> EvaluationResult:
    """Train a detector by its own losses: a teacher, or the baseline of a student.

    Args:
        data: folder of a data set, its format recognised from its files: COCO, VOC, KITTI, YOLO or one of Hugging Face
            datasets; or hf:ORG/NAME.
        out: run folder to make.
    """
    from eyas.export.exportable import check_export
    from eyas.training.loss_module import Baseline
    from eyas.training.preflight import describe_anchors, describe_student
    from eyas.training.setup import RunSetup

    with RunSetup(data, out, dataset, optim, run) as setup:
        spec = setup.spec(student, "model.safetensors")
        with setup.progress.waiting(f"model     building {spec.model}"):
            detector = spec.build(student.weights)
        setup.say(f"model     {describe_student(spec, detector)}")
        describe_anchors(detector, setup.train, spec.resize, setup.say)
        if setup.accelerator.is_main_process:
            with setup.progress.waiting("model     trying its export"):
                check_export(detector, setup.train, spec.resize, run, setup.say)
        trainer = setup.trainer(Baseline(detector), spec)
        setup.start(trainer.log)
        result = trainer.fit(setup.progress)
        setup.say_where_it_is()
        return result
