"""Whether an exported detector does what PyTorch does: differences, score and latency of both on the same images."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from eyas.detectors.deployed import Deployed, as_predictions
from eyas.export.graph import as_inputs, as_tensors
from eyas.export.runtime import OnnxDetector, open_session
from eyas.types import Detector, EyasError, Level, Prediction, Target

if TYPE_CHECKING:
    import onnxruntime


MAP_TOLERANCE = 0.001
"""The largest allowed difference between the two scores."""
SAME_PROPOSAL = 0.1
"""Pixels: proposals of the two that lie closer than this are the same."""
UNMATCHED = 0.01
"""The largest allowed share of proposals of PyTorch that the exported detector does not have."""

Outputs = Sequence[Tensor]


class RawOnnx:
    """An exported detector without detections, completed by PyTorch's post-processing; for the comparison alone."""

    classes: tuple[str, ...] = ()
    levels: Mapping[str, Level] = {}

    def __init__(self, model: bytes, deployed: Deployed, threads: int | None = None) -> None:
        self.session, self.deployed, self.network = open_session(model, threads), deployed, nn.Module()
        self._rows: dict[tuple[int, int], Sequence[int]] = {}

    def losses(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Always raises EyasError."""
        raise EyasError("an ONNX file cannot be trained")

    def predict(self, images: Tensor) -> list[Prediction]:
        """Detections in each image."""
        size = (images.shape[-2], images.shape[-1])
        if size not in self._rows:
            self._rows[size] = self.deployed.raw(images[:1])[1]
        outputs = as_tensors(self.session.run(None, as_inputs(images)))
        return as_predictions(self.deployed.detect(outputs, self._rows[size], size))


def raw_differences(
    deployed: Deployed, session: onnxruntime.InferenceSession, images: Iterable[Tensor]
) -> dict[str, float]:
    """The largest difference of each of the heads' outputs, relative to its largest value or to 1 if that is more.

    Rows of outputs that `Deployed.matched` names are compared with those of the same proposal; ``unmatched`` is the
    share of PyTorch's proposals that the other has not. Of a `Deployed.coupled` detector no row is compared in an image
    that lacks one; where all do, the share is 1.
    """
    largest = dict.fromkeys(deployed.raw_names, 0.0)
    missing = total = 0
    names = list(deployed.raw_names)
    for batch in images:
        with torch.no_grad():
            ours = dict(zip(names, deployed.raw(batch)[0], strict=True))
        theirs = dict(zip(names, as_tensors(session.run(names, as_inputs(batch))), strict=True))
        if deployed.matched:
            ours, theirs, lost = _matched(ours, theirs, deployed)
            missing, total = missing + lost, total + lost + len(ours[deployed.matched[0]])
        for name in names:
            largest[name] = _larger(largest[name], difference(ours[name], theirs[name]))
    return largest | ({"unmatched": missing / max(total, 1)} if deployed.matched else {})


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference over the largest value, which counts as 1 at least. NaN where either has NaN."""
    if ours.shape != theirs.shape:
        return float("inf")
    if not ours.numel():
        return 0.0
    return float((ours - theirs).abs().max() / ours.abs().max().clamp(min=1))


def failures(differences: Mapping[str, float], tolerance: float, ours: float, theirs: float) -> list[str]:
    """What is wrong with an exported detector, in words; empty when nothing is.

    Args:
        differences: of `raw_differences`.
        tolerance: for each of them, but for ``unmatched``.
        ours: PyTorch's score. A NaN of both (no objects at all) is no difference.
        theirs: the other's.
    """
    found = []
    for name, value in differences.items():
        allowed = UNMATCHED if name == "unmatched" else tolerance
        if not value <= allowed:  # NaN is not
            found.append(f"{name} differs by {value:.2g} (tolerance {allowed:g})")
    if not (abs(ours - theirs) <= MAP_TOLERANCE or (ours != ours and theirs != theirs)):
        found.append(f"mAP is {theirs:.4f} and PyTorch's {ours:.4f} (tolerance {MAP_TOLERANCE:g})")
    return found


def latencies(predict: Mapping[str, Callable[[Tensor], Any]], images: Sequence[Tensor], runs: int) -> dict[str, float]:
    """Milliseconds of one image, the median of the runs. All take turns, so that none has the quieter machine.

    Args:
        predict: by name.
        images: each (1, 3, height, width), taken in turn.
        runs: timed calls of each, after one that is not timed.
    """
    times: dict[str, list[float]] = {name: [] for name in predict}
    with _one_thread(), torch.no_grad():
        for run in range(runs + 1):
            for name, call in predict.items():
                start = time.perf_counter()
                call(images[run % len(images)])
                times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def quantised(model: bytes, images: Iterable[Tensor], folder: Path) -> bytes:
    """The model with 8-bit integers in convolutions and matrix products: static post-training quantisation.

    Weights are quantised by output channel; the ranges of activations are those that occur in the images. Everything
    after the heads stays in floating point.

    Args:
        model: of float32.
        images: for calibration, each (1, 3, height, width).
        folder: for temporary files.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.left, None)
            return None if batch is None else as_inputs(batch)

    given, prepared, result = (folder / f"{name}.onnx" for name in ("float32", "prepared", "int8"))
    given.write_bytes(model)
    quant_pre_process(str(given), str(prepared), skip_symbolic_shape=True)
    quantization.quantize_static(
        str(prepared), str(result), Reader(), op_types_to_quantize=["Conv", "Gemm", "MatMul"], per_channel=True
    )
    return result.read_bytes()


def runner(model: bytes, deployed: Deployed, *, raw: bool, threads: int | None = None) -> Detector:
    """An exported model as a detector, whatever its outputs are."""
    return RawOnnx(model, deployed, threads) if raw else OnnxDetector(model, threads=threads)


def _matched(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], deployed: Deployed
) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """Both with the rows of `Deployed.matched` reduced to the proposals that both have, and how many of ours lack."""
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
    reduced = ({name: torch.cat(both[side]) for name, both in pairs.items()} for side in (0, 1))
    left_rows, right_rows = reduced
    return {**ours, **left_rows}, {**theirs, **right_rows}, lost


def _larger(a: float, b: float) -> float:
    """The maximum, and NaN where either is: Python's max would forget it."""
    return a if a != a or a > b else b


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
