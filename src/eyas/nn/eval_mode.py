"""Contexts that change a network or torch's random state and restore both on exit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode, and restore the mode of every module on exit.

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


@contextmanager
def restored_afterwards(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Restore a module's buffers (BatchNorm statistics) and the random state on exit."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for buffer, values in before:
                buffer.detach().copy_(values)


@contextmanager
def own_random_numbers(seed: int) -> Iterator[None]:
    """Draw random numbers from a seed, on the CPU; the global random state is unchanged."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the accelerators too
        yield
