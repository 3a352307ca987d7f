"""Contexts that isolate torch's random state and a module's buffers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def own_random_numbers(seed: int) -> Iterator[None]:
    """Draw random numbers from a seed, on the CPU; the global random state is unchanged."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the accelerators too
        yield


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
