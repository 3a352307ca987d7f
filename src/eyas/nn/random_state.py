"""Work that leaves torch's random state, and a module's buffers, as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def own_random_numbers(seed: int) -> Iterator[None]:
    """Draw from a seed on the CPU inside; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the accelerators too
        yield


@contextmanager
def restored_afterwards(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Put the buffers (BatchNorm's statistics) and the random state back on exit."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for buffer, values in before:
                buffer.detach().copy_(values)
