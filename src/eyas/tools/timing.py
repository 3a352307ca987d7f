"""Time and memory of named parts of a step; they cost nothing unless `listening` is active."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

CLEAR_REFS = Path("/proc/self/clear_refs")
"""Writing a 5 here resets a process's peak resident memory on Linux."""


class Spans:
    """Seconds and peak memory of every part, excluding nested parts.

    Args:
        device: where the work runs. On CUDA each part begins and ends with a synchronisation, so the parts add up to
            more than an undisturbed step.

    Attributes:
        seconds: part -> total seconds.
        peaks: part -> bytes, allocated on a CUDA device or resident in this process on Linux; empty elsewhere.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.peaks: dict[str, int] = {}
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Within the context, time and memory are charged to this part."""
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def _charge(self) -> None:
        """Add the time since the last call to the innermost open part."""
        on_cuda, on_linux = self.device.type == "cuda", CLEAR_REFS.exists()
        if on_cuda:
            torch.cuda.synchronize(self.device)
        if self._open:
            name = self._open[-1]
            self.seconds[name] += time.perf_counter() - self._since
            if on_cuda or on_linux:
                peak = torch.cuda.max_memory_allocated(self.device) if on_cuda else peak_memory()
                self.peaks[name] = max(peak, self.peaks.get(name, 0))
        if on_cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        elif on_linux:
            CLEAR_REFS.write_text("5")
        self._since = time.perf_counter()


_listening: Spans | None = None


@contextmanager
def span(name: str) -> Iterator[None]:
    """A named part of a step, or its decorator. Parts nest; each is charged only the time outside its nested parts."""
    with nullcontext() if _listening is None else _listening.part(name):
        yield


@contextmanager
def listening(spans: Spans) -> Iterator[Spans]:
    """Within the context, every `span` in this process reports to ``spans``."""
    global _listening
    before, _listening = _listening, spans
    try:
        yield spans
    finally:
        _listening = before


class CostMeter:
    """Measures the steps of one session of a training: forward, backward and update, without data and evaluation."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._seconds: list[float] = []
        self._pending, self._steps = 0.0, 0

    @contextmanager
    def working(self) -> Iterator[None]:
        """Wraps the work of a batch, and whatever waits for the device to finish it."""
        begin = time.perf_counter()
        yield
        self._pending += time.perf_counter() - begin

    def step(self, *, waited: bool) -> None:
        """Count a complete optimiser step; with accumulation it has several batches.

        A GPU only queues its work: the time since the host last ``waited`` for it is shared among the steps since then.
        """
        self._steps += 1
        if not waited and self.device.type != "cpu":
            return
        self._seconds += [self._pending / self._steps] * self._steps
        self._pending, self._steps = 0.0, 0

    def totals(self) -> dict[str, Any]:
        """The number of steps, their median in seconds, and peak memory in bytes of the process and the CUDA device."""
        on_cuda = self.device.type == "cuda"
        return {
            "steps": len(self._seconds),
            "seconds_per_step": statistics.median(self._seconds) if self._seconds else None,
            "peak_memory": peak_memory(),
            "peak_device_memory": torch.cuda.max_memory_allocated(self.device) if on_cuda else None,
        }


def peak_memory() -> int:
    """The peak resident memory of this process in bytes, without its workers."""
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux ru_maxrss may be the parent's
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
