"""`eyas benchmark`: where the time of a training step goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from eyas.args import DataArgs, OptimArgs, RunArgs, StudentArgs, TeacherArgs, at_least
from eyas.tools.output_paths import check_output_files
from eyas.tools.tables import as_text
from eyas.types import Detector

if TYPE_CHECKING:
    from eyas.tools.progress import Progress
    from eyas.tools.timing import Spans
    from eyas.training.loss_module import LossModule
    from eyas.training.setup import Setup
    from eyas.training.trainer import Trainer

PARTS = ("data", "student", "teacher", "mask", "adapter", "loss", "weight", "backward", "optimizer")
"""In the order of a step. ``teacher`` covers reading the cache if there is one; ``loss`` is a method without its mask
and adapter; ``weight`` measures an automatic one; ``backward`` covers student and adapters."""


def benchmark(
    data: Path,
    student: StudentArgs,
    teacher: str | None = None,
    teaching: TeacherArgs = TeacherArgs(),
    steps: int = 20,
    warmup: int = 25,
    json_file: Path | None = None,
    dataset: DataArgs = DataArgs(),
    optim: OptimArgs = OptimArgs(),
    run: RunArgs = RunArgs(),
) -> None:
    """Show where the time of a training step goes, and the peak memory of each part. Nothing is kept.

    Args:
        data: folder of a data set, its format recognised from its files: COCO, VOC, KITTI, YOLO or one of Hugging Face
            datasets; or hf:ORG/NAME.
        teacher: run folder of a trained detector; a folder of save_pretrained, or a hub id, of transformers; a
            checkpoint of rfdetr or libreyolo; package.module:function; or features:timm:NAME. Without one, the step of
            `eyas train` is timed.
        any_classes: ignored here: the teacher is not checked.
        any_score: ignored here, too.
        any_teacher: ignored here, too.
        steps: timed steps.
        warmup: steps before them; an automatic weight is measured in each of the batches 11 to 20.
        json_file: also write the times there.
    """
    at_least(1, steps=steps)
    at_least(0, warmup=warmup)
    check_output_files(json_file)
    from eyas.distillation.distiller import Distiller
    from eyas.runs.opening import resolve_detector
    from eyas.tools.files import write_json
    from eyas.training.loss_module import Baseline
    from eyas.training.setup import RunSetup, chosen_methods

    run, scale = replace(run, trackers=None), 1.0 if teacher is None else teaching.teacher_scale
    with TemporaryDirectory() as folder, RunSetup(data, Path(folder) / "run", dataset, optim, run, scale) as setup:
        spec = setup.spec(student)
        detector = spec.build(student.weights)
        module: LossModule = Baseline(detector)
        if teacher is not None:
            methods, pairs = chosen_methods(teaching.method), teaching.pairs
            session = setup.teacher_session(resolve_detector(teacher), methods, teaching.cache, teaching.cache_dtype)
            module = Distiller(detector, session.teacher, *methods, pairs=pairs, teacher_scale=scale, seed=run.seed)
            session.prepare(module.pairs)
        if run.compile:
            say_breaks(detector, setup)
        spans, whole = time_steps(setup.trainer(module, spec), steps, warmup, setup.progress)
        print(table(spans, whole, steps))
        if json_file is not None:
            write_json(json_file, numbers(spans, whole, steps))


def say_breaks(student: Detector, setup: Setup) -> None:
    """Where compiling breaks the student's graph up."""
    from eyas.nn.compile import explain_levels
    from eyas.ops.pixels import as_float
    from eyas.training.trainer import train_loader

    images, _ = next(iter(train_loader(setup.train, setup.dataset, setup.run.seed)))
    for module in explain_levels(student, as_float(images)):
        setup.say(f"compile   {module.name}: {module.graphs} graphs, {len(module.breaks)} breaks")
        for reason in module.breaks:
            setup.say(f"{'':<9} {reason}")


def time_steps(trainer: Trainer, steps: int, warmup: int, progress: Progress) -> tuple[Spans, float]:
    """The parts of ``steps`` steps, and the seconds of as many undivided steps."""
    from eyas.tools.timing import Spans, listening, span

    trainer.to_training_mode()
    groups = _endless(trainer)
    task = progress.task("benchmark", warmup + 2 * steps, unit="steps", images=0)
    for _ in range(warmup):
        trainer.train_step(next(groups))
        progress.advance(task)
    begin = time.perf_counter()
    for _ in range(steps):
        trainer.train_step(next(groups))
        progress.advance(task)
    whole = time.perf_counter() - begin
    with listening(Spans(trainer.accelerator.device)) as spans:
        for _ in range(steps):
            with span("data"):
                batches = next(groups)
            trainer.train_step(batches)
            progress.advance(task)
    progress.finish(task)
    return spans, whole


def _endless(trainer: Trainer) -> Iterator[list[Any]]:
    """The batches of one step after the other."""
    for epoch in count():
        trainer.train.set_epoch(epoch)
        batches = iter(trainer.train)
        while group := list(islice(batches, trainer.optim.accumulate)):
            yield group


def numbers(spans: Spans, whole: float, steps: int) -> dict[str, Any]:
    """Milliseconds in a step and peak bytes, by part, and milliseconds of a whole step."""
    seconds = {name: spans.seconds[name] for name in PARTS if name in spans.seconds}
    parts = {name: {"ms": 1e3 * part / steps, "peak_bytes": spans.peaks.get(name)} for name, part in seconds.items()}
    return {"steps": steps, "step_ms": 1e3 * whole / steps, "parts": parts}


def table(spans: Spans, whole: float, steps: int) -> str:
    """The parts of a step, in its order, with their share."""
    total = sum(spans.seconds.values())
    rows = [["part", "ms", "share", "peak MiB"]]
    for name, part in numbers(spans, whole, steps)["parts"].items():
        peak = "-" if part["peak_bytes"] is None else f"{part['peak_bytes'] / 2**20:.0f}"
        rows.append([name, f"{part['ms']:.2f}", f"{spans.seconds[name] / total:.1%}", peak])
    whole_row = ["a step, not taken apart", f"{1e3 * whole / steps:.2f}", "", ""]
    return as_text([*rows, ["all parts", f"{1e3 * total / steps:.2f}", "", ""], whole_row])
