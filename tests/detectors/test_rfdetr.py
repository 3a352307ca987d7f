"""Checkpoints of the rfdetr package, against what the package itself (1.11.2) predicts with them."""

from __future__ import annotations

import warnings
from argparse import Namespace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import eyas
from eyas.__main__ import main
from eyas.data import Resize
from eyas.detectors import TransformersDetector
from eyas.detectors.transformers.rfdetr import RfDetrCheckpoint
from eyas.detectors.transformers.rfdetr_files import is_rfdetr
from eyas.evaluation.cost import count_flops
from eyas.runs.checkpoint import NATIVE, save_native
from eyas.runs.opening import load, resolve_detector
from eyas.types import EyasError
from helpers.tiny import options, write_squares
from helpers.tiny_rfdetr import ARCHITECTURE, CLASSES, save, weights

SCORES = [0.84381, 0.75837, 0.73093, 0.7222, 0.71911, 0.61315]
LABELS = [0, 0, 0, 0, 2, 0]
BOXES = [
    [0.0, 26.36, 13.897, 28.946],
    [5.33, 23.541, 14.252, 32.0],
    [0.0, 18.648, 11.254, 20.818],
    [0.0, 16.981, 5.444, 21.513],
    [5.33, 23.541, 14.252, 32.0],
    [0.0, 18.099, 4.33, 20.823],
]
"""What ``RFDETRNano(pretrain_weights=...).predict(image(), threshold=0)`` returns; the package clips its boxes."""


def image() -> Tensor:
    pixels = torch.linspace(0, 1, 3 * 32 * 32).reshape(3, 32, 32).mul(40).sin().abs()
    return (pixels * 255).round() / 255


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("output") / "checkpoint_best_total.pth")


def assert_the_packages(detector: TransformersDetector) -> None:
    with torch.no_grad():
        (found,) = detector.predict(image()[None])
    torch.testing.assert_close(found["scores"], torch.tensor(SCORES), atol=2e-5, rtol=0)
    assert found["labels"].tolist() == LABELS
    torch.testing.assert_close(found["boxes"].clamp(0, 32), torch.tensor(BOXES), atol=2e-3, rtol=0)


def test_predictions_are_the_packages(made: Path) -> None:
    teacher = load(made)
    assert isinstance(teacher, TransformersDetector) and not teacher.network.training
    assert teacher.classes == CLASSES
    assert_the_packages(teacher)
    source = resolve_detector(str(made))
    assert source.kind == "library" and source.files == (made,)
    assert (source.resize.height, source.resize.width) == (32, 32)


@pytest.mark.parametrize(
    "written",
    [
        {"args": {"class_names": list(CLASSES), "epochs": 3}, "model_config": ARCHITECTURE, "model_name": "RFDETRNano"},
        {"args": Namespace(**ARCHITECTURE, class_names=list(CLASSES)), "ema_model": {}, "optimizer": {"state": {}}},
    ],
    ids=["the trainer of today", "the earlier trainer"],
)
def test_what_its_trainers_write(written: dict[str, Any], tmp_path: Path) -> None:
    assert_the_packages(load(save(tmp_path / "last.pth", **written)))


