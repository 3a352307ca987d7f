"""Taps: the outputs they keep, where they stop the pass, and that they leave the network unchanged."""

from __future__ import annotations

from collections import OrderedDict, namedtuple

import pytest
import torch
from torch import Tensor, nn

from eyas.nn.taps import Taps, stopping_after, tap_features
from eyas.types import EyasError
from helpers.toys import ToyDetector, toy_batch

Pair = namedtuple("Pair", "first second")


class Split(nn.Module):
    """Returns its input and twice its input in a container of the given type."""

    def __init__(self, container: type) -> None:
        super().__init__()
        self.container = container

    def forward(self, x: Tensor) -> object:
        if issubclass(self.container, dict):
            return self.container([("a", x), (1, 2 * x)])
        return Pair(x, 2 * x) if self.container is Pair else self.container((x, 2 * x))


class Bomb(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("this module must not run")


class Swallow(nn.Module):
    """Runs a module and catches every `Exception`."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        try:
            self.inner(x)
        except Exception:
            x = x + 1
        raise AssertionError("the pass went on")


def hooks(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules())


def nested() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU()), nn.Conv2d(3, 1, 1))


def test_nested_outputs_are_kept_and_the_result_is_unchanged() -> None:
    network, x = nested(), torch.rand(2, 1, 3, 3)
    with Taps(network, ["1", "0", "1.0"]) as taps:
        y = network(x)
    assert torch.equal(taps.features["0"], network[0](x))
    assert torch.equal(taps.features["1.0"], network[1][0](network[0](x)))
    assert torch.equal(taps.features["1"], network[1](network[0](x)))
    assert torch.equal(y, network(x))
    assert hooks(network) == 0


def test_kept_outputs_are_part_of_the_graph() -> None:
    network = nested()
    network[1] = network[1][0]  # a ReLU with random weights before it may pass no gradient on
    with Taps(network, ["0"]) as taps:
        y = network(torch.rand(2, 1, 3, 3))
    (gradient,) = torch.autograd.grad(y.sum(), taps.features["0"])
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("container", "keys"),
    [(dict, "a1"), (OrderedDict, "a1"), (tuple, "01"), (list, "01"), (Pair, "01")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_keys_of_mappings_and_sequences(container: type, keys: str) -> None:
    network, x = nn.Sequential(Split(container)), torch.rand(2, 1, 3, 3)
    with Taps(network, [f"0:{key}" for key in keys]) as taps:
        network(x)
    assert torch.equal(taps.features[f"0:{keys[0]}"], x)
    assert torch.equal(taps.features[f"0:{keys[1]}"], 2 * x)


def test_stop_runs_nothing_after_the_last_tap() -> None:
    network, x = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), Bomb()), torch.rand(1, 1, 2, 2)
    with Taps(network, ["1", "0"], stop=True) as taps:
        network(x)
    assert torch.equal(taps.features["1"], network[1](network[0](x)))
    with pytest.raises(RuntimeError, match="must not run"), Taps(network, ["1", "0"]):
        network(x)
    assert hooks(network) == 0


def test_except_exception_does_not_catch_the_stop() -> None:
    network = nn.Sequential(Swallow(nn.ReLU()))
    with Taps(network, ["0.inner"], stop=True) as taps:
        network(torch.ones(1))
    assert "0.inner" in taps.features


def test_an_inner_context_does_not_swallow_the_stop_of_the_outer() -> None:
    network, x = nn.Sequential(nn.ReLU(), nn.Tanh(), Bomb()), torch.rand(3)
    reached = False
    with Taps(network, ["0"], stop=True) as outer:
        with Taps(network, ["1"], stop=True):
            network(x)
        reached = True
    assert not reached and list(outer.features) == ["0"]


def test_an_exception_inside_propagates_and_hooks_are_removed() -> None:
    network = nested()
    with pytest.raises(ZeroDivisionError), Taps(network, ["0", "1.1"], stop=True):
        raise ZeroDivisionError
    assert hooks(network) == 0


def test_a_module_that_runs_twice_is_read_the_first_time() -> None:
    shared = nn.Conv2d(1, 1, 1)
    network, x = nn.Sequential(shared, nn.ReLU(), shared), torch.rand(1, 1, 2, 2)
    with Taps(network, ["0"]) as taps:
        network(x)
    assert torch.equal(taps.features["0"], shared(x))


def test_each_pass_starts_without_the_features_of_the_last() -> None:
    network = nested()
    taps = Taps(network, ["1.0"], stop=True)
    for _ in range(3):
        x = torch.rand(2, 1, 3, 3)
        with taps:
            network(x)
        assert torch.equal(taps.features["1.0"], network[1][0](network[0](x)))
    with pytest.raises(EyasError, match="never fired"), taps:
        pass
    assert hooks(network) == 0


def test_unknown_module_is_named_with_the_children() -> None:
    with pytest.raises(EyasError, match=r"'neck\.corse'.*neck, heads"):
        Taps(ToyDetector(), ["neck.corse"])


@pytest.mark.parametrize(
    ("container", "tap", "message"),
    [
        (dict, "0:b", r"'0:b' has no entry 'b'; it has: a, 1"),
        (tuple, "0:2", r"'0:2' has no entry '2'; it has: 0, 1"),
        (tuple, "0:a", r"'0:a' has no entry 'a'; it has: 0, 1"),
        (dict, "0", r"'0' gives a dict, not a tensor; tap one of 0:a, 0:1"),
        (set, "0", r"'0' gives a set, not a tensor$"),
    ],
)
def test_wrong_key_is_named_with_the_right_ones(container: type, tap: str, message: str) -> None:
    network = nn.Sequential(Split(container))
    with pytest.raises(EyasError, match=message), Taps(network, [tap]):
        network(torch.rand(1, 1, 2, 2))
    assert hooks(network) == 0


def test_a_key_of_a_tensor_is_not_an_image_of_the_batch() -> None:
    network = nested()
    with pytest.raises(EyasError, match="'0:0' has no entry '0'; it is a Tensor"), Taps(network, ["0:0"]):
        network(torch.rand(2, 1, 3, 3))


def test_taps_that_never_fired_are_named() -> None:
    network = nested()
    with pytest.raises(EyasError, match=r"never fired.*: 1, 2$"), Taps(network, ["0", "1", "2"], stop=True):
        network[0](torch.rand(1, 1, 2, 2))


def test_an_output_changed_in_place_later_raises() -> None:
    """A stopped pass (the teacher's) would keep it before the ReLU, a full pass (the student's) after it."""
    network, x = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(inplace=True)), torch.rand(1, 1, 3, 3)
    with pytest.raises(EyasError, match="tapped as 0 in place"), Taps(network, ["0"]):
        network(x)
    with Taps(network, ["1"]) as taps:
        network(x)
    assert taps.features["1"].min() >= 0
    with torch.inference_mode(), Taps(network, ["1"]) as taps:
        network(x)


def test_tap_features_have_no_gradient_and_need_no_head() -> None:
    teacher = ToyDetector().eval()
    teacher.heads["fine"] = Bomb()
    images, _ = toy_batch()
    features = tap_features(teacher, ["neck:fine", "neck:coarse"], images)
    assert not any(feature.requires_grad for feature in features.values())
    assert features["neck:fine"].shape == (2, 4, 8, 12) and features["neck:coarse"].shape == (2, 8, 4, 6)


def test_a_pass_ends_after_the_modules_that_are_asked_for() -> None:
    network = nn.Sequential(nn.Identity(), nn.Identity(), Bomb())
    seen: list[Tensor] = []
    network[1].register_forward_hook(lambda *given: seen.append(given[2]))
    with stopping_after(network, ["0", "1"]):
        network(torch.ones(1))
        raise AssertionError("the pass does not come back")
    assert len(seen) == 1, "hooks from before have run"
    with pytest.raises(RuntimeError, match="must not run"):
        network(torch.ones(1))


def test_a_pass_goes_on_where_a_module_never_runs_and_ends_inside_another_context() -> None:
    network = nn.ModuleDict({"run": nn.Identity(), "idle": nn.Identity()})
    with stopping_after(network, ["run", "idle"]):
        assert network["run"](torch.ones(1)).sum() == 1
    with stopping_after(network, ["idle"]), stopping_after(network, ["run"]):
        network["run"](torch.ones(1))
