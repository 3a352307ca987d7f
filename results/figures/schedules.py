"""Prints the tables of docs/results.md on longer schedules, from their comparisons, and copies their figures.

``python results/figures/schedules.py [NAME ...]``, of the folders ``results/NAME_schedules`` that have a comparison.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from eyas.comparison.statistics import Estimate, GapClosed

ROOT = Path(__file__).parents[2]
HEAD = (
    *("epochs", "baseline", "distilled", "gain", "gap closed", "seconds, over the baseline's"),
    *("gain at equal time (its epochs)", "time to the baseline's final mAP"),
)


def shown(found: dict[str, Any] | None, sign: str = "") -> str:
    """A mean with its interval, as a comparison's JSON has it."""
    return "" if found is None else Estimate(found["mean"], found["half_width"], ()).shown(sign=sign)


def equal_time(row: dict[str, Any]) -> str:
    """The gain over the baseline of equal time, without and with the filling of the cache."""
    both = [(row["equal_time"], ""), (row["equal_time_with_filling"], "with filling ")]
    found = [f"{name}{shown(each['gain'], '+')} ({each['epochs']})" for each, name in both if each and each["gain"]]
    return "; ".join(found)


def to_baseline(row: dict[str, Any]) -> str:
    found = row["to_baseline"] or {}
    ratio, filled = found.get("ratio"), found.get("with_filling")
    if ratio is None:
        return "-"
    return f"{ratio:.2f}" + ("" if filled is None else f", with filling {filled:.2f}")


def table(comparison: dict[str, Any], arm: str) -> list[str]:
    """The rows of one arm over its schedules."""
    arms = comparison["arms"]
    lines = [f"| {' | '.join(HEAD)} |", "| " + " | ".join(["---:"] * len(HEAD)) + " |"]
    for row in (each for each in comparison["schedules"]["results"] if each["arm"] == arm):
        own, base = (arms[f"{name}-e{row['epochs']}"]["metrics"]["map"] for name in (arm, "baseline"))
        closed = own["gap_closed"]
        share = "-" if closed is None else GapClosed(closed["ratio"], tuple(closed["interval"])).shown()
        times = f"{row['seconds']:.0f}, {row['seconds'] / row['baseline_seconds']:.2f}"
        cells = (str(row["epochs"]), shown(base), shown(own), shown(row["equal_steps"], "+"), share, times)
        lines.append(f"| {' | '.join((*cells, equal_time(row), to_baseline(row)))} |")
    return lines


def main() -> None:
    names = sys.argv[1:] or ["digits", "bccd", "bccd_two_stage"]
    for folder in (ROOT / "results" / f"{name}_schedules" for name in names):
        file = folder / "comparison.json"
        if not file.is_file():
            continue
        comparison = json.loads(file.read_text())
        teacher = comparison["teacher"]["map"]
        for arm in dict.fromkeys(row["arm"] for row in comparison["schedules"]["results"]):
            print(f"\n{folder.name}, {arm}; the teacher has {teacher:.3f}\n")
            print("\n".join(table(comparison, arm)))
        for name, found in comparison["schedules"]["convergence"].items():
            doubled = ", ".join(
                f"{each['epochs']}: {each['adds']:+.3f} ({each['spread']:.3f})" for each in found["doublings"]
            )
            print(f"{name}: converged at {found['epochs']}; doubling adds {doubled}; gain {shown(found['gain'], '+')}")
        if (folder / "seconds.png").is_file():
            shutil.copy(folder / "seconds.png", ROOT / "docs" / "images" / f"{folder.name}.png")


if __name__ == "__main__":
    main()
