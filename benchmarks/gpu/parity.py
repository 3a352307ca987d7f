"""Every method's loss and gradients on the device against the CPU in float32, and those of whole training steps.

The views that a method compares are made once, on the CPU, so that no rounding decides which anchors or proposals are
matched. The device computes in float32 without TF32, in bfloat16, and in float16 under a gradient scaler. Differences
are the norm of the difference over the norm of the CPU's values.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.cases import Bench, Case, Row
from benchmarks.gpu.precision import autocast
from benchmarks.sides import DIGITS
from eyas.detectors import build
from eyas.distillation.distiller import Distiller
from eyas.methods import FGFI, BoxMask, Chen2017, FitNets, Method, RoIMimic, Vanilla
from eyas.types import Target, View

# NVIDIA's libraries read this when they are first used. PyTorch's own switches have changed their names.
os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 2e-2}
"""The largest relative difference of a method's loss and of its gradient. On a CPU the gradients in 16 bits differ by
up to 0.024 and 0.008: rounding moves values across the ReLU of an adapter."""
STEP_TOLERANCES = {"float32": 1e-3, "bfloat16": 0.5, "float16": 0.2}
"""Likewise for a whole step, whose gradients have passed an untrained network: 0.27 and 0.08 on a CPU."""
CLASSES = ("a", "b", "c")
SIZE = (128, 160)
SMALL: Mapping[str, Mapping[str, Any]] = {
    "retinanet": {"backbone": "resnet18"},
    "faster_rcnn": {"backbone": "resnet18"},
    "shuffledet": {"options": {**DIGITS, "width": 0.25, "dropout": 0.0}},
}
FEATURES: Mapping[str, Callable[[], Method]] = {
    "FGFI": lambda: FGFI(1.0, sparse_below=1.1),
    "FGFI, dense": lambda: FGFI(1.0, sparse_below=0.0),
    "FGFI, per level": lambda: FGFI(1.0, assignment="per_level"),
    "BoxMask": lambda: BoxMask(1.0),
    "FitNets": lambda: FitNets(1.0),
}
OUTPUTS: Mapping[str, Callable[[], Method]] = {"Chen2017": lambda: Chen2017(1.0), "Vanilla": lambda: Vanilla(1.0)}
REGIONS: Mapping[str, Callable[[], Method]] = {
    "RoIMimic": lambda: RoIMimic(1.0),
    "RoIMimic, student's": lambda: RoIMimic(1.0, proposals="student"),
}
METHODS: Mapping[str, Mapping[str, Callable[[], Method]]] = {
    "retinanet": {**FEATURES, "FGFI, by size": lambda: FGFI(1.0, assignment="by_size"), **OUTPUTS},
    "faster_rcnn": {**FEATURES, **OUTPUTS, **REGIONS},
    "shuffledet": {**FEATURES, **OUTPUTS},
}
STEPS = ("shuffledet", "retinanet")
"""Detectors whose own losses draw nothing at random, as the samplers of two stages do."""


def cases(bench: Bench) -> list[Case]:
    families = ("shuffledet",) if bench.tiny else tuple(METHODS)
    methods = [
        Case(f"{family}, {name}", partial(method_rows, family, make, bench))
        for family in families
        for name, make in METHODS[family].items()
    ]
    steps = [Case(f"{family}, a whole step with FGFI", partial(step_rows, family, bench)) for family in STEPS]
    return methods + steps[: 1 if bench.tiny else None]


def method_rows(family: str, make: Callable[[], Method], bench: Bench) -> Iterator[Row]:
    """One row for each precision: a method's loss and its gradients at features, head outputs and adapters."""
    distiller = small_distiller(family, make())
    images, targets = batch()
    student, teacher = map(scaled, distiller._views(images, targets, distiller.terms))
    (method,) = distiller.methods
    expected = evaluate(method, student, teacher, targets, torch.device("cpu"), "float32")
    for precision in PRECISIONS:
        found = evaluate(method, student, teacher, targets, torch.device(bench.device), precision)
        yield compared(found, expected, precision, TOLERANCES)


def step_rows(family: str, bench: Bench) -> Iterator[Row]:
    """One row for each precision: all losses of a distilled step, added up, and the gradients of all parameters."""
    distiller = small_distiller(family, FGFI(0.01))
    expected = step(copy.deepcopy(distiller), torch.device("cpu"), "float32")
    for precision in PRECISIONS:
        found = step(copy.deepcopy(distiller), torch.device(bench.device), precision)
        yield compared(found, expected, precision, STEP_TOLERANCES)


