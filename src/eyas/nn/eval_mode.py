"""Temporary evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Puts a network in evaluation mode inside the context, then restores the mode of every module.

    Modes are restored one by one instead of by ``train()``, because a module frozen in evaluation mode inside a
    training network must stay frozen.
    """
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
