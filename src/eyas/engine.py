"""The one training loop: it sums the losses that a module returns, and knows nothing of methods.

On Hugging Face accelerate: one process or many, any precision, gradient accumulation. Only the main process writes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from eyas.args import DataArgs, OptimArgs, RunArgs
from eyas.checkpoint import BEST, RESUME, ModelSpec, load_state, save_state, save_weights
from eyas.data import DataSource, eval_transform, loader, train_transform
from eyas.evaluation import EvaluationResult
from eyas.inference import predict_records, score
from eyas.progress import Progress
from eyas.runlog import RunLog
from eyas.types import Detector, EyasError, Prediction, Target


class LossModule(Protocol):
    """What the engine trains: `eyas.Distiller` or `PlainStudent`, modules that return every loss of a batch by name."""

    student: Detector

    def __call__(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]: ...


class PlainStudent(nn.Module):
    """A detector trained by its own losses alone."""

    def __init__(self, student: Detector) -> None:
        super().__init__()
        self.student = student

    def forward(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        return dict(self.student.losses(images, targets))


class Trainer:
    """Trains the student of a module of losses, evaluates it, and leaves its weights in the run folder.

    Args:
        model: what returns the losses.
        spec: how to build the student again; saved beside its weights.
        train: the images to train on.
        val: the images to evaluate on.
        metric: "coco", "voc" or "kitti".
        data: how both are fed.
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
        optim: OptimArgs,
        run: RunArgs,
        folder: Path,
        accelerator: Accelerator,
    ) -> None:
        self.student, self.spec, self.metric = model.student, spec, metric
        self.sources = {"train": train, "val": val}
        self.optim, self.run, self.folder, self.accelerator = optim, run, folder, accelerator
        if run.channels_last:
            model.to(memory_format=torch.channels_last)
        batches = loader(
            train,
            train_transform(data.resize, data.augment),
            batch_size=data.batch_size,
            shuffle=True,
            workers=data.workers,
            seed=run.seed,
        )
        # The optimiser is made from the whole module, so that adapters train with the student.
        self.model, self.optimizer, self.train, self.val = accelerator.prepare(
            model, make_optimizer(model, optim), batches, val_loader(val, data)
        )
        self.steps_per_epoch = math.ceil(len(self.train) / optim.accumulate)
        self.total_steps = self.steps_per_epoch * run.epochs
        self.scheduler = LambdaLR(self.optimizer, schedule(optim, self.total_steps))
        self.ema = average_of(self.student, optim.ema)
        self.log = RunLog(folder, writes=accelerator.is_main_process)
        self.epoch, self.step, self.best = 0, 0, -math.inf

    @property
    def evaluated(self) -> Detector:
        """The detector that is evaluated and saved: the running average where one is kept."""
        return self.student if self.ema is None else self.ema.module

    def fit(self, progress: Progress) -> EvaluationResult:
        """Train to the last epoch, evaluating on the way; returns the last evaluation."""
        # Adapters and teachers may have drawn random numbers: from here on, runs of one seed see the same dropout.
        set_seed(self.run.seed)
        if self.run.resume:
            self._resume()
        if self.accelerator.is_main_process:
            self.spec.save(self.folder)
        result: EvaluationResult | None = None
        task = progress.task("train", self.total_steps, done=self.step)
        while self.epoch < self.run.epochs:
            self._train_epoch(lambda losses: progress.advance(task, note=losses))
            self.epoch += 1
            every = self.run.evaluate_every or self.run.epochs
            if self.epoch % every == 0 or self.epoch == self.run.epochs:
                result = self.evaluate(progress)
            self._save()
        progress.finish(task)
        return result or self.evaluate(progress)

    def evaluate(self, progress: Progress) -> EvaluationResult:
        """Evaluate on the validation images, log it, and save the weights as the last and, if they are, the best."""
        source = self.sources["val"]
        task = progress.task("evaluate", len(source.records))
        mine = predict_records(
            self.evaluated, self.val, source, advance=lambda images: progress.advance(task, images)
        )
        result = score(self.metric, source, gather(mine))
        progress.finish(task)
        progress.say(f"epoch {self.epoch:3d}/{self.run.epochs}  {result.headline()}")
        self.log("val", epoch=self.epoch, step=self.step, summary=result.summary, per_class=result.per_class)
        if self.accelerator.is_main_process:
            save_weights(self.evaluated.network, self.folder / self.spec.weights)
            if result.primary > self.best:
                save_weights(self.evaluated.network, self.folder / BEST)
        self.best = max(self.best, result.primary)
        return result

    def _train_epoch(self, advance: Callable[[Mapping[str, float]], None]) -> None:
        self.model.train()
        self.train.set_epoch(self.epoch)
        for images, targets in self.train:
            with self.accelerator.accumulate(self.model):
                layout = torch.channels_last if self.run.channels_last else torch.contiguous_format
                losses = self.model(images.contiguous(memory_format=layout), targets)
                total = torch.stack(list(losses.values())).sum()
                self._check_finite(total, losses, targets)
                self.accelerator.backward(total)
                norm = self._clip()
                self.optimizer.step()
                self.optimizer.zero_grad()
            if self.accelerator.sync_gradients:
                self.scheduler.step()
                self.step += 1
                if self.ema is not None:
                    self.ema.update_parameters(self.student)
                advance(self._log_step(losses, norm))

    def _clip(self) -> float | None:
        if not self.accelerator.sync_gradients or not self.optim.clip_norm:
            return None
        return float(self.accelerator.clip_grad_norm_(self.model.parameters(), self.optim.clip_norm))

    def _log_step(self, losses: Mapping[str, Tensor], norm: float | None) -> dict[str, float]:
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        if self.step == 1 or self.step % self.run.log_every == 0:
            lr = self.scheduler.get_last_lr()[0]
            self.log("train", epoch=self.epoch, step=self.step, lr=lr, gradient_norm=norm, losses=values)
        return values

    def _check_finite(self, total: Tensor, losses: Mapping[str, Tensor], targets: Sequence[Target]) -> None:
        if bool(torch.isfinite(total)):
            return
        values = ", ".join(f"{name} {float(loss.detach()):.4g}" for name, loss in losses.items())
        images = ", ".join(self.sources["train"].records[target["index"]].image_id for target in targets)
        raise EyasError(
            f"the loss is not finite in step {self.step + 1}: {values}; images {images}. Lower --optim.lr or the "
            "weight of the method, lengthen --optim.warmup, or look at these images; the last checkpoint is intact"
        )

    def _save(self) -> None:
        model = self.accelerator.get_state_dict(self.model)
        if not self.accelerator.is_main_process:
            return
        state = {
            "model": model,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "scaler": None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict(),
            "random": torch.get_rng_state(),
            "progress": {"epoch": self.epoch, "step": self.step, "best": self.best, "epochs": self.run.epochs},
        }
        save_state(state, self.folder / RESUME)

    def _resume(self) -> None:
        state = load_state(self.folder / RESUME)
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
        torch.set_rng_state(state["random"])
        self.epoch, self.step, self.best = (progress[key] for key in ("epoch", "step", "best"))


