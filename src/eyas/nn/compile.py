"""torch.compile for the part of a detector that is imitated; taps on it keep working."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eyas.nn.eval_mode import eval_mode
from eyas.types import Detector


@dataclass(frozen=True)
class ModuleGraphs:
    """The number of graphs that torch.compile makes of one module, 1 if whole, and the reason for each break."""

    name: str
    graphs: int
    breaks: tuple[str, ...]


def tapped_modules(detector: Detector) -> dict[str, nn.Module]:
    """The outermost modules that the levels are tapped at, by name: a tapped module inside another is left out."""
    names = {name.partition(":")[0] for name in detector.levels}
    outer = [name for name in names if not any(name.startswith(f"{other}.") for other in names)]
    return {name: detector.network.get_submodule(name) for name in sorted(outer)}


def compile_levels(detector: Detector, *, backend: str = "inductor") -> None:
    """Compile, in place, the forward function of every module that the levels are tapped at.

    Only the function is compiled, not the module: hooks, and so the taps, run outside it in eager mode, and parameters
    keep their names. Heads, matching and NMS stay eager, because their shapes vary with the image. Compilation happens
    on the first run, and again for other sizes or another mode.
    """
    for module in tapped_modules(detector).values():
        forward: Any = torch.compile(module.forward, backend=backend)
        module.forward = forward


@torch.no_grad()
def explain_levels(detector: Detector, images: Tensor) -> list[ModuleGraphs]:
    """Where torch.compile breaks the graph, found by tracing a batch. Call it before `compile_levels`.

    Tracing runs each module once in its current mode, so in training mode it updates BatchNorm statistics. Images are
    (batch, 3, height, width) in [0, 1].
    """
    found = []
    for name, module in tapped_modules(detector).items():
        arguments: list[tuple[Any, ...]] = []
        handle = module.register_forward_pre_hook(lambda _, inputs, to=arguments: to.append(inputs))
        try:
            with eval_mode(detector.network):
                detector.predict(images)
        finally:
            handle.remove()
        explained = torch._dynamo.explain(module.forward)(*arguments[0])
        reasons = tuple(str(reason.reason) for reason in explained.break_reasons)
        found.append(ModuleGraphs(name, explained.graph_count, reasons))
    return found
