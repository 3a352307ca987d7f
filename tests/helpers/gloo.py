"""Two processes that talk over gloo, for tests of what must be as if there were one."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed


def two_processes(work: Callable[[int], Any], folder: Path) -> list[Any]:
    """What ``work(rank)`` returns in each of two processes of one group: tensors, numbers and containers of them.

    Args:
        work: a function of a module, called with the rank.
        folder: an empty one, for the meeting and the results.
    """
    # A fork server imports everything once; with `spawn` every process would spend seconds on it.
    multiprocessing.set_forkserver_preload(["torch", "torchvision", "eyas", "gloo"])
    torch.multiprocessing.start_processes(_process, (work, str(folder)), nprocs=2, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def _process(rank: int, work: Callable[[int], Any], folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save(work(rank), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()
