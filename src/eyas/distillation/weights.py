"""The weight of a distillation loss: a number, or one that holds the gradient ratio.

A number does not transfer between detectors: equation 2 sums over channels, so the loss scales with the teacher's
squared features, which differ by orders of magnitude. A ratio transfers: the norm of the method's gradient at the
student's imitated features over the norm of the detection loss's gradient there. `AutoWeight` holds that ratio.

Measuring needs no second backward pass through the student. Both gradients are taken at the tapped features: the
detection loss goes back through the heads alone, the method's through its adapters alone. Only some batches are
measured, and the ratio is averaged in its logarithm. A batch counts where both gradients are finite and not 0, in the
warm-up where the loss is: one without objects moves nothing on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from eyas.distillation.checks import is_training_pass
from eyas.distillation.quota import Quota
from eyas.methods.method import Auto
from eyas.nn.processes import mean_over_processes

FIRST = 10
"""Batches that count after the warm-up and are averaged equally: a single one would set the weight by chance. Until
they are in, every batch is measured."""
RATE = 0.3
"""Share of a new measurement in the running mean after the first ones. With one batch in ten measured, the mean is
within 10 % of a ratio that jumped by 100 after 120 batches. The logarithm of the noise of single batches is damped to
0.42 of its deviation."""
LEAP = math.log(1000)
"""The largest distance, in the logarithm, of one batch from the running mean; a larger one is clamped."""
LIMIT = math.log(1e12)
"""Bound of the running mean, in the logarithm. Squared features differ by some orders of magnitude between teachers."""
MONITOR_EVERY = 50
"""Batches from one measurement to the next where the weight is a number and the ratio is only monitored."""
IDLE = 100
"""Batches without one that counts after which the user is warned."""
DOMINANT = 30.0
"""The ratio above which the user is warned: ten times what an automatic weight holds."""


class RunningRatio(nn.Module):
    """The ratio of two gradient norms over the batches, averaged in its logarithm, and bounded.

    Its state is in the state dict, so that a resumed run goes on with the same ratio and measures the same batches.

    Args:
        every: batches between measurements, after the first ones.
        origin: the first batch that is measured; None where that is not known yet.
    """

    def __init__(self, every: int, origin: int | None) -> None:
        super().__init__()
        self.every, self.origin = every, origin
        self.first = Quota(FIRST, (origin or 0) + FIRST)
        self.norms: tuple[Tensor, Tensor] | None = None
        self.log_ratio: Tensor
        self.log_last: Tensor
        self.measurements: Tensor
        self.register_buffer("log_ratio", torch.zeros(()))
        self.register_buffer("log_last", torch.zeros(()))
        self.register_buffer("measurements", torch.zeros((), dtype=torch.int64))

    def due(self, batch: int) -> bool:
        """Whether this batch, from 0, is to be measured: each until `FIRST` have counted, then one in ``every``."""
        if self.origin is None or batch < self.origin:
            return False
        group, slot = divmod(batch - self.origin, self.every)
        # The slot moves on from group to group: a fixed one may always meet the empty batches of an ordered loader.
        return not self.first.look(self.measurements, batch) or slot == group % self.every

    @torch.no_grad()
    def update(self, numerator: Tensor, denominator: Tensor) -> None:
        """Add the norms of one batch. A batch without objects, or without a finite gradient, does not count."""
        self.norms = numerator, denominator
        counts = (numerator > 0) & (denominator > 0) & torch.isfinite(numerator) & torch.isfinite(denominator)
        self.measurements += counts
        rate = torch.where(self.measurements > FIRST, RATE, 1 / self.measurements.clamp(min=1))
        quotient = numerator / denominator  # of two finite norms it may still be 0 or infinite
        holds = torch.isfinite(quotient) & (quotient > 0)
        measured = torch.where(holds, torch.log(quotient), torch.log(numerator) - torch.log(denominator))
        leap = measured - self.log_ratio
        leap = torch.where(self.measurements > 1, leap.clamp(-LEAP, LEAP), leap)
        moved = (self.log_ratio + rate * leap).clamp(-LIMIT, LIMIT)
        self.log_ratio.copy_(torch.where(counts, moved, self.log_ratio))
        self.log_last.copy_(torch.where(counts, measured.clamp(-LIMIT, LIMIT), self.log_last))

    def ratio(self) -> Tensor:
        """The running mean, a scalar; 0 until something has been measured."""
        return torch.where(self.measurements > 0, self.log_ratio.exp(), 0.0)

    def last(self) -> Tensor:
        """The ratio of the last batch that counted, a scalar; 0 until something has been measured."""
        return torch.where(self.measurements > 0, self.log_last.exp(), 0.0)

    def host_state(self) -> list[int]:
        """What the host knows, as integers."""
        return [-1 if self.origin is None else self.origin, *self.first.state()]

    def restore_host_state(self, state: Sequence[int]) -> None:
        self.origin = None if state[0] < 0 else state[0]
        self.first.restore(state[1:4])

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.host_state())

    def set_extra_state(self, state: Tensor) -> None:
        self.restore_host_state(state.tolist())

    def without_host_state(self, log_ratio: Tensor, batches: int) -> dict[str, Tensor]:
        """The state that a version without it would have had after so many batches."""
        return {"log_last": log_ratio, "_extra_state": self.get_extra_state()}


class AutoWeight(RunningRatio):
    """A weight that keeps the gradient of one method at a fraction of the detection gradient.

    It is the fraction times the ratio of detection to imitation gradient: above 0 and at most 1e12 times the fraction,
    whatever is measured, and never above ``limit``. The method starts at ``start_step``.
    """

    def __init__(self, rule: Auto, start_step: int, limit: float = math.inf) -> None:
        super().__init__(rule.every, origin=None)
        self.rule, self.start_step, self.limit = rule, start_step, limit
        self.warm = Quota(rule.warmup, start_step + rule.warmup)
        self.warmed: Tensor
        self.register_buffer("warmed", torch.zeros((), dtype=torch.int64))

    def warming_up(self, batch: int, *, learns: bool = True) -> bool:
        """Whether, in this batch, only the method's adapters learn; without any (``learns``) it waits as long."""
        if self.origin is None:
            done = batch - self.start_step
            if done >= 0 and self.warm.look(self.warmed if learns else done, batch):
                self.origin, self.first.next_look = batch, batch + FIRST
        return self.origin is None

    def warm_up(self, loss: Tensor) -> Tensor:
        """The loss of a batch of the warm-up, over its own value. In training the batch counts unless that is 0."""
        value = mean_over_processes(loss.detach())
        if is_training_pass(self):
            self.warmed += (value != 0) & torch.isfinite(value)
        return divide_by(value, loss)

    def value(self) -> Tensor:
        """The weight, a scalar; 0 until something has been measured."""
        return (self.rule.fraction * self.ratio()).clamp(max=self.limit)

    def idle(self, batch: int) -> str | None:
        """Why no batch has counted, asked in every batch and answered once, `IDLE` batches after the (first) one."""
        warming_up = self.origin is None
        begin, count = (self.start_step, self.warmed) if warming_up else (self.origin, self.measurements)
        if batch - (begin or 0) != IDLE or int(count):
            return None
        if warming_up or self.norms is None:
            return "its loss was 0 in all of them: do the training images have objects (`eyas data` counts them)?"
        detection, imitation = (float(norm) for norm in self.norms)
        if not math.isfinite(detection + imitation):
            return "the gradients at the student's imitated features are not finite: lower the learning rate"
        if detection == 0:
            return (
                "the detection loss has no gradient at the student's imitated features, so there is nothing to hold a "
                "ratio to: pair levels that are trained and that the heads read, or give the weight as a number"
            )
        return (
            "its gradient at the student's imitated features is 0: do the training images have objects (`eyas data` "
            "counts them)?"
        )

    def host_state(self) -> list[int]:
        return [*super().host_state(), *self.warm.state()]

    def restore_host_state(self, state: Sequence[int]) -> None:
        super().restore_host_state(state)
        self.warm.restore(state[4:])

    def without_host_state(self, log_ratio: Tensor, batches: int) -> dict[str, Tensor]:
        warmed = min(max(batches - self.start_step, 0), self.rule.warmup)  # every batch counted
        return {**super().without_host_state(log_ratio, batches), "warmed": torch.tensor(warmed)}


class RatioMonitor(RunningRatio):
    """The gradient ratio of a term, for the log and for `dominance_warnings`.

    Where the weight is a number, the first ten batches are left out: new adapters pass no gradient worth measuring.
    """

    def __init__(self, start_step: int) -> None:
        super().__init__(MONITOR_EVERY, origin=start_step + FIRST)


def dominance_warnings(ratios: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, str]:
    """Method name -> the warning, for each method whose gradient is far above the detection loss's."""
    return {
        name: f"{name} dominates: at the imitated features its gradient is {ratio:.3g} times that of the detection "
        f"loss, so that the student learns to imitate and not to detect; its weight is {weights[name]:.3g}: take a "
        "smaller one, or auto"
        for name, ratio in ratios.items()
        if ratio > DOMINANT
    }


def divide_by(value: Tensor, loss: Tensor) -> Tensor:
    """The loss over its own value in all processes: 1 (or 0), with a gradient free of the features' scale.

    Adapters learn by it while an automatic weight warms up and the student is detached: whatever the scale of the
    teacher's features, the adapters' gradient stays comparable with the detection loss's.
    """
    return loss / value.abs().clamp(min=torch.finfo(torch.float32).tiny)
