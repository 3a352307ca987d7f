"""The trainings of a comparison: those that are not finished, each a command of its own, several at a time."""

from __future__ import annotations

import math
import os

import torch

from eyas.comparison.jobs import Job, ResourceShare, resume_options, run_jobs
from eyas.comparison.plan import Arm, Plan, same_teacher
from eyas.data import read
from eyas.tools.progress import Progress


def train_missing(plan: Plan, *, jobs: int | None = None, threads: int | None = None) -> dict[str, str]:
    """Train what is not finished; a run that fails does not stop the others.

    Args:
        plan: of the comparison.
        jobs: trainings at a time; one for each GPU, or for each core, when None.
        threads: CPU threads of each; the cores shared out evenly when None.

    Returns:
        Run name to what went wrong with it.

    Raises:
        EyasError: the runs that are there had another teacher.
    """
    same_teacher(plan.out, plan.teacher)
    plan.write_configs()
    # Seeds outermost: an early stop leaves seeds that are complete. The longer trainings of a seed first: the cores are
    # then busy to the end.
    order = sorted(plan.arms, key=lambda arm: not arm.distils)
    todo = [(arm, seed) for seed in plan.seeds for arm in order if not plan.is_finished(arm, seed)]
    done = len(plan.arms) * len(plan.seeds) - len(todo)
    seeds = ", ".join(map(str, plan.seeds))
    print(f"{len(plan.arms)} arms, seeds {seeds}: {len(todo)} trainings, {done} finished before")
    if not todo:
        return {}
    share = ResourceShare.of_machine(len(todo), processes=jobs, threads=threads, devices=_devices(plan))
    images = _images(plan)
    commands = [_job(plan, arm, seed, share, images) for arm, seed in todo]
    with Progress() as progress:
        failed = run_jobs(commands, progress, share=share, keep_going=True)
    return {job.folder.name: text for job, text in failed.items()}


def _job(plan: Plan, arm: Arm, seed: int, share: ResourceShare, images: int) -> Job:
    folder = plan.folder(arm, seed)
    more = {"run.seed": seed, "run.threads": share.threads, **resume_options(folder)}
    command = [*plan.command(arm, seed), *(f"--{key}={value}" for key, value in more.items())]
    batches = math.ceil(images / arm.resolved["dataset.batch_size"])
    return Job(tuple(command), folder, math.ceil(batches / arm.resolved["optim.accumulate"]) * arm.epochs)


def _images(plan: Plan) -> int:
    """Images that the baseline trains on; the others have as many unless they choose another split."""
    options = plan.arms[0].resolved
    source = read(plan.data, options["dataset.train_split"], format=options.get("dataset.format"))
    return len(source.records)


def _devices(plan: Plan) -> list[str]:
    """The CUDA devices, as CUDA_VISIBLE_DEVICES names them; none where the arms stay on the CPU."""
    if all(arm.resolved["run.device"] == "cpu" for arm in plan.arms):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    return names[: torch.cuda.device_count()]
