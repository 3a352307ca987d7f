"""The one training loop: it sums the losses that a module returns, and knows nothing of methods.

On Hugging Face accelerate: one process or many, any precision, gradient accumulation. Only the main process writes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.utils import send_to_device
from rich.progress import TaskID
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from eyas.args import DataArgs, OptimArgs, RunArgs
from eyas.data import DataSource, collate, loader, train_transform
from eyas.data.dataset import Loader
from eyas.data.transforms import WithHostBoxes
from eyas.data.workers import name_failed_images, with_timeout
from eyas.distillation.weights import dominance_warnings
from eyas.evaluation import EvaluationResult
from eyas.evaluation.predict import score_detector, val_loader
from eyas.nn.compile import compile_levels
from eyas.ops.pixels import as_float
from eyas.runs.checkpoint import BEST, RESUME, ModelSpec, load_state, save_native, save_state, save_weights
from eyas.runs.log import RunLog
from eyas.tools.progress import Progress
from eyas.tools.signals import Stopped, StopRequest, stop_requests
from eyas.tools.timing import CostMeter, span
from eyas.training.accelerator import same_buffers
from eyas.training.finite import FiniteLosses
from eyas.training.optim import average_of, make_optimizer, schedule
from eyas.training.reproducibility import random_states, restore_random_state, seed_epoch
from eyas.training.trackers import Trackers
from eyas.types import Detector, EyasError, Target


class LossModule(Protocol):
    """What the engine trains: `eyas.Distiller` or `PlainStudent`, modules that return every loss of a batch by name."""

    student: Detector

    def __call__(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]: ...

    def weights(self) -> dict[str, float]:
        """The weights of distillation terms as they stand, by name, for the log."""
        ...

    def gradient_ratios(self) -> dict[str, float]:
        """The gradients of distillation terms over that of the detection loss, by name, as far as they are known."""
        ...


class PlainStudent(nn.Module):
    """A detector trained by its own losses alone."""

    def __init__(self, student: Detector) -> None:
        super().__init__()
        self.student = student

    def forward(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        return dict(self.student.losses(images, targets))

    def weights(self) -> dict[str, float]:
        """None: nothing is distilled."""
        return {}

    def gradient_ratios(self) -> dict[str, float]:
        """None: nothing is distilled."""
        return {}


class Trainer:
    """Trains the student of a module of losses, evaluates it, and leaves its weights in the run folder.

    Args:
        model: what returns the losses.
        spec: how to build the student again; saved beside its weights.
        train: the images to train on.
        val: the images to evaluate on.
        metric: "coco", "voc" or "kitti".
        data: how the training images are fed.
        val_data: how the validation images are fed.
        optim: optimiser options.
        run: run options.
        folder: the run folder.
        accelerator: from `make_accelerator`.
    """

    def __init__(
        self,
        model: LossModule,
        spec: ModelSpec,
        *,
        train: DataSource,
        val: DataSource,
        metric: str,
        data: DataArgs,
        val_data: DataArgs,
        optim: OptimArgs,
        run: RunArgs,
        folder: Path,
        accelerator: Accelerator,
    ) -> None:
        self.student, self.spec, self.metric = model.student, spec, metric
        module = cast(nn.Module, model)
        self.sources = {"train": train, "val": val}
        self.optim, self.run, self.folder, self.accelerator = optim, run, folder, accelerator
        if run.channels_last:
            module.to(memory_format=torch.channels_last)
        self._batches = train_loader(train, data, run.seed)
        # The optimiser is made from the whole module, so that adapters train with the student.
        self.model, self.optimizer, self.train, self.val = accelerator.prepare(
            module, make_optimizer(module, optim), self._batches, val_loader(val, val_data)
        )
        self.steps_per_epoch = math.ceil(len(self.train) / optim.accumulate)
        self.total_steps = self.steps_per_epoch * run.epochs
        self.scheduler = LambdaLR(self.optimizer, schedule(optim, self.total_steps))
        self.ema = average_of(self.student, optim.ema)
        self.trackers = Trackers(accelerator, folder, run.project)
        if run.compile:  # after the average was copied from what is not compiled
            compile_levels(self.student)
        self.log = RunLog(folder, writes=accelerator.is_main_process, also=self.trackers)
        self.cost = CostMeter(accelerator.device)
        self.ask_every = 1 if accelerator.device.type == "cpu" else run.log_every
        self.finite = FiniteLosses(train.records, every=self.ask_every)
        self.epoch, self.step, self.best = 0, 0, -math.inf
        self.batch = 0
        self._random: Sequence[dict[str, Tensor]] = ()
        self._warned: set[str] = set()

    @property
    def evaluated(self) -> Detector:
        """The detector that is evaluated and saved: the running average where one is kept."""
        return self.student if self.ema is None else cast(Detector, self.ema.module)

    def first_batch(self) -> tuple[Tensor, list[Target]]:
        """The images and targets of the first step, without starting the workers; the same on every process."""
        picked = islice(self._batches.sampler, self._batches.batch_size)
        batch: tuple[Tensor, list[Target]] = collate([self._batches.dataset[draw] for draw in picked])
        moved: tuple[Tensor, list[Target]] = send_to_device(batch, self.accelerator.device)
        return moved

    def fit(self, progress: Progress) -> EvaluationResult:
        """Train to the last epoch, evaluating on the way; returns the last evaluation.

        Raises:
            Stopped: SIGINT or SIGTERM; the state after the step that was running is saved first, or, between two
                epochs, that after the next one. An evaluation ends at once: all was saved before it.
        """
        if self.run.resume:
            self._resume()
            progress.say(f"resume    after {f'step {self.step}' if self.batch else f'epoch {self.epoch}'}")
        if self.run.precision == "auto":
            progress.say(f"precision {'float32' if self.accelerator.mixed_precision == 'no' else 'bfloat16'}")
        self.trackers.start(progress.say, resumed_at=self.step if self.run.resume else None)
        if self.accelerator.is_main_process:
            self.spec.save(self.folder)
        images = self._batches.batch_size * self.accelerator.num_processes * self.optim.accumulate
        task = progress.task("train", self.total_steps, done=self.step, unit="steps", images=images)
        with name_failed_images(self._batches):
            result = self._epochs(progress, task)
        progress.finish(task)
        if self.accelerator.is_main_process:
            save_native(self.evaluated, self.folder)
        self.log.once("cost", step=self.step, **self.cost.figures())
        return result or self.score(self.evaluated, progress, "evaluate")  # of a finished run, which has logged it

    def _epochs(self, progress: Progress, task: TaskID) -> EvaluationResult | None:
        """The epochs that are left; the last evaluation there was."""
        result: EvaluationResult | None = None
        every = self.run.evaluate_every or self.run.epochs
        with stop_requests() as request:
            while self.epoch < self.run.epochs:
                self._train_epoch(request, partial(self._tell, progress, task))
                self._save()  # before the evaluation too: it may take long, and be what is killed
                self.epoch, self.batch = self.epoch + 1, 0
                if self.epoch % every == 0 or self.epoch == self.run.epochs:
                    with request.stop_immediately():
                        result = self.evaluate(progress)
                        self._save()
        return result

    def _tell(self, progress: Progress, task: TaskID, logged: Mapping[str, Any] | None) -> None:
        """Move the bar on, and warn once of each method that drowns the detection loss."""
        losses = None if logged is None else logged["losses"]
        progress.advance(task, note=losses, detail=f"epoch {self.epoch + 1}/{self.run.epochs}")
        if logged is None:
            return
        for name, text in dominance_warnings(logged["gradient_ratios"], logged["weights"]).items():
            if name not in self._warned:
                progress.say(f"warning   {text} (step {self.step})")
            self._warned.add(name)

    def evaluate(self, progress: Progress) -> EvaluationResult:
        """Evaluate on the validation images, log it, and save the weights as the last and, if they are, the best."""
        same_buffers(self.evaluated.network)
        result = self.score(self.evaluated, progress, "evaluate")
        progress.say(f"epoch {self.epoch:3d}/{self.run.epochs}  {result.headline()}")
        self.log("val", epoch=self.epoch, step=self.step, summary=result.summary, per_class=result.per_class)
        if self.accelerator.is_main_process:
            save_weights(self.evaluated.network, self.folder / self.spec.weights)
            if result.primary > self.best:
                save_weights(self.evaluated.network, self.folder / BEST)
        self.best = max(self.best, result.primary)
        return result

    def score(
        self, detector: Detector, progress: Progress, name: str, data: DataArgs | None = None
    ) -> EvaluationResult:
        """Score a detector on the validation images, fed as the student's or as told, by all processes."""
        fed = self.val if data is None else self.accelerator.prepare(val_loader(self.sources["val"], data))
        return score_detector(detector, fed, self.sources["val"], self.metric, progress, name)

    def _train_epoch(self, request: StopRequest, tell: Callable[[Mapping[str, Any] | None], None]) -> None:
        """The rest of the epoch, all of it but for one that is resumed. Raises Stopped when asked to."""
        self.model.train()
        try:
            for images, targets in with_timeout(self._rest_of_epoch(), self._batches):
                with self.cost.working():
                    losses, norm = self.train_batch(images, targets)
                self.batch += 1
                if self.accelerator.sync_gradients:
                    self._after_step(losses, norm, tell)
                    self._stop_where_asked(request)
        except Exception:
            self.finite.check()  # what failed may have had a loss before it that was not finite: then say that
            raise
        self.finite.check()

    def _rest_of_epoch(self) -> Iterable[tuple[Tensor, list[Target]]]:
        """The batches that the epoch still has, drawn from the random state that belongs to them."""
        seed_epoch(self.run.seed, self.epoch, self.accelerator.process_index)
        self.train.set_epoch(self.epoch)
        if not self.batch:
            return cast(Iterable[tuple[Tensor, list[Target]]], self.train)
        if self.batch >= len(self.train):
            return ()
        restore_random_state(self._random, self.accelerator)
        return cast(Iterable[tuple[Tensor, list[Target]]], skip_first_batches(self.train, self.batch))

    def _stop_where_asked(self, request: StopRequest) -> None:
        """Save and raise Stopped, in every process after the same step, when a signal has reached one of them."""
        number = request.number
        if self.accelerator.num_processes > 1:
            if self.step % self.ask_every:
                return  # to ask the others is to wait for the device
            own = torch.tensor([number], device=self.accelerator.device)
            number = int(cast(Tensor, self.accelerator.gather(own)).max())
        if not number:
            return
        self.finite.check()
        self._save()
        self.accelerator.wait_for_everyone()  # whoever ends first makes the launcher end the others
        raise Stopped(number, f"stopped after step {self.step}, which is saved; go on with --run.resume true")

    def _after_step(
        self,
        losses: Mapping[str, Tensor],
        norm: Tensor | None,
        tell: Callable[[Mapping[str, Any] | None], None],
    ) -> None:
        self.scheduler.step()
        self.step += 1
        if self.ema is not None:
            self.ema.update_parameters(cast(nn.Module, self.student))
        logged = None
        if self.step == 1 or self.step % self.run.log_every == 0:
            with self.cost.working():
                logged = self._log_step(losses, norm)
        self.cost.step(waited=logged is not None)
        tell(logged)

    def train_batch(self, images: Tensor, targets: Sequence[Target]) -> tuple[dict[str, Tensor], Tensor | None]:
        """Forward, backward and, where accumulation is complete, the update. The losses and the gradient norm."""
        with self.accelerator.accumulate(self.model):
            layout = torch.channels_last if self.run.channels_last else torch.contiguous_format
            losses = self.model(as_float(images).contiguous(memory_format=layout), targets)
            total = torch.stack(list(losses.values())).sum()
            self.finite.add(self.step + 1, total, losses, targets)
            with span("backward"):
                self.accelerator.backward(total)
            with span("optimizer"):
                norm = self._clip()
                self.optimizer.step()
                self.optimizer.zero_grad()
        return losses, norm

    def _clip(self) -> Tensor | None:
        """Clip the gradient of a step that is complete; its norm, which is looked at sooner or later."""
        if not self.accelerator.sync_gradients:
            return None
        limit = self.optim.clip_norm or math.inf
        norm: Tensor = self.accelerator.clip_grad_norm_(self.model.parameters(), limit)
        scaler = self.accelerator.scaler
        # In fp16 a gradient may overflow for its scale's sake alone: the step is left out, and the scale halved.
        if scaler is None or scaler.get_scale() <= 1:
            self.finite.add_gradient(self.step + 1, norm)
        return norm

    def _log_step(self, losses: Mapping[str, Tensor], norm: Tensor | None) -> dict[str, Any]:
        """Log numbers, for which a GPU has to be waited for; between two lines of the log nothing waits for it.

        The losses are means over the processes, so those of the whole batch. Returns the values of the line.
        """
        means = torch.stack([loss.detach().float() for loss in losses.values()])
        if self.accelerator.num_processes > 1:
            means = cast(Tensor, self.accelerator.reduce(means, "mean"))
        model = cast(LossModule, self.accelerator.unwrap_model(self.model))
        values = {
            "epoch": self.epoch,
            "step": self.step,
            "lr": self.scheduler.get_last_lr()[0],
            "gradient_norm": None if norm is None else float(norm),
            "losses": dict(zip(losses, means.tolist(), strict=True)),
            "weights": model.weights(),
            "gradient_ratios": model.gradient_ratios(),
        }
        self.log("train", **values)
        return values

    def _save(self) -> None:
        model = self.accelerator.get_state_dict(self.model)
        # Every epoch is seeded by itself: only in the middle of one is there anything to go on with.
        random = random_states(self.accelerator) if 0 < self.batch < len(self.train) else []
        if not self.accelerator.is_main_process:
            return
        state = {
            "model": model,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "scaler": None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict(),
            "progress": {
                "epoch": self.epoch,
                "batch": self.batch,
                "step": self.step,
                "best": self.best,
                "epochs": self.run.epochs,
            },
            "random": random,
        }
        self.log.sync()
        save_state(state, self.folder / RESUME)

    def _resume(self) -> None:
        if not (self.folder / RESUME).exists() and not (self.folder / self.spec.weights).exists():
            self.log("resume", epoch=0, step=0)  # stopped before the first checkpoint: the beginning is where it was
            return
        state = load_state(self.folder / RESUME)
        try:
            self._restore(state)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise EyasError(
                f"{self.folder / RESUME}: not a checkpoint of this run, or of another version of Eyas ({error}); start "
                "the run anew in another --out"
            ) from error
        self.log("resume", epoch=self.epoch, step=self.step)

    def _restore(self, state: Mapping[str, Any]) -> None:
        progress = state["progress"]
        if progress["epochs"] != self.run.epochs:
            raise EyasError(
                f"{self.folder} holds a run of {progress['epochs']} epochs, on which its learning rates depend; resume "
                f"it with --run.epochs {progress['epochs']}"
            )
        self.accelerator.unwrap_model(self.model).load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.epoch, self.batch, self.step, self.best = (progress[key] for key in ("epoch", "batch", "step", "best"))
        self._random = state["random"]


def train_loader(source: DataSource, data: DataArgs, seed: int) -> Loader:
    """The batches of a data set, augmented, in an order that depends on the seed and the epoch alone."""
    return loader(
        source,
        WithHostBoxes(train_transform(data.resize, data.augment)),
        batch_size=data.batch_size,
        shuffle=True,
        workers=data.workers,
        worker_timeout=data.worker_timeout,
        seed=seed,
    )
