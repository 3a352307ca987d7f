"""The state of a training: what is trained, how far it has come, and its checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from eyas.runs.checkpoint import load_state, save_state
from eyas.tools.tensor_files import check_weights
from eyas.training.reproducibility import random_states
from eyas.types import Detector, EyasError

COUNTS = ("epoch", "batch", "step", "epochs")
MOST = 2**53
"""The largest count that a checkpoint may hold."""
SQUARES = ("exp_avg_sq", "max_exp_avg_sq")
"""What AdamW divides by the root of."""


@dataclass
class TrainState:
    """Everything that a checkpoint holds.

    Attributes:
        model: the module of losses, as the accelerator prepared it.
        student: the detector inside it.
        optimizer: of all trainable parameters of the model.
        scheduler: of its learning rate.
        ema: running average of the student; None where none is kept.
        epochs: of the whole run.
        batches: of one epoch, in this process.
        accumulate: batches of an optimiser step, in this process.
        epoch: epochs that are finished.
        batch: batches of the running epoch that are finished.
        step: optimiser steps that are finished.
        best: the best evaluation so far.
        waited: evaluations since then.
        random: the random state of each process in the middle of an epoch, from a checkpoint.
    """

    model: nn.Module
    student: Detector
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler
    ema: AveragedModel | None
    epochs: int
    batches: int
    accumulate: int = 1
    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float = -math.inf
    waited: int = 0
    random: Sequence[dict[str, Tensor]] = ()

    @property
    def evaluated(self) -> Detector:
        """The detector that is evaluated and saved: the running average where one is kept."""
        return self.student if self.ema is None else cast(Detector, self.ema.module)

    def finish_step(self) -> None:
        """Count an optimiser step: move the learning rate and the running average."""
        self.scheduler.step()
        self.step += 1
        if self.ema is not None:
            self.ema.update_parameters(cast(nn.Module, self.student))

    def finish_epoch(self) -> None:
        self.epoch, self.batch = self.epoch + 1, 0

    def _batches_done(self, folder: Path) -> int:
        """Batches that this process has behind it in the middle of an epoch, whatever number of processes made them.

        A step has as many images as before, and their order depends on seed and epoch alone: the first steps of an
        epoch have the same images in any number of processes. Raises EyasError where steps have another number.
        """
        steps = math.ceil(self.batches / self.accumulate)
        done = self.step - self.epoch * steps
        if not 0 < done < steps:
            raise EyasError(
                f"{folder} holds a run that stopped in the middle of epoch {self.epoch + 1}, after step {self.step}, "
                f"and here an epoch has {steps} steps; resume it with the images that it had, and with the same "
                "product of processes, dataset.batch_size and optim.accumulate"
            )
        return done * self.accumulate

    def save(self, path: Path, accelerator: Accelerator) -> None:
        """Write the checkpoint; every process must call it. Raises EyasError when the disk is full."""
        model = accelerator.get_state_dict(self.model)
        # Every epoch is seeded by itself: only the middle of one has a random state to go on with.
        random = random_states(accelerator) if 0 < self.batch < self.batches else []
        if not accelerator.is_main_process:
            return
        state = {
            "model": model,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "scaler": None if accelerator.scaler is None else accelerator.scaler.state_dict(),
            "progress": {name: getattr(self, name) for name in ("epoch", "batch", "step", "best", "waited", "epochs")},
            "random": random,
        }
        save_state(state, path)

    def restore(self, path: Path, accelerator: Accelerator) -> None:
        """Go on from a checkpoint.

        Raises:
            EyasError: the file is missing, damaged, of another run, or of a run with another number of epochs, or of
                images in a step.
        """
        state = load_state(path)
        try:
            progress = state["progress"]
            if progress["epochs"] != self.epochs:
                raise EyasError(
                    f"{path.parent} holds a run of {progress['epochs']} epochs, on which its learning rates depend; "
                    f"resume it with --run.epochs {progress['epochs']}"
                )
            _check_form(state, progress, self.optimizer, self.scheduler)
            accelerator.unwrap_model(self.model).load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            _check_values(self.optimizer)
            self.scheduler.load_state_dict(state["scheduler"])
            if self.ema is not None:
                check_weights(f"{path}: its running average", state["ema"])
                if state["ema"]["n_averaged"] < 0:
                    raise ValueError("its running average has a count below 0")
                self.ema.load_state_dict(state["ema"])
            if accelerator.scaler is not None:
                _check_scaler(accelerator.scaler.state_dict(), state["scaler"])
                accelerator.scaler.load_state_dict(state["scaler"])
            self.epoch, self.step, self.best = (progress[key] for key in ("epoch", "step", "best"))
            self.waited = progress.get("waited", 0)  # a checkpoint from before there was patience has none
            self.random = state["random"]
            self.batch = self._batches_done(path.parent) if self.random else self.batches * (progress["batch"] > 0)
        except (LookupError, ArithmeticError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise EyasError(
                f"{path}: not a checkpoint of this run, or of another version of Eyas ({error}); start the run anew in "
                "another --out"
            ) from error


def _check_form(
    state: Mapping[str, Any], progress: Mapping[str, Any], optimizer: torch.optim.Optimizer, scheduler: LRScheduler
) -> None:
    """Check what PyTorch takes over as it is. Raises ValueError where the file has another form than the run."""
    counts = [progress[name] for name in COUNTS] + [progress.get("waited", 0)]
    if not all(type(count) is int and 0 <= count <= MOST for count in counts) or progress["epoch"] > progress["epochs"]:
        raise ValueError(f"its progress is {dict(progress)!r:.200}")
    if not isinstance(state["random"], list):
        raise ValueError(f"its random state is {state['random']!r:.60}")
    if not isinstance(progress["best"], float) or math.isnan(progress["best"]):
        raise ValueError(f"its best evaluation is {progress['best']!r:.60}")
    for own, found in zip(optimizer.state_dict()["param_groups"], state["optimizer"]["param_groups"], strict=True):
        # The rate moves with the schedule; the rest, such as AdamW's betas, is that of the run.
        fixed = own.keys() & found.keys() - {"lr"}
        if not _alike(own, found) or not found["lr"] >= 0 or any(found[name] != own[name] for name in fixed):
            raise ValueError("its optimiser has other options")
    own, found = scheduler.state_dict(), state["scheduler"]
    if not _alike(own, found) or any(callable(getattr(LRScheduler, name, None)) for name in found):
        raise ValueError("its learning rate has another form")
    if found["base_lrs"] != own["base_lrs"] or found["last_epoch"] < 0:
        raise ValueError("its learning rate is that of another run")


def _check_values(optimizer: torch.optim.Optimizer) -> None:
    """Raises ValueError unless each state of the optimiser has the shape of its parameter and values that it can have.

    Its steps are a number. They, and AdamW's mean of squares, are not negative: their roots would be NaN.
    """
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                fits = value.shape == parameter.shape or (name == "step" and value.ndim == 0)
                fits = fits and bool(torch.isfinite(value).all())
            else:
                fits = value is None or _alike(0, value)
            if not fits:
                raise ValueError(f"its optimiser has a {name} that does not fit the parameter")
            if name in ("step", *SQUARES) and value is not None and bool((torch.as_tensor(value) < 0).any()):
                raise ValueError(f"its optimiser has a {name} below 0")


def _check_scaler(own: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Check the loss scale of fp16. Raises ValueError where it is none, or of another run."""
    moving = {"scale", "_growth_tracker"}
    if not _alike(own, found) or any(found[name] != own[name] for name in own.keys() - moving):
        raise ValueError("its loss scale has another form")
    if own and not (found["scale"] > 0 and found["_growth_tracker"] >= 0):
        raise ValueError(f"its loss scale is {found['scale']!r:.60}")


def _alike(own: Any, found: Any) -> bool:
    """Whether two values have the same form: the type, the length of lists; names that only one has do not count."""
    if isinstance(own, Mapping):
        return isinstance(found, Mapping) and all(_alike(own[name], found[name]) for name in own.keys() & found.keys())
    if isinstance(own, list | tuple):
        return isinstance(found, list | tuple) and len(own) == len(found) and all(map(_alike, own, found))
    if isinstance(own, int | float) and not isinstance(own, bool):
        return isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found)
    return type(own) is type(found)
