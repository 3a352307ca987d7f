"""Weights from files: what loads, what is refused, and what the message says."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import ResNet18_Weights, mobilenet_v3_small
from torchvision.ops import FrozenBatchNorm2d

from eyas.detectors import build
from eyas.detectors.torchvision.backbones import make_trunk
from eyas.detectors.torchvision.faster_rcnn import DropoutHead, _load_vgg_head
from eyas.detectors.torchvision.pretrained import EPSILON, load_trunk, without_epsilon
from eyas.detectors.weight_files import Weights, read_weights_file
from eyas.runs.checkpoint import ModelSpec, save_weights
from eyas.types import Detector, EyasError

SMALL = {"fpn_channels": 16, "head_convs": 0}


def small(weights: str | Path | None = None, classes: int = 2) -> Detector:
    names = [str(index) for index in range(classes)]
    return build("retinanet", names, backbone="mobilenet_v3_small", weights=weights, options=SMALL)


def test_whole_detector_from_safetensors(tmp_path: Path) -> None:
    first = small()
    save_file(first.network.state_dict(), tmp_path / "model.safetensors")
    second = small(tmp_path / "model.safetensors").network.state_dict()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.network.state_dict().items())


FINISHED: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "faster_rcnn": ("faster_rcnn", "mobilenet_v3_small", {"fpn_channels": 16, "fpn_norm": True, "head_width": 16}),
    "faster_rcnn vgg11": ("faster_rcnn", "vgg11", {"head_width": 16}),
    "faster_rcnn c4": ("faster_rcnn", "resnet18_c4", {}),
    "faster_rcnn frozen": ("faster_rcnn", "resnet18", {"norm": "frozen", "fpn_channels": 16, "head_width": 16}),
    "retinanet": ("retinanet", "mobilenet_v3_small", SMALL | {"head_norm": True}),
    "fcos": ("fcos", "mobilenet_v3_small", {"fpn_channels": 64, "head_convs": 1}),
    "ssd": ("ssd", "mobilenet_v3_small", {"extra_channels": 16}),
    "shuffledet": ("shuffledet", None, {"width": 0.25, "stem_channels": 8}),
}
"""Model, backbone and options of every family and head there is."""


@pytest.mark.parametrize("which", FINISHED)
def test_a_second_run_starts_from_the_weights_of_a_finished_one(tmp_path: Path, which: str) -> None:
    """As ``--weights RUN/student.safetensors`` does; without a warning, and down to the BatchNorm statistics."""
    model, backbone, options = FINISHED[which]
    spec = ModelSpec(model, ("a", "b"), backbone, options)
    trained = spec.build().network
    with torch.no_grad():
        for tensor in trained.state_dict().values():
            tensor.copy_(torch.rand_like(tensor) + 0.5) if tensor.is_floating_point() else tensor.fill_(7)
    save_weights(trained, tmp_path / "student.safetensors")
    second = spec.build(tmp_path / "student.safetensors").network.state_dict()
    first = trained.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_another_number_of_classes_starts_the_predictor_anew(tmp_path: Path) -> None:
    first = small(classes=3)
    torch.save({"model": first.network.state_dict()}, tmp_path / "model.pt")
    with pytest.warns(UserWarning, match="another number of classes.*cls_logits"):
        second = small(tmp_path / "model.pt", classes=2)
    mine, theirs = second.network.state_dict(), first.network.state_dict()
    same = {name for name in mine if mine[name].shape == theirs[name].shape and torch.equal(mine[name], theirs[name])}
    assert {name for name in mine if name not in same} == {
        "head.classification_head.cls_logits.weight",
        "head.classification_head.cls_logits.bias",
    }


def as_classifier(state: dict[str, Any]) -> Any:
    return state


def as_list(state: dict[str, Any]) -> Any:
    return [tensor for name, tensor in state.items() if name.startswith("features.")]


def as_other_names(state: dict[str, Any]) -> Any:
    features = {name: tensor for name, tensor in state.items() if name.startswith("features.")}
    return {f"features.old.{index}": tensor for index, tensor in enumerate(features.values())}


@pytest.mark.parametrize("form", [as_classifier, as_list, as_other_names])
def test_backbone_from_a_classification_network(tmp_path: Path, form: Any) -> None:
    network = mobilenet_v3_small(weights=None)
    torch.save(form(network.state_dict()), tmp_path / "backbone.pth")
    body = small(tmp_path / "backbone.pth").network.backbone.body
    expected = network.features.state_dict()
    assert body.state_dict().keys() == expected.keys()
    for name, tensor in body.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, expected[name]), name


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    torch.save(mobilenet_v3_small(weights=None).state_dict(), tmp_path / "small.pt")
    with pytest.raises(EyasError, match=r"small\.pt: weights of another architecture") as refused:
        build("retinanet", ["a"], backbone="resnet18", weights=tmp_path / "small.pt")
    assert "missing: conv1.weight" in str(refused.value)
    assert "unexpected: 0.0.weight" in str(refused.value)


def test_another_width_is_refused_whole(tmp_path: Path) -> None:
    torch.save(small().network.state_dict(), tmp_path / "narrow.pt")
    with pytest.raises(EyasError, match=r"of another shape: .*\(16, .*not \(32, "):
        build(
            "retinanet",
            ["a", "b"],
            backbone="mobilenet_v3_small",
            weights=tmp_path / "narrow.pt",
            options=SMALL | {"fpn_channels": 32},
        )


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(EyasError, match=r"gone\.pt: no such weights file"):
        small(tmp_path / "gone.pt")
    (tmp_path / "text.safetensors").write_text("no")
    with pytest.raises(EyasError, match="not a readable safetensors file"):
        small(tmp_path / "text.safetensors")
    torch.save(make_trunk("mobilenet_v3_small").module, tmp_path / "pickle.pt")  # would run code when unpickled
    with pytest.raises(EyasError, match="to read those is to run code"):
        read_weights_file(tmp_path / "pickle.pt")
    torch.save({"epoch": 3}, tmp_path / "other.pt")
    with pytest.raises(EyasError, match="no state dict"):
        read_weights_file(tmp_path / "other.pt")


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EyasError, match=r"no weights 'COCO_V9'.*COCO_V1, DEFAULT"):
        build("retinanet", ["a"], backbone="resnet50", weights="COCO_V9")

    def offline(*_: object, **__: object) -> None:
        raise URLError("no network")

    # Trained on other pixels than SSD300 gives its backbone, or than the others give theirs.
    for model, weights in (
        ("ssd", "IMAGENET1K_V1"),
        ("ssd", "VGG16_Weights.DEFAULT"),
        ("faster_rcnn", "IMAGENET1K_FEATURES"),
    ):
        with pytest.raises(EyasError, match=f"no weights '{weights}'"):
            build(model, ["a"], backbone="vgg16", weights=weights)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(EyasError, match="could not be downloaded") as refused:
        build("retinanet", ["a"], backbone="resnet18", weights="IMAGENET1K_V1")
    assert ResNet18_Weights.IMAGENET1K_V1.url in str(refused.value)


def test_epsilon_moves_into_the_variance() -> None:
    old = FrozenBatchNorm2d(3, eps=0.0)
    old.running_var.uniform_(0.5, 2)
    new = FrozenBatchNorm2d(3, eps=EPSILON)
    new.load_state_dict(dict(without_epsilon(Weights("old", old.state_dict())).tensors))
    image = torch.rand(1, 3, 2, 2)
    torch.testing.assert_close(new(image), old(image))


def test_frozen_trunk_takes_trained_batch_norm() -> None:
    trained, frozen = make_trunk("resnet18").module, make_trunk("resnet18", "frozen").module
    load_trunk(frozen, Weights("trained", trained.state_dict()))
    image = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(frozen(image), trained.eval()(image))


def test_vgg_layers_become_the_roi_head() -> None:
    head = DropoutHead(6, 4)
    tensors = {
        "classifier.0.weight": torch.rand(4, 6),
        "classifier.0.bias": torch.rand(4),
        "classifier.3.weight": torch.rand(4, 4),
        "classifier.3.bias": torch.rand(4),
    }
    _load_vgg_head(head, Weights("vgg", tensors))
    pooled = torch.rand(2, 6, 1, 1)
    hidden = (pooled.flatten(1) @ tensors["classifier.0.weight"].T + tensors["classifier.0.bias"]).relu()
    expected = (hidden @ tensors["classifier.3.weight"].T + tensors["classifier.3.bias"]).relu()
    torch.testing.assert_close(head.eval()(pooled), expected)
