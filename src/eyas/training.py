"""`eyas train` and `eyas distill`: from options to a finished run folder."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from accelerate import Accelerator

from eyas.args import DataArgs, OptimArgs, RunArgs
from eyas.cache import CacheDtype
from eyas.cache_setup import Caching
from eyas.checkpoint import ModelSpec, load
from eyas.compiling import compile_levels
from eyas.data import DataSource, read
from eyas.detectors.native import is_native, open_native
from eyas.determinism import deterministic
from eyas.distiller import Balance, Distiller, describe_levels
from eyas.engine import LossModule, PlainStudent, Trainer, make_accelerator
from eyas.evaluation import EvaluationResult, default_metric
from eyas.folding import make_cheaper
from eyas.methods import FGFI, Method
from eyas.progress import Progress
from eyas.randomness import seed_epoch
from eyas.runlog import check_folder, holds_run, resolved_config, start_folder
from eyas.teacher_on_demand import TeacherOnDemand
from eyas.types import Detector, EyasError

WEAK_TEACHER = 0.05


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
        setup.say(f"model     {_describe(spec, student)}")
        trainer = setup.trainer(PlainStudent(student), spec)
        setup.start()
        return trainer.fit(setup.progress)


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
    methods = chosen_methods(method)
    with RunSetup(data, out, dataset, optim, run, teacher_scale) as setup:
        spec = ModelSpec(model, setup.train.classes, backbone, options or {}, dataset.resize)
        student = spec.build(weights)
        guide, store = setup.guide(teacher, methods, cache, cache_dtype)
        if not any_teacher:
            same_classes(guide, setup.train, teacher)
        distiller = Distiller(student, guide, *methods, pairs=pairs, teacher_scale=teacher_scale, seed=run.seed)
        trainer = setup.trainer(distiller, spec)
        teacher_result = None
        if tuple(guide.classes) == setup.val.classes:
            score = partial(
                trainer.score,
                progress=setup.progress,
                name="teacher",
                data=setup.larger if teacher_scale != 1 else None,
            )
            teacher_result = score(guide) if store is None else store.score(setup.val, trainer.metric, score)
            setup.say(f"teacher   {teacher_result.headline()} on {len(setup.val.records)} images")
            if not any_teacher:
                good_enough(teacher_result, teacher)
        setup.say(f"student   {_describe(spec, student)}")
        setup.make_ready(distiller, store)
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


class Setup:
    """What is needed before a model exists: data, accelerator, progress bar. A context.

    Args:
        data: folder of a data set.
        dataset: how it is read and fed.
        optim: the optimiser, by which gradients are accumulated.
        run: device, precision, metric.
        teacher_scale: how many times larger the teacher sees the images.
        out: run folder, for an accelerator that writes there.

    Attributes:
        train: the training images.
        val: the validation images.
        larger: how the data is fed to the teacher, and to the student of a distillation that makes it smaller again.
        metric: by which detectors are scored.
    """

    def __init__(
        self,
        data: Path,
        dataset: DataArgs,
        optim: OptimArgs,
        run: RunArgs,
        teacher_scale: float = 1.0,
        out: Path | None = None,
    ) -> None:
        self.dataset, self.optim, self.run = dataset, optim, run
        self.larger = replace(dataset, resize=dataset.resize.times(teacher_scale))
        self.train = read(data, dataset.train_split, format=dataset.format, classes=dataset.classes)
        self.val = read(data, dataset.val_split, format=dataset.format, classes=self.train.classes)
        self.metric = run.metric or default_metric(self.train.format)
        self.accelerator: Accelerator = make_accelerator(run, optim, out)
        self.progress = Progress(quiet=not self.accelerator.is_main_process)
        self.say = self.progress.say
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.callback(self.accelerator.end_training)
        self._stack.enter_context(self.progress)
        self._stack.enter_context(deterministic(self.run.deterministic))
        for source in (self.train, self.val):
            if source.problems:
                count = len(source.problems)
                self.say(f"warning   {count} boxes of {source.split} dropped; see `eyas data {source.root}`")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def caching(self, teacher: str, methods: Sequence[Method], folder: Path, dtype: CacheDtype) -> Caching:
        """The teacher as a cache has it; see `Caching`."""
        layout = torch.channels_last if self.run.channels_last else torch.contiguous_format
        return Caching(
            folder,
            dtype,
            TeacherOnDemand(teacher, load_teacher, self.accelerator.device, layout),
            methods,
            train=self.train,
            data=self.larger,
            run=self.run,
            accelerator=self.accelerator,
            progress=self.progress,
        )


class RunSetup(Setup):
    """What every training needs before a model exists: a `Setup`, and the run folder.

    Raises:
        EyasError: the run folder is of another run.
    """

    def __init__(
        self,
        data: Path,
        out: Path,
        dataset: DataArgs,
        optim: OptimArgs,
        run: RunArgs,
        teacher_scale: float = 1.0,
    ) -> None:
        resume = holds_run(out) if run.resume == "auto" else run.resume
        super().__init__(data, dataset, optim, replace(run, resume=resume), teacher_scale, out)
        self.out = out
        if self.accelerator.is_main_process:
            check_folder(out, resume=resume, config=resolved_config())

    def start(self) -> None:
        """Make the run folder."""
        if self.accelerator.is_main_process:
            start_folder(self.out, config=resolved_config())

    def guide(
        self, teacher: str, methods: Sequence[Method], cache: Path | None, dtype: CacheDtype
    ) -> tuple[Detector, Caching | None]:
        """The teacher of the run, loaded, or as a cache has it and that cache."""
        if cache is None:
            return load_teacher(teacher), None
        store = self.caching(teacher, methods, cache, dtype)
        return store.guide, store

    def make_ready(self, distiller: Distiller, store: Caching | None) -> None:
        """Prepare a teacher that has been scored for the steps: what a cache lacks is filled in, or it is made fast."""
        if store is not None:
            store.fill(distiller.pairs)
            return
        make_cheaper(distiller.teacher, self.say)
        if self.run.compile:
            compile_levels(distiller.teacher)

    def trainer(self, model: LossModule, spec: ModelSpec) -> Trainer:
        return Trainer(
            model,
            spec,
            train=self.train,
            val=self.val,
            metric=self.metric,
            data=self.larger,
            val_data=self.dataset,
            optim=self.optim,
            run=self.run,
            folder=self.out,
            accelerator=self.accelerator,
        )


def chosen_methods(method: Method | list[Method] | None) -> list[Method]:
    """The methods of the option --method: one, several, or FGFI when it is left out."""
    if method is None:
        return [FGFI()]
    return method if isinstance(method, list) else [method]


def load_teacher(name: str) -> Detector:
    """The detector of a run folder, of a folder or hub id of its library, or what ``package.module:function`` returns.

    Raises:
        EyasError: none of these is there.
    """
    if ":" not in name or Path(name).exists():
        return open_native(name) if is_native(name) else load(name)
    module, _, function = name.partition(":")
    try:
        maker = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise EyasError(f"--teacher {name}: {error}; give a run folder, or package.module:function") from error
    detector = maker()
    if not isinstance(detector, Detector):
        raise EyasError(f"--teacher {name}: returned a {type(detector).__name__}, which is not an eyas.Detector")
    return detector


def same_classes(teacher: Detector, source: DataSource, name: str) -> None:
    """Raises EyasError, listing both, when the teacher's classes are not those of the data."""
    if tuple(teacher.classes) != tuple(source.classes):
        raise EyasError(
            f"the classes of the teacher {name} and of {source.root} differ:\n  teacher: {', '.join(teacher.classes)}\n"
            f"  data:    {', '.join(source.classes)}\nGive the right order with --dataset.classes, or "
            "--any_teacher true if only its features matter"
        )


