"""Folding a frozen teacher's BatchNorms gives the same maps and leaves alone what must not be folded."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from eyas.detectors import CustomDetector, build
from eyas.nn.fold_batchnorm import fold_batch_norms, fold_teacher
from eyas.nn.taps import probe, tap_features
from eyas.types import Detector, EyasError


def with_statistics(network: nn.Module) -> nn.Module:
    """Give every BatchNorm random statistics, scales and shifts, as in a trained network, and freeze the network."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(getattr(module, "running_var", None), Tensor):
            for values, low in (
                (module.running_mean, -0.5),
                (module.running_var, 0.5),
                (module.weight, 0.5),
                (module.bias, -0.5),
            ):
                values.data.copy_(torch.rand(values.shape, generator=generator) + low)
    return network.eval().requires_grad_(False)


def teacher(*modules: nn.Module) -> CustomDetector:
    return CustomDetector(with_statistics(nn.Sequential(*modules)), ["ball"], levels=[str(len(modules) - 1)])


def maps(detector: Detector) -> list[Tensor]:
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    return list(tap_features(detector, detector.levels, images).values())


def check_same(before: list[Tensor], after: list[Tensor]) -> None:
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old, rtol=1e-4, atol=1e-4 * float(old.abs().max()))


def test_folded_weight_and_bias_by_hand() -> None:
    """w = 2, mean 1, variance 4 - eps, scale 3, shift 5: 3 (2 x - 1) / 2 + 5 = 3 x + 3.5."""
    conv, norm = nn.Conv2d(3, 1, 1, bias=False), nn.BatchNorm2d(1)
    detector = CustomDetector(nn.Sequential(conv, norm), ["ball"], levels=["1"])
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([2.0, 0, 0]).view(1, 3, 1, 1))
        for values, value in (
            (norm.running_mean, 1),
            (norm.running_var, 4 - norm.eps),
            (norm.weight, 3),
            (norm.bias, 5),
        ):
            values.fill_(value)
    detector.eval().requires_grad_(False)
    assert fold_batch_norms(detector) == 1
    folded = detector.network[0]
    torch.testing.assert_close(folded.weight.flatten(), torch.tensor([3.0, 0, 0]))
    torch.testing.assert_close(folded.bias, torch.tensor([3.5]))
    assert not any(parameter.requires_grad for parameter in detector.parameters())


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(8), FrozenBatchNorm2d(8), nn.BatchNorm2d(8, affine=False)])
@pytest.mark.parametrize("bias", [True, False])
def test_the_folded_map_is_the_same(norm: nn.Module, bias: bool) -> None:
    conv = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=bias, padding_mode="reflect")
    network = nn.Sequential(conv, norm, nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4, dilation=2))
    if norm.weight is not None:
        with_statistics(network)
    detector = CustomDetector(network.eval().requires_grad_(False), ["ball"], levels=["3"])
    before = maps(detector)
    assert fold_batch_norms(detector) == 1
    assert isinstance(detector.network[1], nn.Identity)
    check_same(before, maps(detector))


@pytest.mark.parametrize("family", ["retinanet", "faster_rcnn", "shuffledet"])
def test_each_detector_family_folds_without_changing_its_maps(family: str) -> None:
    torch.manual_seed(0)
    options = {"width": 0.25} if family == "shuffledet" else {}
    detector = build(family, ["ball"], backbone=None if family == "shuffledet" else "resnet18", options=options)
    with_statistics(detector.network)
    norms = sum(isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d) for module in detector.network.modules())
    before, plain = maps(detector), copy.deepcopy(detector)
    folded = fold_batch_norms(detector)
    assert folded >= 20  # of ResNet-18, or of ShuffleNet's units; ShuffleDet's heads lie behind the last level
    assert sum(isinstance(module, nn.Identity) for module in detector.network.modules()) >= folded
    assert norms >= folded
    check_same(before, maps(detector))
    check_same([before[0]], [maps(plain)[0]])


def test_shared_convolutions_and_batchnorm_subclasses_are_not_folded() -> None:
    shared = nn.Conv2d(3, 3, 1)
    detector = teacher(shared, nn.BatchNorm2d(3), shared, nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), BatchNormAct2d(4))
    before = maps(detector)
    assert fold_batch_norms(detector) == 0, "a shared convolution, and a BatchNorm that is more than one"
    for old, new in zip(before, maps(detector), strict=True):
        assert old.equal(new)


def test_a_tapped_convolution_is_not_folded() -> None:
    network = with_statistics(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.MaxPool2d(2)))
    detector = CustomDetector(network, ["ball"], levels=["0", "2"])
    before = maps(detector)
    assert fold_batch_norms(detector) == 0
    check_same(before, maps(detector))


class ReadTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> Tensor:
        out = self.conv(images)
        return self.norm(out) + out


def test_a_second_reader_of_the_convolution_raises_and_nothing_changes() -> None:
    detector = teacher(ReadTwice())
    before = maps(detector)
    with pytest.raises(EyasError, match="besides the BatchNorm"):
        fold_batch_norms(detector)
    assert isinstance(detector.network[0].norm, nn.BatchNorm2d)
    for old, new in zip(before, maps(detector), strict=True):
        assert old.equal(new)


class ReadByTheHead(nn.Module):
    """Its level is the BatchNorm's map; what it returns beyond comes from the convolution, read or run again."""

    def __init__(self, again: bool) -> None:
        super().__init__()
        self.conv, self.norm, self.out, self.head = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 1, 1)
        self.again = again

    def forward(self, images: Tensor) -> Tensor:
        raw = self.conv(images)
        self.out(self.norm(raw))
        answer: Tensor = self.conv(2 * images) if self.again else self.head(raw)
        return answer


@pytest.mark.parametrize("again", [False, True])
def test_a_convolution_that_a_head_reads_is_not_folded(again: bool) -> None:
    detector = CustomDetector(with_statistics(ReadByTheHead(again)), ["ball"], levels=["out"])
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = detector.network(image)
    assert fold_batch_norms(detector) == 0
    assert before.equal(detector.network(image))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_a_convolution_with_hooks_is_not_folded() -> None:
    """The hook of torch's old weight_norm computes the weight anew before each pass."""
    conv = nn.utils.weight_norm(nn.Conv2d(3, 4, 3))
    detector = teacher(conv, nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    before = maps(detector)
    assert fold_batch_norms(detector) == 1
    check_same(before, maps(detector))


def test_a_fold_that_fails_leaves_the_detector_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    detector, calls = teacher(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), []

    def once(*arguments: Any) -> dict[str, Tensor]:
        calls.append(arguments)
        if len(calls) > 1:
            raise EyasError("fails")
        return probe(*arguments)

    monkeypatch.setattr("eyas.nn.fold_batchnorm.probe", once)
    with pytest.raises(EyasError, match="fails"):
        fold_batch_norms(detector)
    assert any(isinstance(module, nn.BatchNorm2d) for module in detector.network.modules())


def test_fold_teacher_reports_the_count_or_a_warning() -> None:
    said: list[str] = []
    fold_teacher(teacher(ReadTwice()), said.append)
    fold_teacher(teacher(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), said.append)
    fold_teacher(teacher(nn.Conv2d(3, 4, 3)), said.append)
    warning, folded = said
    assert "it runs as it is" in warning and folded == "teacher   1 BatchNorms folded into its convolutions"