def gather(mine: dict[int, Prediction]) -> dict[int, Prediction]:
    """The predictions of all processes, by record index; records padded in to even the shards occur once."""
    shards: list[dict[int, Prediction]] = gather_object([mine])
    return {index: found for shard in shards for index, found in shard.items()}


def make_accelerator(run: RunArgs, optim: OptimArgs) -> Accelerator:
    """The accelerator of a run, with its seed and threads set."""
    if run.threads:
        torch.set_num_threads(run.threads)
    accelerator = Accelerator(
        cpu=run.device == "cpu", mixed_precision=run.precision, gradient_accumulation_steps=optim.accumulate
    )
    set_seed(run.seed)
    return accelerator


def val_loader(source: DataSource, data: DataArgs) -> Any:
    """The batches of a data set, resized and not augmented, in order."""
    return loader(
        source,
        eval_transform(data.resize),
        batch_size=data.batch_size,
        shuffle=False,
        workers=data.workers,
        seed=0,
    )


def make_optimizer(model: nn.Module, optim: OptimArgs) -> torch.optim.Optimizer:
    """SGD or AdamW on the trainable parameters; only those of two and more dimensions decay."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": optim.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if optim.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum)
    return torch.optim.AdamW(groups, lr=optim.lr)


def schedule(optim: OptimArgs, total: int) -> Callable[[int], float]:
    """The learning rate's factor at each optimiser step of a run of ``total`` steps."""
    warmup = round(optim.warmup * total)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = (step - warmup) / max(total - warmup, 1)
        if optim.schedule == "cosine":
            return (1 + math.cos(math.pi * min(done, 1.0))) / 2
        if optim.schedule == "step":
            passed: int = sum(step >= milestone * total for milestone in optim.milestones)
            return optim.gamma**passed
        return 1.0

    return factor


def average_of(student: Detector, decay: float) -> AveragedModel | None:
    """A running average of the student's weights and buffers, or None at decay 0."""
    if not decay:
        return None
    return AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
