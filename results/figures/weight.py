"""Draws docs/images/weight.png and prints a table of docs/results.md, from the two sweeps in results.

``python results/figures/weight.py``
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

ROOT = Path(__file__).parents[2]
DATA = {"digits": "digits, ShuffleDet", "bccd": "blood cells, Faster R-CNN"}
METHODS = {"fgfi": ("FGFI", "#d55e00", "o"), "fitnets": ("FitNets, whole map", "#0072b2", "s")}
FRACTIONS = ("0.1", "0.3", "1", "3", "10")
NUMBERS = ("0.1", "0.5", "2.5")


def gains(name: str) -> dict[str, float]:
    """Arm -> mAP minus the baseline's."""
    arms = json.loads((ROOT / "results" / f"weight_{name}" / "comparison.json").read_text())["arms"]
    means = {arm: float(values["metrics"]["map"]["mean"]) for arm, values in arms.items()}
    return {arm: mean - means["baseline"] for arm, mean in means.items()}


def weight_of(name: str, arm: str) -> float:
    """The last automatic weight that a run logged."""
    log = (ROOT / "results" / f"weight_{name}" / f"{arm}-100" / "log.jsonl").read_text().splitlines()
    weights = [line["weights"] for line in map(json.loads, log) if line["kind"] == "train"]
    return float(next(iter(weights[-1].values())))


def table(found: dict[str, dict[str, float]]) -> str:
    """Every gain, and the mean and the least gain of one setting over the columns."""
    columns = [(data, method) for data in DATA for method in METHODS]
    head = " | ".join(f"{METHODS[method][0]}, {DATA[data]}" for data, method in columns)
    lines = [f"| | {head} | mean | least |", "| --- |" + " ---: |" * (len(columns) + 2)]
    for kind, values in (("fraction", FRACTIONS), ("number", NUMBERS)):
        for value in values:
            own = [found[data][f"{method}_{kind}_{value}"] for data, method in columns]
            cells = " | ".join(f"{gain:+.3f}" for gain in (*own, statistics.fmean(own), min(own)))
            lines.append(f"| {kind} {value} | {cells} |")
    return "\n".join(lines)


def draw(found: dict[str, dict[str, float]], path: Path) -> None:
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axes, (data, title) in zip(figure.subplots(1, 2), DATA.items(), strict=True):
        for method, (label, colour, marker) in METHODS.items():
            style: dict[str, Any] = {"color": colour, "marker": marker}
            y = [found[data][f"{method}_fraction_{value}"] for value in FRACTIONS]
            axes.plot([float(value) for value in FRACTIONS], y, label=f"{label}, fraction", **style)
            y = [found[data][f"{method}_number_{value}"] for value in NUMBERS]
            x = [float(value) for value in NUMBERS]
            axes.plot(x, y, label=f"{label}, number", linestyle=":", markerfacecolor="white", **style)
        axes.axhline(0, color="#888888", linewidth=0.8)
        axes.set(xscale="log", xlabel="fraction, or weight by number", title=title)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("mAP minus baseline")
    figure.axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=110)


def main() -> None:
    found = {name: gains(name) for name in DATA}
    draw(found, ROOT / "docs" / "images" / "weight.png")
    print(table(found))
    for name in DATA:
        for method in METHODS:
            print(name, method, "weight that fraction 1 gave:", f"{weight_of(name, f'{method}_fraction_1'):.3g}")


if __name__ == "__main__":
    main()
