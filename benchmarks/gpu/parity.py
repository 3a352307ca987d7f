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

from benchmarks.gpu.cases import Bench, Case, Row, imported
from benchmarks.gpu.precision import autocast
from benchmarks.sides import DIGITS
from eyas.commands.methods import method_class
from eyas.detectors import TransformersDetector, build
from eyas.distillation.distiller import Distiller
from eyas.methods import Method
from eyas.types import Detector, Target, View

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
    "yolov9": {"options": {"size": "t"}},
}
WIDTHS = [16, 32, 48, 64]
D_FINE: Mapping[str, Any] = {
    "d_model": 64,
    "encoder_hidden_dim": 64,
    "encoder_ffn_dim": 64,
    "encoder_in_channels": WIDTHS[1:],
    "encoder_attention_heads": 4,
    "decoder_in_channels": [64, 64, 64],
    "decoder_layers": 2,
    "decoder_ffn_dim": 64,
    "decoder_attention_heads": 4,
    "num_queries": 20,
    "num_denoising": 0,  # it draws boxes at random, on the device
    "freeze_backbone_batch_norms": False,
    "backbone_config": {
        "model_type": "hgnet_v2",
        "embedding_size": 16,
        "stem_channels": [3, 16, 16],
        "hidden_sizes": WIDTHS,
        "depths": [1, 1, 1, 1],
        "stage_in_channels": [16, *WIDTHS[:3]],
        "stage_mid_channels": [16, 16, 16, 16],
        "stage_out_channels": WIDTHS,
        "stage_num_blocks": [1, 1, 1, 1],
        "stage_numb_of_layers": [1, 1, 1, 1],
        "out_indices": [2, 3, 4],
    },
}


def of(name: str, weight: float = 1.0, **options: Any) -> Callable[[], Method]:
    """Makes a method by its short name."""
    return lambda: method_class(name)(weight=weight, **options)


IN_SHORT = ("fgfi", "fitnets", "vanilla", "chen2017")
ON_VIEWS: Mapping[str, Mapping[str, Callable[[], Method]]] = {
    "retinanet": {
        **{name: of(name) for name in (*IN_SHORT, "box_mask", "pkd", "cwd", "mgd", "fgd", "defeat", "frs")},
        **{name: of(name) for name in ("cosine", "self_similarity", "bckd")},
        "fgfi, sparse": of("fgfi", sparse_below=1.1),
        "fgfi, dense": of("fgfi", sparse_below=0.0),
        "fgfi, per level": of("fgfi", assignment="per_level"),
        "fgfi, by size": of("fgfi", assignment="by_size"),
    },
    "faster_rcnn": {
        **{name: of(name) for name in (*IN_SHORT, "roi_mimic")},
        "roi_mimic, student's": of("roi_mimic", proposals="student"),
    },
    "shuffledet": {name: of(name) for name in (*IN_SHORT, "box_mask", "pkd", "bckd")},
}
"""Methods that are given the views of a batch, by the family of student and teacher."""
IN_STEPS: Mapping[str, Mapping[str, Callable[[], Method]]] = {
    "shuffledet": {"fgfi": of("fgfi", 0.01)},
    "retinanet": {"fgfi": of("fgfi", 0.01), "crosskd": of("crosskd")},
    "dfine": {name: of(name) for name in ("query_ld", "detr_distill", "d3etr", "kd_detr", "target_aware")},
    "yolov9": {"ld": of("ld")},
}
"""Methods in whole steps: those that enter a network once more, and FGFI; by families whose own losses draw nothing at
random, as the samplers of two stages do."""
LIBRARIES = {"dfine": "transformers", "yolov9": "libreyolo"}
"""Family -> the package that it needs beside those of Eyas."""
CHOOSY = ("dfine", "yolov9")
"""Families that choose queries, or match cells to objects, by their scores: an untrained network's choice in 16 bits is
another one, so their steps are compared in float32 alone."""


def cases(bench: Bench) -> list[Case]:
    return [
        Case(f"{family}, {what}{name}", partial(rows, family, make, bench))
        for tried, what, rows in ((ON_VIEWS, "", method_rows), (IN_STEPS, "a whole step with ", step_rows))
        for family, methods in tried.items()
        if not bench.tiny or family in ("shuffledet", "dfine")
        for name, make in methods.items()
    ]


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


def step_rows(family: str, make: Callable[[], Method], bench: Bench) -> Iterator[Row]:
    """One row for each precision: all losses of a distilled step, added up, and the gradients of all parameters."""
    distiller = small_distiller(family, make())
    expected = step(copy.deepcopy(distiller), torch.device("cpu"), "float32")
    for precision in PRECISIONS if family not in CHOOSY else ("float32",):
        found = step(copy.deepcopy(distiller), torch.device(bench.device), precision)
        yield compared(found, expected, precision, STEP_TOLERANCES)


def small_distiller(family: str, method: Method) -> Distiller:
    """A distiller of two untrained detectors on the CPU, whose statistics fit the batch and whose adapters are not near
    0."""
    torch.manual_seed(0)
    if (library := LIBRARIES.get(family)) is not None:
        imported(library)
    student, teacher = (small(family) for _ in range(2))
    for module in teacher.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    teacher.losses(*batch())
    distiller = Distiller(student, teacher, method)
    for parameter in method.parameters():
        nn.init.normal_(parameter, std=0.05)
    return distiller.train()


def small(family: str) -> Detector:
    """An untrained detector, as small as its kind can be."""
    if family != "dfine":
        return build(family, CLASSES, **SMALL[family])
    from transformers import AutoModelForObjectDetection, DFineConfig

    names = dict(enumerate(CLASSES))
    config = DFineConfig(**D_FINE, id2label=names, label2id={name: label for label, name in names.items()})
    return TransformersDetector(AutoModelForObjectDetection.from_config(config)).train()


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
