"""The transformers adapter against transformers itself: losses, detections, levels, saved folders, training."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torchvision.models.detection import retinanet_resnet50_fpn

import eyas
from eyas.detectors import TransformersDetector, retinanet, transformers_detector
from eyas.detectors.backbone import backbone_stages
from eyas.detectors.transformers.adapter import loss_terms
from eyas.detectors.transformers.families import FAMILIES
from eyas.nn.taps import Taps, tap_features
from eyas.runs.checkpoint import NATIVE, ModelSpec, save_native, save_weights
from eyas.types import Detector, EyasError, Target
from helpers.tiny_transformers import CLASSES, CONFIGS, DETR, WIDTHS, class_of, random_model

SIZE = (64, 96)
every_family = pytest.mark.parametrize("family", CONFIGS)
IN_CELLS = ("TableTransformer", "ConditionalDetr", "DabDetr", "Deimv2")
"""Families whose cells in test_families.py leave little to the tests that also save them or train two of them."""
every_family_once = pytest.mark.parametrize(
    "family", [pytest.param(name, marks=pytest.mark.slow if name.startswith(IN_CELLS) else ()) for name in CONFIGS]
)
LEVELS = {
    "DetrForObjectDetection": [(8, 16), (16, 24), (32, 32), (32, 32)],
    "TableTransformerForObjectDetection": [(8, 16), (16, 24), (32, 32), (32, 32)],
    "ConditionalDetrForObjectDetection": [(8, 16), (16, 24), (32, 32), (32, 32)],
    "DabDetrForObjectDetection": [(8, 16), (16, 24), (32, 32), (32, 32)],
    "DeformableDetrForObjectDetection": [(8, 32), (8, 16), (16, 32), (16, 24), (32, 32), (32, 32), (64, 32)],
    "RTDetrForObjectDetection": [(8, 32), (8, 16), (16, 32), (16, 24), (32, 32), (32, 32)],
    "RTDetrV2ForObjectDetection": [(8, 32), (8, 16), (16, 32), (16, 24), (32, 32), (32, 32)],
    "DFineForObjectDetection": [(8, 32), (8, 16), (16, 32), (16, 24), (32, 32), (32, 32)],
    "Deimv2ForObjectDetection": [(8, 32), (8, 32), (16, 32), (16, 32), (32, 32), (32, 32)],
    "Deimv2ForObjectDetection lite": [(16, 32), (16, 24), (32, 32)],
    "Deimv2ForObjectDetection DINOv3": [(8, 32), (8, 32), (16, 32), (16, 32), (32, 32), (32, 32)],
    "LwDetrForObjectDetection": [(8, 32), (32, 32)],
    "RfDetrForObjectDetection": [(16, 32)],
    "YolosForObjectDetection": [(16, 32)],
}
"""(stride, channels) by the configurations; of one stride, what the encoder made comes first."""


def make(family: str, seed: int = 0) -> TransformersDetector:
    torch.manual_seed(seed)
    return TransformersDetector(random_model(family)).train()


def plain(detector: TransformersDetector) -> Any:
    """The same weights in a model that the adapter has never seen."""
    model: Any = type(detector.network)(copy.deepcopy(detector.network.config))  # type: ignore[operator]
    model.load_state_dict(detector.network.state_dict())
    return model.train(detector.training)


def pixels(size: tuple[int, int] = SIZE) -> Tensor:
    return torch.randint(0, 256, (2, 3, *size), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)


def targets() -> list[Target]:
    some = torch.tensor([[5.0, 6, 45, 50], [50, 10, 90, 40]])
    none: Target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    return [{"boxes": some, "labels": torch.tensor([0, 2])}, none]


def annotations() -> list[dict[str, Any]]:
    """The same in COCO's own format, as the library's processors take it."""
    boxes = zip(targets()[0]["boxes"].tolist(), targets()[0]["labels"].tolist(), strict=True)
    entries = [
        {"bbox": [x0, y0, x1 - x0, y1 - y0], "category_id": label, "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
        for (x0, y0, x1, y1), label in boxes
    ]
    return [{"image_id": 0, "annotations": entries}, {"image_id": 1, "annotations": []}]


def step(module: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """One step of SGD; its losses."""
    losses = module(images, targets())
    module.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    torch.optim.SGD(module.parameters(), lr=0.01).step()
    return losses


def test_every_supported_family_is_tested() -> None:
    assert CONFIGS.keys() == LEVELS.keys()
    assert {family.partition(" ")[0] for family in CONFIGS} == FAMILIES.keys()


@every_family
def test_losses_are_the_librarys(family: str) -> None:
    """Pixels and labels prepared by the library's own processor, for one image with objects and one without."""
    detector = make(family)
    model = plain(detector)
    prepared = detector.processor(
        images=list(pixels()), annotations=annotations(), do_resize=False, return_tensors="pt"
    )
    torch.manual_seed(1)  # of the denoising queries
    expected = model(pixel_values=prepared["pixel_values"], labels=prepared["labels"])
    torch.manual_seed(1)
    losses = detector.losses(pixels() / 255, targets())
    assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
    assert len(losses) >= 3
    torch.testing.assert_close(sum(losses.values()), expected.loss, rtol=1e-4, atol=1e-4)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in detector.network.parameters() if p.requires_grad)
    first = next(detector.network.get_submodule(detector.backbone_name).parameters())
    assert first.grad.abs().sum() > 0


