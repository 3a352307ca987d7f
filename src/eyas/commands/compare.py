"""`eyas compare`: methods beside the baseline, over several seeds. Its trainings are commands of the product."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyas.args import at_least, check_seeds
from eyas.commands.distill import distill, try_out
from eyas.commands.parsing import call_with_options, resolve_options
from eyas.commands.train import train
from eyas.comparison.arms import ArmOptions
from eyas.tools.locks import sole_use
from eyas.tools.output_paths import check_output_folder
from eyas.tools.tables import print_table
from eyas.types import EyasError

if TYPE_CHECKING:
    from eyas.comparison.plan import Plan

TRAININGS: Mapping[str, Callable[..., Any]] = {"train": train, "distill": distill}


def compare(
    data: Path,
    teacher: str,
    student: ArmOptions,
    out: Path,
    arms: dict[str, ArmOptions] | None = None,
    seeds: list[int] = [0, 1, 2],  # noqa: B006 (never changed: the signature is the schema)
    epochs: list[int] | None = None,
    equal_time: bool = False,
    metric: str | None = None,
    jobs: int | None = None,
    threads: int | None = None,
    report_only: bool = False,
) -> None:
    """Train a student without a method and by several methods, over several seeds, and compare the results.

    Runs of one seed share initial weights and data order. Called again, it resumes where it stopped.

    Args:
        data: folder of a data set.
        teacher: run folder of a trained detector; a folder of save_pretrained, or a hub id, of transformers; a
            checkpoint of rfdetr or libreyolo; or package.module:function.
        student: recipe by name or file, or options, or a list of these; later ones override earlier ones.
        out: folder of the comparison: a run folder for each arm and seed, the table and the pictures.
        arms: name to what the arm adds to the student: a recipe, options, a method, or a list of these.
        seeds: every arm is trained once for each.
        epochs: every arm is trained for each of these numbers of epochs; for its own when left out.
        equal_time: also train, for each arm with a method, the baseline for as many epochs as take as long.
        metric: the metric to rank by, such as map_75; mAP when left out.
        jobs: trainings at a time; one for each GPU, or for each core, when left out.
        threads: CPU threads of each; the cores shared out evenly when left out.
        report_only: train nothing; report the runs that are finished.
    """
    check_seeds(*seeds)
    at_least(1, jobs=1 if jobs is None else jobs, threads=1 if threads is None else threads)
    check_output_folder(out)
    from eyas.comparison.equal_time import read_decided
    from eyas.comparison.plan import make_plan
    from eyas.comparison.presentation import tables
    from eyas.comparison.schedules import compare_schedules
    from eyas.comparison.statistics import compare_arms
    from eyas.comparison.waves import train_in_waves, with_decided
    from eyas.report.comparison_files import write_comparison

    arms, schedules = arms or {}, epochs or []
    plan = make_plan(data, teacher, student, arms, out=out, seeds=seeds, epochs=schedules, resolve=resolve_command)
    failed: Mapping[str, str] = {}
    if not report_only:
        check_arms(plan)
        with sole_use(out):
            failed = train_in_waves(plan, equal_time=equal_time, jobs=jobs, threads=threads)
    plan = with_decided(plan) if equal_time else plan
    runs, decided = plan.finished(), read_decided(out) if equal_time else []
    comparison = compare_arms(runs, metric)
    timed = compare_schedules(runs, plan.times(), decided, comparison.metric)
    write_comparison(out, comparison, about(plan), timed)
    if comparison.arms:
        for title, table, words in tables(comparison, timed, plan.missing()):
            print_table(table, title=title, caption=words)
        more = "" if timed is None else ", seconds.png"
        print(
            f"\n{out}/: comparison.json, comparison.md, comparison.png, curves.png{more}; one run folder per training"
        )
        print(f"next: eyas report {out}")
    else:
        print(f"no run in {out} is finished yet")
    raise_failed(failed)


def resolve_command(command: str, arguments: Sequence[str]) -> str:
    """The YAML that a run of ``eyas COMMAND`` would record. Raises EyasError where an option does not fit."""
    return resolve_options(TRAININGS[command], arguments)


def check_arms(plan: Plan) -> None:
    """Raises EyasError for an arm that is still to be trained and whose method cannot work with these detectors."""
    from eyas.comparison.plan import arm_command
    from eyas.tools.progress import Progress

    with Progress() as progress:
        for arm in plan.arms:
            if "method" not in arm.options or all(plan.is_finished(arm, seed) for seed in plan.seeds):
                continue
            with (
                progress.waiting(f"arm       trying {arm.name} on a batch"),
                arm_command(arm.name, arm.options, plan.data, plan.teacher) as (_, *arguments),
            ):
                call_with_options(try_out, distill, arguments)


def about(plan: Plan) -> dict[str, object]:
    """What comparison.json holds beside the comparison: the arms' options, and the runs that are not finished."""
    return {"configs": {arm.name: dict(arm.options) for arm in plan.arms}, "missing": plan.missing()}


def raise_failed(failed: Mapping[str, str]) -> None:
    """Raises EyasError when trainings failed: run name to what went wrong."""
    if failed:
        raise EyasError("\n".join([f"{len(failed)} of the trainings failed; the others are done", *failed.values()]))
