"""Parts of a student that stay as they are, and the learning rate of its backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import nn

from eyas.__main__ import main
from eyas.args import OptimArgs
from eyas.detectors import CustomDetector, ShuffleDet, TransformersDetector, retinanet, ssd, wrap
from eyas.detectors.backbone import backbone_of, backbone_stages
from eyas.runs.log import read_log
from eyas.training.freezing import backbone_parameters, freeze
from eyas.training.optim import make_optimizer
from eyas.training.trainer import Trainer
from eyas.types import Detector, EyasError
from helpers.tiny import CLASSES, MODEL, options, train_lines, write_squares
from helpers.tiny_transformers import CONFIGS, class_of

RESNET = [["conv1", "bn1"], ["layer1"], ["layer2"], ["layer3"], ["layer4"]]
"""The stages of a ResNet by stride: 2, 4, 8, 16, 32."""


def custom(backbone: str | None = "0") -> CustomDetector:
    trunk = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 2, stride=2))
    return CustomDetector(nn.Sequential(trunk, nn.Conv2d(4, 2, 1)), CLASSES, levels=["0"], backbone=backbone)


def transformer(name: str) -> TransformersDetector:
    return TransformersDetector(class_of(name)(CONFIGS[name]()))


def test_the_stages_of_a_resnet() -> None:
    detector = retinanet(CLASSES, "resnet18", fpn_channels=32)
    assert backbone_of(detector) == "backbone.body"
    assert backbone_stages(detector) == [[f"backbone.body.{part}" for part in stage] for stage in RESNET]


def test_the_stages_of_shufflenet_are_those_of_its_strides() -> None:
    stages = backbone_stages(ShuffleDet(CLASSES, **MODEL))
    assert stages[0] == ["backbone.stem", "backbone.stem_norm"]
    assert [len(stage) for stage in stages[1:]] == [4, 6, 6]  # units of stride 4, 8 and 16, the last two at the end
    assert stages[1][0] == "backbone.units.0" and stages[3][-1] == "backbone.units.15"


def test_the_backbone_of_an_ssd_has_no_further_maps() -> None:
    assert backbone_of(ssd(CLASSES, "mobilenet_v3_small")) == "backbone.body"
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    bare = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    assert backbone_of(wrap(bare, CLASSES)) == "backbone.features"


@pytest.mark.parametrize("name", CONFIGS)
def test_every_transformer_has_a_backbone(name: str) -> None:
    detector = transformer(name)
    stages = backbone_stages(detector)
    named = dict(detector.network.named_modules())
    in_stages = {p for stage in stages for part in stage for p in named[part].parameters()}
    left = set(backbone_parameters(detector)) - in_stages
    assert len(stages) >= 3 and len(left) <= 6, stages  # tokens and positions belong to no submodule that returns a map
    frozen = freeze(detector, "backbone")
    assert not any(p.requires_grad for p in backbone_parameters(detector))
    assert frozen.names == (detector.backbone_name,)


def test_freezing_touches_only_what_it_names() -> None:
    detector = retinanet(CLASSES, "resnet18", fpn_channels=32)
    network = detector.network.train()
    frozen = freeze(detector, 2)
    fixed = {name for name, p in network.named_parameters() if not p.requires_grad}
    expected = ("backbone.body.conv1", "backbone.body.bn1", "backbone.body.layer1")
    assert fixed == {name for name, _ in network.named_parameters() if name.startswith(expected)}
    # conv1 and bn1: 3 * 64 * 49 + 128; layer1: four convolutions of 64 * 64 * 9 and their norms
    assert frozen.parameters == 9408 + 128 + 4 * (36864 + 128)
    network.train()
    frozen.keep_statistics()
    still = {name for name, module in network.named_modules() if not module.training}
    assert still == {name for name, m in network.named_modules() if name.startswith(expected) and "bn" in name}


def test_names_of_any_part() -> None:
    detector = custom()
    assert freeze(detector, "1").parameters == 10
    assert freeze(custom(None), ["0.0", "0.1"]).parameters == 112 + 8
    assert freeze(custom(), 1).names == ("0.0", "0.1") and freeze(custom(), 0).names == ()


@pytest.mark.parametrize(
    ("detector", "parts", "said"),
    [
        (custom(), "neck", "there is no submodule 'neck'; the backbone is 0"),
        (custom(), 3, "the backbone 0 has 2 stages"),
        (custom(None), 1, r"CustomDetector\(backbone="),
        (custom(None), "backbone", "there is no submodule 'backbone'"),
        (custom(), ["0", "1"], "nothing would be left"),
    ],
)
def test_what_cannot_be_frozen(detector: Detector, parts: Any, said: str) -> None:
    with pytest.raises(EyasError, match=said):
        freeze(detector, parts)
    with pytest.raises(EyasError, match="no submodule 'x'"):
        custom("x")


def test_the_groups_of_the_optimiser() -> None:
    """By hand: weights and biases of the backbone (0) and of the rest (1, and an adapter)."""
    detector, adapter = custom(), nn.Linear(4, 4)
    module = nn.ModuleList([detector, adapter])
    trunk, head = detector.network[0], detector.network[1]
    settings = OptimArgs(lr=0.2, weight_decay=0.3, backbone_lr=0.5, freeze="0.2")
    freeze(detector, settings.freeze)
    groups = make_optimizer(module, settings, backbone_parameters(detector)).param_groups
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(0.2, 0.3), (0.2, 0), (0.1, 0.3), (0.1, 0)]
    assert [group["params"] for group in groups] == [
        [head.weight, adapter.weight],
        [head.bias, adapter.bias],
        [trunk[0].weight],
        [trunk[0].bias, trunk[1].weight, trunk[1].bias],
    ]
    assert len(make_optimizer(module, OptimArgs()).param_groups) == 2  # as in checkpoints without the option


def test_a_run_leaves_what_is_frozen_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_squares(tmp_path / "data", train=4, val=1)
    chosen = options(run_epochs=2, optim_freeze=2, optim_backbone_lr=0.1)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(["train", f"--data={data}", f"--out={whole}", *chosen]) == 0
    said = capsys.readouterr().out
    assert "frozen    0.0" in said and "learning rate 0.0002, the rest 0.002" in said
    (line,) = read_log(whole, "frozen")
    assert line["names"][:3] == ["backbone.stem", "backbone.stem_norm", "backbone.units.0"]

    trained = load_file(whole / "model.safetensors")
    followed = {name for name in trained if name.endswith("running_mean") and trained[name].any()}
    fixed = tuple(f"{part}." for part in line["names"])
    assert followed == {name for name in trained if name.endswith("running_mean") and not name.startswith(fixed)}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "evaluate", lambda trainer, progress: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main(["train", f"--data={data}", f"--out={parts}", *chosen])
    assert main(["train", f"--data={data}", f"--out={parts}", *chosen, "--run.resume=true"]) == 0
    assert train_lines(parts) == train_lines(whole)
    assert (parts / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_level_that_is_frozen_cannot_imitate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_squares(tmp_path / "data", train=4, val=1)
    teacher = "--teacher=helpers.tiny:poor_teacher"
    command = ["distill", f"--data={data}", f"--out={tmp_path / 'run'}", teacher, "--any_teacher=true"]
    assert main([*command, *options(optim_freeze="backbone")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("eyas: the student's level backbone comes from frozen parts alone") and said.count("\n") == 1
    assert not (tmp_path / "run" / "model.json").exists()
