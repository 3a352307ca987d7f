"""What a training needs before its first step: data, accelerator, progress bar, teacher, run folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Protocol, Self

import torch
from accelerate import Accelerator

from eyas.args import CacheDtype, DataArgs, OptimArgs, RunArgs, StudentArgs
from eyas.cache.identity import TeacherOnDemand
from eyas.cache.session import CacheSession
from eyas.data import DataSource, difficult_as_objects, read_splits, require_objects
from eyas.data.identity import source_digest
from eyas.detectors import detection_count
from eyas.detectors.class_names import listed, match_by_name, shared_classes
from eyas.distillation.distiller import Distiller
from eyas.distillation.teachers import RunningTeacher, Teacher
from eyas.evaluation import EvaluationResult, chosen_metric
from eyas.evaluation.ground_truth import remarks, too_few_detections
from eyas.evaluation.predict import score_detector, val_loader
from eyas.methods import FGFI, LevelPair, Method
from eyas.nn.compile import compile_levels
from eyas.nn.fold_batchnorm import fold_teacher
from eyas.runs.checkpoint import ModelSpec
from eyas.runs.config import holds_run, resolved_config, start_folder
from eyas.runs.log import RunLog
from eyas.runs.opening import DetectorSource
from eyas.runs.resume import check_folder, refuse_other_inputs
from eyas.runs.teachers import unlike_training
from eyas.tools.locks import sole_use
from eyas.tools.progress import Progress
from eyas.training.accelerator import make_accelerator, process_settings
from eyas.training.loss_module import LossModule
from eyas.training.preflight import check_teacher_score
from eyas.training.reproducibility import deterministic
from eyas.training.trainer import Trainer
from eyas.types import Detector, NoDetectionsError

NEXT = ("evaluate", "export", "report")
"""Commands that take a run folder, in the order in which they are of use."""


class TeacherSession(Protocol):
    """A teacher and what a run does with it before the first step. `eyas.cache.session.CacheSession` is another one."""

    @property
    def teacher(self) -> Teacher:
        """What the distiller asks."""

    def score(self, val: DataSource, metric: str, score: Callable[[Detector], EvaluationResult]) -> EvaluationResult:
        """Its evaluation on the validation images, made by ``score`` or remembered."""

    def prepare(self, pairs: Sequence[LevelPair]) -> float | None:
        """Make it ready for the steps, once it has been scored. How long filling its cache takes, where it has one."""


class RunningSession:
    """A teacher that runs in every step, compiled up to its levels if requested."""

    def __init__(self, detector: Detector, say: Callable[[str], None], *, compiled: bool) -> None:
        self.teacher = RunningTeacher(detector)
        self._say, self._compiled = say, compiled

    def score(self, val: DataSource, metric: str, score: Callable[[Detector], EvaluationResult]) -> EvaluationResult:
        return score(self.teacher.detector)

    def prepare(self, pairs: Sequence[LevelPair]) -> None:
        """Fold its BatchNorms into its convolutions, and compile it."""
        fold_teacher(self.teacher.detector, self._say)
        if self._compiled:
            compile_levels(self.teacher.detector)


class Setup(ExitStack):
    """What is needed before a model exists: data, accelerator, progress bar. A context.

    Args:
        data: folder of a data set.
        dataset: how it is read and fed.
        optim: the optimiser, by which gradients are accumulated.
        run: device, precision, metric.
        scale: how many times larger the teacher sees the images.
        out: run folder, for an accelerator that writes there.

    Attributes:
        teacher_data: how images are fed to the teacher, and to a student whose batch is made from the teacher's.
    """

    def __init__(
        self, data: Path, dataset: DataArgs, optim: OptimArgs, run: RunArgs, scale: float = 1.0, out: Path | None = None
    ) -> None:
        super().__init__()
        self.dataset, self.optim, self.run = dataset, optim, run
        self.teacher_data = replace(dataset, resize=dataset.resize.times(scale))
        train, self.val = read_splits(data, dataset)
        self.train = difficult_as_objects(train) if dataset.difficult else train
        require_objects(self.train)
        self.metric = chosen_metric(run.metric, run.max_detections, self.train.format)
        self.accelerator: Accelerator = make_accelerator(run, optim, out)
        self.progress = Progress(quiet=not self.accelerator.is_main_process)
        self.say = self.progress.say

    def __enter__(self) -> Self:
        try:
            self.claim()
            self._begin()
        except BaseException:
            self.close()
            raise
        return self

    def claim(self) -> None:
        """Lock what no other process may use meanwhile; called before anything else."""

    def _begin(self) -> None:
        self.enter_context(process_settings(self.run))
        self.callback(self.accelerator.end_training)
        self.enter_context(self.progress)
        self.enter_context(deterministic(self.run.deterministic))
        for source in (self.train, self.val):
            for warning in source.warnings:
                self.say(f"warning   {warning}")
            if source.problems:
                count = len(source.problems)
                text = f"{count} problem{'s' if count > 1 else ''} in split {source.split}: boxes dropped or clipped"
                self.say(f"warning   {text}; see `eyas data {source.root}`")
        # What they are found with takes seconds and gigabytes where the validation images are many.
        for remark in remarks(self.metric, self.val) if self.accelerator.is_main_process else ():
            self.say(f"warning   {remark}")

    def spec(self, student: StudentArgs, weights: str = ModelSpec.weights) -> ModelSpec:
        """How the student is built for this data; ``weights`` names the file that its weights are saved as."""
        classes, options = self.train.classes, student.options or {}
        return ModelSpec(student.model, classes, student.backbone, options, self.dataset.resize, weights)

    def teacher_session(
        self, source: DetectorSource, methods: Sequence[Method], cache: Path | None, dtype: CacheDtype
    ) -> TeacherSession:
        """The teacher of the run: loaded and run in every step, or from ``cache``, a folder of the user's caches."""
        if cache is None:
            return RunningSession(source.open(), self.say, compiled=self.run.compile)
        layout = torch.channels_last if self.run.channels_last else torch.contiguous_format
        return CacheSession(
            cache,
            dtype,
            TeacherOnDemand(source, self.accelerator.device, layout),
            methods,
            train=self.train,
            data=self.teacher_data,
            accelerator=self.accelerator,
            progress=self.progress,
        )

    def score_teacher(self, session: TeacherSession, name: str, *, any_score: bool) -> EvaluationResult | None:
        """Score the teacher on the validation images, in the classes that it knows by name, and say so.

        A teacher that was trained at another size than it gets here is remarked on.

        Returns:
            The result over those classes; None where it knows none of them, or has no detections.

        Raises:
            EyasError: it scores near zero, unless ``any_score``.
        """
        if not session.teacher.classes:
            self.say("teacher   not scored: it has features, and detects nothing")
            return None
        unlike = unlike_training(name, self.teacher_data.resize, self.val.records)
        if unlike is not None:
            self.say(f"warning   the teacher {unlike}")
        shared = shared_classes(session.teacher.classes, self.val.classes)
        if not shared:
            self.say(f"teacher   not scored: it knows none of the data's classes, {listed(self.val.classes)}, by name")
            return None

        def score(teacher: Detector) -> EvaluationResult:
            batches = self.accelerator.prepare(val_loader(self.val, self.teacher_data))
            matched = match_by_name(teacher, self.val.classes, name)
            return score_detector(matched, batches, self.val, self.metric, self.progress, "teacher")

        try:
            result = session.score(self.val, self.metric, score).restricted_to(shared)
        except NoDetectionsError:
            self.say("teacher   not scored: it has no predict")
            return None
        over = "" if len(shared) == len(self.val.classes) else f", over the classes it knows: {listed(shared)}"
        self.say(f"teacher   {result.headline()} on {len(self.val.records)} images{over}")
        if not any_score:
            check_teacher_score(result, name)
        return result


