"""Arms on several schedules: gains at equal steps, at equal time and at convergence, and how long they take. All pure.

The baseline of a schedule is `baseline_of` the arm; that of equal time was decided by `eyas.comparison.equal_time`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eyas.comparison.arms import BASELINE, baseline_of, split_schedule
from eyas.comparison.equal_time import EqualTime, Times, median_filling, median_seconds
from eyas.comparison.statistics import Estimate, by_seed, paired_difference
from eyas.runs.results import RunResult

Runs = Mapping[str, Mapping[int, RunResult]]
"""Arm name to seed to finished run."""
Curve = tuple[tuple[float, float], ...]
"""Seconds of training and the metric then, for each evaluation."""


@dataclass(frozen=True)
class GainAtEqualTime:
    """A gain over a baseline that trained for as long.

    Attributes:
        epochs: of the baseline.
        gain: paired by seed; None until runs of both are finished.
    """

    epochs: int
    gain: Estimate | None


@dataclass(frozen=True)
class TimeToBaseline:
    """How soon an arm reaches the final metric of a baseline.

    Attributes:
        ratio: the seconds of training until then over those of the whole baseline; None where it never gets there.
        with_filling: the same, the time to fill the arm's cache included; None without a cache.
    """

    ratio: float | None
    with_filling: float | None = None


@dataclass(frozen=True)
class ScheduleResult:
    """An arm on one schedule, beside the baseline.

    Attributes:
        arm: its name, without the schedule.
        epochs: of the schedule.
        seconds: that one training takes, the median over its runs; None where the logs do not tell.
        filling: seconds that filling its cache takes; None without a cache.
        baseline_seconds: that the baseline takes on the same schedule.
        equal_steps: gain over the baseline of the same schedule; None where the arm has epochs of its own.
        equal_time: gain over the baseline that trains for as long; None where that was not decided.
        equal_time_with_filling: the same, the time to fill the cache included.
        to_baseline: how soon it reaches the final metric of the baseline of its schedule; None where no log tells.
    """

    arm: str
    epochs: int
    seconds: float | None
    filling: float | None
    baseline_seconds: float | None
    equal_steps: Estimate | None
    equal_time: GainAtEqualTime | None
    equal_time_with_filling: GainAtEqualTime | None
    to_baseline: TimeToBaseline | None


@dataclass(frozen=True)
class Doubling:
    """What twice the epochs add to an arm.

    Attributes:
        epochs: of the shorter schedule.
        adds: the mean over the seeds of both schedules, of the longer minus that of the shorter.
        spread: standard deviation over these seeds on the shorter schedule.
    """

    epochs: int
    adds: float
    spread: float


@dataclass(frozen=True)
class Convergence:
    """Whether an arm has converged, and what it has gained then.

    Attributes:
        doublings: of every schedule whose double was run, from the shortest.
        epochs: the first schedule whose doubling adds less than the spread; None: not converged.
        gain: the arm on this schedule minus the baseline on that where the baseline has converged, paired by seed.
        to_baseline: how soon the arm reaches the final metric of the converged baseline, on that of its schedules
            which gets there first; None where the baseline has not converged, and for the baseline itself.
    """

    doublings: tuple[Doubling, ...]
    epochs: int | None
    gain: Estimate | None = None
    to_baseline: TimeToBaseline | None = None


@dataclass(frozen=True)
class Schedules:
    """The arms of a comparison over schedules and time.

    Attributes:
        results: of every arm but the baseline, on each of its schedules.
        convergence: arm name, the baseline's first, to whether it has converged; empty for one schedule.
        curves: name of every arm, the baselines and the schedules apart, to the means over its runs.
    """

    results: tuple[ScheduleResult, ...]
    convergence: Mapping[str, Convergence]
    curves: Mapping[str, Curve]


def compare_schedules(runs: Runs, times: Times, decided: Sequence[EqualTime], metric: str) -> Schedules | None:
    """Compare the finished runs over schedules and time.

    Args:
        runs: arm name to seed to finished run; an arm may have none.
        times: how long they trained.
        decided: the baselines of equal time.
        metric: the one that ranks.

    Returns:
        None for a comparison on one schedule without baselines of equal time.
    """
    finished = {name: arm for name, arm in runs.items() if arm}
    named = {name: split_schedule(name) for name in finished}
    if not decided and not any(arm == BASELINE and epochs is not None for arm, epochs in named.values()):
        return None
    others = [name for name, (arm, _) in named.items() if arm != BASELINE]
    results = [_on_schedule(name, finished, times, decided, metric) for name in others]
    asked = {epochs for name, (_, epochs) in named.items() if name in others or not others} - {None}
    by_arm: dict[str, dict[int, str]] = {}
    for name, (arm, epochs) in named.items():
        if epochs is not None and epochs in asked:
            by_arm.setdefault(arm, {})[epochs] = name
    convergence = _convergence(by_arm, finished, times, metric) if len(asked) > 1 else {}
    timed = {name: median_seconds(times.get(name, {})) for name in finished}
    curves = {
        name: mean_curve(list(finished[name].values()), seconds, metric)
        for name, seconds in timed.items()
        if seconds is not None and not math.isnan(statistics.fmean(by_seed(finished[name], metric).values()))
    }
    return Schedules(tuple(results), convergence, curves)


def doublings(by_epochs: Mapping[int, Mapping[int, float]]) -> tuple[Doubling, ...]:
    """What twice the epochs add, for every schedule whose double was run for two of its seeds or more.

    Args:
        by_epochs: epochs of a schedule to seed to the final metric.
    """
    found = []
    for epochs, short in sorted(by_epochs.items()):
        gain = paired_difference(by_epochs.get(2 * epochs, {}), short)
        if gain is not None and len(gain.values) > 1:
            both = [value for seed, value in short.items() if seed in by_epochs[2 * epochs]]
            found.append(Doubling(epochs, gain.mean, statistics.stdev(both)))
    return tuple(found)


def converged_at(found: Sequence[Doubling]) -> int | None:
    """The first schedule whose doubling adds less than the spread of its seeds; None where no schedule does."""
    return next((each.epochs for each in found if each.adds < each.spread), None)


def mean_curve(runs: Sequence[RunResult], seconds: float, metric: str) -> Curve:
    """Seconds of training and the mean of the metric, for the evaluations that all runs of an arm have.

    Args:
        runs: at least one, of one schedule.
        seconds: that one of them trains; an evaluation has its share, by its epoch.
        metric: undefined means are left out.
    """
    curves = [dict(run.curve) for run in runs]
    last = max(curves[0])
    means = {
        epoch: statistics.fmean(curve[epoch][metric] for curve in curves)
        for epoch in sorted(curves[0])
        if all(epoch in curve for curve in curves)
    }
    return tuple((seconds * epoch / last, mean) for epoch, mean in means.items() if not math.isnan(mean))


def seconds_until(curve: Curve, target: float) -> float | None:
    """When a curve first reaches a target, on the line between two evaluations; None for never.

    A first evaluation that is above it counts from its own time, since nothing tells what was before.
    """
    before: tuple[float, float] | None = None
    for time, value in curve:
        if value >= target:
            if before is None:
                return time
            return before[0] + (time - before[0]) * (target - before[1]) / (value - before[1])
        before = time, value
    return None


def _on_schedule(name: str, runs: Runs, times: Times, decided: Sequence[EqualTime], metric: str) -> ScheduleResult:
    baseline = baseline_of(name, runs)
    values = {arm: by_seed(runs.get(arm, {}), metric) for arm in {name, baseline, *(each.baseline for each in decided)}}
    equal = {
        each.with_filling: GainAtEqualTime(each.epochs, paired_difference(values[name], values[each.baseline]))
        for each in decided
        if each.arm == name
    }
    epochs, its = _last_epoch(runs[name]), _last_epoch(runs.get(baseline, {}))
    as_many = split_schedule(name)[1] is not None or epochs == its
    return ScheduleResult(
        arm=split_schedule(name)[0],
        epochs=epochs or 0,
        seconds=median_seconds(times.get(name, {})),
        filling=median_filling(times.get(name, {})),
        baseline_seconds=median_seconds(times.get(baseline, {})),
        equal_steps=paired_difference(values[name], values[baseline]) if as_many else None,
        equal_time=equal.get(False),
        equal_time_with_filling=equal.get(True),
        to_baseline=_time_to_baseline([name], baseline, runs, times, metric),
    )


def _convergence(
    by_arm: Mapping[str, Mapping[int, str]], runs: Runs, times: Times, metric: str
) -> dict[str, Convergence]:
    """Arm name, the baseline's first, to its convergence; ``by_arm`` has the name of each of its schedules."""
    found: dict[str, Convergence] = {}
    for arm in sorted(by_arm, key=lambda arm: arm != BASELINE):
        names = by_arm[arm]
        doubled = doublings({epochs: by_seed(runs[name], metric) for epochs, name in names.items()})
        own, gain, reached = converged_at(doubled), None, None
        baseline = by_arm.get(BASELINE, {}).get(found[BASELINE].epochs or 0) if BASELINE in found else None
        if baseline is not None:
            reached = _time_to_baseline(list(names.values()), baseline, runs, times, metric)
            if own is not None:
                gain = paired_difference(by_seed(runs[names[own]], metric), by_seed(runs[baseline], metric))
        found[arm] = Convergence(doubled, own, gain, reached)
    return found


def _time_to_baseline(
    names: Sequence[str], baseline: str, runs: Runs, times: Times, metric: str
) -> TimeToBaseline | None:
    """How soon the first of an arm's schedules reaches the baseline's final metric, over the seeds of both."""
    whole, its = median_seconds(times.get(baseline, {})), runs.get(baseline, {})
    timed = {name: seconds for name in names if (seconds := median_seconds(times.get(name, {}))) is not None}
    reached = []
    for name, seconds in timed.items():
        if seeds := runs[name].keys() & its.keys():
            target = statistics.fmean(its[seed].summary[metric] for seed in seeds)
            reached.append(seconds_until(mean_curve([runs[name][seed] for seed in seeds], seconds, metric), target))
    if not whole or not reached:
        return None
    first = min((until for until in reached if until is not None), default=None)
    if first is None:
        return TimeToBaseline(None)
    filling = median_filling(times.get(names[0], {}))
    return TimeToBaseline(first / whole, None if filling is None else (first + filling) / whole)


def _last_epoch(runs: Mapping[int, RunResult]) -> int | None:
    return next((run.curve[-1][0] for run in runs.values()), None)
