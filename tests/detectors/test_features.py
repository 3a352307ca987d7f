"""Sources of features: maps on the student's grid, whatever the network's own input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import eyas
from eyas.detectors.feature_names import FeatureName
from eyas.detectors.features import FeatureSource
from eyas.distillation.teachers import RunningTeacher
from eyas.methods import Cosine
from eyas.nn.taps import tap_features
from eyas.types import Detector, EyasError
from helpers.tiny import CLASSES, MODEL

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def map_of(source: Detector, images: Tensor) -> Tensor:
    (found,) = tap_features(source, list(source.levels), images).values()
    return found


def test_a_source_is_a_detector_without_classes_heads_or_detections() -> None:
    source = FeatureSource(nn.AvgPool2d(8), cell=8)
    assert isinstance(source, Detector) and source.classes == ()
    assert {name: level.stride for name, level in source.levels.items()} == {"maps:8": 8}
    for call in (lambda: source.predict(torch.rand(1, 3, 16, 16)), lambda: source.losses(torch.rand(1, 3, 16, 16), [])):
        with pytest.raises(EyasError, match="a teacher only"):
            call()


def test_images_are_normalised_and_padded_to_whole_cells() -> None:
    images = torch.rand(2, 3, 20, 33)
    found = map_of(FeatureSource(nn.AvgPool2d(8), cell=8, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0)), images)
    assert found.shape == (2, 3, 3, 5)
    means, deviations = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 4.0])
    inside = images[:, :, 8:16, 16:24].mean(dim=(2, 3))  # row 1, column 2
    torch.testing.assert_close(found[:, :, 1, 2], (inside - means) / deviations)


@pytest.mark.parametrize("stride", [4, 14, 32])
def test_a_cell_covers_the_pixels_of_its_stride_in_images_of_any_size(stride: int) -> None:
    """The mean of a ramp over a patch is the ramp at its centre, if the patch lies where it should."""
    source = FeatureSource(nn.AvgPool2d(8), cell=8, stride=stride, **PLAIN)
    rows, columns = torch.arange(3 * stride) + 0.5, torch.arange(7 * stride) + 0.5
    ramp = torch.stack((rows[:, None].expand(-1, len(columns)), columns.expand(len(rows), -1)))
    images = torch.cat((ramp, ramp[:1]))[None] / 1000
    found = map_of(source, images)
    assert found.shape == (1, 3, 3, 7) and source.levels[f"maps:{stride}"].stride == stride
    inner = found[0, :, 1:-1, 1:-1] * 1000  # resizing repeats the border
    torch.testing.assert_close(inner[0, 0], torch.full((5,), 1.5 * stride), rtol=2e-3, atol=0)
    torch.testing.assert_close(inner[1, 0], (torch.arange(1, 6) + 0.5) * stride, rtol=2e-3, atol=0)


def test_several_maps_have_strides_of_their_own() -> None:
    class Pyramid(nn.Module):
        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return {"fine": images[:, :2, ::4, ::4], "coarse": images[..., ::16, ::16]}

    source = FeatureSource(Pyramid(), cell=16, stride=32)
    assert [(name, level.stride, level.channels) for name, level in source.levels.items()] == [
        ("maps:8", 8, 2),
        ("maps:32", 32, 3),
    ]


class Tokens(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(2)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: FeatureSource(Tokens(), cell=8), "leave out the tokens"),
        (lambda: FeatureSource(nn.AvgPool2d(8), cell=4), "not the pixels to a cell"),
        (lambda: FeatureSource(nn.AvgPool2d(4), cell=8, stride=5), "5/2"),
        (lambda: FeatureSource(nn.Linear(2, 2), cell=8), "fails on a blank image of 48 x 64"),
        (lambda: FeatureSource(nn.AvgPool2d(8), cell=8, std=(0.0, 1.0, 1.0)), "std"),
        (lambda: FeatureSource(nn.AvgPool2d(8), cell=0), "cell"),
        (lambda: FeatureName.parse("features:keras:vit"), "timm or transformers"),
        (lambda: eyas.load("features:timm:nonesuch"), "Unknown model"),
        (lambda: eyas.load("features:timm:test_vit@nonesuch.pt"), "no such weights file"),
        (lambda: eyas.load("features:transformers:a/b@c.pt"), "leave @... out"),
    ],
)
def test_what_is_no_source_is_refused(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(EyasError, match=said):
        make()


def test_other_names_are_left_to_others() -> None:
    assert FeatureName.parse("features:timm:resnet18") == FeatureName("timm", "resnet18", 32)
    assert FeatureName.parse("features/16:timm:a@b/c.pt") == FeatureName("timm", "a", 16, Path("b/c.pt"))
    for name in ("features", "features:make", "features/teacher", "runs/features:timm", "org/name"):
        assert FeatureName.parse(name) is None


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("timm") / "test_vit.safetensors"
    save_file(timm.create_model("test_vit", num_classes=5).state_dict(), path)
    return path


def test_the_tokens_of_a_vision_transformer_of_timm_without_its_cls_token(weights: Path) -> None:
    source = eyas.load(f"features/8:timm:test_vit@{weights}")
    network = timm.create_model("test_vit", num_classes=0, dynamic_img_size=True).eval()
    loaded = load_file(weights)
    network.load_state_dict({name: value for name, value in loaded.items() if not name.startswith("head.")})
    images = torch.rand(2, 3, 24, 40)
    with torch.no_grad():
        seen = nn.functional.interpolate(images, (48, 80), mode="bilinear", antialias=True)
        tokens = network.forward_features((seen - 0.5) / 0.5)[:, network.num_prefix_tokens :]
    torch.testing.assert_close(map_of(source, images), tokens.transpose(1, 2).unflatten(2, (3, 5)))


def test_weights_of_another_model_of_timm_are_refused(weights: Path) -> None:
    with pytest.raises(EyasError, match=r"timm cannot make it .*test_vit.safetensors"):
        eyas.load(f"features:timm:test_resnet@{weights}")


def test_the_last_map_of_a_cnn_of_timm(tmp_path: Path) -> None:
    path = tmp_path / "cnn.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), path)
    (level,) = eyas.load(f"features:timm:test_resnet@{path}").levels.values()
    assert (level.stride, level.channels) == (32, 96)


def test_a_distiller_holds_it_outside_and_runs_in_half_precision() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 6, 16, stride=16), nn.BatchNorm2d(6))
    student = eyas.build("shuffledet", CLASSES, options=MODEL)
    distiller = eyas.Distiller(student, FeatureSource(body, cell=16), Cosine(1.0))
    assert not [name for name in distiller.state_dict() if "maps" in name or "body" in name]
    assert not any(parameter.requires_grad for parameter in body.parameters())
    statistics = body[1].running_mean.clone()  # type: ignore[operator,union-attr]
    targets = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}]
    for images in (torch.rand(1, 3, 64, 96), torch.rand(1, 3, 50, 70)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = distiller(images, targets)
        assert 0 < float(losses["cosine"].detach()) < 2
    torch.testing.assert_close(body[1].running_mean, statistics)
    assert RunningTeacher(FeatureSource(body.bfloat16(), cell=16)).rectified(["maps:16"]) == {"maps:16": False}
