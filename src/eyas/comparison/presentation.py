"""A comparison as text: its table, how to read it, and a sentence for each arm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from eyas.comparison.statistics import Comparison, MetricResult
from eyas.runs.results import metric_title

PLUS_MINUS = "±: half width of the 95 % confidence interval of the mean over the seeds (Student's t)"
GAP_CLOSED = (
    "Gap closed: mean(arm - baseline) / mean(teacher - baseline) with Fieller's 95 % interval; - with fewer than two "
    "seeds, or where the teacher cannot be told from the baseline."
)


def conclusions(comparison: Comparison) -> list[str]:
    """A sentence for each arm beside the baseline: what these seeds tell about its gain."""
    name, sentences = metric_title(comparison.metric), []
    for arm, result in comparison.arms.items():
        gain, closed = result.metrics[comparison.metric].minus_baseline, result.metrics[comparison.metric].gap_closed
        if gain is None or math.isnan(gain.mean):
            continue
        seeds = len(gain.values)
        if gain.half_width is None:
            verdict = f"is {gain.shown(sign='+')} {name} from the baseline on one seed, which does not show the spread"
        elif abs(gain.mean) > gain.half_width:
            better = "better" if gain.mean > 0 else "worse"
            verdict = f"is {better} than the baseline by {abs(gain.mean):.3f} ± {gain.half_width:.3f} {name}"
        else:
            verdict = f"cannot be told from the baseline: {gain.shown(sign='+')} {name}"
        over = "" if gain.half_width is None else f", over {seeds} seeds"
        share = "" if closed is None else f"; it closes {closed.shown()} of the gap to its teacher"
        sentences.append(f"{arm} {verdict}{over}{share}.")
    return sentences


def rows(comparison: Comparison) -> list[list[str]]:
    """The table as text: its head, the teacher, then the arms in their order."""
    main = comparison.metric
    known = next(iter(comparison.arms.values())).metrics
    at_50 = [name for name in known if name.startswith("map_50")][:1]
    shown = list(dict.fromkeys((main, *at_50)))
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


def markdown(table: Sequence[Sequence[str]], note: str) -> str:
    """Rows as a Markdown table, numbers on the right, with a note below."""
    head, *body = table
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{note}\n"


def note(missing: Sequence[str] = ()) -> str:
    """How to read the table, and the runs that it lacks."""
    text = f"{PLUS_MINUS}; minus baseline is paired by seed. {GAP_CLOSED}"
    return text + (f" Not finished: {', '.join(missing)}." if missing else "")
