"""Where the time of a step goes: named parts of the code, which cost nothing unless somebody listens."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

CLEAR_REFS = Path("/proc/self/clear_refs")
"""Linux resets a process's peak resident memory when it reads a 5 here."""


class Spans:
    """Seconds and peak memory of every part, without those of the parts inside it.

    Args:
        device: of the work. On CUDA every border of a part waits for the device, which makes the sum of the parts
            larger than a step that does not wait.

    Attributes:
        seconds: part -> in all.
        peaks: part -> bytes: allocated on a CUDA device; resident in this process, on a CPU under Linux; else none.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.peaks: dict[str, int] = {}
        self._open: list[str] = []
        self._since = 0.0

    def enter(self, name: str) -> None:
        self._charge()
        self._open.append(name)

    def leave(self) -> None:
        self._charge()
        self._open.pop()

    def _charge(self) -> None:
        """What has passed since the last border belongs to the innermost open part."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        if self._open:
            name = self._open[-1]
            self.seconds[name] += time.perf_counter() - self._since
            peak = self._peak()
            if peak is not None:
                self.peaks[name] = max(peak, self.peaks.get(name, 0))
        self._reset_peak()
        self._since = time.perf_counter()

    def _peak(self) -> int | None:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return peak_memory() if CLEAR_REFS.exists() else None

    def _reset_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif CLEAR_REFS.exists():
            CLEAR_REFS.write_text("5")


_listening: Spans | None = None


@contextmanager
def span(name: str) -> Iterator[None]:
    """A part of a step. Parts may lie inside each other; each is charged with its own time alone."""
    spans = _listening
    if spans is None:
        yield
        return
    spans.enter(name)
    try:
        yield
    finally:
        spans.leave()


@contextmanager
def listening(spans: Spans) -> Iterator[Spans]:
    """Inside, every `span` of this process reports to ``spans``."""
    global _listening
    before, _listening = _listening, spans
    try:
        yield spans
    finally:
        _listening = before


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