@every_family
def test_losses_without_any_object(family: str) -> None:
    detector, nothing = make(family), targets()[1]
    losses = detector.losses(pixels() / 255, [nothing, nothing])
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    # DDP waits for every one of them.
    assert all(p.grad is not None for p in detector.network.parameters() if p.requires_grad)


@every_family_once
def test_saved_reloaded_and_detected_by_the_library(family: str, tmp_path: Path) -> None:
    detector = make(family)
    step(detector, pixels() / 255)  # BatchNorm has statistics then
    detector.eval()
    detector.export_native(tmp_path)
    model = transformers.AutoModelForObjectDetection.from_pretrained(tmp_path)
    assert type(model) is class_of(family)
    assert tuple(model.config.id2label.values()) == CLASSES
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    prepared = processor(images=list(pixels()), do_resize=False, return_tensors="pt")
    with torch.no_grad():
        outputs = model(pixel_values=prepared["pixel_values"])
        found = detector.predict(pixels() / 255)
    expected = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=[SIZE] * 2)
    for mine, its in zip(found, expected, strict=True):
        order = its["scores"].argsort(descending=True, stable=True)
        assert len(order) >= 12
        torch.testing.assert_close(mine["scores"], its["scores"][order])
        torch.testing.assert_close(mine["boxes"], its["boxes"][order], rtol=1e-4, atol=1e-2)
        assert mine["labels"].equal(its["labels"][order])
        assert mine["labels"].max() < len(CLASSES)


@every_family
def test_levels(family: str) -> None:
    detector = make(family)
    assert isinstance(detector, Detector)
    assert [(level.stride, level.channels) for level in detector.levels.values()] == LEVELS[family]
    images = pixels((64, 128)) / 255
    with Taps(detector.network, detector.levels) as taps:
        losses = detector.losses(images, targets())
    for name, level in detector.levels.items():
        feature = taps.features[name]
        assert feature.shape == (2, level.channels, 64 // level.stride, 128 // level.stride), name
        (gradient,) = torch.autograd.grad(sum(losses.values()), feature, retain_graph=True)
        assert gradient.abs().sum() > 0, name  # the detector's own losses pass through it
    detector.eval()
    with torch.no_grad(), Taps(detector.network, detector.levels) as taps:
        detector.predict(images)
    stopped = tap_features(detector, detector.levels, images)
    for name in detector.levels:
        torch.testing.assert_close(stopped[name], taps.features[name])


@every_family_once
def test_teacher_and_student(family: str) -> None:
    """Two steps under a teacher of its own kind."""
    student, teacher = make(family, 1), make(family, 2)
    distiller = eyas.Distiller(student, teacher, eyas.FGFI(weight=1.0)).train()
    assert [pair.student_tap for pair in distiller.pairs] == [pair.teacher_tap for pair in distiller.pairs]
    before = copy.deepcopy(student.network.state_dict())
    frozen = copy.deepcopy(teacher.network.state_dict())
    for _ in range(2):
        losses = step(distiller, pixels() / 255)
        assert all(loss.isfinite() for loss in losses.values()) and losses["fgfi"] > 0
    after = student.network.state_dict()
    assert any(not after[name].equal(before[name]) for name in after)
    assert all(tensor.equal(frozen[name]) for name, tensor in teacher.network.state_dict().items())


def test_torchvision_teaches_rt_detr() -> None:
    teacher = retinanet(CLASSES, "mobilenet_v3_small_fpn", fpn_channels=32, head_convs=1)
    student = make("RTDetrForObjectDetection")
    distiller = eyas.Distiller(student, teacher, eyas.FGFI(weight=1.0)).train()
    assert [pair.student_tap for pair in distiller.pairs] == [
        "model.encoder.fpn_blocks.1",
        "model.encoder.pan_blocks.0",
        "model.encoder.pan_blocks.1",
    ]
    for _ in range(2):
        losses = step(distiller, pixels() / 255)
        assert {"loss_vfl", "loss_bbox", "loss_giou", "fgfi"} == losses.keys()
        assert all(loss.isfinite() for loss in losses.values()) and losses["fgfi"] > 0
    ratio = distiller.balance(pixels() / 255, targets()).gradient_ratio()["fgfi"]
    assert 0 < ratio < float("inf")


def test_d_fine_teaches_torchvision() -> None:
    teacher = make("DFineForObjectDetection")
    student = retinanet(CLASSES, "mobilenet_v3_small_fpn", fpn_channels=32, head_convs=1)
    distiller = eyas.Distiller(student, teacher, eyas.FGFI(weight=1.0)).train()
    assert [pair.teacher_tap for pair in distiller.pairs][:2] == [
        "model.encoder.fpn_blocks.1",
        "model.encoder.pan_blocks.0",
    ]
    for _ in range(2):
        losses = step(distiller, pixels() / 255)
        assert all(loss.isfinite() for loss in losses.values()) and losses["fgfi"] > 0


def test_sizes_that_windows_do_not_divide_are_padded() -> None:
    """Boxes stay in the image's own pixels: padding by hand changes nothing."""
    detector = make("LwDetrForObjectDetection").eval()
    images = pixels((50, 70)) / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (detector.processor.image_mean, detector.processor.image_std))
    padded = mean.expand(2, 3, 64, 96).clone()
    padded[:, :, :50, :70] = images
    with torch.no_grad():
        outputs = plain(detector)(pixel_values=(padded - mean) / std)
        found = detector.predict(images)
    expected = detector.processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=[(64, 96)] * 2)
    torch.testing.assert_close(found[0]["boxes"], expected[0]["boxes"], rtol=1e-4, atol=1e-2)


