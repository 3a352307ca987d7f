"""A teacher that sees the images larger than the student."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from eyas import FGFI, Chen2017, Distiller, FitNets
from eyas.__main__ import main
from eyas.data.options import Resize
from eyas.detectors import build
from eyas.distillation.pairing import pair_levels
from eyas.distillation.teacher_scale import resize_for_student
from eyas.distillation.teachers import RunningTeacher
from eyas.methods.imitation import imitation_loss
from eyas.nn.taps import tap_features
from eyas.ops.near_objects import near_object_masks
from eyas.report.models import load_models
from eyas.runs.checkpoint import ModelSpec
from eyas.runs.log import read_log
from eyas.runs.opening import load
from eyas.runs.teachers import unlike_training
from eyas.types import Detector, EyasError, Target
from helpers.evaluation_cases import make_record
from helpers.tiny import options, write_squares

SHAPES = {"anchor_shapes": [[20, 20], [32, 32]], "stem_channels": 8, "dropout": 0.0}


def detector(width: float) -> Detector:
    torch.manual_seed(0)
    return build("shuffledet", ("red", "blue"), options={**SHAPES, "width": width})


def batch(height: int, width: int) -> tuple[Tensor, list[Target]]:
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[16.0, 16.0, 60.0, 70.0], [70.0, 20.0, 120.0, 90.0]])
    some: Target = {"boxes": boxes, "labels": torch.tensor([0, 1]), "size": (height, width)}
    none: Target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "size": (height, width)}
    return images, [some, none]


def test_shrink_by_hand() -> None:
    images = torch.arange(16.0).view(1, 1, 4, 4).expand(1, 3, 4, 4) / 16
    target: Target = {
        "boxes": torch.tensor([[0.0, 1.0, 3.0, 4.0]]),
        "labels": torch.tensor([1]),
        "ignore": torch.tensor([[2.0, 2.0, 4.0, 4.0]]),
        "size": (4, 3),
    }
    small, (resized,) = resize_for_student(images, [target], 2.0)
    assert small.shape == (1, 3, 2, 2)
    torch.testing.assert_close(small.mean(), images.mean())
    assert small[0, 0, 0, 0] < small[0, 0, 0, 1] < small[0, 0, 1, 0] < small[0, 0, 1, 1]
    assert resized["boxes"].tolist() == [[0.0, 0.5, 1.5, 2.0]]
    assert resized["ignore"].tolist() == [[1.0, 1.0, 2.0, 2.0]]
    assert resized["size"] == (2, 2) and resized["labels"] is target["labels"]
    assert target["boxes"].tolist() == [[0.0, 1.0, 3.0, 4.0]], "the teacher's targets stay"


def test_every_size_is_rounded() -> None:
    for scale in (1.1, 1.25, 1.5, 2.0, 3.0, 3.7):
        for side in range(1, 120):
            small, _ = resize_for_student(torch.zeros(1, 1, side, 7), [], scale)
            assert small.shape[-2:] == (max(1, round(side / scale)), max(1, round(7 / scale)))


def test_a_scale_of_one_is_nothing() -> None:
    images, targets = batch(64, 96)
    assert all(
        one is other for one, other in zip(resize_for_student(images, targets, 1.0), (images, targets), strict=True)
    )


LARGER = [(8, 16), (16, 32), (32, 64), (64, 128)]


@pytest.mark.parametrize(
    ("scale", "strides"), [(1.0, [(s, s) for s in (8, 16, 32, 64, 128)]), (2.0, LARGER), (1.5, LARGER)]
)
def test_levels_pair_by_what_a_cell_covers(scale: float, strides: list[tuple[int, int]]) -> None:
    def made() -> Detector:
        torch.manual_seed(0)
        options = {"fpn_channels": 16, "strides": [8, 16, 32]}
        return build("retinanet", ("red", "blue"), backbone="resnet18", options=options)

    found = pair_levels(made(), RunningTeacher(made()), scale=scale)
    assert [(pair.student.stride, pair.teacher.stride) for pair in found] == strides


@pytest.mark.parametrize("scale", [2.0, 1.5])
def test_the_loss_is_that_of_the_teachers_larger_map(scale: float) -> None:
    """Both written out: the teacher on the whole batch, the student on its half, its adapted map resized to that."""
    images, targets = batch(96, 144)
    student, teacher = detector(0.25).train(), detector(0.5)
    method = FGFI(1.0, init_std=0.01)
    distiller = Distiller(student, teacher, method, pairs={"backbone": "backbone"}, teacher_scale=scale).train()
    torch.manual_seed(5)
    losses = distiller(images, targets)
    (feature,) = tap_features(teacher, teacher.levels, images).values()
    grid = teacher.levels["backbone"].grid((feature.shape[2], feature.shape[3]), (96, 144))
    (mask,) = near_object_masks([grid], [target["boxes"] for target in targets])
    small, small_targets = resize_for_student(images, targets, scale)
    assert small.shape[-2:] == (round(96 / scale), round(144 / scale))
    torch.manual_seed(5)
    plain = student.losses(small, small_targets)
    mine = student.network.backbone((small - student.mean) / student.std)
    adapted = F.interpolate(method.adapters[0](mine), feature.shape[-2:], mode="bilinear", align_corners=False)
    expected = imitation_loss(adapted, feature, mask, mask.sum())
    assert mask.any() and expected > 0
    torch.testing.assert_close(losses["fgfi"], expected, rtol=1e-3, atol=0.0)
    for name, value in plain.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-3, atol=1e-4)


def test_refusals() -> None:
    with pytest.raises(EyasError, match="teacher_scale must lie in"):
        Distiller(detector(0.25), detector(0.5), FGFI(), teacher_scale=0.5)
    with pytest.raises(EyasError, match="chen2017 compares heads"):
        Distiller(detector(0.25), detector(0.5), Chen2017(), pairs={"backbone": "backbone"}, teacher_scale=2.0)
    with pytest.raises(EyasError, match="taken 2 times"):
        Distiller(detector(0.25), detector(0.5), FitNets(), teacher_scale=2.0)
    with pytest.raises(EyasError, match=r"--dataset\.resize"):
        Resize().times(2.0)
    assert Resize(shorter=300, longer=500).times(1.5) == Resize(shorter=450, longer=750)
    assert Resize().times(1.0) == Resize()


MAKER = """
import torch
from eyas.detectors import build
def teacher():
    torch.manual_seed(0)
    return build("shuffledet", ("red", "blue"), options={"width": 0.5, "anchor_shapes": [[30, 30], [48, 48]]})
