"""Run folders as runs: their arm, their seed and their log."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eyas.comparison.arms import BASELINE, current_name, split_schedule
from eyas.runs.checkpoint import SPEC
from eyas.runs.config import recorded_config
from eyas.runs.log import LOG, read_log
from eyas.runs.opening import resolve_detector
from eyas.runs.results import RunResult, TrainingTime, is_finished, read_run, training_time
from eyas.types import EyasError

TEACHER = "teacher"
"""Name of the teacher on the page."""


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run.

    Attributes:
        folder: its run folder.
        arm: the name that it shares with the runs that differ only in their seed.
        seed: of its config.
        config: resolved options; empty for a run from Python.
        result: metrics, curve and cost.
        time: how long it trained; None where its log cannot tell.
        per_class: class name -> metrics, of its last evaluation.
        steps: the log lines of its training.
        inputs: digests of what it learned from, see `eyas.runs.resume.INPUTS`; empty where its log has none.
    """

    folder: Path
    arm: str
    seed: int
    config: Mapping[str, Any]
    result: RunResult
    time: TrainingTime | None
    per_class: Mapping[str, Mapping[str, float | None]]
    steps: Sequence[Mapping[str, Any]]
    inputs: Mapping[str, str | None]

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.resolve().name

    @property
    def teacher(self) -> str | None:
        """Its teacher as its config names it; None for a baseline."""
        return self.config.get("teacher")

    @property
    def epochs(self) -> int | None:
        """How many its config plans; None where it does not say."""
        epochs: int | None = self.config.get("run", {}).get("epochs")
        return epochs


Arms = dict[str, dict[int, Run]]
"""Arm -> seed -> run."""


@dataclass(frozen=True, eq=False)
class FoundRuns:
    """The runs of a report.

    Attributes:
        arms: of the finished runs, the baseline first.
        teachers: the runs that are the teachers of others, and so no arms.
        notes: what is left out, and why, in sentences.
    """

    arms: Arms
    teachers: tuple[Run, ...]
    notes: tuple[str, ...]

    def runs(self) -> list[Run]:
        return [run for arm in self.arms.values() for run in arm.values()]

    def results(self) -> dict[str, dict[int, RunResult]]:
        """Arm -> seed -> metrics, curve and cost, as `compare_arms` takes them."""
        return {name: {seed: run.result for seed, run in seeds.items()} for name, seeds in self.arms.items()}

    def times(self) -> dict[str, dict[int, TrainingTime]]:
        """Arm -> seed -> how long it trained, as `compare_schedules` takes them."""
        return {
            name: {seed: run.time for seed, run in seeds.items() if run.time is not None}
            for name, seeds in self.arms.items()
        }


def find_runs(paths: Sequence[Path], teacher: str | None = None) -> FoundRuns:
    """The finished runs of some folders, by arm and seed.

    Args:
        paths: run folders, and folders of run folders as `eyas compare` and `eyas demo` leave them.
        teacher: run folder of the teacher, if it is not the one that the runs name.

    Raises:
        EyasError: a path without a run, no finished run, two runs of one arm and seed, runs of different classes,
            metrics or validation images, or a log that cannot be read.
    """
    found = {folder: read_folder(folder) for folder in run_folders(paths)}
    runs = [run for run in found.values() if run is not None]
    if not runs:
        raise EyasError(f"no run of {', '.join(map(str, paths))} is finished; a report needs the last evaluation")
    unfinished = ", ".join(folder.resolve().name for folder, run in found.items() if run is None)
    notes = [f"Left out, since they are not finished: {unfinished}."] if unfinished else []
    taught_by = teachers_among(runs, teacher)
    if len(taught_by) == len(runs):
        taught_by = []  # the page is about the teacher itself
    arms = by_arm(with_baseline([run for run in runs if run not in taught_by]))
    return FoundRuns(arms, tuple(taught_by), (*notes, *other_lengths(arms)))


def teachers_among(runs: Sequence[Run], teacher: str | None) -> list[Run]:
    """The runs that taught others: by their folder, or, where that has moved, by the digest of their weights."""
    named = [run.teacher for run in runs] if teacher is None else [teacher]
    folders = {Path(name).resolve() for name in named if name is not None}
    found = [run for run in runs if run.folder.resolve() in folders]
    digests = {run.inputs.get("teacher") for run in runs} - {None}
    if found or not digests:
        return found
    # Few runs have no teacher, so few weights are read.
    return [run for run in runs if run.teacher is None and weights_of(run) in digests]


