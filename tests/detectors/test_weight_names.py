"""Weights by torchvision's names, with their class as its pages write them, or without."""

from __future__ import annotations

from typing import Any

import pytest
from torchvision.models import ResNet50_Weights, WeightsEnum
from torchvision.models.detection import RetinaNet_ResNet50_FPN_Weights

from eyas.detectors.torchvision.pretrained import read_weights
from eyas.types import EyasError


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("DEFAULT", RetinaNet_ResNet50_FPN_Weights.DEFAULT),
        ("ResNet50_Weights.DEFAULT", ResNet50_Weights.DEFAULT),
        ("ResNet50_Weights.IMAGENET1K_V1", ResNet50_Weights.IMAGENET1K_V1),
        ("RetinaNet_ResNet50_FPN_Weights.COCO_V1", RetinaNet_ResNet50_FPN_Weights.COCO_V1),
    ],
)
def test_a_name_with_and_without_its_class(name: str, weights: WeightsEnum, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def state_dict(entry: WeightsEnum, *_: Any, **__: Any) -> dict[str, Any]:
        fetched.append(entry)
        return {}

    monkeypatch.setattr(WeightsEnum, "get_state_dict", state_dict)
    read_weights(name, "retinanet", "resnet50", fpn=True)
    assert fetched == [weights]


def test_a_name_of_another_network_is_refused_with_those_that_fit() -> None:
    with pytest.raises(EyasError, match=r"no weights 'ResNet18_Weights.DEFAULT'.* names are COCO_V1, DEFAULT, IMAGEN"):
        read_weights("ResNet18_Weights.DEFAULT", "retinanet", "resnet50", fpn=True)
