"""The weight of a distillation loss: a number, or one that holds the gradient ratio.

A number does not transfer between detectors: equation 2 sums over channels, so the loss scales with the teacher's
squared features, which differ by orders of magnitude. A ratio transfers: the norm of the method's gradient at the
student's imitated features over the norm of the detection loss's gradient there. `AutoWeight` holds that ratio.

Measuring needs no second backward pass through the student. Both gradients are taken at the tapped features: the
detection loss goes back through the heads alone, the method's through its adapters alone. Only some batches are
measured, and the ratio is averaged in its logarithm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from eyas.methods.method import Auto, mean_over_processes

RATE = 0.1
"""Share of a new measurement in the running mean, once there are more than 1 / RATE of them."""
FIRST = 10
"""The first batches after the warm-up, each of which is measured: a single one would set the weight by chance."""
LEAP = math.log(1000)
"""The largest distance, in the logarithm, of one batch from the running mean; a larger one is clamped."""
LIMIT = math.log(1e12)
"""Bound of the running mean, in the logarithm. Squared features differ by some orders of magnitude between teachers."""
MONITOR_EVERY = 50
"""Batches from one measurement to the next where the weight is a number and the ratio is only monitored."""
DOMINANT = 10.0
"""The ratio above which the user is warned."""


def gradient_norm(loss: Tensor, features: Sequence[Tensor]) -> Tensor:
    """The norm of a loss's gradient at feature maps, over all of them, in the whole batch of all processes.

    The graph is kept. A scalar; 0 where the loss does not depend on them.
    """
    wanted = [feature for feature in features if feature.requires_grad]
    square = loss.new_zeros(())
    if wanted and loss.requires_grad:
        found = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
        square = sum((gradient.float().square().sum() for gradient in found if gradient is not None), start=square)
    return mean_over_processes(square).sqrt()


class RunningRatio(nn.Module):
    """The ratio of two gradient norms over the batches, averaged in its logarithm, and bounded.

    Its state is two buffers, so that a resumed run goes on with the same ratio.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_ratio: Tensor
        self.measurements: Tensor
        self.register_buffer("log_ratio", torch.zeros(()))
        self.register_buffer("measurements", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, numerator: Tensor, denominator: Tensor) -> None:
        """Add the norms of one batch. A batch without objects, or without a finite gradient, does not count."""
        counts = (numerator > 0) & (denominator > 0) & torch.isfinite(numerator) & torch.isfinite(denominator)
        self.measurements += counts
        rate = torch.clamp(1 / self.measurements.clamp(min=1), min=RATE)
        quotient = numerator / denominator  # of two finite norms it may still be 0 or infinite
        holds = torch.isfinite(quotient) & (quotient > 0)
        measured = torch.where(holds, torch.log(quotient), torch.log(numerator) - torch.log(denominator))
        leap = measured - self.log_ratio
        leap = torch.where(self.measurements > 1, leap.clamp(-LEAP, LEAP), leap)
        moved = (self.log_ratio + rate * leap).clamp(-LIMIT, LIMIT)
        self.log_ratio.copy_(torch.where(counts, moved, self.log_ratio))

    def ratio(self) -> Tensor:
        """A scalar; 0 until something has been measured."""
        return torch.where(self.measurements > 0, self.log_ratio.exp(), 0.0)


class AutoWeight(RunningRatio):
    """A weight that keeps the gradient of one method at a fraction of the detection gradient.

    It is the fraction times the ratio of detection to imitation gradient: above 0 and at most 1e12 times the fraction,
    whatever is measured. The method starts at ``start_step``.
    """

    def __init__(self, rule: Auto, start_step: int) -> None:
        super().__init__()
        self.rule, self.start_step = rule, start_step

    def warming_up(self, step: int) -> bool:
        """Whether, in this batch, only the method's adapters learn."""
        return step < self.start_step + self.rule.warmup

    def due(self, step: int) -> bool:
        """Whether this batch is to be measured."""
        return _is_due(step - self.start_step - self.rule.warmup, self.rule.every)

    def value(self) -> Tensor:
        """The weight, a scalar; 0 until something has been measured."""
        return self.rule.fraction * self.ratio()


class RatioMonitor(RunningRatio):
    """The gradient ratio of a term, for the log and for `dominance_warnings`."""

    def __init__(self, start_step: int) -> None:
        super().__init__()
        self.start_step = start_step

    def due(self, step: int) -> bool:
        """Whether this batch is to be measured where the weight is a number."""
        return _is_due(step - self.start_step - FIRST, MONITOR_EVERY)


def dominance_warnings(ratios: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, str]:
    """Method name -> the warning, for each method whose gradient is far above the detection loss's."""
    return {
        name: f"{name} dominates: at the imitated features its gradient is {ratio:.3g} times that of the detection "
        f"loss, so that the student learns to imitate and not to detect; its weight is {weights[name]:.3g}: take a "
        "smaller one, or auto"
        for name, ratio in ratios.items()
        if ratio > DOMINANT
    }


def _is_due(age: int, every: int) -> bool:
    """Whether batch ``age`` after the warm-up is measured: each of the first, then one in ``every``."""
    return age >= 0 and (age < FIRST or age % every == 0)


def divide_by_own_value(loss: Tensor) -> Tensor:
    """The loss over its own value in all processes: 1 (or 0), with a gradient free of the features' scale.

    Adapters learn by it while an automatic weight warms up and the student is detached: whatever the scale of the
    teacher's features, the adapters' gradient stays comparable with the detection loss's.
    """
    size = mean_over_processes(loss.detach())
    return loss / size.clamp(min=torch.finfo(torch.float32).tiny)
