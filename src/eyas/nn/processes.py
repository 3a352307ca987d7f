"""Sums, counts and random numbers of the processes that train together, one for each device; one alone is a group too.

Every process must call `mean_over_processes` and `count_per_process` alike, or one of them waits forever.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def place_among_processes() -> tuple[int, int]:
    """The number of this process, from 0, and how many there are."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a scalar over all processes. A single process returns it unchanged."""
    _, processes = place_among_processes()
    if processes == 1:
        return value
    total = value.clone()
    distributed.all_reduce(total)
    return total / processes


def count_per_process(count: Tensor, least: float = 0.0) -> Tensor:
    """A count over the whole batch, ``least`` or more, divided by the number of processes R; a float32 scalar.

    Gradients are averaged over processes, not summed. So process r must divide its sum S_r by N / R: the mean over
    processes is then ``sum_r S_r / N``, the loss of the whole batch.
    """
    _, processes = place_among_processes()
    return mean_over_processes(count.float()).clamp(min=least / processes)


def random_of_batch(seed: int, batch: int) -> torch.Generator:
    """Random numbers, on the CPU, of one training batch of this process: a resumed run draws the same again."""
    process, processes = place_among_processes()
    return torch.Generator().manual_seed(seed + batch * processes + process)
