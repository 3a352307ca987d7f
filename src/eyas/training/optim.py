"""The optimiser, the schedule of its learning rate, and the running average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from eyas.args import OptimArgs
from eyas.types import Detector


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


def make_average(student: Detector, decay: float) -> AveragedModel | None:
    """A running average of the student's weights and buffers, or None at decay 0.

    ``average = decay * average + (1 - decay) * weights`` after each step; the first step sets it to the weights.
    """
    if not decay:
        return None
    return AveragedModel(cast(nn.Module, student), multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