def test_reloaded_by_transformers(made: Path, tmp_path: Path) -> None:
    load(made).export_native(tmp_path)
    model = transformers.AutoModelForObjectDetection.from_pretrained(tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    assert_the_packages(TransformersDetector(model, processor=processor).eval())


def test_a_student(made: Path, tmp_path: Path) -> None:
    """With the head of its classes, then of others; saved and opened without the checkpoint."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        student = eyas.build("transformers", CLASSES, backbone=str(made), weights="pretrained")
    assert student.network.training
    assert_the_packages(student.eval())
    with pytest.warns(UserWarning, match=r"another number of classes.*class_embed"):
        other = eyas.build("transformers", ("car", "van"), backbone=str(made), weights=made)
    assert other.classes == ("car", "van")
    random = eyas.build("transformers", CLASSES, backbone=str(made), options={"config": {"num_queries": 4}})
    assert len(random.eval().predict(image()[None])[0]["scores"]) == 4
    save_native(student, tmp_path, Resize())
    assert_the_packages(load(tmp_path / NATIVE))


def test_gradients_reach_every_parameter(made: Path) -> None:
    """The layer of the ViT that nothing reads, too, for which DDP would wait."""
    student = eyas.build("transformers", CLASSES, backbone=str(made), weights="pretrained")
    boxes = {"boxes": torch.tensor([[4.0, 4, 20, 28]]), "labels": torch.tensor([1])}
    sum(student.losses(image()[None], [boxes]).values()).backward()
    assert all(parameter.grad is not None for parameter in student.network.parameters())


def test_published_weights_have_no_arguments(tmp_path: Path) -> None:
    """What they do not tell follows from the patch size; the classes are COCO's, whose ids have gaps."""
    tensors = weights()
    for name, tensor in tensors.items():
        if "class_embed" in name:
            tensors[name] = (
                torch.arange(91.0).reshape(91, *[1] * (tensor.ndim - 1)).expand(91, *tensor.shape[1:]).clone()
            )
        if name.endswith("projection.weight"):
            tensors[name] = torch.zeros(len(tensor), 3, 16, 16)
    found = RfDetrCheckpoint(save(tmp_path / "rf-detr-nano.pth", tensors=tensors, args={}))
    assert len(found.classes) == 80
    assert found.classes[0] == "person" and found.classes[11] == "stop sign" and found.classes[-1] == "toothbrush"
    assert found.tensors["class_embed.bias"][[0, 11, 79]].tolist() == [1, 13, 90]
    assert found.side == 16 * 4
    backbone = found.architecture["backbone_config"]
    assert (backbone["num_windows"], backbone["out_indices"]) == (2, [3, 6, 9, 12])
    assert found.architecture["decoder_cross_attention_heads"] == 16


def changed(**tensors: Tensor | None) -> dict[str, Tensor]:
    found = {**weights(), **tensors}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


@pytest.mark.parametrize(
    ("tensors", "args", "said"),
    [
        ({"segmentation_head.bias": torch.zeros(1)}, None, "a segmentation model"),
        ({"keypoint_embed.layers.0.bias": torch.zeros(1)}, None, "a keypoint model"),
        ({"backbone.0.projector.stages.1.1.bias": torch.zeros(1)}, None, "of several feature levels"),
        ({"backbone.0.encoder.base_model.model.x": torch.zeros(1)}, None, "trained with LoRA"),
        ({"query_feat.weight": None}, None, r"has no query_feat\.weight"),
        ({"transformer.decoder.norm.weight": None}, None, "weights of another architecture; 1 missing"),
        ({"class_embed.bias": torch.full((4,), float("nan"))}, None, "NaN or infinite"),
        ({}, {**ARCHITECTURE, "class_names": ["cat"]}, r"its head has 4 outputs.*its args name 1 classes"),
        ({}, {"class_names": list(CLASSES)}, "has no num_windows"),
        ({}, {"path": PurePosixPath("a")}, r"Python objects.*pathlib"),
    ],
)
def test_what_is_refused(tensors: dict[str, Any], args: Any, said: str, tmp_path: Path) -> None:
    path = save(tmp_path / "model.pth", tensors=changed(**tensors), args=args)
    assert is_rfdetr(path)
    with pytest.raises(EyasError, match=said) as refused:
        load(path)
    assert str(refused.value).startswith(str(path))


def test_other_files_are_none_of_its_checkpoints(tmp_path: Path) -> None:
    torch.save({"model": {"layer.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("text")
    for name, said in {
        "other.pth": "weights alone",
        "text.pth": "weights alone",
        "nothing.pth": "no such file",
    }.items():
        assert not is_rfdetr(tmp_path / name)
        with pytest.raises(EyasError, match=said):
            load(tmp_path / name)


def test_the_names_of_an_unnamed_head(tmp_path: Path) -> None:
    assert load(save(tmp_path / "a.pth", args=ARCHITECTURE)).classes == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_its_operations_are_counted(made: Path) -> None:
    """The queries are views of parameters, over which PyTorch's counter stumbles without gradients."""
    detector = load(made)
    with torch.no_grad():
        assert count_flops(detector, image()[None]) > 1e6
    assert all(parameter.requires_grad for parameter in detector.network.parameters())


@pytest.mark.slow
def test_the_commands(tmp_path: Path) -> None:
    """As evaluated, as teacher and as student; the student's run needs the checkpoint no more."""
    data = write_squares(tmp_path / "data", train=4, val=2)
    path = save(tmp_path / "best.pth", args={**ARCHITECTURE, "class_names": ["red", "blue", "green"]})
    common = [f"--data={data}", *options(run_epochs=1)]
    assert main(["evaluate", str(path), f"--data={data}", "--workers=0", "--device=cpu"]) == 0
    cache = f"--cache={tmp_path / 'cache'}"
    pairs = "--pairs={backbone: model.backbone.projector}"
    teach = [
        "distill",
        f"--teacher={path}",
        "--any_teacher=true",
        cache,
        pairs,
        f"--out={tmp_path / 'taught'}",
        *common,
    ]
    assert main(teach) == 0
    student = options(model="transformers", backbone=path, weights="pretrained", options=None, run_epochs=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*another number of classes")
        assert main(["train", f"--data={data}", f"--out={tmp_path / 'tuned'}", *student]) == 0
    path.unlink()
    assert load(tmp_path / "tuned").classes == ("red", "blue")
