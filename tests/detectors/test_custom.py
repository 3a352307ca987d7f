"""A user's own module as a detector."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from eyas.detectors import CustomDetector
from eyas.distillation.distiller import Distiller
from eyas.evaluation.predict import predict_batch
from eyas.methods import FGFI
from eyas.nn.taps import tap_features
from eyas.ops.anchors import AnchorGrid, StrideGrid
from eyas.ops.pixels import FILL, pad_right_and_bottom
from eyas.types import Detector, EyasError, Level, Prediction, Size, Target


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


@pytest.mark.parametrize("stride", [4, 14, 20, 24, 32, 40, 48, 64])
def test_strides_that_do_not_divide_the_image(stride: int) -> None:
    """Patches leave out the rest of a side: 256 pixels have ten of 24."""
    patches = nn.Sequential(nn.Conv2d(3, 4, stride, stride=stride))
    assert CustomDetector(patches, ["a"], levels=["0"]).levels["0"].stride == stride
    unpadded = nn.Sequential(nn.Conv2d(3, 4, stride + 6, stride=stride))
    assert CustomDetector(unpadded, ["a"], levels=["0"]).levels["0"].stride == stride


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(3, 4, 3, stride=(4, 8), padding=1), nn.Upsample(scale_factor=2.0), nn.Conv2d(3, 4, 72, stride=72)],
)
def test_a_stride_that_cannot_be_measured_is_asked_for(layer: nn.Module) -> None:
    with pytest.raises(EyasError, match=r"the stride of '0' cannot be measured.*eyas\.Level\(channels, stride\)"):
        CustomDetector(nn.Sequential(layer), ["a"], levels=["0"])


def test_one_module_under_two_names_is_refused() -> None:
    network = nn.ModuleDict({"p3": nn.Conv2d(3, 4, 4, stride=4)})
    network["p4"] = network["p3"]
    with pytest.raises(EyasError, match="one module under several names: p3, p4"):
        CustomDetector(network, ["a"], levels=["p3", "p4"])


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


class Halving(nn.Module):
    """Takes only sides that 16 divides, like a network whose way up adds to its way down."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 4, 16, stride=16)
        self.seen: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(tuple(images.shape[-2:]))
        images.unflatten(2, (-1, 16)).unflatten(4, (-1, 16))
        out: Tensor = self.down(images)
        return out


def corners(network: nn.Module, images: Tensor) -> list[Prediction]:
    """A box inside, one across the border of the image, one in the padding."""
    network(images)
    height, width = images.shape[-2:]
    boxes = torch.tensor([[1.0, 2, 9, 9], [-4, 10, width, height], [width - 3, 0, width, 9]])
    return [{"boxes": boxes, "scores": torch.tensor([0.9, 0.8, 0.7]), "labels": torch.arange(3)} for _ in images]


def halving(divisor: int) -> CustomDetector:
    return CustomDetector(
        Halving(),
        ["a", "b", "c"],
        predict=corners,
        losses=losses,
        levels=["down"],
        image_size=(64, 64),
        divisor=divisor,
    )


def test_images_are_padded_to_the_divisor() -> None:
    """On the right and at the bottom, by the colour of a loader's padding; boxes stay, detections are clipped."""
    detector, images = halving(16), torch.rand(2, 3, 20, 40)
    found = detector.predict(images)[1]
    assert detector.network.seen[-1] == (32, 48)
    assert found["boxes"].tolist() == [[1, 2, 9, 9], [0, 10, 40, 20]]
    assert found["labels"].tolist() == [0, 1] and found["scores"].tolist() == pytest.approx([0.9, 0.8])
    assert len(detector.predict(torch.rand(1, 3, 32, 48))[0]["boxes"]) == 3
    target: Target = {"boxes": torch.zeros(1, 4), "labels": torch.zeros(1, dtype=torch.int64)}
    detector.losses(images, [target, target])["loss"].backward()
    assert tap_features(detector, ["down"], images)["down"].shape == (2, 4, 2, 3)
    padded = pad_right_and_bottom(images, 32, 48)
    assert padded[:, :, :20, :40].equal(images)
    assert padded[0, :, 31, 47].tolist() == pytest.approx([colour / 255 for colour in FILL])


def test_anchors_of_a_padded_level_are_those_of_the_padded_image() -> None:
    given = []

    def grid(size: Size, image_size: Size) -> AnchorGrid:
        given.append((size, image_size))
        return StrideGrid(16)(size, image_size)

    levels = {"down": Level(channels=4, stride=16, grid=grid)}
    CustomDetector(Halving(), ["a", "b", "c"], levels=levels, divisor=16).levels["down"].grid((2, 3), (20, 40))
    assert given == [((2, 3), (32, 48))]


def test_a_size_that_a_detector_cannot_take_is_named() -> None:
    student, teacher = halving(16), halving(1)
    batch: list[Target] = [{"boxes": torch.tensor([[1.0, 1, 9, 9]]), "labels": torch.zeros(1, dtype=torch.int64)}]
    said = r"the teacher fails on images of 20 x 48 \(height x width\): RuntimeError: .*\(test_custom.py, line \d+, in"
    distiller = Distiller(student, teacher, FGFI(0.01))
    distiller(torch.rand(1, 3, 32, 48), batch)
    with pytest.raises(EyasError, match=said):
        distiller(torch.rand(1, 3, 20, 48), batch)
    with pytest.raises(EyasError, match=r"the student fails on images of 20 x 48.*give eyas.CustomDetector a divisor"):
        Distiller(halving(1), student, FGFI(0.01))(torch.rand(1, 3, 20, 48), batch)
    with pytest.raises(EyasError, match=r"the detector \(teacher\) fails on images of 20 x 48"):
        predict_batch(teacher, torch.rand(1, 3, 20, 48), batch, "detector (teacher)")


def test_a_divisor_is_a_number_of_pixels() -> None:
    with pytest.raises(EyasError, match="divisor is a number of pixels, at least 1, got 0"):
        halving(0)