class RunSetup(Setup):
    """What every training needs before a model exists: a `Setup`, and the run folder, which it locks while it is open.

    Args:
        out: the run folder.
        teacher: that of the run, if it has one.

    Raises:
        EyasError: on entry, that the run folder is of another run, also by its images, boxes or teacher, or that
            another process is at work there.
    """

    def __init__(
        self,
        data: Path,
        out: Path,
        dataset: DataArgs,
        optim: OptimArgs,
        run: RunArgs,
        scale: float = 1.0,
        teacher: DetectorSource | None = None,
    ) -> None:
        resume = holds_run(out) if run.resume == "auto" else run.resume
        super().__init__(data, dataset, optim, replace(run, resume=resume), scale, out)
        self.out, self._resume, self._teacher = out, resume, teacher

    def claim(self) -> None:
        if self.accelerator.is_main_process:
            self.enter_context(sole_use(self.out))
            check_folder(self.out, resume=self._resume, config=resolved_config())
            if self._resume:
                refuse_other_inputs(self.out, self.inputs)

    @cached_property
    def inputs(self) -> dict[str, str | None]:
        """The digests of what the run learns from, which stays when it is resumed."""
        teacher = None if self._teacher is None else self._teacher.digest
        return {"train": source_digest(self.train), "val": source_digest(self.val), "teacher": teacher}

    def start(self, log: RunLog) -> None:
        """Make the run folder, and log what the run learns from."""
        if self.accelerator.is_main_process:
            start_folder(self.out, config=resolved_config())
            log.once("inputs", **self.inputs)

    def say_where_it_is(self) -> None:
        """The last line of a run: its folder, and what follows."""
        self.say(f"run       {self.out}   next: {', '.join(f'eyas {name} {self.out}' for name in NEXT)}")

    def trainer(self, model: LossModule, spec: ModelSpec) -> Trainer:
        """The trainer of a student, with or without a teacher."""
        few = too_few_detections(detection_count(spec.model, spec.options), self.val)
        if few is not None:
            self.say(f"warning   {few}; --options.detections raises the limit")
        trainer = Trainer(
            model,
            spec,
            train=self.train,
            val=self.val,
            metric=self.metric,
            data=self.teacher_data,
            val_data=self.dataset,
            optim=self.optim,
            run=self.run,
            folder=self.out,
            accelerator=self.accelerator,
        )
        if isinstance(model, Distiller):
            model.total_batches = trainer.total_batches
        return trainer


def chosen_methods(method: Method | list[Method] | None) -> list[Method]:
    """The methods of the option --method: one, several, or FGFI when it is left out."""
    return method if isinstance(method, list) else [FGFI() if method is None else method]
