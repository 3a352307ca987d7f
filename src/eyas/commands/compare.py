"""`eyas compare`: methods beside plain training, over several seeds. Its trainings are commands of the product."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentError
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from eyas.cache.identity import file_digest, files_digest
from eyas.commands.distill import distill
from eyas.commands.parsing import resolve
from eyas.commands.train import train
from eyas.comparison.arms import ArmOptions, flat_options, resolve_arms
from eyas.comparison.jobs import Job, ResourceShare, resume_options, run_jobs
from eyas.comparison.statistics import Comparison, compare_arms, markdown, rows, title
from eyas.data import read
from eyas.detectors import native_format
from eyas.report.plots import curves, intervals
from eyas.runs.checkpoint import SPEC, ModelSpec
from eyas.runs.config import CONFIG, FREE
from eyas.runs.results import RunResult, last_epoch, read_run
from eyas.tools.files import make_folder, write_atomic, write_json
from eyas.tools.progress import Progress
from eyas.types import EyasError

COMMANDS: Mapping[str, Callable[..., Any]] = {"train": train, "distill": distill}
ARMS = "arms"
"""Folder of the arms' configs, each the whole of what its runs are given but for seed and places."""
TEACHER = "teacher.json"
WIDE = 140
UNCHECKED = (*FREE, "devices", "run.seed")
"""Options in which a run may differ from its arm."""


@dataclass(frozen=True)
class Arm:
    """One arm of a comparison.

    Attributes:
        name: of the arm; its runs are the folders NAME-SEED.
        options: as asked for, its recipes resolved.
        resolved: name to value of every option that its runs record.
        file: of its config.
    """

    name: str
    options: Mapping[str, Any]
    resolved: Mapping[str, Any]
    file: Path

    @property
    def epochs(self) -> int:
        return int(self.resolved["run.epochs"])


