"""The plan of a comparison: its arms with every option resolved, and the run folder of each arm and seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from eyas.comparison.arms import BASELINE, FORMER_BASELINE, ArmOptions, at_schedule, resolve_arms, split_schedule
from eyas.data import DataSource
from eyas.data.identity import source_digest
from eyas.runs import opening
from eyas.runs.config import flat_options, recorded_options
from eyas.runs.recipes import code_is_allowed, refuse_code
from eyas.runs.results import RunResult, TrainingTime, is_finished, read_run, read_time
from eyas.runs.resume import FREE, first_difference
from eyas.tools.files import make_folder, write_json, write_text
from eyas.tools.text_files import read_json
from eyas.types import EyasError

ARMS = "arms"
"""Folder of the arms' configs: the options given for each, those of recipes among them."""
TEACHER_FILE, DATA_FILE = "teacher.json", "data.json"
UNCHECKED = (*FREE, "run.seed")
"""Options in which a run may differ from its arm."""
SCORED_BY = ("run.metric", "run.max_detections")
"""Options in which the arms of a comparison may not differ."""

Resolve = Callable[[str, Sequence[str]], str]
"""From a command's name and arguments to the YAML its run would record; raises EyasError."""


@dataclass(frozen=True)
class Arm:
    """One arm of a comparison.

    Attributes:
        name: its runs are the folders NAME-SEED; ends with -eEPOCHS where the comparison gives its schedule.
        options: as given, its recipes resolved.
        resolved: dotted name to value of every option that its runs record.
    """

    name: str
    options: Mapping[str, Any]
    resolved: Mapping[str, Any]

    @property
    def epochs(self) -> int:
        return int(self.resolved["run.epochs"])

    def on_schedule(self, epochs: int) -> Arm:
        """The arm trained for so many epochs instead of its own; its learning rate is stretched over them."""
        options = {**self.options, "run": {**self.options.get("run", {}), "epochs": epochs}}
        return Arm(at_schedule(split_schedule(self.name)[0], epochs), options, {**self.resolved, "run.epochs": epochs})


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
        return is_finished(self.folder(arm, seed))

    def finished(self) -> dict[str, dict[int, RunResult]]:
        """Arm name to seed to finished run; an arm may have none."""
        return {
            arm.name: {seed: read_run(self.folder(arm, seed)) for seed in self.seeds if self.is_finished(arm, seed)}
            for arm in self.arms
        }

    def times(self) -> dict[str, dict[int, TrainingTime]]:
        """Arm name to seed to how long a finished run trained, where its log tells."""
        return {
            arm.name: {
                seed: time
                for seed in self.seeds
                if self.is_finished(arm, seed) and (time := read_time(self.folder(arm, seed))) is not None
            }
            for arm in self.arms
        }

    def missing(self) -> list[str]:
        """The runs that are not finished, as ARM-SEED."""
        return [f"{arm.name}-{seed}" for arm in self.arms for seed in self.seeds if not self.is_finished(arm, seed)]

    def adding(self, arms: Iterable[Arm]) -> Plan:
        """The plan with further arms. Raises EyasError where an existing run was trained with other options."""
        added = tuple(arms)
        for arm in added:
            for seed in self.seeds:
                refuse_changes(arm, self.folder(arm, seed))
        return replace(self, arms=(*self.arms, *added))

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
    epochs: Sequence[int] = (),
    resolve: Resolve,
) -> Plan:
    """The plan of a comparison, every option checked before anything is trained.

    Args:
        data, teacher, out, seeds: see `Plan`.
        student: what all arms have in common.
        arms: arm name to what the arm adds.
        epochs: every arm is trained for each of these; without any, for its own.
        resolve: the command line's parser.

    Raises:
        EyasError: a seed is given twice or no seed at all, an arm's options do not fit, a run on a schedule may end
            early, or an existing run was trained with other options.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise EyasError(f"--seeds {list(seeds)}: give one seed or more, each once")
    if len(set(epochs)) < len(epochs) or min(epochs, default=1) < 1:
        raise EyasError(f"--epochs {list(epochs)}: give whole numbers from 1, each once")
    resolved = resolve_arms(student, arms)
    if epochs and (unclear := [name for name in resolved if split_schedule(name)[1] is not None]):
        raise EyasError(f"arm {unclear[0]}: with --epochs its schedules are named so; give it another name")
    own = [make_arm(name, options, data, teacher, resolve) for name, options in resolved.items()]
    for arm, name in ((arm, name) for arm in own[1:] for name in SCORED_BY):
        if arm.resolved.get(name) != own[0].resolved.get(name):
            raise EyasError(
                f"arm {arm.name} has {name} {arm.resolved.get(name)}, the baseline {own[0].resolved.get(name)}: arms "
                "of one comparison are scored by one metric; give it to the student, for all of them"
            )
    planned = [arm.on_schedule(each) for each in epochs for arm in own] or own
    refuse_patience((arm for arm in planned if split_schedule(arm.name)[1] is not None), "its time on a schedule")
    return Plan(data, teacher, out, tuple(seeds), ()).adding(planned)


def refuse_patience(arms: Iterable[Arm], wanted: str) -> None:
    """Raises EyasError for an arm whose runs may end early, where what is wanted of them needs all their epochs."""
    for arm in arms:
        if arm.resolved.get("run.patience"):
            raise EyasError(f"arm {arm.name}: with run.patience a run may end early, and {wanted} needs all its epochs")


def make_arm(name: str, options: Mapping[str, Any], data: Path, teacher: str, resolve: Resolve) -> Arm:
    """An arm from its options. Raises EyasError when they are not the options of a training."""
    with arm_command(name, options, data, teacher) as (command, *arguments):
        refuse_code(options.get("method"), "method")
        resolved = resolve(command, arguments)
    return Arm(name, options, flat_options(yaml.safe_load(resolved)))


@contextmanager
def arm_command(name: str, options: Mapping[str, Any], data: Path, teacher: str) -> Iterator[list[str]]:
    """In the context, the command line of an arm's training, without ``eyas``. An EyasError names the arm."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "arm.yaml"
        file.write_text(_yaml(options))
        try:
            yield command_line(options, file, data, teacher, Path(folder))
        except EyasError as error:
            raise EyasError(f"arm {name}: {error}") from error


