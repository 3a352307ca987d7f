"""torch.compile below the levels keeps the numbers, the taps and the parameter names.

The backend is eager: the tests are about the part that is compiled, not about the compiler.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from eyas import FGFI, Distiller
from eyas.detectors import CustomDetector, build
from eyas.nn.compile import compile_levels, explain_levels, tapped_modules
from eyas.types import Detector, Target


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


SHAPES = {"anchor_shapes": [[20, 20], [32, 32]], "stem_channels": 8, "dropout": 0.0}


def detector(width: float) -> Detector:
    torch.manual_seed(0)
    return build("shuffledet", ("red", "blue"), options={**SHAPES, "width": width})


def batch(seed: int) -> tuple[Tensor, list[Target]]:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    boxes = torch.tensor([[8.0, 8.0, 40.0, 44.0]])
    return images, [
        {"boxes": boxes, "labels": torch.tensor([1])},
        {"boxes": boxes[:0], "labels": torch.zeros(0, dtype=torch.int64)},
    ]


def train(compiled: bool, steps: int = 20) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    student, teacher = detector(0.25), detector(0.5)
    distiller = Distiller(student, teacher, FGFI(1e-8, init_std=0.01))  # an untrained teacher's features are huge
    if compiled:
        compile_levels(student, backend="eager")
        compile_levels(teacher, backend="eager")
    optimizer = torch.optim.SGD(distiller.parameters(), lr=1e-3)
    distiller.train()
    log = []
    for step in range(steps):
        losses = distiller(*batch(step))
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        log.append({name: float(loss.detach()) for name, loss in losses.items()})
    return log, student.network.state_dict()


@pytest.mark.slow
def test_twenty_distilled_steps_match_the_uncompiled_ones() -> None:
    """This includes imitation: if compiling removed a tap, there would be no features to imitate."""
    plain, weights = train(compiled=False)
    compiled, compiled_weights = train(compiled=True)
    assert all(line["fgfi"] > 0 for line in plain)
    for mine, theirs in zip(compiled, plain, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)
    assert compiled_weights.keys() == weights.keys()
    for name, value in weights.items():
        torch.testing.assert_close(compiled_weights[name], value, rtol=1e-4, atol=1e-5)


def test_only_the_outermost_tapped_module_is_compiled() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()), nn.ReLU())
    found = tapped_modules(CustomDetector(network, ["ball"], levels=["1.0", "1"]))
    assert found == {"1": network[1]}


def test_a_shufflenet_compiles_into_one_graph() -> None:
    (found,) = explain_levels(detector(0.25), batch(0)[0])
    assert (found.name, found.graphs, found.breaks) == ("backbone", 1, ())


class Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv(images)
        torch._dynamo.graph_break()
        return features + 1


def test_a_graph_break_is_reported_with_its_reason() -> None:
    custom = CustomDetector(
        nn.Sequential(Broken()), ["ball"], levels=["0"], predict=lambda network, images: network(images)
    )
    (found,) = explain_levels(custom, torch.rand(1, 3, 16, 16))
    assert found.graphs > 1 and any("graph_break" in reason for reason in found.breaks)