def compare(
    data: Path,
    teacher: str,
    student: ArmOptions,
    out: Path,
    arms: dict[str, ArmOptions] | None = None,
    seeds: list[int] = [0, 1, 2],  # noqa: B006 (never changed: the signature is the schema)
    metric: str | None = None,
    at_once: int | None = None,
    threads: int | None = None,
    report_only: bool = False,
) -> None:
    """Train a student plainly and by several methods, over several seeds, and compare what comes out.

    Runs of one seed share initial weights and data order. Called again, it goes on where it was stopped.

    Args:
        data: folder of a data set.
        teacher: run folder of a trained detector; a folder of save_pretrained, or a hub id, of transformers; or
            package.module:function.
        student: recipe by name or file, or options, or a list of these; later ones override earlier ones.
        out: folder of the comparison: a run folder for each arm and seed, the table and the pictures.
        arms: name to what the arm has beyond the student: a recipe, options, a method, or a list of these.
        seeds: every arm is trained once for each.
        metric: the metric to rank by, such as map_75; mAP when left out.
        at_once: trainings at a time; one for each GPU, or for each core, when left out.
        threads: CPU threads of each; the cores shared out evenly when left out.
        report_only: train nothing; report what there is.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise EyasError(f"--seeds {seeds}: give one seed or more, each once")
    plan = [make_arm(name, options, data, teacher, out) for name, options in resolve_arms(student, arms or {}).items()]
    for arm in plan:
        for seed in seeds:
            refuse_changes(arm, seed, out)
    failed: dict[str, str] = {}
    if not report_only:
        failed = _train(plan, seeds, data, teacher, out, at_once, threads)
    runs = {arm.name: _finished(arm, seeds, out) for arm in plan}
    missing = [f"{arm.name}-{seed}" for arm in plan for seed in seeds if seed not in runs[arm.name]]
    write_report(out, runs, metric, missing, plan)
    if failed:
        raise EyasError("\n".join([f"{len(failed)} of the trainings failed; the others are done", *failed.values()]))


def run_folder(out: Path, arm: str, seed: int) -> Path:
    """Where the run of an arm and a seed is."""
    return out / f"{arm}-{seed}"


def refuse_changes(arm: Arm, seed: int, out: Path) -> None:
    """Raises EyasError when there is a run of this arm and seed with other options than the arm has now.

    An option that the run does not know and that was not asked for came with a later version: it has its default.
    """
    file = run_folder(out, arm.name, seed) / CONFIG
    if not file.is_file():
        return
    before = flat_options(yaml.safe_load(file.read_text()))
    asked = flat_options(arm.options)
    for name in sorted(before.keys() | arm.resolved.keys()):
        new = name not in before and name not in asked
        if name not in UNCHECKED and not new and before.get(name) != arm.resolved.get(name):
            raise EyasError(
                f"{file.parent} was trained with {name} {before.get(name)}, and arm {arm.name} now has "
                f"{arm.resolved.get(name)}; give the arm another name, or remove its run folders, or set it back"
            )


def write_report(
    out: Path, runs: Mapping[str, Mapping[int, RunResult]], metric: str | None, missing: Sequence[str], plan: list[Arm]
) -> None:
    """comparison.json, comparison.md and the pictures, from the finished runs; the table is printed as well."""
    comparison = compare_arms(runs, metric)
    make_folder(out)
    configs = {arm.name: dict(arm.options) for arm in plan}
    write_json(out / "comparison.json", {**asdict(comparison), "configs": configs, "missing": list(missing)})
    if not comparison.arms:
        print(f"no run in {out} is finished yet")
        return
    table, note = rows(comparison), _note(missing)
    text = markdown(table, note)
    write_atomic(out / "comparison.md", lambda part: part.write_text(text))
    _draw(out, comparison)
    console = Console()
    if not console.is_terminal:
        console.width = WIDE  # a file has room for whole rows
    console.print(_rich(table, note))
    print(f"\n{out}/: comparison.json, comparison.md, comparison.png, curves.png; one run folder per training")


def make_arm(name: str, options: dict[str, Any], data: Path, teacher: str, out: Path) -> Arm:
    """An arm from its options. Raises EyasError when the options are not those of a training."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "arm.yaml"
        file.write_text(_yaml(options))
        command, *arguments = _command(options, file, data, teacher, out)
        try:
            resolved = resolve(COMMANDS[command], arguments)
        except (EyasError, ArgumentError) as error:
            raise EyasError(f"arm {name}: {error}") from error
    return Arm(name, options, flat_options(yaml.safe_load(resolved)), out / ARMS / f"{name}.yaml")


def _command(options: Mapping[str, Any], config: Path, data: Path, teacher: str, out: Path) -> list[str]:
    """The command line of an arm: without a method, plain training."""
    places = [f"--config={config}", f"--data={data}", f"--out={out}"]
    return ["distill", *places, f"--teacher={teacher}"] if "method" in options else ["train", *places]


def _train(
    plan: Sequence[Arm],
    seeds: Sequence[int],
    data: Path,
    teacher: str,
    out: Path,
    at_once: int | None,
    threads: int | None,
) -> dict[str, str]:
    """Train what is not finished. Returns run name to what went wrong."""
    same_teacher(out, teacher)
    make_folder(out / ARMS)
    for arm in plan:
        write_atomic(arm.file, partial(Path.write_text, data=_yaml(arm.options)))
    # Seeds outermost: an early stop leaves seeds that are complete.
    todo = [(arm, seed) for seed in seeds for arm in plan if not _is_finished(arm, seed, out)]
    done = len(plan) * len(seeds) - len(todo)
    print(f"{len(plan)} arms, seeds {', '.join(map(str, seeds))}: {len(todo)} trainings, {done} finished before")
    if not todo:
        return {}
    share = ResourceShare.of_machine(len(todo), at_once=at_once, threads=threads, devices=_devices(plan))
    images = _images(plan[0], data)
    jobs = [_job(arm, seed, share, images, data, teacher, out) for arm, seed in todo]
    with Progress() as progress:
        failed = run_jobs(jobs, progress, share=share, keep_going=True)
    return {job.folder.name: text for job, text in failed.items()}


