"""An exported file that opens and does not do what it says ends in one message that names it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from eyas.export.formats import ExportedDetector
from eyas.types import EyasError


class Damaged:
    """Two classes, and outputs of any kind."""

    metadata: Mapping[str, Any] = {
        **{"eyas.classes": ["a", "b"], "eyas.resize": {}, "eyas.size": None},
        **{"eyas.raw": False, "eyas.parameters": 1, "eyas.gflops": 1.0},
    }

    def __init__(self, outputs: Sequence[Tensor] | Exception) -> None:
        self.outputs = outputs

    def run(self, images: Tensor, names: Sequence[str]) -> list[Tensor]:
        if isinstance(self.outputs, Exception):
            raise self.outputs
        return list(self.outputs)


def outputs(label: int) -> list[Tensor]:
    return [torch.zeros(1, 1, 4), torch.ones(1, 1), torch.tensor([[label]])]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (RuntimeError("INVALID_ARGUMENT\nno output scores"), "fails on images of 32 x 32 .*INVALID_ARGUMENT no output"),
        (outputs(0)[:2], "fails on images of 32 x 32"),
        ([*outputs(0)[:2], torch.zeros(3, 1)], "fails on images of 32 x 32"),
        (outputs(2), "detects more than the 2 classes"),
    ],
)
def test_a_file_that_fails_is_named(given: Sequence[Tensor] | Exception, said: str) -> None:
    with pytest.raises(EyasError, match=rf"^my\.onnx:? {said}"):
        ExportedDetector(Damaged(given), "my.onnx").predict(torch.zeros(1, 3, 32, 32))


def test_a_file_in_order_predicts() -> None:
    (found,) = ExportedDetector(Damaged(outputs(1)), "my.onnx").predict(torch.zeros(1, 3, 32, 32))
    assert found["labels"].tolist() == [1]