def test_who_is_not_normalised() -> None:
    """RT-DETR's processor has a mean and a standard deviation, and uses them before a DINOv3 only."""
    images = pixels() / 255
    for family in ("RTDetrForObjectDetection", "Deimv2ForObjectDetection lite"):
        assert make(family)._prepare(images)[0].equal(images)
    for family in ("DetrForObjectDetection", "Deimv2ForObjectDetection DINOv3"):
        assert not make(family)._prepare(images)[0].equal(images)


def test_a_copy_has_its_own_token_maps() -> None:
    """A running average of the weights is kept in a deep copy."""
    detector = make("YolosForObjectDetection").eval()
    twin = copy.deepcopy(detector)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.1)
    images = pixels() / 255
    mine, its = (tap_features(which, ["token_maps:0"], images)["token_maps:0"] for which in (detector, twin))
    assert not mine.allclose(its)
    tap_features(twin, ["token_maps:0"], pixels((96, 64)) / 255)
    assert detector.network.token_maps.sizes == [(4, 6)] and twin.network.token_maps.sizes == [(6, 4)]


def test_frozen_stages_are_no_levels_of_a_student() -> None:
    """The library freezes the whole backbone of a DETR on one of its own ResNets."""
    resnet = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": WIDTHS, "depths": [1, 1, 1, 1]}
    config = transformers.DetrConfig(**DETR, backbone_config={**resnet, "layer_type": "basic", "out_indices": [3, 4]})
    model = transformers.DetrForObjectDetection(config)
    assert list(TransformersDetector(model).levels) == ["token_maps:0"]
    model.requires_grad_(False)  # a teacher has all
    assert len(TransformersDetector(model).levels) == 3


@pytest.mark.parametrize(
    "family",
    [
        "LwDetrForObjectDetection", "RfDetrForObjectDetection", "RTDetrForObjectDetection",
        "DFineForObjectDetection", "Deimv2ForObjectDetection", "Deimv2ForObjectDetection lite",
    ],
)  # fmt: skip
def test_more_queries_than_a_small_image_has_cells(family: str) -> None:
    """They are chosen among the cells; levels and stages are found before that."""
    config: Any = CONFIGS[family]()
    config.num_queries = 2000
    detector = TransformersDetector(class_of(family)(config))
    usual = TransformersDetector(class_of(family)(CONFIGS[family]()))
    assert [(name, level.stride, level.channels) for name, level in detector.levels.items()] == [
        (name, level.stride, level.channels) for name, level in usual.levels.items()
    ]
    assert backbone_stages(detector) == backbone_stages(usual)


