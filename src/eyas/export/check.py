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
from eyas.export.formats import Runtime
from eyas.types import Size

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
        size = (images.shape[-2], images.shape[-1])
        if size not in self._rows:
            self._rows[size] = self.deployed.raw(images[:1])[1]
        return [*self.deployed.detect(self.runtime.run(images, self.deployed.raw_names), self._rows[size], size)]


def raw_differences(deployed: Deployed, runtime: Runtime, images: Iterable[Tensor]) -> dict[str, float]:
    """The largest `difference` of each head output on images (batch, 3, height, width) in [0, 1].

    Rows of the outputs in `Deployed.matched` are compared between equal proposals; ``unmatched`` is the fraction of
    PyTorch's proposals that the other lacks. For a `Deployed.coupled` detector, an image with an unmatched proposal is
    not compared; if that is every image, the fraction is 1.
    """
    largest = dict.fromkeys(deployed.raw_names, 0.0)
    missing = total = 0
    names = deployed.raw_names
    for batch in images:
        with torch.no_grad():
            ours = dict(zip(names, deployed.raw(batch)[0], strict=True))
        theirs = dict(zip(names, runtime.run(batch, names), strict=True))
        if deployed.matched:
            ours, theirs, lost = _matched(ours, theirs, deployed)
            missing, total = missing + lost, total + lost + len(ours[deployed.matched[0]])
        for name in names:
            largest[name] = float(np.maximum(largest[name], difference(ours[name], theirs[name])))  # max drops NaN
    return largest | ({"unmatched": missing / max(total, 1)} if deployed.matched else {})


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
    if not (abs(ours - theirs) <= MAP_TOLERANCE or (ours != ours and theirs != theirs)):
        found.append(f"mAP is {theirs:.4f} and PyTorch's {ours:.4f} (tolerance {MAP_TOLERANCE:g})")
    return found


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


def _matched(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], deployed: Deployed
) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """Both with the rows of `Deployed.matched` reduced to common proposals, and the number of our unmatched ones."""
    pairs: dict[str, tuple[list[Tensor], list[Tensor]]] = {name: ([], []) for name in deployed.matched}
    lost = 0
    for image in range(len(ours["proposals"])):
        mine, other = ours["proposals"][image], theirs["proposals"][image]
        real = torch.where((mine[:, 2:] > mine[:, :2]).all(dim=1))[0]
        if deployed.ordered:
            distance, nearest = (mine - other)[real].abs().amax(dim=1), real
        else:
            distance, nearest = torch.cdist(mine[real], other, p=torch.inf).min(dim=1)
        same = distance < SAME_PROPOSAL
        lost += int((~same).sum())
        if deployed.coupled and not same.all():
            same = torch.zeros_like(same)
        for name, (left, right) in pairs.items():
            left.append(ours[name][image, real[same]])
            right.append(theirs[name][image, nearest[same]])
    left_rows, right_rows = ({name: torch.cat(both[side]) for name, both in pairs.items()} for side in (0, 1))
    return {**ours, **left_rows}, {**theirs, **right_rows}, lost
