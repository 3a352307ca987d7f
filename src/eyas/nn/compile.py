"""torch.compile of the part of a detector that is imitated, with the taps on it still working."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eyas.nn.eval_mode import eval_mode
from eyas.types import Detector


@dataclass(frozen=True)
class Compiled:
    """What became of one module.

    Attributes:
        name: of the module, relative to the detector's network.
        graphs: compiled pieces; one where nothing breaks it up.
        breaks: why it was broken up, one reason for each break.
    """

    name: str
    graphs: int
    breaks: tuple[str, ...]


def tapped_modules(detector: Detector) -> dict[str, nn.Module]:
    """The modules that the levels are tapped at, by name, without those inside another of them."""
    names = {name.partition(":")[0] for name in detector.levels}
    outer = [name for name in names if not any(name.startswith(f"{other}.") for other in names)]
    return {name: detector.network.get_submodule(name) for name in sorted(outer)}


def compile_levels(detector: Detector, *, backend: str = "inductor") -> None:
    """Compile, in place, the forward function of every module that the levels are tapped at.

    Not the module itself: hooks, and so the taps, stay outside of what is compiled, in eager mode, and parameters keep
    their names. What follows the levels (heads, matching, NMS), whose shapes follow the image, stays eager too. It is
    compiled when it first runs, and again for other sizes or in evaluation mode.

    Args:
        detector: teacher or student.
        backend: of torch.compile.
    """
    for module in tapped_modules(detector).values():
        forward: Any = torch.compile(module.forward, backend=backend)
        module.forward = forward


def explain_levels(detector: Detector, images: Tensor) -> list[Compiled]:
    """Where compiling breaks the graph up, from tracing a batch; to be called before `compile_levels`.

    The modules run once in the mode they are in: BatchNorm's statistics follow the batch in training.

    Args:
        detector: teacher or student.
        images: (batch, 3, height, width) in [0, 1].
    """
    found = []
    for name, module in tapped_modules(detector).items():
        arguments: list[tuple[Any, ...]] = []
        handle = module.register_forward_pre_hook(lambda _, inputs, to=arguments: to.append(inputs))
        try:
            with eval_mode(detector.network), torch.no_grad():
                detector.predict(images)
        finally:
            handle.remove()
        with torch.no_grad():
            explained = torch._dynamo.explain(module.forward)(*arguments[0])
        reasons = tuple(str(reason.reason) for reason in explained.break_reasons)
        found.append(Compiled(name, explained.graph_count, reasons))
    return found
