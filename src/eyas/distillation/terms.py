"""A term of the loss: one method, its weight and its monitor."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from eyas.distillation.balance import compared_levels, gradient_at
from eyas.distillation.checks import check_loss, is_training_pass
from eyas.distillation.shares import PartSums
from eyas.distillation.weights import IDLE, AutoWeight, RatioMonitor
from eyas.methods.method import Auto, Method
from eyas.nn.processes import place_among_processes
from eyas.tools.timing import span
from eyas.types import Target, View


class Term(nn.Module):
    """One method times its weight, which is a number or holds the gradient ratio.

    Attributes:
        auto: the weight that holds the gradient ratio; None where the weight is a number.
        monitor: the running ratio of the weighted gradient to the detection gradient, for the log and for
            `eyas.distillation.weights.dominance_warnings`.
        parts: the method's loss by level or head, summed over the batches in which the student feels it.
    """

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method, self.name = method, method.name
        rule = method.weight
        start = method.schedule.start_step
        self.auto = AutoWeight(rule, start, method.max_weight) if isinstance(rule, Auto) else None
        self.monitor = RatioMonitor(start)
        self.parts = PartSums()
        self._seen: tuple[int, list[int]] | None = None
        """The first batch of this process, and how often each adapter parameter had been changed."""

    def weight(self) -> Tensor | float:
        """The weight in the next batch; an automatic one is 0 until it has been measured."""
        return cast(float, self.method.weight) if self.auto is None else self.auto.value()

    def is_active(self, batch: int, batches: int | None = None) -> bool:
        """Whether the term needs the teacher in this batch, counted from 0, of a training of so many.

        While an automatic weight warms up, only adapters learn: a method without any has nothing to do.
        """
        if not self.method.schedule.factor(batch, batches) or (self.auto is None and not self.method.weight):
            return False
        return self._learns() or not self._warms_up(batch)

    def forward(
        self,
        student: View,
        teacher: View,
        targets: Sequence[Target],
        batch: int,
        batches: int | None,
        detection_gradient: Callable[[tuple[int, ...]], Tensor],
    ) -> Tensor:
        """The weighted loss of one batch, a scalar.

        Args:
            student: the student's view.
            teacher: the teacher's view.
            targets: one for each image.
            batch: the number of training batches before this one.
            batches: those of the whole training; None where nobody has said.
            detection_gradient: computes the norm of the detection loss's gradient at the student's features of level
                pairs, by their indices.
        """
        warms_up, factor = self._warms_up(batch), self.method.schedule.factor(batch, batches)
        training_pass = is_training_pass(self)
        with span("loss"):
            loss: Tensor = self.method(student.detached() if warms_up else student, teacher, targets)
        check_loss(self.method, loss)
        if training_pass:
            self._warn_if_untrained(batch)
        if training_pass and self.auto is not None:
            self._warn_if_idle(self.auto, batch)
        if self.auto is not None and warms_up:  # the student does not feel it yet
            return self.auto.warm_up(loss)
        if training_pass:
            self.parts.add(self.method.parts)
        if training_pass and self._is_due(batch):
            with span("weight"):
                compared = compared_levels(self.method, student)
                detection, imitation = detection_gradient(compared), gradient_at(loss, student, compared)
                if self.auto is not None:
                    self.auto.update(detection, imitation)
                self.monitor.update(factor * self.weight() * imitation, detection)
        return factor * self.weight() * loss

    def zero(self, images: Tensor) -> Tensor:
        """The term while it is not active: a zero that depends on every parameter, so that DDP sees all of them."""
        parameters = [parameter.float().sum() for parameter in self.method.parameters()]
        return torch.stack(parameters).sum() * 0 if parameters else images.new_zeros((), dtype=torch.float32)

    def _warms_up(self, batch: int) -> bool:
        return self.auto is not None and self.auto.warming_up(batch, learns=self._learns())

    def _learns(self) -> bool:
        return any(parameter.requires_grad for parameter in self.method.parameters())

    def _warn_if_idle(self, auto: AutoWeight, batch: int) -> None:
        """Warn, in the first process, of an automatic weight that is still 0 after many batches."""
        if reason := auto.idle(batch):
            _warn(f"{self.name} distils nothing: after {IDLE} batches its automatic weight is still 0; {reason}")

    def _warn_if_untrained(self, batch: int) -> None:
        """Warn, in the first process, of adapters that no optimiser has changed in many batches."""
        if self._seen is not None and batch - self._seen[0] != IDLE:
            return
        changes = [parameter._version for parameter in self.method.parameters() if parameter.requires_grad]
        if self._seen is None:
            self._seen = batch, changes
        elif changes and changes == self._seen[1]:
            _warn(
                f"the layers of {self.name} have not changed in {IDLE} batches, so it passes on noise: build the "
                "optimiser from distiller.parameters(), after the distiller was made"
            )

    def _is_due(self, batch: int) -> bool:
        if self.auto is not None:
            return self.auto.due(batch)
        return bool(self.method.weight) and self.monitor.due(batch)


def _warn(text: str) -> None:
    if place_among_processes()[0] == 0:
        warnings.warn(text, stacklevel=2)


def with_terms(state: Mapping[str, Any], terms: Sequence[Term]) -> dict[str, Any]:
    """A distiller's state by today's names, with what older versions did not store.

    Before there were terms, methods.0.X, followed.NAME.X and watched.NAME.X held what is below terms now. Later,
    weights had no host state: every batch of a warm-up counted, and no last measurement was kept.
    """
    prefixes = {f"methods.{index}.": f"terms.{index}.method." for index in range(len(terms))}
    for index, term in enumerate(terms):
        prefixes[f"followed.{term.name}."] = f"terms.{index}.auto."
        prefixes[f"watched.{term.name}."] = f"terms.{index}.monitor."

    def renamed(key: str) -> str:
        old = next((prefix for prefix in prefixes if key.startswith(prefix)), None)
        return key if old is None else prefixes[old] + key.removeprefix(old)

    renewed = {renamed(key): value for key, value in state.items()}
    batches = renewed.get("_extra_state", {}).get("batches", 0)
    for index, term in enumerate(terms):
        for name, ratio in (("auto", term.auto), ("monitor", term.monitor)):
            prefix = f"terms.{index}.{name}."
            if ratio is not None and f"{prefix}log_ratio" in renewed and f"{prefix}_extra_state" not in renewed:
                log_ratio = renewed[f"{prefix}log_ratio"]
                renewed |= {prefix + key: value for key, value in ratio.without_host_state(log_ratio, batches).items()}
    return renewed