def command_line(options: Mapping[str, Any], config: Path, data: Path, teacher: str, out: Path) -> list[str]:
    """The command line of a training, without ``eyas``: ``distill`` where the options have a method, else ``train``."""
    given = [*_given(config, data), f"--out={out}"]
    return ["distill", *given, f"--teacher={teacher}"] if "method" in options else ["train", *given]


def filling_command(config: Path, data: Path, teacher: str) -> list[str]:
    """The command line that fills the teacher cache of a config, without ``eyas``."""
    return ["cache", *_given(config, data), f"--teacher={teacher}"]


def _given(config: Path, data: Path) -> list[str]:
    return [f"--config={config}", f"--data={data}", *(["--allow_code=true"] if code_is_allowed() else [])]


def refuse_changes(arm: Arm, folder: Path) -> None:
    """Raises EyasError when a run folder holds a run with other options than the arm has now."""
    before = recorded_options(folder)
    found = first_difference(before, arm.resolved, UNCHECKED) if before else None
    if found is not None:
        set_back = f"set it to {found.before}, which means today the same" if found.translated else "set it back"
        raise EyasError(
            f"{folder} was trained with {found.name} {found.before}, and arm {arm.name} now has {found.now}; give the "
            f"arm another name, or remove its run folders, or {set_back}"
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


def same_data(out: Path, data: Path, splits: Sequence[DataSource]) -> None:
    """Record a comparison's images and boxes by their digests. Raises EyasError for others than it was begun with."""
    file, now = out / DATA_FILE, [source_digest(split) for split in splits]
    if not file.is_file():
        make_folder(out)
        write_json(file, {"data": str(data), "sha256": now})
        return
    before = read_json(file)
    if before.get("sha256") != now:
        raise EyasError(
            f"{out} compares on the images of {before.get('data')} as they were when it began; {data} holds others, or "
            "other boxes; choose another --out (--report_only true reports what is there)"
        )


def _teacher(name: str) -> dict[str, str | None]:
    return {"teacher": name, "sha256": opening.resolve_detector(name).digest}


def _yaml(options: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(dict(options), sort_keys=False))
