"""The same numbers twice: deterministic algorithms, and random states that a resumed run continues from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from eyas.types import EyasError


@contextmanager
def deterministic(on: bool) -> Iterator[None]:
    """In the context, if ``on``, torch, cuDNN and cuBLAS use algorithms that give the same numbers every time.

    A run's random numbers come from its seed anyway and do not depend on the number of data workers; this fixes the
    order in which a device adds. Enter it before the first work on a GPU, when cuBLAS reads its setting.

    Raises:
        EyasError: an operation has no such algorithm on the device.
    """
    if not on:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    # https://docs.nvidia.com/cuda/cublas/#results-reproducibility: one of two workspaces that make it so
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    try:
        yield
    except RuntimeError as error:
        if "use_deterministic_algorithms" not in str(error):
            raise
        raise EyasError(
            f"--run.deterministic true: {str(error).partition('. ')[0]}; leave the option out, or take --run.device cpu"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = cudnn


def seed_epoch(seed: int, epoch: int, process: int, step: int = 0) -> None:
    """Seed torch's generators, on every device, for one epoch of one process, or the rest of it after ``step``.

    Dropout then depends on nothing that came before: a resumed run draws the same, and so do a baseline and a distilled
    run of one seed.
    """
    entropy = (seed, epoch, process, step) if step else (seed, epoch, process)
    torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint32)[0]))


def random_states(accelerator: Accelerator) -> list[dict[str, Tensor]]:
    """The random state of each process, by kind of device; all processes must call it."""
    own = {"cpu": torch.get_rng_state()}
    if accelerator.device.type == "cuda":
        own["cuda"] = torch.cuda.get_rng_state(accelerator.device)
    return cast(list[dict[str, Tensor]], gather_object([own]))


def other_processes(states: Sequence[dict[str, Tensor]], accelerator: Accelerator) -> str:
    """A sentence where a run was stopped in the middle of an epoch of another number of processes; else empty."""
    before, now = len(states), accelerator.num_processes
    if before in (0, now):
        return ""
    return (
        f"in the middle of an epoch of {before} process{'es' * (before > 1)}, with {now}: the steps that are left have "
        "the same images; what a network draws by chance, such as dropout, is drawn anew"
    )


def restore_random_state(states: Sequence[dict[str, Tensor]], accelerator: Accelerator) -> None:
    """Restore what `random_states` returned. A device that it does not list stays as it is, and so do all where the
    states are those of another number of processes.

    Raises:
        EyasError: the states are damaged.
    """
    if len(states) != accelerator.num_processes:
        return
    own = states[accelerator.process_index]
    try:
        torch.set_rng_state(own["cpu"])
        if accelerator.device.type == "cuda" and "cuda" in own:
            torch.cuda.set_rng_state(own["cuda"], accelerator.device)
    except (TypeError, KeyError, RuntimeError) as error:
        raise EyasError(
            f"the random state in the checkpoint is damaged ({error}); start the run anew in another --out"
        ) from error
