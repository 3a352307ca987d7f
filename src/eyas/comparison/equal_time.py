"""Baselines that train for as long as an arm with a method: their epochs, which are decided once and recorded.

They can only be decided once the runs are finished that tell how long the arm takes. A baseline of as many epochs as
another one is that one: its runs serve both.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from eyas.comparison.arms import BASELINE, at_schedule, baseline_of, split_schedule
from eyas.comparison.plan import Arm
from eyas.runs.results import TrainingTime
from eyas.tools.files import write_json
from eyas.tools.text_files import read_json
from eyas.types import EyasError

FILE = "equal_time.json"
Times = Mapping[str, Mapping[int, TrainingTime]]
"""Arm name to seed to the time of the finished run."""


@dataclass(frozen=True)
class EqualTime:
    """The baseline that trains for as long as an arm.

    Attributes:
        arm: name of the arm.
        with_filling: whether the filling of the arm's teacher cache counts too, all of it for each run.
        seconds: that a run of the arm trains, and where it counts the filling; medians over the runs.
        baseline_epoch: seconds of an epoch of the baseline on the arm's schedule, likewise.
        epochs: of the baseline that trains for as long, to the nearest whole one.
        baseline: name of the arm that is this baseline.
    """

    arm: str
    with_filling: bool
    seconds: float
    baseline_epoch: float
    epochs: int
    baseline: str

    def __str__(self) -> str:
        filling = ", its cache filled" if self.with_filling else ""
        return f"{self.arm} takes {self.seconds:.0f} s{filling}: as long as {in_epochs(self.epochs)} of the baseline"


def in_epochs(count: int) -> str:
    """As ``1 epoch`` or ``20 epochs``."""
    return f"{count} epoch{'' if count == 1 else 's'}"


def median_seconds(runs: Mapping[int, TrainingTime]) -> float | None:
    """Median time of an arm's trainings; None where it has none that tell."""
    return statistics.median(run.seconds for run in runs.values()) if runs else None


def median_filling(runs: Mapping[int, TrainingTime]) -> float | None:
    """Median time of filling an arm's cache; None where it has none, or a run cannot tell."""
    known = [run.filling for run in runs.values() if run.filling is not None]
    return statistics.median(known) if known and len(known) == len(runs) else None


def decide(arms: Sequence[Arm], times: Times, seeds: int, decided: Sequence[EqualTime] = ()) -> list[EqualTime]:
    """What is decided already, and the baselines of the arms whose runs are all finished now.

    Args:
        arms: of the comparison; those with a method get baselines of equal time, by `baseline_of` their schedule.
        times: of the finished runs.
        seeds: the number of seeds, so of the runs of an arm that is finished.
        decided: stays as it is, since runs may depend on it.
    """
    by_name, found = {arm.name: arm for arm in arms}, list(decided)
    done = {(each.arm, each.with_filling) for each in decided}
    for arm in arms:
        baseline = by_name[baseline_of(arm.name, by_name)]
        own, its = times.get(arm.name, {}), times.get(baseline.name, {})
        alone, epoch = median_seconds(own), median_seconds(its)
        if "method" not in arm.options or min(len(own), len(its)) < seeds or alone is None or not epoch:
            continue
        epoch, filling = epoch / baseline.epochs, median_filling(own)
        wanted = {False: alone, **({} if filling is None else {True: alone + filling})}
        for with_filling, seconds in wanted.items():
            if (arm.name, with_filling) not in done:
                epochs = max(1, round(seconds / epoch))
                found.append(EqualTime(arm.name, with_filling, seconds, epoch, epochs, baseline_name(arms, epochs)))
    return found


def baseline_name(arms: Sequence[Arm], epochs: int) -> str:
    """The name of the baseline of so many epochs, which may be among the arms."""
    there = [arm.name for arm in arms if split_schedule(arm.name)[0] == BASELINE and arm.epochs == epochs]
    return there[0] if there else at_schedule(BASELINE, epochs)


def missing_baselines(arms: Sequence[Arm], decided: Sequence[EqualTime]) -> list[Arm]:
    """The baselines that were decided for some of the arms, the baseline first, and are not among them yet."""
    there = {arm.name for arm in arms}
    epochs = {each.baseline: each.epochs for each in decided if each.arm in there}
    return [arms[0].on_schedule(each) for name, each in epochs.items() if name not in there]


def write_decided(folder: Path, decided: Sequence[EqualTime]) -> None:
    """Record what was decided in the folder of a comparison."""
    write_json(folder / FILE, {"equal_time": [asdict(each) for each in decided]})


def read_decided(folder: Path) -> list[EqualTime]:
    """What was decided in the folder of a comparison; nothing where there is no such file, or no such folder.

    Raises EyasError where the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return []
    entries = read_json(path).get("equal_time")
    if not isinstance(entries, list) or not all(map(_is_decision, entries)):
        raise EyasError(f"{path}: not what eyas compare decided; get it again, or remove it to decide anew")
    return [EqualTime(**entry) for entry in entries]


def _is_decision(entry: Any) -> bool:
    kinds = {"arm": str, "with_filling": bool, "epochs": int, "baseline": str}
    return (
        isinstance(entry, dict)
        and entry.keys() == {field.name for field in fields(EqualTime)}
        and all(isinstance(entry[name], kind) for name, kind in kinds.items())
        and all(isinstance(entry[name], int | float) for name in ("seconds", "baseline_epoch"))
        and entry["epochs"] >= 1
    )
