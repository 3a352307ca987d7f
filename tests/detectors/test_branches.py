"""Branches of torchvision's heads: cut anywhere and resumed there they predict what the whole head predicts."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eyas.detectors import build
from eyas.types import Branch, DetectorWithBranches, EyasError, Target

HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "retinanet": ("retinanet", {"fpn_channels": 16, "head_convs": 3}),
    "retinanet with norms": ("retinanet", {"fpn_channels": 16, "head_convs": 2, "head_norm": True}),
    "retinanet without convolutions": ("retinanet", {"fpn_channels": 16, "head_convs": 0}),
    "fcos": ("fcos", {"fpn_channels": 64, "head_convs": 2}),
}
CASES = [(name, at) for name, (_, options) in HEADS.items() for at in range(options["head_convs"] + 1)]


@cache
def light(name: str) -> Any:
    torch.manual_seed(0)
    family, options = HEADS[name]
    detector = build(family, ("cat", "dog"), backbone="mobilenet_v3_small", options={**options, "norm": "frozen"})
    for layer in detector.network.head.modules():
        if isinstance(layer, nn.Conv2d):  # initial maps hardly differ from 0
            nn.init.normal_(layer.weight, std=0.1)
    return detector.eval()


def images() -> Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def targets() -> list[Target]:
    return [{"boxes": torch.tensor([[4.0, 5, 40, 50]]), "labels": torch.tensor([1])}] * 2


@pytest.mark.parametrize(("name", "at"), CASES)
def test_cut_and_resumed_it_is_the_whole(name: str, at: int) -> None:
    detector = light(name)
    assert isinstance(detector, DetectorWithBranches)
    plain = detector.train().losses_and_heads(images(), targets())
    logits, deltas = detector.branches.values()
    with logits.record(at) as of_logits, deltas.record(at) as of_deltas:
        losses, outputs = detector.losses_and_heads(images(), targets())
    assert all(torch.equal(losses[key], plain[0][key]) for key in losses)
    head = outputs.heads["anchors"]
    assert head.deltas is not None and head.layout is not None
    assert [tuple(one.shape[-2:]) for one in of_logits] == [tuple(one.shape[-2:]) for one in of_deltas]
    assert tuple(tuple(one.shape[-2:]) for one in of_logits) == head.layout.sizes
    before = [one.clone() for one in of_logits]
    torch.testing.assert_close(logits.resume(at, of_logits), head.logits)
    torch.testing.assert_close(deltas.resume(at, of_deltas), head.deltas)
    assert all(torch.equal(a, b) for a, b in zip(before, of_logits, strict=True))
    # Before the activation, after which nothing is negative; the maps that enter the head have any sign, too.
    assert min(float(one.detach().min()) for one in of_logits) < 0


@pytest.mark.parametrize("name", HEADS)
def test_nothing_stays_on_the_head(name: str) -> None:
    detector = light(name)
    for branch in detector.branches.values():
        with branch.record(0), pytest.raises(ZeroDivisionError), branch.record(0):
            raise ZeroDivisionError
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in detector.network.head.children())
    modules = [module for half in detector.network.head.children() for module in half.modules()]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    assert len(list(detector.network.head.parameters())) == len(set(detector.network.head.parameters()))


def test_gradients_go_through_frozen_parameters_to_the_maps() -> None:
    detector = light("retinanet with norms")
    branch: Branch = detector.branches["anchors.logits"]
    with torch.no_grad(), branch.record(1) as maps:
        detector.network.head(list(detector.network.backbone(images()).values()))
    detector.network.requires_grad_(False)
    try:
        inputs = [one.clone().requires_grad_() for one in maps]
        branch.resume(1, inputs).square().sum().backward()
        assert all(one.grad is not None and bool(one.grad.any()) for one in inputs)
        assert all(parameter.grad is None for parameter in detector.network.parameters())
    finally:
        detector.network.requires_grad_(True)


def test_rows_are_float32_under_autocast() -> None:
    detector = light("fcos")
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        for branch in detector.branches.values():
            with branch.record(1) as maps:
                detector.network.head(list(detector.network.backbone(images()).values()))
            assert branch.resume(1, maps).dtype == torch.float32


@pytest.mark.parametrize("name", [name for name, (_, options) in HEADS.items() if options["head_convs"]])
def test_negative_positions_count_from_the_end(name: str) -> None:
    detector, depth = light(name), HEADS[name][1]["head_convs"]
    for branch in detector.branches.values():
        for at in range(1, depth + 1):
            with torch.no_grad(), branch.record(depth - at) as counted, branch.record(-at) as back:
                detector.network.head(list(detector.network.backbone(images()).values()))
            assert all(torch.equal(*both) for both in zip(counted, back, strict=True))
            assert torch.equal(branch.resume(depth - at, counted), branch.resume(-at, back))


def test_what_cannot_be_cut() -> None:
    for branch in light("retinanet").branches.values():
        with (
            pytest.raises(EyasError, match="3 convolutions, so it cannot be cut at position 4; choose one from 0 to 3"),
            branch.record(4),
        ):
            pass
        with pytest.raises(EyasError, match="cannot be cut at position -4; choose one from 0 to 3"):
            branch.resume(-4, [])
    ssd = build("ssd", ("cat",), backbone="mobilenet_v3_small", options={"extra_channels": 16})
    assert isinstance(ssd, DetectorWithBranches) and ssd.branches == {}
