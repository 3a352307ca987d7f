"""Whether a run folder may be trained in: it holds no run, or one with the same options.

Options are compared as they are meant today. One that is newer than a run had its default there. One whose meaning has
changed since is translated, or the run is refused where no option of today means the same.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eyas.args import DataArgs, OptimArgs, RunArgs, TeacherArgs
from eyas.runs.config import CONFIG, flat_options, holds_run, recorded_options
from eyas.runs.log import LOG, read_log
from eyas.tools.text_files import parse_yaml
from eyas.types import EyasError

Options = Mapping[str, Any]
"""Dotted name to value, see `flat_options`."""

FREE = (
    *("data", "out", "teacher", "dataset.workers", "dataset.worker_timeout"),
    *("run.device", "run.threads", "run.log_every", "run.resume", "run.export_check", "run.trackers", "run.project"),
)
"""Options that may change when a run is resumed: where things are and how fast, not what is trained."""
INPUTS = {
    "train": ("data", "training images or boxes"),
    "val": ("data", "validation images or boxes"),
    "teacher": ("teacher", "weights of its teacher"),
}
"""What a run learns from, by the digests in its log -> the option that gives it, and what that is."""
FREE_OF_METHODS = re.compile(r"method\..*\bsparse_below")
"""The names of a method's options that may change, too."""

ESCAPED_BYTE = re.compile(r"\\u[dD][cC][89a-fA-F][0-9a-fA-F]")
"""How YAML writes a byte of a name that is no text: Python has a lone surrogate for it."""
FORMER_START = re.compile(r"(method\..*)(?<!schedule\.)start_step")
SCHEDULE = re.compile(r"(method\..*schedule\.)\w+")
SCHEDULE_DEFAULTS = {"start_step": 0, "ramp_steps": 0, "stop": 1.0, "end": 1.0}
"""Those of `eyas.Schedule`: a run that began before one of them was there had its default."""
AUTO_WEIGHT = re.compile(r"(method\..*)weight")
AUTO_DEFAULTS = {"fraction": 3.0, "warmup": 10, "every": 10}
"""Those of `eyas.methods.Auto`."""
FORMER_FRACTION = 1.0
"""The fraction of ``weight: auto`` in runs that record no end of a schedule: they began before both changed."""
SINCE = "dataset.val_fraction"
"""Every run records this option that began after the changes of meaning below, and no run that began before them."""
OBJECT_WEIGHT = "options.object_weight"
STEP = ("devices", "dataset.batch_size", "optim.accumulate")
"""Options whose product is the number of images of an optimiser step."""
COUNTED = ("FGFI", "FitNets", "BoxMask")
"""Methods whose loss is divided by a count that is taken over accumulated batches."""

Rule = Callable[[Options], bool]
FORMER_RULES: Mapping[str, Rule] = {
    "the running average of the weights (optim.ema) had the same decay from its first step on": lambda options: bool(
        options.get("optim.ema")
    ),
    "the teacher's larger images (teacher_scale) were compared with the student's at other positions": lambda options: (
        (options.get("teacher_scale") or 1) != 1
    ),
    "each of the accumulated batches (optim.accumulate) had a count of cells of its own": lambda options: (
        (options.get("optim.accumulate") or 1) > 1 and _counts_cells(options)
    ),
    "ShuffleDet's anchors for images of different sizes followed the largest of a batch": lambda options: (
        options.get("model") == "shuffledet"
        and None in (options.get("dataset.resize.height"), options.get("dataset.resize.width"))
    ),
}
"""How runs that began before `SINCE` were trained, and no option trains today -> whether a run was."""


@dataclass(frozen=True)
class Difference:
    """An option in which a run and what is asked of it differ.

    Attributes:
        name: its dotted name.
        before: its value in the run, as it is meant today.
        now: its value now.
        translated: whether the run records it otherwise, or not at all.
    """

    name: str
    before: Any
    now: Any
    translated: bool


def check_folder(folder: Path, *, resume: bool, config: str) -> None:
    """Check that a run may start, or go on, in a folder, which need not exist.

    Args:
        folder: the run folder.
        resume: go on with the run that is there.
        config: YAML of the options; a resumed run must have those that it began with, but for `FREE`.

    Raises:
        EyasError: a name is no text and cannot be recorded; the folder holds a run and ``resume`` is off, or the
            reverse; the options differ; or the run began before an option got its present meaning.
    """
    if ESCAPED_BYTE.search(config):
        raise EyasError(
            f"{folder}: a run records its options as text, and a name among them is none in this locale; "
            "take one of UTF-8, such as LC_ALL=C.UTF-8, or names in UTF-8"
        )
    holds = holds_run(folder)
    if holds and not resume:
        raise EyasError(f"{folder} already holds a run; choose another --out, or go on with it by --run.resume true")
    if not resume:
        return
    if not holds:
        raise EyasError(f"{folder} holds no run to resume; check --out, or leave --run.resume out")
    before, now = recorded_options(folder), flat_options(parse_yaml(config, "the options"))
    if not before or not now:
        return  # started from Python, where there is no config to compare
    refuse_former_rules(folder, before)
    found = first_difference(before, now, FREE)
    if found is None:
        return
    advice = f"resume it as it began (--config {folder / CONFIG} --run.resume true)"
    if found.translated:
        advice = f"give --{found.name} {found.before}, which means today what the run began with"
    raise EyasError(
        f"{folder} holds a run with {found.name} {found.before}, not {found.now}; {advice}, or start another one in "
        "another --out"
    )


