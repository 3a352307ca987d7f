"""What a training costs: seconds in its steps, and the most memory that it held."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


class CostMeter:
    """Measures the training steps of one sitting: forward, backward and update, without data, logging and evaluation.

    Args:
        device: where the steps run.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._seconds: list[float] = []
        self._pending, self._steps = 0.0, 0

    @contextmanager
    def working(self) -> Iterator[None]:
        """Around the work of a batch, and around what waits for the device to have done it."""
        begin = time.perf_counter()
        yield
        self._pending += time.perf_counter() - begin

    def step(self, *, waited: bool) -> None:
        """An optimiser step is complete, which accumulation makes of several batches.

        Args:
            waited: the device has been waited for since. On a GPU, where a step only queues its work, the time of all
                steps since it was last waited for is shared out among them.
        """
        self._steps += 1
        if not waited and self.device.type != "cpu":
            return
        self._seconds += [self._pending / self._steps] * self._steps
        self._pending, self._steps = 0.0, 0

    def figures(self) -> dict[str, Any]:
        """Steps measured, their median in seconds, and peak memory in bytes, of the process and of the CUDA device."""
        on_cuda = self.device.type == "cuda"
        return {
            "steps": len(self._seconds),
            "seconds_per_step": statistics.median(self._seconds) if self._seconds else None,
            "peak_memory": peak_memory(),
            "peak_device_memory": torch.cuda.max_memory_allocated(self.device) if on_cuda else None,
        }


def peak_memory() -> int:
    """The largest resident set of this process so far, in bytes; that of its workers is not in it."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux's ru_maxrss may be that of the process which started this one
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
