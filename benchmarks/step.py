"""A distilled step against the least it can cost, and against plain training.

``python -m benchmarks.step [--pair TEXT] [--json FILE]``. The floor of a distilled step is the plain student's step,
plus the teacher's forward pass up to the last tap (nothing with a full cache), plus the adapter's bare matrix products
at the near cells, forward and backward. These parts are timed separately; their sum is ``floor``. All sides of a pair
run in turns on the same batch of the demo's scenes: the parts of the floor, the step with a running teacher, the step
with a full cache, and the step the plain way (the teacher's whole detector under no_grad, the adapter on the whole map,
the IoU of all anchors with all boxes). Decoding and augmentation are left out; `eyas benchmark` includes them.

``--device cuda`` uses larger pairs, at 800 x 1333 pixels in bfloat16. It adds rows for how often the host waits for the
device in a plain and in a distilled step, and for the share of a distilled step's device time outside convolutions.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor

from benchmarks.mask import brute_force
from benchmarks.timing import Row, parser, report, start, turns, write
from eyas import FGFI
from eyas.args import DataArgs, OptimArgs, Precision, RunArgs
from eyas.cache.identity import TeacherOnDemand
from eyas.cache.session import CacheSession
from eyas.data import DataSource, Resize, read
from eyas.data.digits import DigitsSpec, write_digits
from eyas.detectors import build
from eyas.distillation.distiller import Distiller
from eyas.distillation.outlines import anchor_grids
from eyas.distillation.weights import FIRST
from eyas.methods import Auto
from eyas.methods.adapter import Adapter
from eyas.methods.imitation import imitation_loss
from eyas.nn.fold_batchnorm import fold_batch_norms
from eyas.nn.taps import Taps, tap_features
from eyas.ops.anchors import AnchorGrid
from eyas.ops.pixels import as_float
from eyas.runs.opening import DetectorSource
from eyas.tools.progress import Progress
from eyas.training.accelerator import make_accelerator
from eyas.training.loss_module import Baseline
from eyas.training.trainer import train_loader
from eyas.types import Detector, Target

Batch = tuple[Tensor, list[Target]]
Step = Callable[[], object]

REPEATS = FIRST - 1
"""Turns of each side. With more, "distilled" would reach a step that measures the gradient ratio, as one in fifty does;
such a step costs as much as "weight measured"."""
BACKGROUND_BIAS = 5.0
"""Background bias of an untrained teacher's box head, so that it detects as few objects as a trained teacher and its
NMS has as little work."""


@dataclass(frozen=True)
class Pair:
    """A teacher and a student with random weights; weights do not change the cost of a step."""

    name: str
    model: str
    teacher: dict[str, Any]
    student: dict[str, Any]
    size: tuple[int, int]
    batch: int
    precision: Precision = "no"
    kernels: Sequence[int] = field(default=(3,))


DIGITS = {"stem_channels": 16, "anchor_shapes": [[17, 24], [28, 35], [43, 50]]}
RESNETS: dict[str, Any] = {
    "teacher": {"backbone": "resnet50"},
    "student": {"backbone": "resnet18"},
    "size": (320, 320),
    "batch": 8,
}
PAIRS = (
    Pair(
        "ShuffleDet 1x -> 0.25x",
        "shuffledet",
        {"options": {**DIGITS, "width": 1.0}},
        {"options": {**DIGITS, "width": 0.25, "zero_init_residual": True, "dropout": 0.0}},
        size=(160, 160),
        batch=16,
        precision="auto",
        kernels=(3, 1),
    ),
    Pair("Faster R-CNN R50-FPN -> R18-FPN", "faster_rcnn", **RESNETS),
    Pair("RetinaNet R50-FPN -> R18-FPN", "retinanet", **RESNETS),
)
GPU_PAIRS = tuple(
    Pair(
        f"Faster R-CNN R101-FPN -> R50-FPN, batch {batch}",
        "faster_rcnn",
        {"backbone": "resnet101"},
        {"backbone": "resnet50"},
        size=(800, 1333),
        batch=batch,
        precision="bf16",
    )
    for batch in (8, 16)
)


class Sides:
    """Every side of a pair, as a function that runs one step.

    Args:
        pair: teacher and student.
        kernel: kernel size of the adapter.
        source: the images.
        folder: the cache's folder.
        device: the device of both detectors and the batch.
    """

    def __init__(self, pair: Pair, kernel: int, source: DataSource, folder: Path, device: torch.device) -> None:
        self.pair, self.kernel, self.source, self.folder, self.device = pair, kernel, source, folder, device
        self.run = RunArgs(
            precision=pair.precision, channels_last=True, device=device.type, threads=torch.get_num_threads()
        )
        self.data = DataArgs(resize=Resize(height=pair.size[0], width=pair.size[1]), batch_size=pair.batch, workers=0)
        self.accelerator: Accelerator = make_accelerator(self.run, OptimArgs())
        images, targets = next(iter(train_loader(source, self.data, 0)))
        on_device = send_to_device((as_float(images).contiguous(memory_format=torch.channels_last), targets), device)
        self.batch: Batch = cast(Batch, on_device)
        self.live = self._distiller()
        self.cells = [len(level.cells[0]) for level in self._teacher_targets()]

    def steps(self) -> dict[str, Step]:
        plain = Baseline(self._student())
        return {
            "plain": self._step(plain),
            "teacher": partial(self._forward, self.live.teacher.detector),
            "products": self._products(),
            "distilled": self._step(self.live),
            "weight measured": self._step(self._distiller(weight=Auto(warmup=0, every=1))),
            "cached": self._step(self._cached()),
            "the plain way": self._step(PlainWay(self._student(), self._teacher(), self.kernel, self.pair.size)),
        }

    def _student(self) -> Detector:
        torch.manual_seed(0)
        student = build(self.pair.model, self.source.classes, **self.pair.student)
        student.network.to(self.device, memory_format=torch.channels_last)
        return student

    def _teacher(self) -> Detector:
        torch.manual_seed(1)
        teacher = build(self.pair.model, self.source.classes, **self.pair.teacher)
        for module in teacher.network.modules():
            if isinstance(module, FastRCNNPredictor):
                nn.init.constant_(module.cls_score.bias[:1], BACKGROUND_BIAS)
        teacher.network.to(self.device, memory_format=torch.channels_last).eval().requires_grad_(False)
        return teacher

    def _method(self, weight: float | Auto) -> FGFI:
        return FGFI(weight, kernel_size=self.kernel, init_std=0.01)

    def _distiller(self, weight: float | Auto = 0.01) -> Distiller:
        teacher = self._teacher()
        fold_batch_norms(teacher)
        return Distiller(self._student(), teacher, self._method(weight))

    def _cached(self) -> Distiller:
        teacher = TeacherOnDemand(DetectorSource("teacher", "code", self._teacher), self.device, torch.channels_last)
        method = self._method(0.01)
        with Progress(quiet=True) as progress:
            caching = CacheSession(
                self.folder,
                "bfloat16",
                teacher,
                [method],
                train=self.source,
                data=self.data,
                accelerator=self.accelerator,
                progress=progress,
            )
            distiller = Distiller(self._student(), caching.teacher, method)
            caching.prepare(distiller.pairs)
        return distiller

    def _forward(self, teacher: Detector) -> None:
        with self.accelerator.autocast():
            tap_features(teacher, [pair.teacher_tap for pair in self.live.pairs], self.batch[0])

    def _teacher_targets(self) -> Sequence[Any]:
        (method,) = self.live.methods
        teacher = self.live._teacher_view(*self.batch, method.reads, None)
        return method.select(teacher, self.batch[1])

    def _products(self) -> Step:
        """The adapter's matrix products at the near cells of every level: one forward, two backward."""
        dtype = torch.bfloat16 if self.accelerator.mixed_precision == "bf16" else torch.float32
        operands = []
        for cells, pair in zip(self.cells, self.live.pairs, strict=True):
            inputs, outputs = self.kernel**2 * pair.student.channels, pair.teacher.channels
            shapes = (cells, inputs), (outputs, inputs), (cells, outputs)
            operands.append([torch.randn(shape, dtype=dtype, device=self.device) for shape in shapes])

        def products() -> None:
            for patches, weight, gradient in operands:
                patches @ weight.T
                gradient.T @ patches
                gradient @ weight

        return products

    def _step(self, module: nn.Module) -> Step:
        module.train().to(self.device, memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-5)
        return partial(one_step, module, optimizer, self.batch, self.accelerator.autocast)


