"""An exported detector against PyTorch on the same images: differences, score and latency."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eyas.detectors.deployed import Deployed
from eyas.evaluation.cost import cpu_threads
from eyas.export.protocols import Runtime
from eyas.export.ties import TAKES, BreakTies, Take
from eyas.types import Size, size_of

MAP_TOLERANCE = 0.001
"""The largest allowed difference between the two scores."""
SAME_PROPOSAL = 0.1
"""Pixels; proposals of the two detectors that are closer than this count as the same."""
UNMATCHED = 0.01
"""The largest allowed fraction of PyTorch's proposals that the exported detector lacks."""


class CompletedRuntime:
    """An opened file of head outputs, completed by PyTorch's post-processing, for the comparison only."""

    def __init__(self, runtime: Runtime, deployed: Deployed) -> None:
        self.runtime, self.deployed = runtime, deployed
        self.metadata = {**runtime.metadata, "eyas.raw": False}
        self._rows: dict[Size, Sequence[int]] = {}

    def run(self, images: Tensor, names: Sequence[str]) -> list[Tensor]:
        """The detections; ``names`` is ignored."""
        size = size_of(images)
        if size not in self._rows:
            self._rows[size] = self.deployed.raw(images[:1])[1]
        return [*self.deployed.detect(self.runtime.run(images, self.deployed.raw_names), self._rows[size], size)]


def raw_differences(deployed: Deployed, runtime: Runtime, images: Iterable[Tensor]) -> dict[str, float]:
    """The largest `difference` of each head output on images (batch, 3, height, width) in [0, 1].

    Rows of the outputs in `Deployed.matched` are compared between equal proposals; ``unmatched`` is the fraction of
    PyTorch's proposals that the other lacks. Where scores of proposals are equal, PyTorch takes them in several orders,
    and what a choice among them explains is not lacking. For a `Deployed.coupled` detector, an image with an
    unmatched proposal is not compared; if that is every image, the fraction is 1.
    """
    largest = dict.fromkeys(deployed.raw_names, 0.0)
    missing = total = 0
    for batch in images:
        theirs = dict(zip(deployed.raw_names, runtime.run(batch, deployed.raw_names), strict=True))
        ours = _raw(deployed, batch)
        if deployed.matched:
            ours, theirs, lost = _matched_by_ties(deployed, batch, ours, theirs)
            missing, total = missing + lost, total + lost + len(ours[deployed.matched[0]])
        for name in deployed.raw_names:
            largest[name] = float(np.maximum(largest[name], difference(ours[name], theirs[name])))  # max drops NaN
    return largest | ({"unmatched": missing / total if total else 1.0} if deployed.matched else {})


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest absolute difference, relative to our largest value or to 1 if that is more; NaN if either has NaN."""
    if ours.shape != theirs.shape:
        return float("inf")
    if not ours.numel():
        return 0.0
    return float((ours - theirs).abs().max() / ours.abs().max().clamp(min=1))


def failures(differences: Mapping[str, float], tolerance: float, ours: float, theirs: float) -> list[str]:
    """The faults of an exported detector in words; empty when it equals PyTorch's.

    Args:
        differences: from `raw_differences`.
        tolerance: the limit of each difference except ``unmatched``.
        ours, theirs: mAP of PyTorch and of the file. Two NaN scores (no objects at all) are equal.
    """
    found = []
    for name, value in differences.items():
        allowed = UNMATCHED if name == "unmatched" else tolerance
        if not value <= allowed:  # also true for NaN
            found.append(f"{name} differs by {value:.2g} (tolerance {allowed:g})")
    if not same_score(ours, theirs):
        found.append(f"mAP is {theirs:.4f} and PyTorch's {ours:.4f} (tolerance {MAP_TOLERANCE:g})")
    return found


def same_score(ours: float, theirs: float) -> bool:
    """Whether two mAPs are equal within the tolerance, or both are NaN."""
    return abs(ours - theirs) <= MAP_TOLERANCE or (ours != ours and theirs != theirs)


def latencies(predict: Mapping[str, Callable[[Tensor], Any]], images: Sequence[Tensor], runs: int) -> dict[str, float]:
    """Median milliseconds per image (1, 3, height, width), over ``runs`` calls of each function after an untimed one.

    The detectors take turns, so that other load on the machine affects all alike.
    """
    times: dict[str, list[float]] = {name: [] for name in predict}
    with cpu_threads(1), torch.no_grad():
        for run in range(runs + 1):
            for name, call in predict.items():
                start = time.perf_counter()
                call(images[run % len(images)])
                times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def _raw(deployed: Deployed, batch: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        return dict(zip(deployed.raw_names, deployed.raw(batch)[0], strict=True))


def _raw_with_ties(deployed: Deployed, batch: Tensor, take: Take) -> dict[str, Tensor]:
    with BreakTies(take):
        return _raw(deployed, batch)


def _matched_by_ties(
    deployed: Deployed, batch: Tensor, ours: dict[str, Tensor], theirs: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """`_matched` in the order of equal scores that lacks least.

    Only the lost proposals count that a choice among equal scores cannot explain: of any two such choices, the first
    and the last candidates differ most.
    """
    found = _matched(ours, theirs, deployed)
    if not found[2]:
        return found
    first, last = (_raw_with_ties(deployed, batch, take) for take in TAKES)
    found = min((found, *(_matched(one, theirs, deployed) for one in (first, last))), key=lambda one: one[2])
    lost = 0
    for mine, other, file in zip(first["proposals"], last["proposals"], theirs["proposals"], strict=True):
        rows = _real(mine)
        tied = _nearest(mine, rows, other, deployed)[0] >= SAME_PROPOSAL
        lacking = _nearest(mine, rows, file, deployed)[0] >= SAME_PROPOSAL
        lost += int((lacking & ~tied).sum()) if deployed.ordered else max(0, int(lacking.sum() - tied.sum()))
    return *found[:2], min(lost, found[2])


def _real(boxes: Tensor) -> Tensor:
    """The rows of boxes that have an area; others fill up."""
    return torch.where((boxes[:, 2:] > boxes[:, :2]).all(dim=1))[0]


def _nearest(boxes: Tensor, rows: Tensor, others: Tensor, deployed: Deployed) -> tuple[Tensor, Tensor]:
    """For some rows of boxes (n, 4), the distance in pixels to the nearest of the others, and its row.

    Where the slot counts, the other box of the same row is compared.
    """
    if deployed.ordered:
        return (boxes - others)[rows].abs().amax(dim=1), rows
    if not len(rows):
        return boxes.new_zeros(0), rows
    found = torch.cdist(boxes[rows], others, p=torch.inf).min(dim=1)
    return found.values, found.indices


def _matched(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], deployed: Deployed
) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """Both with the rows of `Deployed.matched` reduced to common proposals, and the number of our unmatched ones."""
    pairs: dict[str, tuple[list[Tensor], list[Tensor]]] = {name: ([], []) for name in deployed.matched}
    lost = 0
    for image in range(len(ours["proposals"])):
        mine, other = ours["proposals"][image], theirs["proposals"][image]
        real = _real(mine)
        distance, nearest = _nearest(mine, real, other, deployed)
        same = distance < SAME_PROPOSAL
        lost += int((~same).sum())
        if deployed.coupled and not same.all():
            same = torch.zeros_like(same)
        for name, (left, right) in pairs.items():
            left.append(ours[name][image, real[same]])
            right.append(theirs[name][image, nearest[same]])
    left_rows, right_rows = ({name: torch.cat(both[side]) for name, both in pairs.items()} for side in (0, 1))
    return {**ours, **left_rows}, {**theirs, **right_rows}, lost
