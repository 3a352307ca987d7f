"""The plan of a comparison: its arms with every option resolved, and the run folder of each arm and seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from eyas.comparison.arms import BASELINE, FORMER_BASELINE, ArmOptions, resolve_arms
from eyas.runs import opening
from eyas.runs.config import CONFIG, FREE, flat_options, recorded_options
from eyas.runs.recipes import code_is_allowed, refuse_code
from eyas.runs.results import RunResult, last_epoch, read_run
from eyas.tools.files import file_digest, files_digest, make_folder, write_json, write_text
from eyas.tools.text_files import read_json
from eyas.types import EyasError

ARMS = "arms"
"""Folder of the arms' configs, each with every option of its runs except seed and paths."""
TEACHER_FILE = "teacher.json"
UNCHECKED = (*FREE, "devices", "run.seed")
"""Options in which a run may differ from its arm."""

Resolve = Callable[[str, Sequence[str]], str]
"""From a command's name and arguments to the YAML its run would record; raises EyasError."""


@dataclass(frozen=True)
class Arm:
    """One arm of a comparison.

    Attributes:
        name: its runs are the folders NAME-SEED.
        options: as given, its recipes resolved.
        resolved: dotted name to value of every option that its runs record.
    """

    name: str
    options: Mapping[str, Any]
    resolved: Mapping[str, Any]

    @property
    def epochs(self) -> int:
        return int(self.resolved["run.epochs"])


@dataclass(frozen=True)
class Plan:
    """What a comparison trains, and where.

    Attributes:
        data: folder of the data set.
        teacher: run folder, native folder, hub id or package.module:function.
        out: folder of the comparison.
        seeds: each arm is trained once for each.
        arms: the baseline first.
    """

    data: Path
    teacher: str
    out: Path
    seeds: tuple[int, ...]
    arms: tuple[Arm, ...]

    def folder(self, arm: Arm, seed: int) -> Path:
        """The run folder of an arm and a seed; a baseline trained when it was called plain keeps its folder."""
        folder, former = self.out / f"{arm.name}-{seed}", self.out / f"{FORMER_BASELINE}-{seed}"
        return former if arm.name == BASELINE and former.is_dir() and not folder.exists() else folder

    def config(self, arm: Arm) -> Path:
        """The file of an arm's options."""
        return self.out / ARMS / f"{arm.name}.yaml"

    def is_finished(self, arm: Arm, seed: int) -> bool:
        return last_epoch(self.folder(arm, seed)) == arm.epochs

    def finished(self) -> dict[str, dict[int, RunResult]]:
        """Arm name to seed to finished run; an arm may have none."""
        return {
            arm.name: {seed: read_run(self.folder(arm, seed)) for seed in self.seeds if self.is_finished(arm, seed)}
            for arm in self.arms
        }

    def missing(self) -> list[str]:
        """The runs that are not finished, as ARM-SEED."""
        return [f"{arm.name}-{seed}" for arm in self.arms for seed in self.seeds if not self.is_finished(arm, seed)]

    def write_configs(self) -> None:
        """Write the options of every arm below the comparison's folder."""
        make_folder(self.out / ARMS, within=self.out)
        for arm in self.arms:
            write_text(self.config(arm), _yaml(arm.options))


def make_plan(
    data: Path,
    teacher: str,
    student: ArmOptions,
    arms: Mapping[str, ArmOptions],
    *,
    out: Path,
    seeds: Sequence[int],
    resolve: Resolve,
) -> Plan:
    """The plan of a comparison, every option checked before anything is trained.

    Args:
        data, teacher, out, seeds: see `Plan`.
        student: what all arms have in common.
        arms: arm name to what the arm adds.
        resolve: the command line's parser.

    Raises:
        EyasError: a seed is given twice or no seed at all, an arm's options do not fit, or an existing run was trained
            with other options.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise EyasError(f"--seeds {list(seeds)}: give one seed or more, each once")
    resolved = resolve_arms(student, arms)
    made = [make_arm(name, options, data, teacher, resolve) for name, options in resolved.items()]
    plan = Plan(data, teacher, out, tuple(seeds), tuple(made))
    for arm in plan.arms:
        for seed in plan.seeds:
            refuse_changes(arm, plan.folder(arm, seed))
    return plan


def make_arm(name: str, options: Mapping[str, Any], data: Path, teacher: str, resolve: Resolve) -> Arm:
    """An arm from its options. Raises EyasError when they are not the options of a training."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "arm.yaml"
        file.write_text(_yaml(options))
        command, *arguments = command_line(options, file, data, teacher, Path(folder))
        try:
            refuse_code(options.get("method"), "method")
            resolved = resolve(command, arguments)
        except EyasError as error:
            raise EyasError(f"arm {name}: {error}") from error
    return Arm(name, options, flat_options(yaml.safe_load(resolved)))


def command_line(options: Mapping[str, Any], config: Path, data: Path, teacher: str, out: Path) -> list[str]:
    """The command line of a training, without ``eyas``: ``distill`` where the options have a method, else ``train``."""
    given = [f"--config={config}", f"--data={data}", f"--out={out}"]
    if code_is_allowed():
        given.append("--allow_code=true")
    return ["distill", *given, f"--teacher={teacher}"] if "method" in options else ["train", *given]


def refuse_changes(arm: Arm, folder: Path) -> None:
    """Raises EyasError when a run folder holds a run with other options than the arm has now.

    An option that the run does not record and the arm does not set is newer than the run: it has its default.
    """
    if not (folder / CONFIG).is_file():
        return
    before, asked = recorded_options(folder), flat_options(arm.options)
    for name in sorted(before.keys() | arm.resolved.keys()):
        new = name not in before and name not in asked
        if name not in UNCHECKED and not new and before.get(name) != arm.resolved.get(name):
            raise EyasError(
                f"{folder} was trained with {name} {before.get(name)}, and arm {arm.name} now has "
                f"{arm.resolved.get(name)}; give the arm another name, or remove its run folders, or set it back"
            )


def same_teacher(out: Path, teacher: str) -> None:
    """Record a comparison's teacher, by the bytes of its weights where it has files. Raises EyasError for another."""
    refuse_other_teacher(out, teacher)
    if not (out / TEACHER_FILE).is_file():
        make_folder(out)
        write_json(out / TEACHER_FILE, _teacher(teacher))


def refuse_other_teacher(out: Path, teacher: str) -> None:
    """Raises EyasError when the comparison in a folder, if any, has another teacher."""
    file = out / TEACHER_FILE
    if not file.is_file():
        return
    before, now = read_json(file), _teacher(teacher)
    if before.get("sha256") != now["sha256"] or (now["sha256"] is None and before != now):
        named = before.get("teacher")
        raise EyasError(f"{out} compares under the teacher {named}, not {teacher}; choose another --out")


def _teacher(name: str) -> dict[str, str | None]:
    source, digest = opening.resolve_detector(name), None
    if source.files:  # for a run the weights, which come last; for another library every file
        digest = file_digest(source.files[-1]).hex() if source.kind == "run" else files_digest(source.files)
    return {"teacher": name, "sha256": digest}


def _yaml(options: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(dict(options), sort_keys=False))
