"""The accelerator of a run: device, precision, processes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, InitProcessGroupKwargs, ProjectConfiguration, broadcast, set_seed
from torch import nn

from eyas.args import OptimArgs, RunArgs
from eyas.training.trackers import EVENTS, chosen_trackers
from eyas.types import EyasError

WAIT = timedelta(hours=3)
"""How long a process waits for the others. NCCL's ten minutes end a run whose processes fill a cache for hours, since
their shares of the images take a few percent more or less, or whose first process scores a million images."""


def make_accelerator(run: RunArgs, optim: OptimArgs, folder: Path | None = None) -> Accelerator:
    """The accelerator of a run, with its trackers where it has a run folder.

    Raises:
        EyasError: the device lacks the precision, or a tracker is not installed.
    """
    trackers = [] if folder is None else chosen_trackers(run)
    events = ProjectConfiguration(logging_dir=None if folder is None else str(folder / EVENTS))
    # accelerate keeps its settings as long as the process lives; a second run in it may have others.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    precision = run.precision
    if precision == "auto":
        precision = "bf16" if computes_in_bf16(PartialState(cpu=run.device == "cpu", timeout=WAIT).device) else "no"
    try:
        accelerator = Accelerator(
            cpu=run.device == "cpu",
            mixed_precision=precision,
            gradient_accumulation_steps=optim.accumulate,
            log_with=list(trackers) or None,
            project_config=events,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=WAIT)],
        )
    except ValueError as error:
        raise EyasError(f"--run.precision {run.precision} does not work here: {error}") from error
    if run.precision == "fp16" and accelerator.device.type == "cpu":  # accelerate would go on in float32
        raise EyasError("--run.precision fp16 needs an accelerator; on the CPU use bf16 or no")
    if accelerator.distributed_type == DistributedType.FSDP:
        # Evaluating and saving read the student's own weights, which FSDP keeps in pieces.
        raise EyasError("FSDP is not supported yet; configure accelerate for DDP (MULTI_GPU), or leave it to --devices")
    return accelerator


@contextmanager
def process_settings(run: RunArgs) -> Iterator[None]:
    """Seed, threads and warning filters of the process of a command; threads and filters are put back on exit."""
    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        # Two strides of an axis of length 1 (depthwise weights) are the same layout, which DDP does not see.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        torch.set_num_threads(run.threads or threads)
        set_seed(run.seed)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def computes_in_bf16(device: torch.device) -> bool:
    """Whether the device reports instructions for bfloat16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older PyTorch lacks it
    return device.type == "cpu" and any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


def broadcast_buffers(network: nn.Module) -> None:
    """Give every process the buffers of the first, which saves them: BatchNorm's differ with the images of each."""
    for buffer in network.buffers():
        broadcast(buffer)