def _job(arm: Arm, seed: int, share: ResourceShare, images: int, data: Path, teacher: str, out: Path) -> Job:
    folder = run_folder(out, arm.name, seed)
    more = {"run.seed": seed, "run.threads": share.threads, **resume_options(folder)}
    command = [*_command(arm.options, arm.file, data, teacher, folder), *(f"--{key}={more[key]}" for key in more)]
    batches = math.ceil(images / arm.resolved["dataset.batch_size"])
    return Job(tuple(command), folder, math.ceil(batches / arm.resolved["optim.accumulate"]) * arm.epochs)


def _images(arm: Arm, data: Path) -> int:
    """Images that an arm trains on; the others have as many unless they choose another split."""
    options = arm.resolved
    source = read(data, options["dataset.train_split"], format=options.get("dataset.format"))
    return len(source.records)


def _devices(plan: Sequence[Arm]) -> list[str]:
    """The CUDA devices, as CUDA_VISIBLE_DEVICES names them; none where the arms stay on the CPU."""
    if all(arm.resolved["run.device"] == "cpu" for arm in plan):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    return names[: torch.cuda.device_count()]


def same_teacher(out: Path, teacher: str) -> None:
    """Raises EyasError when the runs that are there had another teacher, by the bytes of its weights."""
    folder = Path(teacher)
    now = {"teacher": teacher, "sha256": None}
    if (folder / SPEC).is_file():
        weights = folder / ModelSpec.load(folder).weights
        now["sha256"] = file_digest(weights).hex() if weights.is_file() else None
    elif (native := native_format(teacher)) and (files := native.files(folder)):
        now["sha256"] = files_digest(files)
    file = out / TEACHER
    if not file.is_file():
        make_folder(out)
        write_json(file, now)
        return
    before = json.loads(file.read_text())
    if before["sha256"] != now["sha256"] or (now["sha256"] is None and before != now):
        raise EyasError(
            f"{out} compares under the teacher {before['teacher']}, and {teacher} is another; choose another --out"
        )


def _is_finished(arm: Arm, seed: int, out: Path) -> bool:
    return last_epoch(run_folder(out, arm.name, seed)) == arm.epochs


def _finished(arm: Arm, seeds: Sequence[int], out: Path) -> dict[int, RunResult]:
    return {seed: read_run(run_folder(out, arm.name, seed)) for seed in seeds if _is_finished(arm, seed, out)}


def _note(missing: Sequence[str]) -> str:
    note = "±: 95 % confidence interval of the mean over the seeds (Student's t); minus baseline is paired by seed."
    return note + (f" Not finished: {', '.join(missing)}." if missing else "")


def _rich(table: Sequence[Sequence[str]], note: str) -> Table:
    result = Table(caption=note, box=SIMPLE_HEAD)
    for place, column in enumerate(table[0]):
        result.add_column(column, justify="right" if place else "left")
    for row in table[1:]:
        result.add_row(*row)
    return result


def _draw(out: Path, comparison: Comparison) -> None:
    """comparison.png: every arm's mean, interval and seeds. curves.png: the metric over the epochs of every run."""
    name, teacher, arms = comparison.metric, comparison.teacher, comparison.arms
    groups = {}
    for arm, values in arms.items():
        found = values.metrics[name]
        groups[arm] = (found.mean, found.half_width, found.values)
    line = None if teacher is None else ("teacher", teacher[name])
    intervals(out / "comparison.png", groups, x=title(name), line=line)
    lines = {
        f"{arm}-{seed}": [(epoch, summary[name]) for epoch, summary in run.curve]
        for arm, values in arms.items()
        for seed, run in values.runs.items()
    }
    curves(out / "curves.png", lines, x="epoch", y=title(name), groups={run: run.rpartition("-")[0] for run in lines})


def _yaml(options: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(dict(options), sort_keys=False))