def weights_of(run: Run) -> str | None:
    """The digest of a run's weights, as students record it; None where it has none, or more than weights."""
    return resolve_detector(str(run.folder)).digest if (run.folder / SPEC).is_file() else None


def other_lengths(arms: Arms) -> list[str]:
    """A sentence where arms that are not named after their schedules have different ones."""
    epochs = {
        name: sorted({run.epochs for run in seeds.values() if run.epochs is not None})
        for name, seeds in arms.items()
        if split_schedule(name)[1] is None
    }
    if len({each for found in epochs.values() for each in found}) < 2:
        return []
    shown = ", ".join(f"{name} {' and '.join(map(str, found))}" for name, found in epochs.items() if found)
    return [f"The arms were not trained for the same number of epochs ({shown}), so not the method alone differs."]


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """Every run folder among the paths and directly below them, each once, in the order of the paths and then by name.

    Raises EyasError for a path that is no run folder and has none in it.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        inside = [path] if (path / LOG).is_file() else sorted(log.parent for log in path.glob(f"*/{LOG}"))
        if not inside:
            raise EyasError(f"{path}: no run here; give a run folder, or a folder of them, as compare and demo make")
        found.update({folder.resolve(): folder for folder in inside})
    return list(found.values())


def read_folder(folder: Path) -> Run | None:
    """The run of a folder, or None where it is not finished. Raises EyasError when its log or config cannot be read."""
    try:
        if not is_finished(folder):
            return None
        config, lines = recorded_config(folder), read_log(folder)
        options: Mapping[str, Any] = config.get("run", {})
        name = folder.resolve().name
        numbers = re.findall(r"\d+$", name)
        seed = int(options.get("seed", numbers[0] if numbers else 0))
        return Run(
            folder=folder,
            arm=arm_name(name, seed),
            seed=seed,
            config=config,
            result=read_run(folder),
            time=training_time(lines),
            per_class=[line for line in lines if line["kind"] == "val"][-1]["per_class"],
            steps=[line for line in lines if line["kind"] == "train"],
            inputs=next((line for line in lines if line["kind"] == "inputs"), {}),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise EyasError(f"{folder}: its log or config is not one that this version reads ({error!r})") from error


def arm_name(name: str, seed: int) -> str:
    """The name of a run folder without the seed at its end: ``fgfi-3`` and ``fgfi-seed-3`` are both ``fgfi``.

    A run called "teacher" that teaches no other run becomes "teacher (run)", since `TEACHER` is the teacher's name.
    """
    arm = current_name(re.sub(rf"(?<=.)[-_](seed[-_]?)?{seed}$", "", name))
    return f"{arm} (run)" if arm == TEACHER else arm


def with_baseline(runs: Sequence[Run]) -> list[Run]:
    """The runs; a single arm without a teacher, beside arms that have one, is renamed to baseline."""
    untaught = [run for run in runs if run.teacher is None and run.result.teacher is None]
    names = {run.arm for run in untaught}
    if len(names) != 1 or len(untaught) == len(runs) or BASELINE in {split_schedule(run.arm)[0] for run in runs}:
        return list(runs)
    return [replace(run, arm=BASELINE) if run.arm in names else run for run in runs]


def by_arm(runs: Sequence[Run]) -> Arms:
    """The runs by arm, by schedule where it is in their names, the baseline first, and by seed.

    Raises:
        EyasError: two runs of one arm and seed, or runs whose classes, metrics or validation images differ.
    """
    first = runs[0]
    arms: Arms = {}
    for run in sorted(runs, key=lambda run: run.seed):
        if list(run.per_class) != list(first.per_class):
            raise EyasError(f"{run.folder} and {first.folder} have different classes; report them apart")
        if list(run.result.summary) != list(first.result.summary):
            raise EyasError(f"{run.folder} and {first.folder} were scored by different metrics; report them apart")
        scored_on = {each.inputs.get("val") for each in (run, first)} - {None}
        if len(scored_on) > 1:
            raise EyasError(f"{run.folder} and {first.folder} were scored on other images or boxes; report them apart")
        other = arms.setdefault(run.arm, {}).setdefault(run.seed, run)
        if other is not run:
            raise EyasError(
                f"{other.folder} and {run.folder} are both arm {run.arm}, seed {run.seed}; report them apart, or give "
                "one of the folders another name"
            )
    names = dict.fromkeys(run.arm for run in runs)

    def place(name: str) -> tuple[int, bool]:
        arm, epochs = split_schedule(name)
        return epochs or 0, arm != BASELINE

    return {name: arms[name] for name in sorted(names, key=place)}
