"""The state of torch's random generators in every process of a run, which the rest of an epoch resumes from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from eyas.types import EyasError


def seed_epoch(seed: int, epoch: int, process: int) -> None:
    """Seed torch's generators, on every device, for one epoch of one process.

    What dropout draws then depends on nothing that came before: a resumed run, and a plain and a distilled run of one
    seed, draw the same.
    """
    torch.manual_seed(int(np.random.SeedSequence((seed, epoch, process)).generate_state(1, np.uint32)[0]))


def random_states(accelerator: Accelerator) -> list[dict[str, Tensor]]:
    """The state of each process, by kind of device; all processes must call it."""
    own = {"cpu": torch.get_rng_state()}
    if accelerator.device.type == "cuda":
        own["cuda"] = torch.cuda.get_rng_state(accelerator.device)
    states: list[dict[str, Tensor]] = gather_object([own])
    return states


def restore_random_state(states: Sequence[dict[str, Tensor]], accelerator: Accelerator) -> None:
    """Go on with what `random_states` gave; a device that it knows nothing of is left as it is.

    Raises:
        EyasError: the run had another number of processes.
    """
    if len(states) != accelerator.num_processes:
        raise EyasError(
            f"the run stopped in the middle of an epoch of {len(states)} processes; resume it with as many, not "
            f"{accelerator.num_processes}"
        )
    own = states[accelerator.process_index]
    torch.set_rng_state(own["cpu"])
    if accelerator.device.type == "cuda" and "cuda" in own:
        torch.cuda.set_rng_state(own["cuda"], accelerator.device)
