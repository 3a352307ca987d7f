"""What a training logs of its steps, and the warnings that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from accelerate import Accelerator
from rich.progress import TaskID
from torch import Tensor

from eyas.distillation.shares import shares
from eyas.distillation.weights import dominance_warnings
from eyas.runs.log import RunLog
from eyas.tools.progress import Progress
from eyas.tools.timing import CostMeter
from eyas.training.loss_module import LossModule
from eyas.training.state import TrainState


class StepLog:
    """Logs every ``every`` steps, moves the progress bar, and warns once of each method that dominates.

    Reading a loss waits for a GPU; between two lines of the log nothing does.
    """

    def __init__(self, log: RunLog, accelerator: Accelerator, cost: CostMeter, every: int) -> None:
        self._log, self._accelerator, self._cost, self._every = log, accelerator, cost, every
        self._warned: set[str] = set()

    def __call__(
        self,
        state: TrainState,
        losses: Mapping[str, Tensor],
        norm: Tensor | None,
        lr: float,
        progress: Progress,
        task: TaskID,
    ) -> None:
        """Take in a finished step.

        Args:
            state: after it.
            losses: means over its batches.
            norm: of its gradient, before clipping.
            lr: its learning rate.
            progress: where warnings are shown.
            task: the bar that it moves.
        """
        epoch = f"epoch {state.epoch + 1}/{state.epochs}"
        if state.step > 1 and state.step % self._every:
            self._cost.step(waited=False)
            progress.advance(task, detail=epoch)
            return
        with self._cost.working():
            line = self.values(state, losses, norm, lr)
        self._cost.step(waited=True)
        progress.advance(task, note=line["losses"], detail=epoch)
        for name, text in dominance_warnings(line["gradient_ratios"], line["weights"]).items():
            if name not in self._warned:
                progress.say(f"warning   {text} (step {state.step})")
            self._warned.add(name)

    def values(self, state: TrainState, losses: Mapping[str, Tensor], norm: Tensor | None, lr: float) -> dict[str, Any]:
        """Write one line and return its values; losses are means over the processes, so those of the whole batch."""
        model = cast(LossModule, self._accelerator.unwrap_model(state.model))
        parts = {(term, name): part for term, own in model.take_parts().items() for name, part in own.items()}
        read = [value.detach().float() for value in (*losses.values(), *parts.values())]
        means = torch.stack([value.to(read[0]) for value in read])  # one wait for the device
        if self._accelerator.num_processes > 1:
            means = cast(Tensor, self._accelerator.reduce(means, "mean"))
        numbers = dict(zip((*losses, *parts), means.tolist(), strict=True))
        values = {
            "epoch": state.epoch,
            "step": state.step,
            "lr": lr,
            "gradient_norm": None if norm is None else float(norm),
            "losses": {name: numbers[name] for name in losses},
            "weights": model.weights(),
            "gradient_ratios": model.gradient_ratios(),
            "last_gradient_ratios": model.last_gradient_ratios(),
            "shares": _shares({key: numbers[key] for key in parts}),
        }
        self._log("train", **values)
        return values


def _shares(parts: Mapping[tuple[str, str], float]) -> dict[str, dict[str, float]]:
    """Term -> its levels or heads -> each one's share of its loss; terms of one part are left out."""
    terms = dict.fromkeys(term for term, _ in parts)
    found = {term: shares({name: part for (of, name), part in parts.items() if of == term}) for term in terms}
    return {term: own for term, own in found.items() if own}
