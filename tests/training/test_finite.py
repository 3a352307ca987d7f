"""Where a loss stopped being finite is said, also when several batches are looked at together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from eyas.tools.timing import CostMeter
from eyas.training.finite import FiniteLosses
from eyas.types import EyasError, Record, Target

RECORDS = [
    Record(
        image_id=f"image{i}",
        path=Path("none"),
        width=8,
        height=8,
        boxes=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int64),
        ignore=np.zeros((0, 4), np.float32),
        ignore_labels=np.zeros(0, np.int64),
    )
    for i in range(4)
]


def target(index: int) -> Target:
    return {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "index": index}


def add(finite: FiniteLosses, step: int, loss: float) -> None:
    losses = {"loss_box": torch.tensor(loss), "loss_class": torch.tensor(1.0)}
    finite.add(step, torch.tensor(loss + 1.0), losses, [target(step), target(0)])


def test_looked_at_together_the_first_is_named() -> None:
    finite = FiniteLosses(RECORDS, every=3)
    add(finite, 1, 1.0)
    add(finite, 2, float("nan"))
    with pytest.raises(EyasError, match=r"in step 2: loss_box nan, loss_class 1; images image2, image0\. Lower"):
        add(finite, 3, float("inf"))
    finite.check()  # what was reported is forgotten


def test_looked_at_in_between() -> None:
    finite = FiniteLosses(RECORDS, every=10)
    finite.check()
    add(finite, 1, 1.0)
    finite.check()
    add(finite, 3, float("inf"))
    with pytest.raises(EyasError, match="in step 3"):
        finite.check()


def test_a_gradient_is_that_of_its_own_step() -> None:
    """Under fp16 the gradients of most steps are not looked at, since they overflow for their scale's sake."""
    finite = FiniteLosses(RECORDS, every=100)
    add(finite, 1, 1.0)
    add(finite, 2, 1.0)
    add(finite, 2, 1.0)
    with pytest.raises(
        EyasError, match=r"gradient is not finite in step 2: .*; images image2, image0, image2, image0\."
    ):
        finite.add_gradient(2, torch.tensor(float("inf")))
        finite.check()


def test_two_infinities_of_opposite_sign_do_not_cancel_out() -> None:
    finite = FiniteLosses(RECORDS, every=1)
    with pytest.raises(EyasError, match="in step 1"):
        losses = {"a": torch.tensor(float("inf")), "b": torch.tensor(float("-inf"))}
        finite.add(1, torch.stack(list(losses.values())).sum(), losses, [target(1)])


def test_steps_that_only_queued_work_share_the_time_out() -> None:
    """On a GPU; the meter asks for the type of the device alone."""
    meter = CostMeter(torch.device("meta"))
    for step in range(1, 5):
        with meter.working():
            pass
        meter.step(waited=step == 4)
    assert meter.totals()["steps"] == 4
    assert len(set(meter._seconds)) == 1
