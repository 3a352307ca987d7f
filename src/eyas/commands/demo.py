"""`eyas demo`: a comparison on bundled pixels, with its pictures. Its trainings are commands of the product."""

from __future__ import annotations

import time
from dataclasses import asdict
from importlib import resources
from pathlib import Path

from eyas.args import check_seeds
from eyas.commands.compare import about, raise_failed
from eyas.tools.locks import sole_use
from eyas.tools.output_paths import check_output_folder
from eyas.tools.tables import print_table
from eyas.types import EyasError

ASSETS = Path(str(resources.files("eyas"))) / "assets"
TEACHER = ASSETS / "digits_teacher"
CONFIG = ASSETS / "demo.yaml"
"""Student and arms, as a config of `eyas compare`."""


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
        fresh: start over instead of resuming from what the folder holds.
    """
    check_seeds(*seeds)
    check_output_folder(out)
    with sole_use(out):
        _demo(out, seeds, train_teacher=train_teacher, fresh=fresh)


def _demo(out: Path, seeds: list[int], *, train_teacher: bool, fresh: bool) -> None:
    from eyas.commands import digits
    from eyas.comparison.jobs import train_missing
    from eyas.comparison.plan import refuse_other_teacher
    from eyas.comparison.statistics import compare_arms
    from eyas.data.digits import data_hash
    from eyas.report.comparison_files import write_comparison

    started = time.monotonic()
    if fresh:
        digits.remove(out)
    teacher = out / "teacher" if train_teacher else TEACHER
    refuse_other_teacher(out, str(teacher))
    data = digits.compose(out / "data")
    if train_teacher:
        digits.train_digits_teacher(out, data)
    if not (teacher / "model.json").is_file():
        raise EyasError(f"{teacher}: the bundled teacher is missing; make it with --train_teacher true")
    plan = digits.digits_plan(CONFIG, data, teacher, out, seeds)
    raise_failed(train_missing(plan))
    comparison = compare_arms(plan.finished())
    folders = {"teacher": teacher, **{arm.name: plan.folder(arm, seeds[0]) for arm in plan.arms}}
    costs = {name: digits.cost(folder) for name, folder in folders.items()}
    more = {"cost": {name: asdict(cost) for name, cost in costs.items()}, "data_hash": data_hash(data)}
    seconds = round(time.monotonic() - started, 1)
    write_comparison(out, comparison, {**about(plan), **more, "seconds": seconds})
    digits.draw(out, data, folders)
    shown, caption = digits.table(comparison, costs), digits.caption(comparison)
    print_table(shown, title="Digits over photographs, validation images", caption=caption)
    files = "comparison.json, comparison.md, comparison.png, curves.png, near_masks.png, detections.png"
    print(f"\n{out}/: {files}; one run folder per training\n")
