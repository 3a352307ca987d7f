"""A student's neck and head from its teacher: what is copied, what stays, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from eyas.__main__ import main
from eyas.detectors import CustomDetector, build
from eyas.detectors.inheritance import inherit
from eyas.types import Detector, EyasError
from helpers.tiny import MODEL, features_alone, options, write_squares


def light(backbone: str, classes: tuple[str, ...] = ("cat", "dog"), **more: Any) -> Detector:
    torch.manual_seed(len(backbone))
    return build("retinanet", classes, backbone=backbone, options={"fpn_channels": 16, "head_convs": 1, **more})


def state(detector: Detector) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in detector.network.state_dict().items()}


def test_neck_and_head_are_the_teachers_where_shapes_agree_and_the_backbone_stays() -> None:
    student, teacher = light("mobilenet_v3_small"), light("mobilenet_v3_large")
    before, theirs = state(student), state(teacher)
    found = inherit(student, teacher)
    after = state(student)
    assert set(found.copied) | set(found.kept) == {name for name in after if not name.startswith("backbone.body.")}
    assert not set(found.copied) & set(found.kept)
    for name, value in after.items():
        assert torch.equal(value, theirs[name] if name in found.copied else before[name]), name
    # The lateral convolutions read backbones of other widths; the rest of the pyramid and the head are alike.
    assert all("inner_blocks" in name and name.endswith("weight") for name in found.kept)
    assert len(found.kept) == 3 and any(name.startswith("head.") for name in found.copied)
    assert any("layer_blocks" in name for name in found.copied)
    assert found.numbers == sum(after[name].numel() for name in found.copied)
    assert str(found).startswith(f"starts with {len(found.copied)} tensors of the teacher (")
    assert "its own outside of the backbone are backbone.fpn.inner_blocks" in str(found)
    again = inherit(light("mobilenet_v3_small"), student)
    assert not again.kept and str(again).endswith("all that are not of its backbone")


def test_what_cannot_be_inherited_is_refused() -> None:
    student = light("mobilenet_v3_small")
    with pytest.raises(
        EyasError, match=r"same classes in the same order; the teacher's are dog, cat, the student's cat"
    ):
        inherit(student, light("mobilenet_v3_small", ("dog", "cat")))
    shuffle = build("shuffledet", ("cat", "dog"), options={**MODEL, "anchor_shapes": [(10, 12)]})
    with pytest.raises(
        EyasError, match=r"nothing to inherit: outside of its backbone backbone\.body the student, a RetinaNet"
    ):
        inherit(student, shuffle)
    plain = features_alone()
    assert isinstance(plain, CustomDetector)
    with pytest.raises(EyasError, match="is the backbone is unknown"):
        inherit(plain, plain)


def test_the_command_says_what_it_copies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = write_squares(tmp_path / "data", train=4, val=2), tmp_path / "run"
    command = ["distill", "--teacher=helpers.tiny:poor_teacher", "--any_teacher=true", f"--data={data}"]
    rest = ["--method=fitnets", "--method.weight=1", "--run.export_check=false", "--inherit=true"]
    assert main([*command, f"--out={run}", *rest, *options(run_epochs=1)]) == 0
    said = capsys.readouterr().out
    assert "student   starts with 2 tensors of the teacher (" in said and "all that are not of its backbone" in said
    smaller = json.dumps({**MODEL, "anchor_shapes": [[20, 20]]})
    assert main([*command, f"--out={tmp_path / 'other'}", *rest, *options(run_epochs=1, options=smaller)]) == 2
    assert "nothing to inherit" in capsys.readouterr().err and not (tmp_path / "other").exists()
