"""The optimiser, the schedule of its learning rate, and the running average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from eyas.args import OptimArgs
from eyas.types import Detector

FIRST_SHARE = 0.01
"""Above this share of the first step's weights in the final running average, a run warns."""


def make_optimizer(model: nn.Module, optim: OptimArgs, backbone: Sequence[nn.Parameter] = ()) -> torch.optim.Optimizer:
    """SGD or AdamW on the trainable parameters; only those of two and more dimensions decay.

    The last two groups are those among ``backbone``, at ``backbone_lr`` times the learning rate, where any are given.
    """
    trainable, apart = [parameter for parameter in model.parameters() if parameter.requires_grad], set(backbone)
    parts = [([p for p in trainable if p not in apart], optim.lr)]
    if apart:
        parts.append(([p for p in trainable if p in apart], optim.lr * optim.backbone_lr))
    groups = [
        {"params": [p for p in part if (p.ndim > 1) == decays], "lr": lr, "weight_decay": optim.weight_decay * decays}
        for part, lr in parts
        for decays in (True, False)
    ]
    if optim.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum)
    return torch.optim.AdamW(groups, lr=optim.lr)


def schedule(optim: OptimArgs, total: int) -> Callable[[int], float]:
    """The learning rate's factor at each optimiser step, from 0, of a run of ``total`` steps."""
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


def average_decay(decay: float, averaged: int) -> float:
    """The decay of a running average of ``averaged`` weights, at least 1: ``min(decay, (1 + n) / (10 + n))``.

    It rises to ``decay``, so that the average forgets its first weights in a short run too. The formula is that of
    TensorFlow's ``tf.train.ExponentialMovingAverage`` with ``num_updates``.
    """
    return min(decay, (1 + averaged) / (10 + averaged))


class RunningAverage(AveragedModel):
    """``average = d * average + (1 - d) * weights`` after each step, d from `average_decay`, for weights and buffers.

    Whole numbers, such as the indices of an attention's biases, are those of the weights. The first step sets it to the
    weights. The number of steps is in the state, so a resumed run goes on exactly.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__(module, use_buffers=True)
        self.decay = decay

    def update_parameters(self, model: nn.Module) -> None:
        """Take in the weights after a step."""
        # n_averaged stays on the CPU: reading it waits for no GPU.
        self.multi_avg_fn = get_ema_multi_avg_fn(average_decay(self.decay, int(self.n_averaged)))
        super().update_parameters(model)
        for averaged, own in zip(self.module.buffers(), model.buffers(), strict=True):
            if not (averaged.is_floating_point() or averaged.is_complex()):
                averaged.copy_(own)


def make_average(student: Detector, decay: float) -> RunningAverage | None:
    """A running average of the student, or None at decay 0."""
    return RunningAverage(cast(nn.Module, student), decay) if decay else None


def share_of_first(decay: float, steps: int) -> float:
    """The share of the weights after the first step in the running average after ``steps`` steps, in (0, 1]."""
    return math.prod(average_decay(decay, averaged) for averaged in range(1, steps))