"""


def test_every_command_gives_the_teacher_its_own_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """distill, evaluate and report score one teacher on one set of images: at twice the student's size.

    Its size is that of its training, so nothing is said; at another one a line says both sizes.
    """
    data, teacher = write_squares(tmp_path / "data", train=8, val=4), tmp_path / "teacher"
    small, large = ({"dataset_resize": json.dumps({"height": side, "width": side})} for side in (64, 128))
    assert main(["train", f"--data={data}", f"--out={teacher}", *options(run_epochs=3, **large)]) == 0
    common = ["distill", f"--data={data}", f"--teacher={teacher}", "--any_teacher=true", "--method=eyas.FGFI"]
    common += ["--method.weight=1e-6", '--pairs={"backbone": "backbone"}', *options(run_epochs=1, **small)]
    capsys.readouterr()
    assert main([*common, f"--out={tmp_path / 'run'}", "--teacher_scale=2"]) == 0
    assert "was trained on images of" not in capsys.readouterr().out
    (logged,) = read_log(tmp_path / "run", "teacher")
    out = tmp_path / "scores.json"
    arguments = ["--workers=0", "--device=cpu"]
    assert main(["evaluate", str(tmp_path / "run"), *arguments, f"--json_file={out}"]) == 0
    scores = json.loads(out.read_text())["teacher"]
    assert scores["summary"] == logged["summary"] == read_log(teacher, "val")[-1]["summary"]
    assert scores["cost"]["image_size"] == [128, 128]
    models, notes = load_models({"teacher": str(teacher), "run": str(tmp_path / "run")}, ("red", "blue"))
    assert notes == [] and [model.resize.height for model in models.values()] == [128, 64]

    capsys.readouterr()
    assert main([*common, f"--out={tmp_path / 'other'}"]) == 0
    said = capsys.readouterr().out
    assert f"{teacher} was trained on images of 128 x 128 (height x width) and gets 64 x 64 here" in said
    assert main(["evaluate", str(tmp_path / "other"), *arguments]) == 0
    assert "gets 64 x 64 here" in capsys.readouterr().out


def test_sizes_that_differ_by_rounding_are_one_size(tmp_path: Path) -> None:
    record = make_record()  # 400 x 300
    ModelSpec("shuffledet", ("a",), resize=Resize(shorter=600, longer=1000)).save(tmp_path)
    assert unlike_training(str(tmp_path), Resize(shorter=601, longer=1001), [record]) is None
    assert "600 x 800 (height x width) and gets 300 x 400" in str(unlike_training(str(tmp_path), Resize(), [record]))
    assert unlike_training("package.module:function", Resize(), [record]) is None


def test_command_with_and_without_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cached teacher of twice the size gives the losses of a running one."""
    data = write_squares(tmp_path / "squares")
    (tmp_path / "maker.py").write_text(MAKER)
    monkeypatch.syspath_prepend(str(tmp_path))
    common = [
        "distill", f"--data={data}", "--teacher=maker:teacher", "--teacher_scale=2", "--any_teacher=true",
        '--pairs={"backbone": "backbone"}', "--dataset.resize.height=64", "--dataset.resize.width=64",
        "--method=eyas.FGFI", "--method.weight=1e-6", *options(run_epochs=1),
    ]  # fmt: skip
    try:
        assert main([*common, f"--out={tmp_path / 'live'}"]) == 0
        cache = [f"--cache={tmp_path / 'cache'}", "--cache_dtype=float32"]
        assert main([*common, *cache, f"--out={tmp_path / 'cached'}"]) == 0
    finally:
        sys.modules.pop("maker", None)
    live, cached = ([line["losses"] for line in read_log(tmp_path / name, "train")] for name in ("live", "cached"))
    assert live == cached and all(losses["fgfi"] > 0 for losses in live)
    student = load(tmp_path / "live")
    assert json.loads((tmp_path / "live" / "model.json").read_text())["resize"]["height"] == 64
    assert len(student.predict(torch.rand(1, 3, 64, 64))) == 1