def refuse_other_inputs(folder: Path, inputs: Mapping[str, str | None]) -> None:
    """Raises EyasError where a run was begun on other images or boxes, or under another teacher, than are given now.

    Args:
        folder: the run folder; a run of an early version has recorded nothing, and is believed.
        inputs: name in `INPUTS` to a digest; None for what has none.
    """
    recorded = read_log(folder, "inputs") if (folder / LOG).is_file() else []
    for name, (option, what) in INPUTS.items() if recorded else ():
        before, now = recorded[0][name], inputs[name]
        if before is not None and now is not None and before != now:
            raise EyasError(
                f"{folder} holds a run with other {what} than --{option} gives now; give what it began with, wherever "
                "that is by now, or start another run in another --out"
            )


def first_difference(before: Options, now: Options, free: Collection[str]) -> Difference | None:
    """The first option, by name, in which a recorded run and a training differ; None where they agree.

    Args:
        before: what the run records. What it does not record is newer than the run, which had its default.
        now: the options of the training.
        free: names that may differ, beside `FREE_OF_METHODS`.
    """
    translated = former_meanings(before)
    before, now = {**renamed(before), **translated}, renamed(now)
    recorded, asked = (_of_a_step({**_defaults(), **options}) for options in (before, now))
    for name in sorted(recorded.keys() | asked.keys()):
        own, other = recorded.get(name), asked.get(name)
        if name in free or FREE_OF_METHODS.fullmatch(name):
            continue
        if own != other and not (own in (None, {}) and other in (None, {})):
            return Difference(name, own, other, name in translated)
    return None


def renamed(options: Options) -> dict[str, Any]:
    """Options by today's names: a method's ``start_step`` is in a schedule; that and automatic weights are whole."""
    today: dict[str, Any] = {}
    for name, value in options.items():
        former, weight = FORMER_START.fullmatch(name), AUTO_WEIGHT.fullmatch(name)
        if weight and value == "auto":
            today |= {f"{name}.{part}": default for part, default in AUTO_DEFAULTS.items()}
        elif name == "cache" and value is not None:
            today[name] = "a folder"  # wherever it lies: its records are known by what they hold
        else:
            today[f"{former[1]}schedule.start_step" if former else name] = value
    schedules = {found[1] for name in today if (found := SCHEDULE.fullmatch(name))}
    return {f"{schedule}{part}": value for schedule in schedules for part, value in SCHEDULE_DEFAULTS.items()} | today


def former_meanings(options: Options) -> Options:
    """The options of an older run that mean something else today, at the values that mean the same today."""
    before_schedules_ended = not any(name.endswith("schedule.end") for name in options)
    meanings: dict[str, Any] = {
        f"{name}.fraction": FORMER_FRACTION
        for name, value in options.items()
        if before_schedules_ended and value == "auto" and AUTO_WEIGHT.fullmatch(name)
    }
    # ShuffleDet's confidence loss was divided by the batch of a process, which is now part of its weight.
    weight, batch = options.get(OBJECT_WEIGHT, 75.0), options.get("dataset.batch_size") or DataArgs.batch_size
    if SINCE not in options and options.get("model") == "shuffledet" and isinstance(weight, int | float):
        meanings[OBJECT_WEIGHT] = weight / batch
    return meanings


def refuse_former_rules(folder: Path, options: Options) -> None:
    """Raises EyasError for a run that no options of today would train as it began."""
    if SINCE in options:
        return
    for rule, holds in FORMER_RULES.items():
        if holds(options):
            raise EyasError(
                f"{folder} holds a run of an earlier version, in which {rule}; it cannot go on as it began: start "
                "another one in another --out, with its weights as --weights where they are of use"
            )


def _counts_cells(options: Options) -> bool:
    """Whether a run has a method of `COUNTED`, or FGFI because it names none under its teacher."""
    methods = [value for name, value in options.items() if name.startswith("method") and name.endswith("class_path")]
    return any(str(path).rpartition(".")[2] in COUNTED for path in methods) or ("teacher" in options and not methods)


def _defaults() -> dict[str, Any]:
    """The defaults of the options that trainings share."""
    groups = {"dataset": asdict(DataArgs()), "optim": asdict(OptimArgs()), "run": asdict(RunArgs())}
    options = {**groups, **asdict(TeacherArgs()), "devices": 1}
    return flat_options(json.loads(json.dumps(options)))  # lists for tuples, as YAML has them


def _of_a_step(options: dict[str, Any]) -> dict[str, Any]:
    """The options with the images of an optimiser step instead of `STEP`: processes may share them in other ways.

    Schedules of methods count batches, so that with one a step has as many as before.
    """
    own = {name: value for name, value in options.items() if name not in STEP}
    schedules = {name: value for name, value in options.items() if SCHEDULE.fullmatch(name)}
    if any(value != SCHEDULE_DEFAULTS.get(name.rpartition(".")[2]) for name, value in schedules.items()):
        own["optim.accumulate"] = options["optim.accumulate"] or 1
    return {**own, " x ".join(STEP): math.prod(options[name] or 1 for name in STEP)}
