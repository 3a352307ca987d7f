"""What a training needs before its first step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from accelerate import Accelerator

from eyas.args import CacheDtype, DataArgs, OptimArgs, RunArgs
from eyas.cache.identity import TeacherOnDemand
from eyas.cache.session import CacheSession
from eyas.data import DataSource, read
from eyas.distillation.distiller import Balance, Distiller, describe_levels
from eyas.evaluation import EvaluationResult, default_metric
from eyas.methods import FGFI, Method
from eyas.nn.compile import compile_levels
from eyas.nn.fold_batchnorm import fold_teacher
from eyas.runs.checkpoint import ModelSpec
from eyas.runs.config import check_folder, holds_run, resolved_config, start_folder
from eyas.runs.opening import load_teacher
from eyas.tools.progress import Progress
from eyas.training.accelerator import make_accelerator
from eyas.training.reproducibility import deterministic
from eyas.training.trainer import LossModule, Trainer
from eyas.types import Detector, EyasError

WEAK_TEACHER = 0.05


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

    def caching(self, teacher: str, methods: Sequence[Method], folder: Path, dtype: CacheDtype) -> CacheSession:
        """The teacher as a cache has it; see `CacheSession`."""
        layout = torch.channels_last if self.run.channels_last else torch.contiguous_format
        return CacheSession(
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
    ) -> tuple[Detector, CacheSession | None]:
        """The teacher of the run, loaded, or as a cache has it and that cache."""
        if cache is None:
            return load_teacher(teacher), None
        store = self.caching(teacher, methods, cache, dtype)
        return store.guide, store

    def prepare_teacher(self, distiller: Distiller, store: CacheSession | None) -> None:
        """Prepare a teacher that has been scored for the steps: what a cache lacks is filled in, or it is made fast."""
        if store is not None:
            store.fill(distiller.pairs)
            return
        fold_teacher(distiller.teacher, self.say)
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


def check_classes(teacher: Detector, source: DataSource, name: str) -> None:
    """Raises EyasError, listing both, when the teacher's classes are not those of the data."""
    if tuple(teacher.classes) != tuple(source.classes):
        raise EyasError(
            f"the classes of the teacher {name} and of {source.root} differ:\n  teacher: {', '.join(teacher.classes)}\n"
            f"  data:    {', '.join(source.classes)}\nGive the right order with --dataset.classes, or "
            "--any_teacher true if only its features matter"
        )


def check_teacher_score(result: EvaluationResult, name: str) -> None:
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
