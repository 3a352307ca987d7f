"""What `eyas demo` leaves: its table and pictures."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from eyas.commands.demo_task import DISTILLED
from eyas.comparison.arms import BASELINE, FORMER_BASELINE
from eyas.comparison.plan import ARMS, DATA_FILE, TEACHER_FILE
from eyas.comparison.presentation import note, rows
from eyas.comparison.statistics import Comparison
from eyas.data import read
from eyas.data.dataset import first_with_objects
from eyas.evaluation.cost import ModelCost, measure_in_turns
from eyas.ops.pixels import as_float
from eyas.report.comparison_files import JSON, MARKDOWN
from eyas.report.plots import save_figure
from eyas.report.sections.masks import draw_masks
from eyas.report.verdicts import side_by_side
from eyas.runs.checkpoint import ModelSpec
from eyas.runs.opening import load
from eyas.tools.files import make_folder, write_json
from eyas.types import EyasError

MARK = "demo.json"
"""File that marks a folder as a demo's."""
PICTURES = ("comparison.png", "curves.png", "near_masks.png", "detections.png")


def costs(folders: Mapping[str, Path]) -> dict[str, ModelCost]:
    """Name to size and CPU latency of the run's detector at its own input size.

    The teacher and one student are measured, in turns: the students share an architecture, and differ by noise alone.
    """
    teacher, *students = folders
    sizes = {name: ModelSpec.load(folders[name]).resize.output_size((1, 1)) for name in (teacher, students[0])}
    measured = measure_in_turns({name: (load(folders[name]), size) for name, size in sizes.items()})
    return {name: measured.get(name, measured[students[0]]) for name in folders}


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
        out: folder of the demo.
        data: folder of images that have the size of the network's input.
        folders: name to run folder, the teacher first.
    """
    models = {name: load(folder) for name, folder in folders.items()}
    teacher = models["teacher"]
    source = read(data, "val")
    images, targets = first_with_objects(source, ModelSpec.load(folders["teacher"]).resize)
    masks = draw_masks(teacher, images, targets, psi=0.5, assignment="global")
    save_figure(out / "near_masks.png", masks)
    found = {name: detector.predict(as_float(images)) for name, detector in models.items()}
    records = [source.records[target["index"]] for target in targets]
    save_figure(out / "detections.png", side_by_side(records, found, teacher.classes))


def claim(out: Path, data: Path | None) -> None:
    """Mark a folder as a demo's, so that what `remove` names there is the demo's own.

    Raises:
        EyasError: something of these names is there that no demo made, or the user's images are inside the folder.
    """
    if data is not None and data.resolve().is_relative_to(out.resolve()):
        raise EyasError(
            f"--data {data} lies in --out {out}, where the demo writes and --fresh removes; choose another --out"
        )
    there = [path.name for path in left_in(out) if path.exists()]
    # Demos of early versions have no mark, but the config of their arm.
    if there and not (out / MARK).is_file() and not (out / ARMS / f"{DISTILLED}.yaml").is_file():
        raise EyasError(f"{out} holds {', '.join(there)}, and no demo made that; choose another --out")
    make_folder(out)
    write_json(out / MARK, {"data": None if data is None else str(data)})


def remove(out: Path) -> None:
    """Remove what an earlier demo left, and nothing else."""
    for path in left_in(out):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def left_in(out: Path) -> list[Path]:
    """What a demo leaves in its folder, whether it is there or not."""
    files = ("data", "cache", "teacher", ARMS, TEACHER_FILE, DATA_FILE, JSON, MARKDOWN, "results.json", *PICTURES)
    runs = [run for arm in (BASELINE, FORMER_BASELINE, DISTILLED) for run in sorted(out.glob(f"{arm}-*"))]
    return [*(out / name for name in files), *runs]
