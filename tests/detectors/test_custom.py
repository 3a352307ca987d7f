"""A user's own module as a detector."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from eyas.detectors import CustomDetector
from eyas.nn.taps import tap_features
from eyas.ops.anchors import StrideGrid
from eyas.types import Detector, EyasError, Level, Prediction, Target


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Conv2d(3, 4, 3, stride=4, padding=1)
        self.coarse = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, stride=2, padding=1))
        self.flat = nn.Flatten()

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.flat(self.coarse(self.fine(images)))
        return out


def losses(network: nn.Module, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
    return {"loss": network(images).square().mean() * sum(len(t["boxes"]) for t in targets)}


def predict(network: nn.Module, images: Tensor) -> list[Prediction]:
    empty = torch.zeros(0)
    return [{"boxes": torch.zeros(0, 4), "scores": empty, "labels": empty.long()} for _ in network(images)]


def test_levels_from_tap_names() -> None:
    network = Net().train()
    before = network.coarse[0].running_mean.clone()
    detector = CustomDetector(network, ["a"], losses=losses, predict=predict, levels=["coarse", "fine"])
    assert isinstance(detector, Detector)
    assert {name: (level.channels, level.stride) for name, level in detector.levels.items()} == {
        "fine": (4, 4),
        "coarse": (6, 8),
    }
    assert list(detector.levels) == ["fine", "coarse"]
    assert all(level.grid == StrideGrid(level.stride) for level in detector.levels.values())
    assert network.coarse[0].training
    assert torch.equal(network.coarse[0].running_mean, before)


def test_callables_are_called_with_the_network() -> None:
    level = Level(channels=6, stride=8)
    detector = CustomDetector(Net(), ["a"], losses=losses, predict=predict, levels={"coarse": level})
    assert detector.levels == {"coarse": level}
    images = torch.rand(2, 3, 32, 32)
    target: Target = {"boxes": torch.zeros(3, 4), "labels": torch.zeros(3, dtype=torch.int64)}
    detector.losses(images, [target, target])["loss"].backward()
    assert detector.network.fine.weight.grad is not None
    assert len(detector.eval().predict(images)) == 2


def test_teacher_without_callables() -> None:
    network = Net().eval()
    detector = CustomDetector(network, ["a"], levels=["fine"])
    images = torch.rand(1, 3, 32, 32)
    features = tap_features(detector, detector.levels, images)
    torch.testing.assert_close(features["fine"], network.fine(images))
    with pytest.raises(EyasError, match="without `losses`"):
        detector.losses(images, [])
    with pytest.raises(EyasError, match="without `predict`"):
        detector.predict(images)


class Padded(Net):
    """A network that pads inside, to multiples of 32, as torchvision's detectors do."""

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        return super().forward(nn.functional.pad(images, (0, -width % 32, 0, -height % 32)))


def test_default_anchors_stand_in_the_cells_of_a_network_that_pads() -> None:
    """A map of 32-pixel multiples covers more than the image; dividing the image by its cells displaced the anchors."""
    detector = CustomDetector(Padded(), ["a"], levels=["fine", "coarse"])
    features = tap_features(detector, detector.levels, torch.rand(1, 3, 41, 70))
    for name, stride in (("fine", 4), ("coarse", 8)):
        height, width = features[name].shape[-2:]
        assert (height, width) == (64 // stride, 96 // stride)
        anchors = detector.levels[name].grid((height, width), (41, 70)).anchors()
        centres = (anchors[..., :2] + anchors[..., 2:]) / 2
        assert centres[3, 7].tolist() == [[7.5 * stride, 3.5 * stride]] * 3


def test_bad_taps() -> None:
    with pytest.raises(EyasError, match="no submodule 'gone'"):
        CustomDetector(Net(), ["a"], levels=["gone"])
    with pytest.raises(EyasError, match=r"'flat' is \(1, 6144\)"):
        CustomDetector(Net(), ["a"], levels=["flat"])
    with pytest.raises(EyasError, match="at least one level"):
        CustomDetector(Net(), ["a"], levels=[])
