"""`eyas train`: a detector by its own losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eyas.args import DataArgs, OptimArgs, RunArgs
from eyas.evaluation import EvaluationResult
from eyas.runs.checkpoint import ModelSpec
from eyas.training.loss_module import Baseline
from eyas.training.preflight import describe_student
from eyas.training.setup import RunSetup


def train(
    data: Path,
    model: str,
    out: Path,
    backbone: str | None = None,
    weights: str | None = None,
    options: dict[str, Any] | None = None,
    dataset: DataArgs = DataArgs(),  # noqa: B008 (frozen: the signature is the schema)
    optim: OptimArgs = OptimArgs(),  # noqa: B008
    run: RunArgs = RunArgs(),  # noqa: B008
) -> EvaluationResult:
    """Train a detector by its own losses: a teacher, or the baseline of a student.

    Args:
        data: folder of a data set: COCO, VOC, KITTI or YOLO, recognised from what is in it.
        model: detector family: faster_rcnn, retinanet, fcos, ssd, shuffledet or transformers.
        out: run folder to make.
        backbone: backbone of the family, such as resnet18, vgg11 or timm:NAME.
        weights: torchvision's name of pretrained weights, or a file (.safetensors, or .pt read without pickle).
        options: further keyword arguments of the family's builder.
        dataset: how the data is read and fed.
        optim: the optimiser.
        run: the run.
    """
    with RunSetup(data, out, dataset, optim, run) as setup:
        spec = ModelSpec(model, setup.train.classes, backbone, options or {}, dataset.resize, "model.safetensors")
        student = spec.build(weights)
        setup.say(f"model     {describe_student(spec, student)}")
        trainer = setup.trainer(Baseline(student), spec)
        setup.start()
        return trainer.fit(setup.progress)