def test_grid() -> None:
    own = TransformersDetector(make("YolosForObjectDetection").network, anchor_scale=2.0, anchor_ratios=(1.0,))
    grid = own.levels["token_maps:0"].grid((4, 6), SIZE)
    assert grid.cell_anchors.tolist() == [[-16.0, -16.0, 16.0, 16.0]]


def test_loss_terms_are_weighted_as_in_the_total() -> None:
    x = torch.tensor(3.0, requires_grad=True)
    terms = {
        "loss_bbox": x * 2,
        "loss_bbox_0": x * 1,
        "loss_ce": x * x,
        "loss_log": x * 5,
        "cardinality": torch.ones(()),
    }
    total = 5 * terms["loss_bbox"] + 2 * terms["loss_bbox_0"] + terms["loss_ce"]
    found = loss_terms(total, terms)
    assert {name: value.item() for name, value in found.items()} == {"loss_bbox": 36.0, "loss_ce": 9.0}
    assert loss_terms(total.detach(), terms).keys() == {"loss"}


def test_built_from_files(tmp_path: Path) -> None:
    trained = make("DFineForObjectDetection").eval()
    trained.export_native(tmp_path / "its")
    folder, file = str(tmp_path / "its"), str(tmp_path / "its" / "config.json")
    same = eyas.build("transformers", CLASSES, backbone=file, weights=folder)
    assert same.network.training
    assert all(value.equal(same.network.state_dict()[name]) for name, value in trained.network.state_dict().items())
    random = eyas.build("transformers", CLASSES, backbone=file, options={"config": {"num_queries": 5}})
    assert len(random.eval().predict(pixels() / 255)[0]["scores"]) == 5
    assert transformers_detector(None, folder).classes == CLASSES
    with pytest.warns(UserWarning, match=r"another number of classes.*class_embed"):
        other = eyas.build("transformers", ("car", "van"), backbone=folder, weights="pretrained")
    assert other.classes == ("car", "van")
    kept, new = trained.network.state_dict(), other.network.state_dict()
    assert all(new[name].equal(value) for name, value in kept.items() if name.startswith("model.backbone"))
    with pytest.warns(UserWarning, match="cat is now car"):
        eyas.build("transformers", ("car", "van", "bus"), backbone=folder, weights="pretrained")


def test_a_run_folder_stands_alone(tmp_path: Path) -> None:
    """The configuration that the run was made from may be gone: the native folder describes the detector."""
    config, run = tmp_path / "config.json", tmp_path / "run"
    run.mkdir()
    config.write_text(CONFIGS["YolosForObjectDetection"]().to_json_string())
    spec = ModelSpec("transformers", ("car", "van"), str(config), {"score_threshold": 0.01})
    detector = spec.build()
    spec.save(run)
    save_weights(detector.network, run / spec.weights)
    save_native(detector, run, spec.resize)
    config.unlink()
    loaded = eyas.load(run)
    assert loaded.classes == ("car", "van") and loaded.score_threshold == 0.01
    assert all(v.equal(loaded.network.state_dict()[n]) for n, v in detector.network.state_dict().items())
    native = transformers.AutoModelForObjectDetection.from_pretrained(run / NATIVE)
    assert native.state_dict().keys() == detector.network.state_dict().keys()


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EyasError, match="not one of transformers'"):
        TransformersDetector(retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2))
    detector = make("YolosForObjectDetection")
    with pytest.raises(EyasError, match="distinguishes 3 classes and there are 2 names"):
        TransformersDetector(detector.network, ("cat", "dog"))
    with pytest.raises(EyasError, match=r"call detector\.eval"):
        detector.predict(pixels() / 255)
    with pytest.raises(EyasError, match=r"call detector\.train"):
        detector.eval().losses(pixels() / 255, targets())
    with pytest.raises(EyasError, match="no such file or folder"):
        eyas.build("transformers", CLASSES, backbone=str(tmp_path / "nowhere"))
    with pytest.raises(EyasError, match="needs a backbone: what has its configuration"):
        eyas.build("transformers", CLASSES)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(EyasError, match="not the configuration of a detector"):
        eyas.build("transformers", CLASSES, backbone=str(tmp_path))


def test_python_of_the_page_runs() -> None:
    page = Path(__file__).parents[2] / "docs" / "transformers.md"
    (shown,) = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(compile(shown, page.name, "exec"), namespace)
    assert list(namespace["detector"].levels) == ["token_maps:0"]


def test_eyas_alone_does_not_import_transformers() -> None:
    code = "import sys, eyas; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
