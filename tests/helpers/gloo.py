"""Processes that talk over gloo, for tests of what must be as if there were one."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed


def two_processes(work: Callable[[int], Any], folder: Path) -> list[Any]:
    """`run_processes` with two of them."""
    return run_processes(work, folder, 2)


def run_processes(work: Callable[[int], Any], folder: Path, number: int) -> list[Any]:
    """What ``work(rank)`` returns in each process of one group: tensors, numbers, texts and containers of them.

    Args:
        work: a function of a module, or a partial of one, called with the rank.
        folder: an empty one, for the meeting and the results.
        number: of processes.
    """
    # A fork server imports everything once; with `spawn` every process would spend seconds on it.
    multiprocessing.set_forkserver_preload(["torch", "torchvision", "eyas", "gloo"])
    torch.multiprocessing.start_processes(
        _process, (work, str(folder), number), nprocs=number, start_method="forkserver"
    )
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(number)]


def _process(rank: int, work: Callable[[int], Any], folder: str, number: int) -> None:
    # As torchrun sets them, for accelerate.
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(number), LOCAL_WORLD_SIZE=str(number))
    os.environ.update(GLOO_SOCKET_IFNAME="lo", OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=number)
    torch.save(work(rank), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()
