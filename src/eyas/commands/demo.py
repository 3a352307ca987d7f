"""`eyas demo`: a comparison with its pictures, on bundled pixels or the user's, made by commands of the product."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

from eyas.args import check_seeds
from eyas.commands.compare import about, raise_failed
from eyas.tools.locks import sole_use
from eyas.tools.output_paths import check_output_folder
from eyas.tools.tables import print_table
from eyas.types import EyasError

FILES = "comparison.json, comparison.md, comparison.png, curves.png, near_masks.png, detections.png"


def demo(
    out: Path = Path("runs/demo"),
    data: Path | None = None,
    seeds: list[int] | None = None,
    train_teacher: bool = False,
    fresh: bool = False,
) -> None:
    """See it work: distil a small detector in minutes, and compare it with the same one trained alone.

    Args:
        out: folder for the data, the runs, the pictures and comparison.json.
        data: folder of labelled images of your own; handwritten digits over photographs when left out. A teacher is
            then trained on small copies of them first.
        seeds: each trains one student without the teacher and one with it; three on the digits, one on your images.
        train_teacher: train the digits' teacher by its recipe (half an hour) instead of taking the bundled one.
        fresh: start over instead of resuming from what the folder holds.
    """
    seeds = ([0, 1, 2] if data is None else [0]) if seeds is None else seeds
    check_seeds(*seeds)
    if data is not None and train_teacher:
        raise EyasError("--train_teacher: the teacher of your own images is trained in any case; leave it out")
    check_output_folder(out)
    with sole_use(out):
        _demo(out, data, seeds, own_teacher=train_teacher, fresh=fresh)


def _demo(out: Path, data: Path | None, seeds: list[int], *, own_teacher: bool, fresh: bool) -> None:
    from eyas.commands import demo_results
    from eyas.commands.demo_digits import digits_task
    from eyas.commands.demo_images import images_task
    from eyas.commands.demo_task import BUNDLED_TEACHER
    from eyas.comparison.plan import refuse_other_teacher
    from eyas.comparison.statistics import compare_arms
    from eyas.comparison.trainings import train_missing
    from eyas.report.comparison_files import write_comparison

    started = time.monotonic()
    demo_results.claim(out, data)
    if fresh:
        demo_results.remove(out)
    if data is None and not own_teacher:
        refuse_other_teacher(out, str(BUNDLED_TEACHER))
    task = digits_task(out, own_teacher=own_teacher) if data is None else images_task(data, out)
    plan = task.plan(out, seeds)
    raise_failed(train_missing(plan))
    comparison = compare_arms(plan.finished())
    folders = {"teacher": task.teacher, **{arm.name: plan.folder(arm, seeds[0]) for arm in plan.arms}}
    costs = demo_results.costs(folders)
    more = {"cost": {name: asdict(cost) for name, cost in costs.items()}, **task.about}
    seconds = round(time.monotonic() - started, 1)
    write_comparison(out, comparison, {**about(plan), **more, "seconds": seconds})
    demo_results.draw(out, task.data, folders)
    print_table(demo_results.table(comparison, costs), title=task.title, caption=demo_results.caption(comparison))
    print(f"\n{out}/: {FILES}; one run folder per training; {seconds:.0f} s in all")
