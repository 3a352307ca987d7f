"""The sides of a training step that are timed against each other: pairs of detectors, and one step of each side."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor

from benchmarks.mask import brute_force
from eyas import FGFI
from eyas.args import DataArgs, OptimArgs, Precision, RunArgs
from eyas.cache.identity import TeacherOnDemand
from eyas.cache.session import CacheSession
from eyas.data import DataSource, Resize
from eyas.detectors import build
from eyas.distillation.distiller import Distiller
from eyas.distillation.outlines import anchor_grids
from eyas.distillation.teachers import TeacherRequest
from eyas.distillation.weights import FIRST
from eyas.methods import Auto, Method
from eyas.methods.adapter import Adapter
from eyas.methods.imitation import FeatureImitation, imitation_loss
from eyas.nn.compile import compile_levels
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
        f"{name} R101-FPN -> R50-FPN, batch {batch}",
        model,
        {"backbone": "resnet101"},
        {"backbone": "resnet50"},
        size=(800, 1333),
        batch=batch,
        precision="bf16",
    )
    for batch in (8, 16)
    for name, model in (("Faster R-CNN", "faster_rcnn"), ("RetinaNet", "retinanet"))
)


SIDES = ("plain", "teacher", "products", "distilled", "weight measured", "cached", "the plain way")


class Sides:
    """The sides of a pair, each as a function that runs one step.

    Args:
        pair: teacher and student.
        kernel: kernel size of the adapter.
        source: the images.
        folder: the cache's folder.
        device: the device of both detectors and the batch.
        backend: compile student and teacher up to their levels by this backend of torch.compile; None: eager.
        method: makes the method of the distilled sides; None: FGFI with an adapter that passes a gradient.
    """

    def __init__(
        self,
        pair: Pair,
        kernel: int,
        source: DataSource,
        folder: Path,
        device: torch.device,
        *,
        backend: str | None = None,
        method: Callable[[], Method] | None = None,
    ) -> None:
        self.make_method = method or partial(FGFI, kernel_size=kernel, init_std=0.01)
        self.pair, self.kernel, self.source, self.folder, self.device = pair, kernel, source, folder, device
        self.backend = backend
        self._built = cache(self._build)
        self.run = RunArgs(
            precision=pair.precision, channels_last=True, device=device.type, threads=torch.get_num_threads()
        )
        self.data = DataArgs(resize=Resize(height=pair.size[0], width=pair.size[1]), batch_size=pair.batch, workers=0)
        self.accelerator: Accelerator = make_accelerator(self.run, OptimArgs())
        images, targets = next(iter(train_loader(source, self.data, 0)))
        on_device = send_to_device((as_float(images).contiguous(memory_format=torch.channels_last), targets), device)
        self.batch: Batch = cast(Batch, on_device)
        self.live = self._distiller()

    @cached_property
    def cells(self) -> list[int]:
        """The near cells of each level."""
        return [len(level.cells[0]) for level in self._teacher_targets()]

    def steps(self, names: Sequence[str] = SIDES) -> dict[str, Step]:
        """One step of each side that is named, in the order of the names."""
        makers: dict[str, Callable[[], Step]] = {
            "plain": lambda: self._step(Baseline(self._student())),
            "teacher": lambda: partial(self._forward, self.live.teacher.detector),
            "products": self._products,
            "distilled": lambda: self._step(self.live),
            "weight measured": lambda: self._step(self._distiller(weight=Auto(warmup=0, every=1))),
            "cached": lambda: self._step(self._cached()),
            "the plain way": lambda: self._step(
                PlainWay(self._student(), self._teacher(), self.kernel, self.pair.size)
            ),
        }
        return {name: makers[name]() for name in names}

    def _build(self, role: str) -> Detector:
        """A detector on the CPU; the sides have copies of it, which are made sooner than its initial weights."""
        teaches = role == "teacher"
        torch.manual_seed(int(teaches))
        detector = build(self.pair.model, self.source.classes, **(self.pair.teacher if teaches else self.pair.student))
        if teaches:
            for module in detector.network.modules():
                if isinstance(module, FastRCNNPredictor):
                    nn.init.constant_(module.cls_score.bias[:1], BACKGROUND_BIAS)
        return detector

    def _copy(self, role: str) -> Detector:
        detector = copy.deepcopy(self._built(role))
        detector.network.to(self.device, memory_format=torch.channels_last)
        return detector

    def _student(self) -> Detector:
        return self._compiled(self._copy("student"))

    def _teacher(self) -> Detector:
        teacher = self._copy("teacher")
        teacher.network.eval().requires_grad_(False)
        return teacher

    def _compiled(self, detector: Detector) -> Detector:
        if self.backend is not None:
            compile_levels(detector, backend=self.backend)
        return detector

    def _method(self, weight: float | Auto) -> Method:
        method = self.make_method()
        method.weight = weight
        return method

    def _distiller(self, weight: float | Auto = 0.01) -> Distiller:
        teacher = self._teacher()
        fold_batch_norms(teacher)
        return Distiller(self._student(), self._compiled(teacher), self._method(weight))

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
        assert isinstance(method, FeatureImitation), "cells are those of a method that imitates features at some"
        images, targets = self.batch
        taps = [pair.teacher_tap for pair in self.live.pairs]
        return method.select(self.live.teacher.view(TeacherRequest(images, targets, taps, method.reads)), targets)

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
        if isinstance(module, Distiller):
            settle(module)
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


def settle(distiller: Distiller) -> None:
    """Take a distiller to batch 21: for forty batches it then neither checks a batch nor, unless its weight is auto,
    measures the gradient ratio. Both wait for a GPU, and are rare in a training."""
    distiller.set_extra_state({"batches": 2 * FIRST + 1})
    for term in distiller.terms:
        term.monitor.restore_host_state((FIRST, 2 * FIRST, 1, FIRST))


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
