"""The trainings that a comparison still needs, and what fills their caches before."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import replace

import torch

from eyas.comparison.jobs import Job, ResourceShare, cores, resume_options, run_jobs
from eyas.comparison.plan import Arm, Plan, command_line, filling_command, same_data, same_teacher
from eyas.data import read_splits
from eyas.runs.config import recorded_options
from eyas.runs.results import recorded_splits
from eyas.tools.progress import Progress


def train_missing(plan: Plan, *, jobs: int | None = None, threads: int | None = None) -> dict[str, str]:
    """Train what is not finished; a run that fails does not stop the others.

    Args:
        plan: the plan of the comparison.
        jobs: trainings at a time; one for each GPU, or for each core, when None.
        threads: CPU threads of each; the cores shared out evenly when None.

    Returns:
        Run name -> what went wrong with it.

    Raises:
        EyasError: the existing runs had another teacher or other data.
    """
    same_teacher(plan.out, plan.teacher)
    plan.write_configs()
    # Seeds outermost: an early stop leaves seeds that are complete. The longer trainings of a seed first: the cores are
    # then busy to the end.
    order = sorted(plan.arms, key=lambda arm: (-arm.epochs, "method" not in arm.options))
    todo = [(arm, seed) for seed in plan.seeds for arm in order if not plan.is_finished(arm, seed)]
    done = len(plan.arms) * len(plan.seeds) - len(todo)
    seeds = ", ".join(map(str, plan.seeds))
    print(f"{len(plan.arms)} arms, seeds {seeds}: {len(todo)} trainings, {done} finished before")
    options = plan.arms[0].resolved  # the others have as many images unless they choose another split
    train, val = read_splits(plan.data, recorded_splits(options))
    same_data(plan.out, plan.data, (train, val))
    if not todo:
        return {}
    share = ResourceShare.of_machine(len(todo), processes=jobs, threads=threads, devices=_devices(plan))
    with Progress() as progress:
        if fillings := _fillings(plan, [arm for arm, _ in todo], share.threads):
            # One after the other, since they may share a folder. An arm whose cache cannot be filled fails again, with
            # the same words, in its trainings.
            alone = replace(share, processes=1)
            run_jobs(fillings, progress, share=alone, keep_going=True, name="cache")
        commands = [_job(plan, arm, seed, share.threads, len(train.records)) for arm, seed in todo]
        failed = run_jobs(commands, progress, share=share, keep_going=True)
    return {job.folder.name: text for job, text in failed.items()}


def threads_so_far(plan: Plan) -> int | None:
    """The CPU threads that most of the comparison's trainings had so far; None before the first.

    Trainings that are added later have as many, so that their times can be compared.
    """
    runs = [recorded_options(plan.folder(arm, seed)) for arm in plan.arms for seed in plan.seeds]
    known = [int(threads) for run in runs if (threads := run.get("run.threads"))]
    return min(statistics.mode(known), cores()) if known else None


def _fillings(plan: Plan, arms: Sequence[Arm], threads: int) -> list[Job]:
    """``eyas cache`` for the arms that have one, so that their trainings find it full; schedules of an arm share it."""
    cached: dict[str, Arm] = {}
    for arm in arms:
        if arm.resolved.get("cache") is not None:
            cached.setdefault(_but_for_epochs(arm), arm)
    return [
        Job(
            (*filling_command(plan.config(arm), plan.data, plan.teacher), f"--run.threads={threads}"),
            plan.out / f"{arm.name}-cache",
            steps=1,
        )
        for arm in cached.values()
    ]


def _but_for_epochs(arm: Arm) -> str:
    """The options of an arm, which are those of its other schedules."""
    return repr(sorted((name, value) for name, value in arm.resolved.items() if name != "run.epochs"))


def _job(plan: Plan, arm: Arm, seed: int, threads: int, images: int) -> Job:
    folder = plan.folder(arm, seed)
    command = command_line(arm.options, plan.config(arm), plan.data, plan.teacher, folder)
    more = {"run.seed": seed, "run.threads": threads, **resume_options(folder)}
    batch, accumulate = arm.resolved["dataset.batch_size"], arm.resolved["optim.accumulate"]
    steps = math.ceil(math.ceil(images / batch) / accumulate) * arm.epochs
    return Job((*command, *(f"--{key}={value}" for key, value in more.items())), folder, steps, batch * accumulate)


def _devices(plan: Plan) -> list[str]:
    """The CUDA devices, as CUDA_VISIBLE_DEVICES names them; none where the arms stay on the CPU."""
    if all(arm.resolved["run.device"] == "cpu" for arm in plan.arms):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    return names[: torch.cuda.device_count()]
