"""The cost of a detector: parameters, floating-point operations, latency and memory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from eyas.nn.eval_mode import eval_mode
from eyas.tools.tables import as_text
from eyas.types import Detector, Size


@dataclass(frozen=True)
class ModelCost:
    """The cost of ``detector.predict`` on one batch: preprocessing inside the detector, network, decoding and NMS.

    Attributes:
        parameters: number in ``detector.network``, trainable or not; a shared parameter counts once.
        gflops: 1e9 floating-point operations **per image**, a multiply-add counted as two. It covers convolutions
            (plain, grouped, transposed), matrix products and attention, and leaves out what
            `torch.utils.flop_counter` has no formula for: biases of convolutions, normalisation, activations,
            pooling, resizing, element-wise arithmetic, deformable convolution, recurrent layers, RoIAlign, decoding
            and NMS. Two-stage detectors run a head on every proposal, so their count depends on the image, here one of
            noise.
        latency_ms: milliseconds per batch, the median of the runs, wall clock, with the device synchronised.
        latency_p10_ms: 10th percentile.
        latency_p90_ms: 90th percentile.
        peak_memory_mb: MiB allocated on the GPU at the peak of a prediction, the weights of all detectors that are
            measured together included; None on a CPU, where PyTorch keeps no such count.
        batch_size: images per batch.
        image_size: (height, width) of each, pixels.
        device: "cpu" or "cuda".
        threads: CPU threads inside an operation.
    """

    parameters: int
    gflops: float
    latency_ms: float
    latency_p10_ms: float
    latency_p90_ms: float
    peak_memory_mb: float | None
    batch_size: int
    image_size: Size
    device: str
    threads: int

    def headline(self) -> str:
        """One line, as ``14.1 M params  23.40 GFLOPs  31.2 ms on cpu``."""
        size = f"{self.parameters / 1e6:.2f} M params  {self.gflops:.2f} GFLOPs"
        return f"{size}  {self.latency_ms:.1f} ms on {self.device}"


def measure(
    detector: Detector,
    image_size: Size,
    *,
    device: str | torch.device = "cpu",
    runs: int = 20,
    warmup: int = 3,
    batch_size: int = 1,
    threads: int | None = None,
) -> ModelCost:
    """Measure a detector on images of uniform noise, the same ones on every call.

    The detector's device and mode, the number of threads and the random state are restored.

    Args:
        detector: any detector.
        image_size: (height, width) of the network's input, pixels.
        device: where to run.
        runs: timed predictions, at least 1.
        warmup: predictions before them, not timed: allocation, kernel choice, lazy buffers.
        batch_size: images per prediction.
        threads: CPU threads inside an operation; None leaves PyTorch's number. Times of two models compare only at
            the same number.

    Raises:
        ValueError: runs or batch_size below 1, warmup below 0, or threads below 1.
    """
    costs = measure_in_turns(
        {"": (detector, image_size)}, device=device, runs=runs, warmup=warmup, batch_size=batch_size, threads=threads
    )
    return costs[""]


def measure_in_turns(
    detectors: Mapping[str, tuple[Detector, Size]],
    *,
    device: str | torch.device = "cpu",
    runs: int = 20,
    warmup: int = 3,
    batch_size: int = 1,
    threads: int | None = None,
) -> dict[str, ModelCost]:
    """Measure several detectors, one prediction of each at a time: what disturbs the machine disturbs all alike.

    Args:
        detectors: name to detector and (height, width) of its input.
        device, runs, warmup, batch_size, threads: see `measure`.

    Raises:
        ValueError: as for `measure`.
    """
    if min(runs, batch_size) < 1 or warmup < 0 or (threads is not None and threads < 1):
        raise ValueError(
            f"runs, batch_size and threads must be at least 1 and warmup at least 0, got runs={runs}, "
            f"batch_size={batch_size}, threads={threads}, warmup={warmup}"
        )
    device = torch.device(device)
    with cpu_threads(threads), torch.no_grad(), ExitStack() as stack:
        for detector, _ in detectors.values():
            stack.enter_context(_moved(detector.network, device))
        sides = {name: _Side(*given, device, batch_size) for name, given in detectors.items()}
        for side in sides.values():
            side.start(warmup)
        for _ in range(runs):
            for side in sides.values():
                side.times.append(side.once())
        return {name: side.cost() for name, side in sides.items()}


class _Side:
    """One detector of several that are measured in turns, on the device already."""

    def __init__(self, detector: Detector, size: Size, device: torch.device, batch_size: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.detector, self.device = detector, device
        self.images = torch.rand(batch_size, 3, *size, generator=generator).to(device)
        self.times: list[float] = []
        self.flops = 0
        self.peak: float | None = None

    def start(self, warmup: int) -> None:
        """Count, and predict a few times untimed."""
        self.flops = count_flops(self.detector, self.images[:1])
        for _ in range(warmup):
            self.detector.predict(self.images)

    def once(self) -> float:
        """Milliseconds of one prediction."""
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        taken = _time_once(self.detector, self.images, self.device)
        if on_gpu:
            self.peak = max(self.peak or 0.0, torch.cuda.max_memory_allocated(self.device) / 2**20)
        return taken

    def cost(self) -> ModelCost:
        p10, median, p90 = (float(value) for value in np.percentile(self.times, (10, 50, 90)))
        batch_size, _, height, width = self.images.shape
        return ModelCost(
            parameters=sum(parameter.numel() for parameter in self.detector.network.parameters()),
            gflops=self.flops / 1e9,
            latency_ms=median,
            latency_p10_ms=p10,
            latency_p90_ms=p90,
            peak_memory_mb=self.peak,
            batch_size=batch_size,
            image_size=(height, width),
            device=self.device.type,
            threads=torch.get_num_threads(),
        )


def count_flops(detector: Detector, images: Tensor) -> int:
    """Floating-point operations of one prediction, a multiply-add as two; `ModelCost` says which are counted."""
    # Fused attention has no formula in the counter (on a CPU none at all): take its plain, decomposed form here.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            _frozen(detector.network),
            FlopCounterMode(display=False) as counter,
            sdpa_kernel(SDPBackend.MATH),
        ):
            detector.predict(images)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return int(counter.get_total_flops())


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """No parameter requires a gradient in the context: the counter fails at a view, under no_grad, of one that does."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def table(costs: Mapping[str, ModelCost]) -> str:
    """Plain text, one row per model by name: parameters, GFLOPs per image, latency with its spread, memory."""
    rows = [["model", "params M", "GFLOPs", "ms", "p10-p90", "MiB"]]
    for name, cost in costs.items():
        spread = f"{cost.latency_p10_ms:.1f}-{cost.latency_p90_ms:.1f}"
        memory = "-" if cost.peak_memory_mb is None else f"{cost.peak_memory_mb:.0f}"
        millions, latency = f"{cost.parameters / 1e6:.2f}", f"{cost.latency_ms:.1f}"
        rows.append([name, millions, f"{cost.gflops:.2f}", latency, spread, memory])
    return as_text(rows)


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Within the context, operations use ``count`` CPU threads; None keeps the current number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _moved(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Within the context, the network is on the device and in evaluation mode; both are restored."""
    first = next(network.parameters(), None)
    home = first.device if first is not None else device
    try:
        with eval_mode(network.to(device)):
            yield
    finally:
        network.to(home)


def _time_once(detector: Detector, images: Tensor, device: torch.device) -> float:
    _synchronise(device)
    start = time.perf_counter()
    detector.predict(images)
    _synchronise(device)
    return (time.perf_counter() - start) * 1e3


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
