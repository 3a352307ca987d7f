"""Short types, huge features and batches of every odd kind: finite numbers, or a stop that names the images.

    python -m faults.numerics [--seeds N] [--json FILE]

A Faster R-CNN pair trains on a batch under all methods at once in float32, bfloat16 and float16: every loss and every
gradient must be finite. Then the teacher's features are scaled up until the type overflows, for each feature method:
the loss and its gradient are finite, or `eyas.training.finite.FiniteLosses` stops, as it does in a training, with the
ids of the images and before the weights change.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from eyas.data.formats.records import build_record
from eyas.detectors import build
from eyas.distillation.distiller import Distiller
from eyas.methods import FGFI, BoxMask, Chen2017, FitNets, LevelPair, Method, RoIMimic, Vanilla
from eyas.training.finite import FiniteLosses
from eyas.types import Detector, EyasError, Level, Target, View
from faults import command_line

SIZE = (96, 128)
METHODS: dict[str, type[Method]] = {
    "fgfi": FGFI,
    "box_mask": BoxMask,
    "fitnets": FitNets,
    "roi_mimic": RoIMimic,
    "vanilla": Vanilla,
    "chen2017": Chen2017,
}
FEATURES = ("fgfi", "box_mask", "fitnets", "roi_mimic")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SCALES = {
    "float16": (1.0, 1e3, 1e4, 1.5e4),
    "bfloat16": (1.0, 1e4, 1e10, 1e15, 1e19, 1e25, 1e38),
    "float32": (1.0, 1e4, 1e10, 1e15, 1e19, 1e25, 1e38),
}
"""Factors for the teacher's features, which are standard normal; the largest approach the limit of the type."""
STEP = 7

NONE = torch.zeros(0, 4)


def targets(*images: Tensor, ignore: Tensor = NONE) -> list[Target]:
    """A batch of images with these boxes."""
    return [{"boxes": boxes, "labels": torch.arange(len(boxes)) % 2, "ignore": ignore} for boxes in images]


def scattered(count: int, side: float, seed: int = 0) -> Tensor:
    """Square boxes at random places inside the image, (count, 4) pixels."""
    generator = torch.Generator().manual_seed(count + 10_000 * seed)
    low = torch.rand(count, 2, generator=generator) * torch.tensor([SIZE[1] - side, SIZE[0] - side])
    return torch.cat((low, low + side), dim=1)


def batches(seed: int = 0) -> dict[str, list[Target]]:
    """Odd batches of two images, by name."""
    whole = torch.tensor([[0.0, 0.0, SIZE[1], SIZE[0]]])
    return {
        "usual": targets(scattered(3, 40, seed), scattered(1, 60, seed)),
        "one without boxes": targets(scattered(3, 40, seed), NONE),
        "none with boxes": targets(NONE, NONE),
        "single pixels": targets(scattered(5, 1, seed), scattered(1, 1, seed)),
        "a hundredth of a pixel": targets(scattered(2, 0.01, seed), scattered(1, 0.01, seed)),
        "1,000 boxes": targets(scattered(1000, 12, seed), scattered(1, 60, seed)),
        "the whole image": targets(whole, NONE),
        "all to be ignored": targets(NONE, NONE, ignore=whole),
    }


EMPTY = ("none with boxes", "all to be ignored")
"""Batches without near cells."""


@cache
def pair() -> tuple[Detector, Detector]:
    """A small student and teacher, untrained."""
    torch.manual_seed(0)
    student, teacher = (
        build(
            "faster_rcnn",
            ("a", "b"),
            backbone="mobilenet_v3_small",
            options={"fpn_channels": 16, "proposals_train": 100, "proposals_test": 100},
        )
        for _ in "st"
    )
    return student, teacher


def take(batch: str, precision: str, seed: int = 0) -> tuple[dict[str, Tensor], nn.Module]:
    """Train one batch under all methods at once. Returns the losses and the module with its gradients."""
    student, teacher = pair()
    methods = (method(1.0, **({"init_std": 0.1} if name in FEATURES else {})) for name, method in METHODS.items())
    module = Distiller(student, teacher, *methods).train()
    module.zero_grad()
    images = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(seed + 1))
    dtype = PRECISIONS[precision]
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not torch.float32):
        losses: dict[str, Tensor] = module(images, batches(seed)[batch])
    torch.stack(list(losses.values())).sum().backward()
    return losses, module


