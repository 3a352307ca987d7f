"""The options that commands share, as frozen dataclasses: the signature is the schema of the command line and of YAML.

Nothing here imports torch, so that help and errors answer at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from eyas.data.options import Augmentation, BoxForm, Resize, SplitOptions
from eyas.types import EyasError

if not TYPE_CHECKING:  # jsonargparse imports what stands below `if TYPE_CHECKING`, and methods need torch
    Method = Any
else:
    from eyas.methods import Method

CacheDtype = Literal["bfloat16", "float16", "float32"]
Device = Literal["auto", "cpu"]
Precision = Literal["no", "bf16", "fp16", "auto"]
Tracker = Literal["tensorboard", "wandb", "mlflow"]
SEED_LIMIT = 2**32 - 1
"""NumPy takes no larger seed."""
TIMEOUT_LIMIT = 1_000_000
"""Seconds, 11 days: waiting for a pipe counts milliseconds in 31 bits."""
WORKER_LIMIT, THREAD_LIMIT = 256, 1024
MetricName = Literal["coco", "voc", "kitti"]
"""The keys of `eyas.evaluation.METRICS`, here because the command line needs them without the evaluators."""


@dataclass(frozen=True)
class DataArgs(SplitOptions):
    """How a data set is read and fed.

    Attributes:
        format: coco, voc, kitti, yolo, imagefolder or hf; recognised from the folder when left out.
        boxes: how the boxes of a Hugging Face data set (imagefolder, hf) are written, which no file of it says: xywh
            (x, y, width, height) or xyxy (x1, y1, x2, y2), in pixels.
        train_split: name of the split to train on; a data set whose only split has another name is trained on that.
        val_split: name of the split to evaluate on.
        val_fraction: fraction of the training split, in [0, 1), that is held out for evaluation where the data set has
            no validation split; 0 asks for one.
        val_seed: decides which images are held out; all runs hold out the same, whatever --run.seed.
        classes: class names in label order, or each name with the classes that it takes together, as in
            "{vehicle: [car, van], person: [person]}"; taken from the data set when left out. Objects of other classes
            are background.
        resize: size of the network's input, for training and evaluation alike.
        augment: random changes to training images.
        difficult: train on the objects that VOC marks as difficult; evaluation leaves them out all the same.
        batch_size: images per step and process.
        workers: processes that decode and augment; 0 does it in the training process.
        worker_timeout: seconds without a batch after which the workers are taken to hang, and the run stops; 0 waits
            forever.
    """

    resize: Resize = field(default_factory=Resize)
    augment: Augmentation = field(default_factory=Augmentation)
    difficult: bool = False
    batch_size: int = 8
    workers: int = 1
    worker_timeout: float = 600.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, batch_size=self.batch_size)
        between(0, WORKER_LIMIT, workers=self.workers)
        between(0, TIMEOUT_LIMIT, worker_timeout=self.worker_timeout)


@dataclass(frozen=True)
class OptimArgs:
    """The optimiser and its schedule.

    Attributes:
        optimizer: sgd or adamw.
        lr: peak learning rate.
        momentum: of SGD.
        weight_decay: of convolution and linear weights; normalisation layers and biases have none.
        schedule: how the learning rate falls: cosine (to 0), step (at milestones) or constant.
        milestones: fractions of the run, in (0, 1), at which the step schedule multiplies the rate by gamma.
        gamma: factor of the step schedule.
        warmup: fraction of the run, in [0, 1), over which the learning rate rises linearly from near 0.
        clip_norm: largest gradient norm; 0 does not clip.
        accumulate: batches whose gradients are averaged in one optimiser step.
        ema: decay of the running average of the weights that is evaluated and saved, in [0, 1); 0 keeps none. It
            rises to this value over the first steps: min(ema, (1 + n) / (10 + n)) after n steps.
        freeze: what stays as it is: the first so many stages of the backbone, backbone for all of it, or names of
            submodules. BatchNorm in it keeps its statistics.
        backbone_lr: factor of the learning rate for the backbone's parameters.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    milestones: tuple[float, ...] = (0.667, 0.917)
    gamma: float = 0.1
    warmup: float = 0.02
    clip_norm: float = 10.0
    accumulate: int = 1
    ema: float = 0.0
    freeze: int | str | list[str] = 0
    backbone_lr: float = 1.0

    def __post_init__(self) -> None:
        at_least(0, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        at_least(0, gamma=self.gamma, clip_norm=self.clip_norm)
        at_least(1, accumulate=self.accumulate)
        if isinstance(self.freeze, int):
            at_least(0, freeze=self.freeze)
        if not 0 < self.backbone_lr < math.inf:
            raise EyasError(
                f"backbone_lr is a factor above 0, got {self.backbone_lr}; freeze keeps the backbone as it is"
            )
        if not 0 <= self.ema < 1:
            raise EyasError(f"ema is a decay in [0, 1), got {self.ema}")
        if not 0 <= self.warmup < 1:
            raise EyasError(f"warmup is a fraction of the run in [0, 1), got {self.warmup}")
        if not all(0 < milestone < 1 for milestone in self.milestones):
            raise EyasError(f"milestones are fractions of the run in (0, 1), got {list(self.milestones)}")


@dataclass(frozen=True)
class RunArgs:
    """The run itself.

    Attributes:
        epochs: passes over the training images.
        seed: of the initial weights, the order of the data and its augmentation.
        precision: no (float32), bf16 or fp16 mixed precision. auto takes bf16 where the device computes in it, and
            float32 elsewhere: a CPU without such instructions is many times slower in bf16.
        channels_last: keep images and feature maps with the channels innermost, the faster layout for most
            convolutions.
        compile: torch.compile of teacher and student up to their levels. It takes a minute or more before the first
            step, and a C++ compiler on a CPU.
        device: auto takes the accelerator where there is one; cpu does not.
        threads: CPU threads of torch; 0 leaves torch's choice.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated. 0 evaluates only then.
        patience: the run ends early after this many evaluations in a row without a better metric; 0 never ends it
            early. The learning rate falls as in a run of all epochs.
        metric: the rules of the metrics; the data format's own when left out.
        max_detections: of one class in one image, by score, that count in COCO's metrics; COCO's 100 when left out.
            Metrics with another number have it in their names, and do not compare with COCO's.
        log_every: optimiser steps between log lines. Between them a GPU is not waited for: losses are checked, and
            several processes agree to stop, at these steps too.
        resume: go on from the last checkpoint of the run folder. auto does where there is a run, and starts one where
            there is none, so that the same command serves both times.
        export_check: try to export the detector before the first step. true ends the run where that is impossible; auto
            warns, in a run of 10,000 images or more, all epochs together; false does not try.
        deterministic: the same weights from the same command, bit for bit, on a GPU too, where it is slower; the same
            versions, kind of device and number of threads are taken for granted.
        trackers: tensorboard, wandb, mlflow, or a list of them: where the numbers of log.jsonl also go.
        project: name of W&B's project and MLflow's experiment.
    """

    epochs: int = 12
    seed: int = 0
    precision: Precision = "no"
    channels_last: bool = False
    compile: bool = False
    device: Device = "auto"
    threads: int = 0
    evaluate_every: int = 1
    patience: int = 0
    metric: MetricName | None = None
    max_detections: int | None = None
    log_every: int = 10
    resume: bool | Literal["auto"] = False
    export_check: bool | Literal["auto"] = "auto"
    deterministic: bool = False
    trackers: Tracker | list[Tracker] | None = None
    project: str = "eyas"

    def __post_init__(self) -> None:
        at_least(1, epochs=self.epochs, log_every=self.log_every)
        if self.max_detections is not None:
            at_least(1, max_detections=self.max_detections)
        at_least(0, evaluate_every=self.evaluate_every, patience=self.patience)
        between(0, THREAD_LIMIT, threads=self.threads)
        check_seeds(self.seed)


@dataclass(frozen=True)
class StudentArgs:
    """The detector that is trained.

    Attributes:
        model: detector family: faster_rcnn, retinanet, fcos, ssd, shuffledet, yolov9, yolox or transformers.
        backbone: backbone of the family, such as resnet18, vgg11 or timm:NAME; of transformers, the source of the
            configuration: a hub id, a folder of save_pretrained, a config.json, or a checkpoint of rfdetr.
        weights: torchvision's name of pretrained weights, or a file (.safetensors, or .pt read without pickle); of
            yolov9 and yolox, a checkpoint of libreyolo; of transformers, pretrained or another source as for backbone.
        options: further keyword arguments of the family's builder.
    """

    model: str
    backbone: str | None = None
    weights: str | None = None
    options: dict[str, Any] | None = None


@dataclass(frozen=True)
class TeacherArgs:
    """How the student imitates its teacher.

    Attributes:
        method: distillation losses: fgfi or another that eyas methods lists, or a class by import path, with its
            arguments as --method.NAME; several as fgfi,vanilla, or in YAML a list. fgfi:faster_rcnn has the constants
            published for that family. Fine-grained feature imitation (fgfi) when left out. --method.help fgfi lists
            the arguments.
        pairs: student level: teacher level, where pairing by stride is not what you want; or index, which pairs the
            finest levels, then the next, whatever their strides.
        any_classes: go on with a teacher that does not know every class of the data by name, where the methods read
            its features only.
        any_score: go on with a teacher that scores near zero.
        any_teacher: any_classes and any_score in one.
        inherit: start the student's neck and head as the teacher's, where names and shapes agree.
        teacher_scale: how many times larger the teacher sees the images, in [1, 4]; --dataset.resize is the student's
            size.
        cache: folder for the teacher's vectors: what is missing there is computed before the first step, and the
            teacher does not run in training. The same folder serves every run.
        cache_dtype: precision of the cached vectors: bfloat16, float16 or float32.
    """

    method: Method | list[Method] | None = None
    pairs: dict[str, str] | Literal["index"] | None = None
    any_classes: bool = False
    any_score: bool = False
    any_teacher: bool = False
    inherit: bool = False
    teacher_scale: float = 1.0
    cache: Path | None = None
    cache_dtype: CacheDtype = "bfloat16"

    def __post_init__(self) -> None:
        if self.any_teacher:
            object.__setattr__(self, "any_classes", True)
            object.__setattr__(self, "any_score", True)


@dataclass(frozen=True)
class SplitArgs:
    """The images that a trained detector is run on.

    Attributes:
        data: folder of a data set, or hf:ORG/NAME; the run's own when left out.
        split: name of the split; the run's validation split when left out.
        boxes: how the boxes of another Hugging Face data set than the run's are written: xywh or xyxy.
    """

    data: Path | None = None
    split: str | None = None
    boxes: BoxForm | None = None


@dataclass(frozen=True)
class BatchArgs:
    """How a trained detector is fed.

    Attributes:
        batch_size: images at a time.
        workers: processes that decode images.
        device: auto takes the accelerator where there is one; cpu does not.
    """

    batch_size: int = 8
    workers: int = 1
    device: Device = "auto"

    def __post_init__(self) -> None:
        at_least(1, batch_size=self.batch_size)
        between(0, WORKER_LIMIT, workers=self.workers)

    def dataset(self, resize: Resize = Resize()) -> DataArgs:
        """The same batches of images of one input size."""
        return DataArgs(resize=resize, batch_size=self.batch_size, workers=self.workers)


FLAT = (StudentArgs, TeacherArgs, SplitArgs, BatchArgs)
"""Dataclasses whose fields are options without a prefix: ``--model``, where `DataArgs` has ``--dataset.format``."""


def at_least(minimum: float, **options: float) -> None:
    """Raises EyasError that names the first option that is below a minimum, or not finite."""
    for name, value in options.items():
        if not minimum <= value < math.inf:  # NaN is neither
            raise EyasError(f"{name} must be at least {minimum}, got {value}")


def between(low: float, high: float, **options: float) -> None:
    """Raises EyasError that names the first option that is outside [low, high]."""
    for name, value in options.items():
        if not low <= value <= high:
            raise EyasError(f"{name} must lie in [{low}, {high}], got {value}")


def check_seeds(*seeds: int) -> None:
    """Raises EyasError for a seed that the random generators do not take."""
    for seed in seeds:
        between(0, SEED_LIMIT, seed=seed)
