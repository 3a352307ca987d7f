"""The methods on queries in two gloo processes with two images and one equal one process with three."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from eyas.methods.d3etr import D3ETR
from eyas.methods.detr_distill import DETRDistill
from eyas.methods.kd_detr import KDDETR
from eyas.types import QueryOutput
from helpers.gloo import two_processes
from helpers.query_cases import GivenDecoder, query_view, random_output, trained
from helpers.toys import relative

pytestmark = pytest.mark.slow
IMAGES = ([0, 1], [2])
METHODS = {"detr_distill": DETRDistill, "d3etr": D3ETR, "kd_detr": KDDETR}


def of_images(seed: int, images: list[int]) -> QueryOutput:
    output = random_output(seed, batch=3)
    return replace(output, logits=output.logits[:, images], boxes=output.boxes[:, images])


def step(name: str, images: list[int]) -> dict[str, Tensor]:
    """The loss, and the gradients with respect to the student's three answers, for these images."""
    own, points, drawn = (trained(of_images(seed, images)) for seed in (1, 2, 3))
    student = GivenDecoder(own, to_points=points, to_drawn=drawn)
    teacher = GivenDecoder(of_images(4, images), to_drawn=of_images(5, images))
    loss = METHODS[name]()(query_view(student), query_view(teacher), [])
    loss.backward()
    gradients = {
        str(index): output.logits.grad
        for index, output in enumerate((own, points, drawn))
        if output.logits.grad is not None
    }
    return {"loss": loss.detach(), **gradients}


def work(rank: int) -> dict[str, dict[str, Tensor]]:
    return {name: step(name, IMAGES[rank]) for name in METHODS}


def test_the_mean_over_processes_is_one_process_with_all_images(tmp_path: Path) -> None:
    first, second = two_processes(work, tmp_path)
    for name in METHODS:
        alone = step(name, [0, 1, 2])
        assert relative((first[name]["loss"] + second[name]["loss"]) / 2, alone["loss"]) < 1e-5
        for key in alone.keys() - {"loss"}:
            together = torch.cat((first[name][key], second[name][key]), dim=1) / 2
            assert relative(together, alone[key]) < 1e-5, (name, key)