def wrong(batch: str, losses: Mapping[str, Tensor], module: nn.Module) -> str:
    """What is wrong after `take`; empty when nothing is."""
    if not losses.keys() >= METHODS.keys():
        return f"losses {', '.join(losses)}"
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    for name, value in {**losses, **gradients}.items():
        if not bool(torch.isfinite(value.detach().float()).all()):
            return f"{name} is not finite"
    for name in METHODS:
        if losses[name].dtype is not torch.float32:
            return f"{name} is {losses[name].dtype}"
    for name in ("fgfi", "box_mask"):
        if (float(losses[name].detach()) > 0) is (batch in EMPTY):
            return f"{name} is {float(losses[name].detach()):g}"
    return ""


def huge(name: str, precision: str, scale: float, seed: int = 0) -> tuple[str, str]:
    """Train a feature method under a teacher whose features are scaled up.

    Returns:
        "finite", "stopped" by `FiniteLosses`, or "failed"; and the error message.
    """
    dtype, level = PRECISIONS[precision], Level(8, 8)
    generator = torch.Generator().manual_seed(seed + 3)
    student, teacher = (torch.randn(2, 8, 12, 16, generator=generator) for _ in "st")
    seen = [scattered(4, 30, seed), scattered(2, 30, seed)]
    first = View([student.to(dtype).requires_grad_()], [level], SIZE, proposals=seen)
    second = View([(teacher * scale).to(dtype)], [level], SIZE, proposals=seen)
    usual = batches(seed)["usual"]
    method = METHODS[name](1.0, init_std=0.1)
    method.setup([LevelPair("s", level, "t", level)])
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not torch.float32):
        loss = method(first, second, usual)
    loss.backward()
    parameters = [*method.parameters(), first.features[0]]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    records = [build_record(f"image{n}", Path(), (SIZE[1], SIZE[0]), [], Path())[0] for n in range(4)]
    finite = FiniteLosses(records, every=1)
    images: list[Target] = [{**target, "index": index} for index, target in zip((2, 3), usual, strict=True)]
    try:
        finite.add(STEP, loss.detach(), {name: loss}, images)
        finite.add_gradient(STEP, norm)
    except EyasError as error:
        named = f"is not finite in step {STEP}: {name} " in str(error) and "; images image2, image3." in str(error)
        return "stopped" if named else "failed", str(error)
    return ("finite" if bool(torch.isfinite(loss) & torch.isfinite(norm)) else "failed"), ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; 1 when something was not as it must be."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="seeds of each case")
    chosen = parser.parse_args(arguments)
    started, failed = time.monotonic(), []
    odd: Counter[str] = Counter()
    for precision in PRECISIONS:
        for batch in batches():
            for seed in range(chosen.seeds):
                said = wrong(batch, *take(batch, precision, seed))
                odd["failed" if said else "finite"] += 1
                if said:
                    failed.append(f"{batch}, {precision}, seed {seed}: {said}")
                    print(failed[-1], flush=True)
        print(f"{precision}: {dict(odd)} so far, {time.monotonic() - started:.0f} s", flush=True)
    features: dict[str, Counter[str]] = {}
    for precision, scales in SCALES.items():
        for scale in scales:
            row = features.setdefault(f"{precision}, {scale:g}", Counter())
            for name in FEATURES:
                for seed in range(chosen.seeds):
                    outcome, said = huge(name, precision, scale, seed)
                    row[outcome] += 1
                    if outcome == "failed":
                        failed.append(f"{name}, {precision}, {scale:g}, seed {seed}: {said or 'not finite'}")
                        print(failed[-1], flush=True)
            print(f"features of {precision} times {scale:g}: {dict(row)}", flush=True)
    command_line.keep({"seeds": chosen.seeds, "batches": odd, "features": features, "failed": failed}, chosen.json)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