def small_distiller(family: str, method: Method) -> Distiller:
    """A distiller of two untrained detectors on the CPU, whose statistics fit the batch and whose adapters are not near
    0."""
    torch.manual_seed(0)
    student, teacher = (build(family, CLASSES, **SMALL[family]) for _ in range(2))
    for module in teacher.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    teacher.losses(*batch())
    distiller = Distiller(student, teacher, method)
    for parameter in method.parameters():
        nn.init.normal_(parameter, std=0.05)
    return distiller.train()


def scaled(view: View) -> View:
    """The same view with maps of standard deviation 1, as trained detectors have them more or less."""
    return replace(view, features=[feature.detach() / feature.detach().std() for feature in view.features])


def batch() -> tuple[Tensor, list[Target]]:
    """Two random images with three objects and one, and copies of the boxes that stay on the host."""
    images = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(7))
    boxes = torch.tensor([[8.0, 8, 40, 60], [70, 20, 130, 90], [20, 60, 60, 120]]), torch.tensor([[30.0, 20, 110, 100]])
    return images, [
        {"boxes": own, "labels": torch.arange(len(own)) % len(CLASSES), "host_boxes": own.numpy()} for own in boxes
    ]


def evaluate(
    method: Method, student: View, teacher: View, targets: Sequence[Target], device: torch.device, precision: str
) -> list[Tensor]:
    """Loss and gradients of a copy of a method on a device, from views that were made elsewhere."""
    own = copy.deepcopy(method).to(device)
    student, teacher = moved(student, device), moved(teacher, device)
    leaves = [tensor.requires_grad_() for tensor in differentiable(student)]
    dtype = PRECISIONS[precision]

    def loss() -> Tensor:
        seen, taught = (replace(view, features=[one.to(dtype) for one in view.features]) for view in (student, teacher))
        return own(seen, taught, moved(list(targets), device))

    return with_gradients(loss, [*leaves, *own.parameters()], device, precision)


def step(distiller: Distiller, device: torch.device, precision: str) -> list[Tensor]:
    """The losses of a batch, added up, and the gradients of all parameters."""
    images, targets = batch()
    distiller.to(device)
    on_device = images.to(device), moved(targets, device)

    def loss() -> Tensor:
        return torch.stack([value.float() for value in distiller(*on_device).values()]).sum()

    return with_gradients(loss, list(distiller.parameters()), device, precision)


def with_gradients(
    loss: Callable[[], Tensor], leaves: Sequence[Tensor], device: torch.device, precision: str
) -> list[Tensor]:
    """A loss and its gradients at the leaves, in a precision; float16 under a scaler, until nothing overflows."""
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
    optimizer = torch.optim.SGD(leaves, lr=0.0)
    for _ in range(20):
        optimizer.zero_grad()
        with autocast(device, PRECISIONS[precision]):
            value = loss()
        scaler.scale(value).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        found = [value.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]
        if all(bool(tensor.isfinite().all()) for tensor in found):
            return [tensor.float().cpu() for tensor in found]
    raise AssertionError(f"a gradient in {precision} is not finite at any scale")


def compared(found: Sequence[Tensor], expected: Sequence[Tensor], precision: str, allowed: Mapping[str, float]) -> Row:
    """The row of a precision: relative differences of the loss and of all gradients together, and their tolerance."""
    of_loss = relative(found[:1], expected[:1])
    of_gradient = relative(found[1:], expected[1:])
    return {
        "precision": precision,
        "loss": float(expected[0]),
        "loss differs by": of_loss,
        "gradient differs by": of_gradient,
        "tolerance": allowed[precision],
        "within": max(of_loss, of_gradient) <= allowed[precision],
    }


def relative(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The norm of the difference over the norm of what is expected, all tensors together."""
    pairs = list(zip(found, expected, strict=True))
    difference = sum(float((one.double() - other.double()).square().sum()) for one, other in pairs)
    return (difference / sum(float(other.double().square().sum()) for _, other in pairs)) ** 0.5


def differentiable(view: View) -> list[Tensor]:
    """What of a student's view a method may send gradients to."""
    heads = [tensor for head in view.heads.values() for tensor in (head.logits, head.deltas) if tensor is not None]
    return [*view.features, *heads, *view.losses.values()]


def moved(value: Any, device: torch.device) -> Any:
    """A copy on a device, detached, of all tensors in a value of dataclasses, mappings and sequences."""
    if isinstance(value, Tensor):
        return value.detach().to(device, copy=True)
    if is_dataclass(value) and not isinstance(value, type):
        own = {each.name: moved(getattr(value, each.name), device) for each in fields(value) if each.init}
        return replace(value, **own)
    if isinstance(value, Mapping):
        return {key: moved(each, device) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(moved(each, device) for each in value)
    return value
