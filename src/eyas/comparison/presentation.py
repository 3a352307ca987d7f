"""A comparison as text: its tables, how to read them, and a sentence for each arm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from eyas.comparison.equal_time import in_epochs
from eyas.comparison.schedules import Convergence, GainAtEqualTime, Schedules, TimeToBaseline
from eyas.comparison.statistics import Comparison, Estimate, MetricResult, Reference
from eyas.runs.results import metric_title
from eyas.tools.tables import listed, markdown_table

PLUS_MINUS = "±: half width of the 95 % confidence interval of the mean over the seeds (Student's t)"
GAP_CLOSED = (
    "Gap closed: mean(arm - baseline) / mean(teacher - baseline) with Fieller's 95 % interval; - with fewer than two "
    "seeds, or where the teacher cannot be told from the baseline."
)
REFERENCE = (
    "Each arm minus {0} of its schedule, paired by seed, with the 95 % interval of their difference. The two differ, "
    "at 95 %, where it does not hold 0."
)
EQUAL_TIME = (
    "Seconds: one training by its clock, without evaluations; + the filling of its cache. Equal steps: minus the "
    "baseline of as many epochs. Equal time: minus the baseline that trains for as long (its epochs). Both are paired "
    "by seed. Time to baseline: until the arm first has the final {metric} of the baseline of its epochs, over the "
    "seconds of that baseline, on a line between two evaluations of the mean over the seeds; - where it never has."
)
FILLED = "with filling"
FILLING = " With filling: all the time to fill the cache is added to the one training."
CONVERGENCE = (
    "Doubling adds: what twice the epochs add to the mean, and in brackets the standard deviation of the seeds. An arm "
    "has converged at the first number of epochs whose doubling adds less than that; - where no schedule was doubled "
    "for two seeds or more. The gain is that of the arm, converged, over the baseline, converged, paired by seed. Time "
    "to baseline: as above, for the converged baseline and the schedule of the arm that gets there first."
)


def conclusions(comparison: Comparison, schedules: Schedules | None = None) -> list[str]:
    """A sentence for each arm beside the baseline: what these seeds tell about its gain; then those of `schedules`."""
    name, sentences = metric_title(comparison.metric), []
    for arm, result in comparison.arms.items():
        gain, closed = result.metrics[comparison.metric].minus_baseline, result.metrics[comparison.metric].gap_closed
        if gain is None or math.isnan(gain.mean):
            continue
        share = "" if closed is None else f"; it closes {closed.shown()} of the gap to its teacher"
        sentences.append(f"{arm} {_verdict(gain, name)}{share}.")
    return (
        sentences if schedules is None else [*sentences, *_of_time(schedules, name), *_of_convergence(schedules, name)]
    )


def _verdict(gain: Estimate, metric: str) -> str:
    """What a gain over a baseline says, as ``is better than the baseline by 0.031 ± 0.012 mAP, over 5 seeds``."""
    if gain.half_width is None:
        return f"is {gain.shown(sign='+')} {metric} from the baseline on one seed, which does not show the spread"
    over = f", over {len(gain.values)} seeds"
    if abs(gain.mean) > gain.half_width:
        better = "better" if gain.mean > 0 else "worse"
        return f"is {better} than the baseline by {abs(gain.mean):.3f} ± {gain.half_width:.3f} {metric}{over}"
    return f"cannot be told from the baseline: {gain.shown(sign='+')} {metric}{over}"


def _of_time(schedules: Schedules, metric: str) -> list[str]:
    """A sentence for each gain at equal time."""
    sentences = []
    for result in schedules.results:
        cases = (
            ("At equal time", result.equal_time),
            ("At equal time, its cache filled", result.equal_time_with_filling),
        )
        for case, equal in cases:
            if equal is not None and equal.gain is not None and not math.isnan(equal.gain.mean):
                epochs = f"{in_epochs(result.epochs)} beside {equal.epochs} of the baseline"
                sentences.append(f"{case}, {epochs}, {result.arm} {_verdict(equal.gain, metric)}.")
    return sentences


def _of_convergence(schedules: Schedules, metric: str) -> list[str]:
    """A sentence for each arm on whether it has converged, and on its gain then."""
    sentences = []
    for arm, found in schedules.convergence.items():
        if not found.doublings:
            sentences.append(
                f"Whether {arm} has converged is not known: none of its schedules was doubled for two seeds."
            )
            continue
        if found.epochs is None:
            sentences.append(f"{arm} has not converged: no doubling of its epochs adds less than its seeds differ.")
            continue
        doubling = next(each for each in found.doublings if each.epochs == found.epochs)
        adds = f"twice the epochs add {doubling.adds:+.3f} {metric}, and its seeds differ by {doubling.spread:.3f}"
        gain = "" if found.gain is None else f" Beside the converged baseline it {_verdict(found.gain, metric)}."
        sentences.append(f"{arm} has converged at {in_epochs(found.epochs)}: {adds}.{gain}{_sooner(found.to_baseline)}")
    return sentences


def _sooner(found: TimeToBaseline | None) -> str:
    if found is None:
        return ""
    if found.ratio is None:
        return " It never has that baseline's final metric."
    filling = "" if found.with_filling is None else f", {found.with_filling:.2f} with the filling of its cache"
    return f" It has that baseline's final metric after {found.ratio:.2f} of its training time{filling}."


def tables(
    comparison: Comparison,
    schedules: Schedules | None = None,
    missing: Sequence[str] = (),
    reference: Reference | None = None,
) -> list[tuple[str, list[list[str]], str]]:
    """The tables of a comparison: title, rows with the head first, and how to read them. The main one has no title."""
    found = [("", without_empty_columns(rows(comparison)), note(missing, scored=comparison.teacher is not None))]
    if reference is not None and reference.minus:
        found.append((f"Minus {reference.arm}", reference_rows(comparison, reference), REFERENCE.format(reference.arm)))
    if schedules is not None and schedules.results:
        table = schedule_rows(schedules)
        words = EQUAL_TIME.format(metric=metric_title(comparison.metric)) + (FILLING if FILLED in table[0] else "")
        found.append(("Equal steps and equal time", table, words))
    if schedules is not None and schedules.convergence:
        found.append(("Convergence", convergence_rows(schedules.convergence), CONVERGENCE))
    return found


def as_markdown(
    comparison: Comparison,
    schedules: Schedules | None = None,
    missing: Sequence[str] = (),
    reference: Reference | None = None,
) -> str:
    """The tables of a comparison as Markdown."""
    found = tables(comparison, schedules, missing, reference)
    return "\n".join(markdown(table, words, title) for title, table, words in found)


def reference_rows(comparison: Comparison, reference: Reference) -> list[list[str]]:
    """The table of the differences from the reference as text, head first."""
    shown = _shown(comparison)
    table = [["", *map(metric_title, shown), "seeds"]]
    for arm, minus in reference.minus.items():
        seeds = str(len(minus[comparison.metric].values))
        table.append([arm, *(minus[metric].shown(sign="+") for metric in shown), seeds])
    return table


def schedule_rows(schedules: Schedules) -> list[list[str]]:
    """The table of gains at equal steps and at equal time as text, head first; without columns that are empty."""
    table = [["", "epochs", "seconds", "over baseline", "equal steps", "equal time", FILLED, "time to baseline"]]
    for result in schedules.results:
        seconds = "" if result.seconds is None else f"{result.seconds:.0f}"
        over = result.seconds / result.baseline_seconds if result.seconds and result.baseline_seconds else None
        table.append([
            result.arm,
            str(result.epochs),
            seconds if result.filling is None else f"{seconds} + {result.filling:.0f}",
            "" if over is None else f"{over:.2f}",
            "" if result.equal_steps is None else result.equal_steps.shown(sign="+"),
            _equal_time(result.equal_time),
            _equal_time(result.equal_time_with_filling),
            _time(result.to_baseline),
        ])  # fmt: skip
    return without_empty_columns(table)


def convergence_rows(convergence: Mapping[str, Convergence]) -> list[list[str]]:
    """The table of convergence as text, head first."""
    table = [["", "doubling adds", "converged at", "gain", "time to baseline"]]
    for arm, found in convergence.items():
        adds = [f"{in_epochs(each.epochs)}: {each.adds:+.3f} ({each.spread:.3f})" for each in found.doublings]
        table.append([
            arm,
            ", ".join(adds),
            _converged(found),
            "" if found.gain is None else found.gain.shown(sign="+"),
            _time(found.to_baseline),
        ])  # fmt: skip
    return table


def without_empty_columns(lines: Sequence[Sequence[str]]) -> list[list[str]]:
    """The rows, head first, without the columns that are empty below the head, such as memory when no run logged it."""
    filled = [column for column in range(len(lines[0])) if column == 0 or any(line[column] for line in lines[1:])]
    return [[line[column] for column in filled] for line in lines]


def _converged(found: Convergence) -> str:
    """Its schedule as ``40 epochs``; a dash where no schedule can tell."""
    if not found.doublings:
        return "-"
    return "not converged" if found.epochs is None else in_epochs(found.epochs)


def _equal_time(equal: GainAtEqualTime | None) -> str:
    """As ``+0.012 ± 0.010 (38 epochs)``; a dash for a gain of runs that are not finished."""
    if equal is None:
        return ""
    return f"{'-' if equal.gain is None else equal.gain.shown(sign='+')} ({in_epochs(equal.epochs)})"


def _time(found: TimeToBaseline | None) -> str:
    """As ``0.48``, or ``0.48, 0.55 with filling``; a dash for never."""
    if found is None:
        return ""
    if found.ratio is None:
        return "-"
    return f"{found.ratio:.2f}" + ("" if found.with_filling is None else f", {found.with_filling:.2f} {FILLED}")


def rows(comparison: Comparison) -> list[list[str]]:
    """The table as text: its head, the teacher, then the arms in their order."""
    main, shown = comparison.metric, _shown(comparison)
    table = [["", *map(metric_title, shown), "minus baseline", "gap closed", "s/step", "memory", "seeds"]]
    table += [[name, *values, *[""] * 5] for name, values in _teachers(comparison, shown).items()]
    for name, arm in comparison.arms.items():
        result, memory = arm.metrics[main], arm.peak_device_memory or arm.peak_memory
        table.append([
            name,
            *(arm.metrics[each].shown() for each in shown),
            "" if result.minus_baseline is None else result.minus_baseline.shown(sign="+"),
            _gap(result, comparison.teacher),
            "" if arm.seconds_per_step is None else f"{arm.seconds_per_step:.3f}",
            "" if memory is None else f"{memory / 2**20:.0f} MiB",
            str(len(arm.seeds)),
        ])  # fmt: skip
    return table


def _shown(comparison: Comparison) -> list[str]:
    """The metrics that have a column: the one that ranks the arms, and the first at an IoU of 0.5."""
    known = next(iter(comparison.arms.values())).metrics
    at_50 = [name for name in known if name.startswith("map_50")][:1]
    return list(dict.fromkeys((comparison.metric, *at_50)))


def _teachers(comparison: Comparison, shown: Sequence[str]) -> dict[str, list[str]]:
    """Its name to the teacher's metrics as text; by arm where arms that give it other images got other metrics."""
    if comparison.teacher is None:
        return {}
    by_values: dict[tuple[str, ...], list[str]] = {}
    for name, arm in comparison.arms.items():
        if arm.teacher is not None:
            by_values.setdefault(tuple(f"{arm.teacher[each]:.3f}" for each in shown), []).append(name)
    alone = len(by_values) == 1
    return {
        "teacher" if alone else f"teacher of {', '.join(names)}": list(values) for values, names in by_values.items()
    }


def _gap(result: MetricResult, teacher: Mapping[str, float] | None) -> str:
    """The gap closed as text: empty where it does not apply, - where it cannot be told."""
    if result.minus_baseline is None or teacher is None:
        return ""
    return "-" if result.gap_closed is None else result.gap_closed.shown()


def markdown(table: Sequence[Sequence[str]], note: str, title: str = "") -> str:
    """Rows as a Markdown table, numbers on the right, with a note below and a heading where it has a title."""
    heading = f"## {title}\n\n" if title else ""
    return f"{heading}{markdown_table(table)}\n\n{note}\n"


def note(missing: Sequence[str] = (), *, scored: bool = True) -> str:
    """How to read the table, of a teacher that was scored or not, and the runs that it lacks."""
    text = f"{PLUS_MINUS}; minus baseline is paired by seed." + (f" {GAP_CLOSED}" if scored else "")
    return text + (f" Not finished: {listed(missing)}." if missing else "")