class PlainWay(nn.Module):
    """FGFI as it is usually written, without Eyas's savings."""

    def __init__(self, student: Detector, teacher: Detector, kernel: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.student = student
        self._teacher = (teacher,)
        self.adapters = nn.ModuleList(
            Adapter(one.channels, other.channels, kernel_size=kernel, init_std=0.01)
            for one, other in zip(student.levels.values(), teacher.levels.values(), strict=True)
        )
        self.grids: Sequence[AnchorGrid] = anchor_grids(teacher, size)
        self.anchors: Tensor
        self.register_buffer("anchors", torch.cat([grid.anchors().double().view(-1, 4) for grid in self.grids]))

    def forward(self, images: Tensor, targets: list[Target]) -> dict[str, Tensor]:
        (teacher,) = self._teacher
        with Taps(self.student.network, self.student.levels) as mine:
            losses = self.student.losses(images, targets)
        with torch.no_grad(), Taps(teacher.network, teacher.levels) as theirs:
            teacher.predict(images)
        masks = [brute_force(self.anchors, self.grids, target["boxes"]) for target in targets]
        levels = [torch.cat(level) for level in zip(*masks, strict=True)]
        chosen = torch.stack([level.sum() for level in levels]).sum()
        terms = [
            imitation_loss(adapter(mine.features[one]), theirs.features[other], mask, chosen)
            for adapter, one, other, mask in zip(
                self.adapters, self.student.levels, teacher.levels, levels, strict=True
            )
        ]
        return {**losses, "imitation": 0.01 * torch.stack(terms).sum()}


def one_step(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    autocast: Callable[[], AbstractContextManager[None]],
) -> None:
    with autocast():
        losses = module(*batch)
    torch.stack([loss.float() for loss in losses.values()]).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


RATIOS = (
    ("teacher", ("plain",), "teacher's forward over plain"),
    ("products", ("plain",), "adapter's bare products over plain"),
    ("distilled", ("plain", "teacher", "products"), "distilled over floor"),
    ("distilled", ("plain",), "distilled over plain"),
    ("weight measured", ("plain",), "distilled, a step that measures the weight, over plain"),
    ("cached", ("plain", "products"), "cached over floor"),
    ("cached", ("plain",), "cached over plain"),
    ("the plain way", ("plain",), "the plain way over plain"),
)
"""(the numerator's side, the denominator's sides, which are summed, the name of the row)."""


def compare(sides: Sides, repeats: int) -> list[Row]:
    """One row for each ratio: the median over turns of the ratio within a turn."""
    steps, name = sides.steps(), f"{sides.pair.name}, {sides.kernel}x{sides.kernel}"
    found = turns(steps, repeats)
    rows: list[Row] = []
    for above, below, what in RATIOS:
        tops = [turn[above] for turn in found]
        bottoms = [sum(turn[side] for side in below) for turn in found]
        rows.append(
            {
                "name": f"{name}: {what}",
                "near cells": sum(sides.cells),
                "above_seconds": statistics.median(tops),
                "below_seconds": statistics.median(bottoms),
                "ratio": statistics.median(top / bottom for top, bottom in zip(tops, bottoms, strict=True)),
            }
        )
    if sides.device.type == "cuda":
        for side in ("plain", "distilled"):
            rows.append({"name": f"{name}: host waits, {side}", "count": host_waits(steps[side])})
        share = 1 - convolution_share(steps["distilled"])
        rows.append({"name": f"{name}: distilled, device time that is no convolution", "share": share})
    return rows


def host_waits(run: Step) -> int:
    """How often the host waits for the device."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in caught)


def convolution_share(run: Step) -> float:
    """The share of device time spent in convolutions, forward and backward."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        run()
        torch.cuda.synchronize()
    operations = [event for event in found.key_averages() if event.key.startswith("aten::")]
    times = {event.key: event.self_device_time_total for event in operations}
    return sum(time for name, time in times.items() if "conv" in name) / sum(times.values())


def main() -> None:
    found = parser("a distilled step against its floor", repeats=REPEATS)
    found.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu, or cuda")
    found.add_argument("--pair", default="", metavar="TEXT", help="run only the pairs whose name contains this")
    chosen = start(found)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        source = read(write_digits(root / "digits", DigitsSpec(train_images=16, val_images=1)), "train")
        pairs = GPU_PAIRS if chosen.device.type == "cuda" else PAIRS
        for pair in (pair for pair in pairs if chosen.pair in pair.name):
            for kernel in pair.kernels:
                sides = Sides(pair, kernel, source, root / f"{len(rows)}", chosen.device)
                own = compare(sides, chosen.repeats)
                for columns in itertools.groupby(own, key=tuple):
                    report(list(columns[1]), None)
                rows += own
    if chosen.json is not None:
        write(rows, chosen.json)


if __name__ == "__main__":
    main()