def good_enough(result: EvaluationResult, name: str) -> None:
    """Raises EyasError when a teacher scores near zero: wrong weights, classes, normalisation or input size."""
    if not result.primary >= WEAK_TEACHER:
        raise EyasError(
            f"the teacher {name} scores {result.primary:.3f} on the validation images, so there is nothing to imitate. "
            "Check its weights, its classes and the input size; --any_teacher true goes on all the same"
        )


def preflight(distiller: Distiller, balance: Balance, say: Callable[[str], None]) -> None:
    """Say, before the first step, what would otherwise fail silently: pairs, adapters, mask, balance of the losses."""
    pairs = "   ".join(
        f"{pair.student_tap} /{pair.student.stride} {pair.student.channels}->{pair.teacher.channels}"
        for pair in distiller.pairs
    )
    adapters = sum(parameter.numel() for parameter in distiller.methods.parameters())
    say(f"pairs     {pairs}   adapters {adapters / 1e6:.2f} M params, dropped after training")
    for name, ratio in balance.gradient_ratio().items():
        weight = "(adapters just made)"
        if name in balance.fractions:
            weight = f"without a weight; automatic, which will hold {balance.fractions[name]:g} : 1"
        say(
            f"{name:<9} {balance.notes[name]}\n{'':<9} imitation : detection   loss "
            f"{balance.imitation[name]:.3g} : {balance.detection:.3g}   gradient {ratio:.2g} : 1 {weight}"
        )


def _figures(result: EvaluationResult) -> dict[str, Any]:
    return {"summary": result.summary, "per_class": result.per_class}


def _describe(spec: ModelSpec, detector: Detector) -> str:
    name = spec.model if spec.backbone is None else f"{spec.model}/{spec.backbone}"
    parameters = sum(parameter.numel() for parameter in detector.network.parameters())
    return f"{name}   {parameters / 1e6:.2f} M params   {describe_levels(detector.levels)}"
