"""Whether a detector can be exported, found out before it is trained."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import nn

from eyas.args import RunArgs
from eyas.data import DataSource
from eyas.data.options import Resize
from eyas.detectors import deploy
from eyas.export.onnx_format import ONNX, require_onnx, to_onnx, trace
from eyas.export.pipeline import largest_input
from eyas.nn.eval_mode import eval_mode
from eyas.types import Detector, EyasError, Size

LONG_RUN = 10_000
"""Images of all epochs together from which ``auto`` tries the export: it takes seconds, and such a run minutes."""


def check_export(
    detector: Detector, source: DataSource, resize: Resize, run: RunArgs, say: Callable[[str], object]
) -> None:
    """Trace a detector that is about to be trained, on the CPU, at the size of its images.

    The detector and the random state stay as they are.

    Args:
        detector: built, on the CPU.
        source: the images to train on.
        resize: of its input.
        run: its ``export_check``: True raises where the export is impossible; auto warns, in a run of at least
            `LONG_RUN` images; False does nothing.
        say: called with the warning.

    Raises:
        EyasError: with True, the detector cannot be exported, or a package of the export is missing.
    """
    required = run.export_check is True
    if not run.export_check or (not required and len(source.records) * run.epochs < LONG_RUN):
        return
    if required:
        require_onnx()
    try:
        try_export(detector, largest_input(resize, source))
    except EyasError as error:
        if required:
            raise EyasError(f"this detector cannot be exported: {error}; --run.export_check false trains it") from error
        say(f"warning   this detector cannot be exported once it is trained: {error}")


def try_export(detector: Detector, size: Size) -> None:
    """Trace a detector for an input (height, width), to ONNX where it is installed.

    Raises:
        EyasError: that is impossible; the message has the reason.
    """
    trace_it = to_onnx if all(map(find_spec, ONNX)) else trace
    module = detector if isinstance(detector, nn.Module) else detector.network
    with eval_mode(module), torch.random.fork_rng(devices=[]):
        trace_it(deploy(detector), size, raw=False, dynamic_size=False)
