"""The one training loop: it sums the losses that a module returns, and knows nothing of methods.

On Hugging Face accelerate: one process or many, any precision, gradient accumulation. Only the main process writes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import cast

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
from eyas.data.worker_watch import name_failed_images, with_timeout
from eyas.evaluation import EvaluationResult
from eyas.evaluation.predict import score_detector, val_loader
from eyas.nn.compile import compile_levels
from eyas.ops.pixels import as_float
from eyas.runs.card import write_card
from eyas.runs.checkpoint import BEST, ModelSpec, save_native, save_weights
from eyas.runs.config import RESUME, resume_note
from eyas.runs.log import RunLog
from eyas.tools.progress import Progress
from eyas.tools.signals import Stopped, StopRequest, stop_requests
from eyas.tools.timing import CostMeter, span
from eyas.training.accelerator import broadcast_buffers
from eyas.training.finite import FiniteLosses
from eyas.training.freezing import backbone_parameters, freeze
from eyas.training.loss_module import LossModule
from eyas.training.optim import FIRST_SHARE, make_average, make_optimizer, schedule, share_of_first
from eyas.training.reproducibility import other_processes, restore_random_state, seed_epoch
from eyas.training.state import TrainState
from eyas.training.step_log import StepLog
from eyas.training.trackers import Trackers
from eyas.types import Target

Batch = tuple[Tensor, Sequence[Target]]
"""Images (batch, 3, height, width) and a target for each."""


class Trainer:
    """Trains the student of a module of losses, evaluates it, and leaves its weights in the run folder.

    Args:
        model: what returns the losses.
        spec: how to build the student again; saved beside its weights.
        train: the images to train on, fed as ``data`` says.
        val: the images to evaluate on, fed as ``val_data`` says.
        metric: the rules to evaluate by, see `eyas.evaluation.chosen_metric`.
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
        self.spec, self.metric, self.source = spec, metric, val
        self.optim, self.run, self.folder, self.accelerator = optim, run, folder, accelerator
        module, student = cast(nn.Module, model), model.student
        if run.channels_last:
            module.to(memory_format=torch.channels_last)
        self.frozen = freeze(student, optim.freeze)
        backbone = backbone_parameters(student) if optim.backbone_lr != 1 else []
        self._loader = train_loader(train, data, run.seed)
        # The optimiser is made from the whole module, so that adapters train with the student.
        prepared, optimizer, self.train, self.val = accelerator.prepare(
            module, make_optimizer(module, optim, backbone), self._loader, val_loader(val, val_data)
        )
        self.total_batches = len(self.train) * run.epochs
        self.total_steps = math.ceil(len(self.train) / optim.accumulate) * run.epochs
        scheduler = LambdaLR(optimizer, schedule(optim, self.total_steps))
        ema = make_average(student, optim.ema)
        counts = run.epochs, len(self.train), optim.accumulate
        self.state = TrainState(prepared, student, optimizer, scheduler, ema, *counts)
        if run.compile:  # after the average was copied from what is not compiled
            compile_levels(student)
        self.trackers = Trackers(accelerator, folder, run.project)
        self.log = RunLog(folder, writes=accelerator.is_main_process, also=self.trackers)
        self.cost = CostMeter(accelerator.device)
        self.sync_every = 1 if accelerator.device.type == "cpu" else run.log_every
        self.finite = FiniteLosses(
            train.records, every=1 if self.sync_every == 1 else self.sync_every * optim.accumulate
        )
        self.log_step = StepLog(self.log, accelerator, self.cost, run.log_every)

    def fit(self, progress: Progress) -> EvaluationResult:
        """Train to the last epoch, evaluating on the way; returns the last evaluation.

        Raises:
            Stopped: SIGINT or SIGTERM. The state is saved after the current step; between epochs, after the next step.
                An evaluation ends at once: all was saved before it.
        """
        state, result = self.state, None
        self._start(progress)
        images = (self._loader.batch_size or 1) * self.optim.accumulate * self.accelerator.num_processes
        task = progress.task("train", self.total_steps, done=state.step, unit="steps", images=images)
        with resume_note(self.folder), name_failed_images(self._loader), stop_requests() as request:
            while state.epoch < self.run.epochs and not self._is_out_of_patience():
                self.train_epoch(request, progress, task)
                self.save()  # before the evaluation too: it may take long, and be what is killed
                state.finish_epoch()
                if self._is_evaluated(state.epoch):
                    with request.stop_immediately():
                        result = self.evaluate(progress)
                        self.save()
        progress.finish(task)
        if state.epoch < self.run.epochs:
            progress.say(f"stopped   no better metric in {state.waited} evaluations; the best is {state.best:.3f}")
        if self.accelerator.is_main_process:
            save_native(state.evaluated, self.folder, self.spec.resize)
            write_card(self.folder)
        self.log.once("cost", step=state.step, **self.cost.totals())
        return result or self.score(progress)  # of a finished run, which has logged it

    def train_epoch(self, request: StopRequest, progress: Progress, task: TaskID) -> None:
        """Train the epoch, or the rest of one that was resumed in its middle. Raises Stopped when asked to."""
        self.to_training_mode()
        batches = with_timeout(self._rest_of_epoch(), self._loader)
        with self.finite.checked():
            while group := list(islice(batches, self.optim.accumulate)):
                losses, norm = self.train_step(group)
                self.state.batch += len(group)
                lr = float(self.state.scheduler.get_last_lr()[0])  # before it moves to that of the next step
                self.state.finish_step()
                self.log_step(self.state, losses, norm, lr, progress, task)
                self.stop_if_asked(request)

    def to_training_mode(self) -> None:
        """Put all in training mode, but for the statistics of what is frozen."""
        self.state.model.train()
        self.frozen.keep_statistics()

    def train_step(self, batches: Sequence[Batch]) -> tuple[dict[str, Tensor], Tensor]:
        """Forward and backward of each batch, and one update. The mean losses and the gradient norm."""
        state, model = self.state, self.state.model
        with self.cost.working():
            if len(batches) > 1:
                cast(LossModule, self.accelerator.unwrap_model(model)).plan_step(batches)
            found = []
            for index, batch in enumerate(batches):
                last = index == len(batches) - 1  # the processes exchange gradients once
                with nullcontext() if last else self.accelerator.no_sync(model):
                    found.append(self.add_gradient(*batch, len(batches)))
            with span("optimizer"):
                norm = self._clip()
                state.optimizer.step()
                state.optimizer.zero_grad()
        if len(found) == 1:
            return found[0], norm
        return {name: torch.stack([losses[name] for losses in found]).mean() for name in found[0]}, norm

    def add_gradient(self, images: Tensor, targets: Sequence[Target], of: int) -> dict[str, Tensor]:
        """Forward and backward of one batch of the step's ``of``, for their mean gradient. Its losses, detached."""
        layout = torch.channels_last if self.run.channels_last else torch.contiguous_format
        losses = self.state.model(as_float(images).contiguous(memory_format=layout), targets)
        total = torch.stack(list(losses.values())).sum()
        self.finite.add(self.state.step + 1, total, losses, targets)
        with span("backward"):
            # accelerate divides by optim.accumulate; the last step of an epoch may have fewer batches.
            self.accelerator.backward(total * (self.optim.accumulate / of))
        return {name: loss.detach() for name, loss in losses.items()}

    def stop_if_asked(self, request: StopRequest) -> None:
        """Save and raise Stopped, in every process after the same step, when a signal has reached one of them."""
        number = request.number
        if self.accelerator.num_processes > 1:
            if self.state.step % self.sync_every:
                return  # asking the other processes waits for the device
            own = torch.tensor([number], device=self.accelerator.device)
            number = int(cast(Tensor, self.accelerator.gather(own)).max())
        if not number:
            return
        self.finite.check()
        self.save()
        self.accelerator.wait_for_everyone()  # the launcher ends all processes when the first one ends
        raise Stopped(number, f"stopped after step {self.state.step}, which is saved; go on with --run.resume true")

    def save(self) -> None:
        """Write the checkpoint, after the log: where power fails, no checkpoint is ahead of its log."""
        self.log.sync()
        self.state.save(self.folder / RESUME, self.accelerator)

    def evaluate(self, progress: Progress) -> EvaluationResult:
        """Score the validation images, log it, and save the weights, also as best.safetensors for a new best.

        While the metric is undefined, the last weights count as the best.
        """
        state, network = self.state, self.state.evaluated.network
        broadcast_buffers(network)
        result = self.score(progress)
        progress.say(f"epoch {state.epoch:3d}/{self.run.epochs}  {result.headline()}")
        self.log("val", epoch=state.epoch, step=state.step, summary=result.summary, per_class=result.per_class)
        undefined = math.isnan(result.primary) and state.best == -math.inf
        is_best = result.primary > state.best or undefined
        if self.accelerator.is_main_process:
            save_weights(network, self.folder / self.spec.weights)
            if is_best:
                save_weights(network, self.folder / BEST)
        state.waited = 0 if is_best else state.waited + 1
        state.best = max(state.best, result.primary)
        return result

    def score(self, progress: Progress) -> EvaluationResult:
        """Score the validation images, in all processes."""
        return score_detector(self.state.evaluated, self.val, self.source, self.metric, progress, "evaluate")

    def first_batch(self) -> tuple[Tensor, list[Target]]:
        """The images and targets of the first step, without starting the workers; the same on every process."""
        picked = islice(self._loader.sampler, self._loader.batch_size)
        batch = collate([self._loader.dataset[draw] for draw in picked])
        return cast(tuple[Tensor, list[Target]], send_to_device(batch, self.accelerator.device))

    def _start(self, progress: Progress) -> None:
        """Resume where that is asked, start the trackers, and describe the model in the run folder."""
        if self.run.resume:
            # A run that was stopped before its first checkpoint begins where it began.
            if (self.folder / RESUME).exists() or (self.folder / self.spec.weights).exists():
                self.state.restore(self.folder / RESUME, self.accelerator)
            self.log("resume", epoch=self.state.epoch, step=self.state.step)
            after = f"step {self.state.step}" if self.state.batch else f"epoch {self.state.epoch}"
            progress.say(f"resume    after {after}")
            if note := other_processes(self.state.random, self.accelerator):
                progress.say(f"resume    {note}")
        if self.run.precision == "auto":
            progress.say(f"precision {'float32' if self.accelerator.mixed_precision == 'no' else 'bfloat16'}")
        if self.frozen.names:
            progress.say(f"frozen    {self.frozen}")
            self.log.once("frozen", names=self.frozen.names, parameters=self.frozen.parameters)
        if self.optim.backbone_lr != 1:
            progress.say(
                f"backbone  learning rate {self.optim.lr * self.optim.backbone_lr:g}, the rest {self.optim.lr:g}"
            )
        share = share_of_first(self.optim.ema, self.total_steps)
        if self.state.ema is not None and share > FIRST_SHARE:
            progress.say(
                f"warning   {share:.0%} of the running average that is evaluated and saved will be the weights of the "
                f"first of {self.total_steps} steps: train longer, or leave out --optim.ema"
            )
        self.trackers.start(progress.say, resumed_at=self.state.step if self.run.resume else None)
        if self.accelerator.is_main_process:
            self.spec.save(self.folder)

    def _rest_of_epoch(self) -> Iterable[tuple[Tensor, list[Target]]]:
        """The batches that the epoch still has, drawn from the random state that belongs to them."""
        state = self.state
        seed_epoch(self.run.seed, state.epoch, self.accelerator.process_index, state.step if state.batch else 0)
        self.train.set_epoch(state.epoch)
        if not state.batch:
            return cast(Iterable[tuple[Tensor, list[Target]]], self.train)
        if state.batch >= len(self.train):
            return ()
        restore_random_state(state.random, self.accelerator)
        return cast(Iterable[tuple[Tensor, list[Target]]], skip_first_batches(self.train, state.batch))

    def _is_out_of_patience(self) -> bool:
        return 0 < self.run.patience <= self.state.waited

    def _is_evaluated(self, epoch: int) -> bool:
        return epoch == self.run.epochs or (self.run.evaluate_every > 0 and epoch % self.run.evaluate_every == 0)

    def _clip(self) -> Tensor:
        """Clip the gradient of a step; its norm, which is checked sooner or later."""
        limit = self.optim.clip_norm or math.inf
        norm: Tensor = self.accelerator.clip_grad_norm_(self.state.model.parameters(), limit)
        scaler = self.accelerator.scaler
        # In fp16 a gradient may overflow for its scale's sake alone: the step is left out, and the scale halved.
        if scaler is None or scaler.get_scale() <= 1:
            self.finite.add_gradient(self.state.step + 1, norm)
        return norm


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
