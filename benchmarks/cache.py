"""A distilled step with a full teacher cache and without one, against the plain student's, in one process.

``python -m benchmarks.cache --data runs/demo/data --teacher TEACHER [--json FILE]``. The demo's student under FGFI (the
recipes digits/student and digits/fgfi), with its 3x3 adapter and with a 1x1 one, in alternation. Times are the CPU's of
one thread, since what else the machine does counts least in them; decoding is not in them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from torch import Tensor, nn

from benchmarks.timing import report
from eyas import FGFI
from eyas.args import DataArgs, OptimArgs, RunArgs
from eyas.checkpoint import load
from eyas.commands import shipped_recipes
from eyas.data import Augmentation, DataSource, Resize, read
from eyas.detectors import build
from eyas.distiller import Distiller
from eyas.engine import PlainStudent, make_accelerator, train_loader
from eyas.progress import Progress
from eyas.training import caching
from eyas.types import Detector, Target

Batch = tuple[Tensor, list[Target]]
BATCHES, WARMUP = 8, 2


def recipe(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load(shipped_recipes()[name].read_text()))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="a distilled step with and without a teacher cache")
    parser.add_argument("--data", type=Path, required=True, help="folder of the demo's data")
    parser.add_argument("--teacher", required=True, help="run folder of its teacher")
    parser.add_argument("--images", type=int, help="only so many images are cached")
    parser.add_argument("--repeats", type=int, default=20, help="steps of each side, of which the median is shown")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here too")
    return parser.parse_args()


def sides(
    chosen: argparse.Namespace, source: DataSource, data: DataArgs, run: RunArgs, accelerator: Accelerator
) -> dict[str, nn.Module]:
    """The plain student, and each adapter's distillers without and with a cache, which is filled here."""
    student, method = recipe("digits/student"), recipe("digits/fgfi")["method"]["init_args"]

    def made() -> Detector:
        torch.manual_seed(0)
        return build(student["model"], source.classes, options=student["options"])

    modules: dict[str, nn.Module] = {"plain": PlainStudent(made())}
    with tempfile.TemporaryDirectory() as folder, Progress() as progress:
        for kernel in (3, 1):
            fgfi = FGFI(**method, kernel_size=kernel)
            store = caching(Path(folder), "bfloat16", chosen.teacher, [fgfi], source, data, run, accelerator, progress)
            cached = Distiller(made(), store.guide, fgfi)
            store.fill(cached.pairs)
            live = Distiller(made(), load(chosen.teacher), FGFI(**method, kernel_size=kernel))
            modules |= {f"teacher {kernel}x{kernel}": live, f"cache {kernel}x{kernel}": cached}
    return modules  # what is mapped into memory stays there without its folder


def step(module: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, accelerator: Accelerator) -> float:
    """CPU seconds of one training step."""
    images = batch[0].contiguous(memory_format=torch.channels_last)
    start = time.process_time()
    with accelerator.autocast():
        losses = module(images, batch[1])
    torch.stack([loss.float() for loss in losses.values()]).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.process_time() - start


def main() -> None:
    chosen, student = arguments(), recipe("digits/student")
    source = read(chosen.data, "train")
    source = replace(source, records=source.records[: chosen.images])
    settings = student["dataset"]
    data = DataArgs(
        resize=Resize(**settings["resize"]),
        augment=Augmentation(**settings["augment"]),
        batch_size=settings["batch_size"],
        workers=0,
    )
    run = RunArgs(precision=student["run"]["precision"], channels_last=True, device="cpu", threads=1)
    accelerator = make_accelerator(run, OptimArgs())
    modules = sides(chosen, source, data, run, accelerator)
    optimizers = {}
    for name, module in modules.items():
        module.train().to(memory_format=torch.channels_last)
        optimizers[name] = torch.optim.AdamW(module.parameters(), lr=1e-3)
    batches = list(islice(train_loader(source, data, 0), BATCHES))
    turns = [
        {
            name: step(module, optimizers[name], batches[turn % len(batches)], accelerator)
            for name, module in modules.items()
        }
        for turn in range(chosen.repeats + WARMUP)
    ][WARMUP:]
    medians = {name: statistics.median(turn[name] for turn in turns) for name in modules}
    rows = [
        {"name": name, "step_seconds": value, "over plain": round(value / medians["plain"], 2)}
        for name, value in medians.items()
    ]
    report(rows, chosen.json)


if __name__ == "__main__":
    main()
