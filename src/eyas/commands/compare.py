"""`eyas compare`: methods beside the baseline, over several seeds. Its trainings are commands of the product."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyas.args import DataArgs, OptimArgs, RunArgs, StudentArgs, TeacherArgs, at_least, check_seeds
from eyas.commands.distill import distill, try_out
from eyas.commands.methods import on_pair
from eyas.commands.names import METHODS
from eyas.commands.parsing import call_with_options, resolve_options
from eyas.commands.train import train
from eyas.comparison.all_methods import ALL, Chosen, arms_of, read_chosen, with_all
from eyas.comparison.arms import ArmOptions, as_list, resolve_arms, split_schedule
from eyas.tools.locks import sole_use
from eyas.tools.output_paths import check_output_folder
from eyas.tools.tables import print_table
from eyas.types import EyasError

if TYPE_CHECKING:
    from eyas.comparison.plan import Plan
    from eyas.distillation.teachers import Teacher
    from eyas.methods import Method

TRAININGS: Mapping[str, Callable[..., Any]] = {"train": train, "distill": distill}


def compare(
    data: Path,
    teacher: str,
    student: ArmOptions,
    out: Path,
    arms: dict[str, ArmOptions] | list[str] | str | None = None,
    seeds: list[int] = [0, 1, 2],  # noqa: B006 (never changed: the signature is the schema)
    epochs: list[int] | None = None,
    equal_time: bool = False,
    rank_by: str | None = None,
    reference: str | None = None,
    jobs: int | None = None,
    threads: int | None = None,
    report_only: bool = False,
) -> None:
    """Train a student without a method and by several methods, over several seeds, and compare the results.

    Runs of one seed share initial weights and data order. Called again, it resumes where it stopped.

    Args:
        data: folder of a data set.
        teacher: run folder of a trained detector; a folder of save_pretrained, or a hub id, of transformers; a
            checkpoint of rfdetr or libreyolo; package.module:function; or features:timm:NAME.
        student: recipe by name or file, or options, or a list of these; later ones override earlier ones.
        out: folder of the comparison: a run folder for each arm and seed, the table and the pictures.
        arms: methods by their short names, such as fgfi,vanilla, or all for every one that applies to the pair; or a
            mapping, name to what the arm adds to the student: a recipe, options, a method, or a list of these.
        seeds: every arm is trained once for each.
        epochs: every arm is trained for each of these numbers of epochs; for its own when left out.
        equal_time: also train, for each arm with a method, the baseline for as many epochs as take as long.
        rank_by: the metric to rank by, such as map_75; mAP when left out.
        reference: an arm that the others are compared with besides the baseline, such as fgfi.
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
    from eyas.comparison.statistics import compare_arms, minus_reference
    from eyas.comparison.waves import train_in_waves, with_decided
    from eyas.report.comparison_files import write_comparison

    named = arms_of([arms] if isinstance(arms, str) else arms) if isinstance(arms, str | list) else arms or {}
    chosen = choose_methods(data, teacher, student, named[ALL], out) if ALL in named else None
    named = named if chosen is None else with_all(named, chosen)
    schedules = epochs or []
    plan = make_plan(data, teacher, student, named, out=out, seeds=seeds, epochs=schedules, resolve=resolve_command)
    check_reference(plan, reference)
    failed: Mapping[str, str] = {}
    if not report_only:
        check_metric(plan, rank_by)
        check_arms(plan)
        with sole_use(out):
            if chosen is not None:
                chosen.write(out)
            failed = train_in_waves(plan, equal_time=equal_time, jobs=jobs, threads=threads)
    plan = with_decided(plan) if equal_time else plan
    runs, decided = plan.finished(), read_decided(out) if equal_time else []
    comparison = compare_arms(runs, rank_by)
    timed = compare_schedules(runs, plan.times(), decided, comparison.metric)
    beside = None if reference is None else minus_reference(comparison, reference)
    write_comparison(out, comparison, about(plan), timed, beside)
    if comparison.arms:
        for title, table, words in tables(comparison, timed, plan.missing(), beside):
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


def choose_methods(data: Path, teacher: str, student: ArmOptions, more: ArmOptions, out: Path) -> Chosen:
    """The methods that the comparison in a folder was begun with, or else those that apply to teacher and student.

    ``more`` is what the arms of all methods have beside the student's options.

    Raises:
        EyasError: the teacher cannot be opened, the student's options do not fit, or no method applies.
    """
    from eyas.comparison.plan import arm_command, refuse_other_teacher

    refuse_other_teacher(out, teacher)
    chosen = read_chosen(out)
    if chosen is None:
        any_method = ArmOptions([next(iter(METHODS)), *as_list(more.value)])
        with arm_command(ALL, resolve_arms(student, {ALL: any_method})[ALL], data, teacher) as (_, *arguments):
            chosen = call_with_options(applicable, distill, arguments)
    for line in chosen.describe(METHODS):
        print(line)
    return chosen


def applicable(
    data: Path,
    teacher: str,
    student: StudentArgs,
    out: Path,
    teaching: TeacherArgs = TeacherArgs(),
    dataset: DataArgs = DataArgs(),
    optim: OptimArgs = OptimArgs(),
    run: RunArgs = RunArgs(),
) -> Chosen:
    """Which methods would train a student with the options of `distill`, its own method aside.

    Raises:
        EyasError: none would; the message has the reason of each.
    """
    from eyas.data import read_splits
    from eyas.training.preflight import check_classes

    source, _ = read_splits(data, dataset)

    def check(opened: Teacher, method: Method) -> None:
        check_classes(opened, source, [method], teacher, any_classes=teaching.any_classes)
        if teaching.cache is not None:
            method.fingerprint()

    scale, resize = teaching.teacher_scale, dataset.resize
    trials = on_pair(teacher, student, pairs=teaching.pairs, scale=scale, resize=resize, check=check, timed=False)
    left_out = {name: trial.reason for name, trial in trials.items() if trial.reason is not None}
    if len(left_out) == len(trials):
        raise EyasError("no method applies:\n" + "\n".join(f"{name}: {reason}" for name, reason in left_out.items()))
    return Chosen(tuple(name for name in trials if name not in left_out), left_out)


def check_reference(plan: Plan, reference: str | None) -> None:
    """Raises EyasError for an arm to compare the others with that is none of the plan's."""
    known = list(dict.fromkeys(split_schedule(arm.name)[0] for arm in plan.arms))
    if reference is not None and reference not in known:
        raise EyasError(f"--reference {reference}: the arms are {', '.join(known)}")


def check_metric(plan: Plan, metric: str | None) -> None:
    """Raises EyasError for a metric to rank by that the trainings will not have."""
    from eyas.comparison.statistics import check_known
    from eyas.data import read_splits
    from eyas.evaluation import chosen_metric, evaluate
    from eyas.runs.results import recorded_splits

    if metric is None:
        return
    options = plan.arms[0].resolved
    source, _ = read_splits(plan.data, recorded_splits(options))
    rules = chosen_metric(options.get("run.metric"), options.get("run.max_detections"), source.format)
    check_known(metric, evaluate(rules, [], source.classes, []).summary)


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
