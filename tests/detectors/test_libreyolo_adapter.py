"""YOLOv9 and YOLOX: inputs, losses, gradients and detections are those of libreyolo itself."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from libreyolo.models.yolo9.model import LibreYOLO9
from libreyolo.models.yolox.model import LibreYOLOX
from libreyolo.postprocess import yolo9, yolox
from libreyolo.preprocess.yolo9 import preprocess_numpy as yolo9_pixels
from libreyolo.preprocess.yolox import preprocess_numpy as yolox_pixels
from torch import Tensor, nn

import eyas
from eyas.detectors import LibreYoloDetector, build
from eyas.detectors.backbone import backbone_stages
from eyas.detectors.libreyolo.adapter import GREY, as_library_size
from eyas.detectors.libreyolo.yolov9 import CANDIDATES
from eyas.evaluation.predict import predict_batch
from eyas.nn.fold_batchnorm import fold_batch_norms
from eyas.nn.taps import probe
from eyas.ops.pixels import as_float
from eyas.types import Detector, EyasError, Target
from helpers.tiny_yolo import CLASSES, MODELS, tiny_yolo

TERMS = {"yolov9": ["box_loss", "dfl_loss", "cls_loss"], "yolox": ["iou_loss", "obj_loss", "cls_loss"]}
SQUARE = (64, 64)


def target(*rows: tuple[float, ...]) -> Target:
    """Rows of x1, y1, x2, y2, label."""
    table = torch.tensor(rows).reshape(-1, 5)
    return {"boxes": table[:, :4], "labels": table[:, 4].long()}


def images(height: int, width: int, count: int = 2) -> Tensor:
    """Bytes."""
    return torch.randint(256, (count, 3, height, width), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


OBJECTS = [target((4, 5, 40, 50, 1), (20, 10, 60, 60, 0)), target((10, 20, 30, 60, 2))]
CASES = {"objects": OBJECTS, "none": [target(), target()], "mixed": [target(), OBJECTS[0]]}


def library_batch(model: str, pixels: Tensor) -> Tensor:
    """Bytes as the library's own preprocessing for 64 x 64 gives them to the network, each image by itself."""
    prepare = yolo9_pixels if model == "yolov9" else yolox_pixels
    return torch.stack([torch.from_numpy(prepare(image.permute(1, 2, 0).numpy(), 64)[0]) for image in pixels])


def library_labels(model: str, targets: list[Target], size: tuple[int, int] = SQUARE) -> Tensor:
    """Written out: class and xyxy as fractions for YOLOv9, class and cxcywh in pixels for YOLOX."""
    rows = torch.zeros(len(targets), max(len(t["boxes"]) for t in targets), 5)
    for image, one in enumerate(targets):
        for row, ((x1, y1, x2, y2), label) in enumerate(
            zip(one["boxes"].tolist(), one["labels"].tolist(), strict=True)
        ):
            fractions = (x1 / size[1], y1 / size[0], x2 / size[1], y2 / size[0])
            centre = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
            rows[image, row] = torch.tensor((label, *(fractions if model == "yolov9" else centre)))
    return rows


def library_losses(detector: LibreYoloDetector, model: str, batch: Tensor, targets: list[Target]) -> dict[str, Tensor]:
    """By the network's own forward function."""
    found: dict[str, Tensor] = detector.network(batch, library_labels(model, targets))
    return found


def gradients(detector: LibreYoloDetector, total: Tensor) -> dict[str, Tensor]:
    detector.zero_grad(set_to_none=True)
    total.backward()
    return {name: p.grad for name, p in detector.network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("model", MODELS)
def test_losses_and_gradients_are_the_librarys(model: str, case: str) -> None:
    """Its total is the sum of ours, and every parameter has a gradient, in a batch without boxes too."""
    detector, pixels, targets = tiny_yolo(model), images(*SQUARE), CASES[case]
    other = copy.deepcopy(detector)
    ours = detector.losses(as_float(pixels), targets)
    theirs = library_losses(other, model, other.family.pixels(as_float(pixels)), targets)
    assert list(ours) == TERMS[model]
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-6)
    total = torch.stack(list(ours.values())).sum()
    torch.testing.assert_close(total, theirs["total_loss"], rtol=1e-4, atol=1e-6)
    mine, library = gradients(detector, total), gradients(other, theirs["total_loss"])
    assert mine.keys() == dict(detector.network.named_parameters()).keys()
    norm = torch.stack([value.norm() for value in library.values()]).norm()
    difference = torch.stack([(mine[name] - library[name]).norm() for name in library]).norm()
    assert difference < 1e-4 * norm


@pytest.mark.parametrize("model", MODELS)
def test_the_input_is_the_librarys(model: str) -> None:
    """Channels, range and the grey of the padding."""
    detector, pixels = tiny_yolo(model), images(43, 64)
    ours = detector.family.pixels(detector.padding.filled(as_float(pixels), GREY))
    theirs = library_batch(model, pixels)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 if model == "yolox" else 1e-6)
    assert theirs[:, :, 43:].unique().tolist() == pytest.approx([114 if model == "yolox" else GREY])
    assert not theirs[:, 0].equal(theirs[:, 2])


@pytest.mark.parametrize("model", MODELS)
def test_the_padding_of_a_batch_is_grey_in_training(model: str) -> None:
    """A loader pads with black; the images that it was given stay as they are."""
    detector, pixels = tiny_yolo(model), images(43, 64)
    other, targets = copy.deepcopy(detector), [target((4, 5, 40, 40, 1)), target((10, 4, 30, 40, 2))]
    padded = torch.zeros(2, 3, 64, 64)
    padded[:, :, :43] = as_float(pixels)
    before, sized = padded.clone(), [{**one, "size": (43, 64)} for one in targets]
    ours = detector.losses(padded, sized)  # type: ignore[arg-type]
    theirs = library_losses(other, model, library_batch(model, pixels), targets)
    assert padded.equal(before)
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=1e-5)
    black = detector.losses(padded, targets)
    assert any(not black[name].isclose(ours[name], rtol=1e-2) for name in ours)


def library_detections(model: str, network: Any, pixels: Tensor, **limits: Any) -> dict[str, Any]:
    """One image through the network's own forward function, and the library's post-processing."""
    height, width = pixels.shape[1:]
    with torch.no_grad():
        raw = network(library_batch(model, pixels[None]))
    if model == "yolov9":
        return dict(yolo9.postprocess(raw, input_size=64, original_size=(width, height), **limits))
    return dict(yolox.postprocess(raw, input_size=64, original_size=(width, height), **limits))


@pytest.mark.parametrize("limits", [(0.0, 0.6, 300), (0.3, 0.3, 20), (0.9999, 0.6, 300)])
@pytest.mark.parametrize("model", MODELS)
def test_predictions_are_the_librarys(model: str, limits: tuple[float, float, int]) -> None:
    """Boxes, scores and classes, of images that are padded, whose boxes are clipped before NMS."""
    score, nms, count = limits
    detector = tiny_yolo(model, score_threshold=score, nms_threshold=nms, detections=count).eval()
    pixels = images(43, 64)
    found = 0
    for image, ours in zip(pixels, detector.predict(as_float(pixels)), strict=True):
        theirs = library_detections(model, detector.network, image, conf_thres=score, iou_thres=nms, max_det=count)
        assert len(ours["scores"]) == theirs["num_detections"]
        found += len(ours["scores"])
        boxes, scores = (torch.as_tensor(theirs[name], dtype=torch.float32) for name in ("boxes", "scores"))
        torch.testing.assert_close(ours["scores"], scores.reshape(-1), rtol=0, atol=3e-4)
        torch.testing.assert_close(ours["boxes"], boxes.reshape(-1, 4), rtol=0, atol=2e-2)
        assert ours["labels"].tolist() == [int(label) for label in theirs["classes"]]
        assert score > 0 or (ours["boxes"].amin() == 0 and ours["boxes"][:, 3].amax() == 43)
    assert found > 3 or score > 0.9


@pytest.mark.parametrize("model", MODELS)
def test_scores_do_not_depend_on_the_other_images_of_a_batch(model: str) -> None:
    detector = tiny_yolo(model).eval()
    alone = images(43, 64, 1)
    batch = torch.zeros(2, 3, 96, 64, dtype=torch.uint8)
    batch[0, :, :43] = alone
    batch[1] = images(96, 64, 1)
    sized: list[Target] = [{**target(), "size": (43, 64)}, {**target(), "size": (96, 64)}]
    together, (single,) = predict_batch(detector, batch, sized)[0], detector.predict(as_float(alone))
    torch.testing.assert_close(together["scores"], single["scores"])
    torch.testing.assert_close(together["boxes"], single["boxes"])


@pytest.mark.parametrize(("model", "wrapper"), [("yolov9", LibreYOLO9), ("yolox", LibreYOLOX)])
def test_the_levels_are_those_the_library_distils(model: str, wrapper: Any) -> None:
    detector = tiny_yolo(model)
    config = wrapper(None, size=MODELS[model], nb_classes=3, device="cpu").get_distill_config()
    assert list(detector.levels) == config["tap_points"]
    assert [level.channels for level in detector.levels.values()] == config["channels"]
    assert [level.stride for level in detector.levels.values()] == config["strides"] == [8, 16, 32]
    maps = probe(detector, list(detector.levels), "detector")
    assert [128 / level.shape[2] for level in maps.values()] == [8, 16, 32]
    assert detector.network.get_submodule(detector.backbone_name) is not None


@pytest.mark.parametrize("model", MODELS)
def test_the_mask_follows_the_cells_of_a_level(model: str) -> None:
    """An object of the size of a level's anchors is imitated around its centre, there and only there."""
    detector = tiny_yolo(model).eval()
    level = next(iter(detector.levels.values()))
    grid = level.grid((16, 16), (128, 128))
    assert grid.anchors()[3, 5, 1].tolist() == [5.5 * 8 - 16, 3.5 * 8 - 16, 5.5 * 8 + 16, 3.5 * 8 + 16]
    assert not level.matched_by_iou and level.box_range is None


@pytest.mark.parametrize(("model", "first"), [("yolov9", "backbone.conv0"), ("yolox", "backbone.backbone.stem")])
def test_the_backbone_has_stages_to_freeze(model: str, first: str) -> None:
    """One for each stride, 2 to 32; the feature pyramid is none of it."""
    detector = tiny_yolo(model)
    stages = backbone_stages(detector)
    assert len(stages) == 5 and stages[0][0].startswith(first)
    eyas.freeze(detector, 1)
    losses = detector.losses(as_float(images(*SQUARE)), OBJECTS)
    torch.stack(list(losses.values())).sum().backward()
    frozen = [name for name, parameter in detector.network.named_parameters() if parameter.grad is None]
    assert frozen and all(name.startswith(first) for name in frozen)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_a_teachers_batch_norms_are_folded(model: str) -> None:
    teacher = tiny_yolo(model).eval().requires_grad_(False)
    assert fold_batch_norms(teacher) > 30


@pytest.mark.parametrize("model", MODELS)
def test_a_teacher_is_frozen_and_in_evaluation_mode(model: str) -> None:
    teacher, student = tiny_yolo(model), tiny_yolo(model, seed=1)
    distiller = eyas.Distiller(student, teacher, eyas.FGFI(weight=1.0)).train()
    before = copy.deepcopy(teacher.network.state_dict())
    losses = distiller(as_float(images(*SQUARE)), OBJECTS)
    torch.stack(list(losses.values())).sum().backward()
    assert losses["fgfi"] > 0 and not teacher.network.training and student.network.training
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())
    assert all(value.equal(before[name]) for name, value in teacher.network.state_dict().items())


@pytest.mark.parametrize("model", MODELS)
def test_modes_are_asked_for(model: str) -> None:
    detector = tiny_yolo(model)
    with pytest.raises(EyasError, match="needs the evaluation mode"):
        detector.predict(as_float(images(*SQUARE)))
    with pytest.raises(EyasError, match="losses need the training mode"):
        detector.eval().losses(as_float(images(*SQUARE)), OBJECTS)
    assert isinstance(detector, Detector)


@pytest.mark.parametrize("model", MODELS)
def test_boxes_and_losses_are_float32_under_autocast(model: str) -> None:
    """In bfloat16 a coordinate above 256 would be a whole pixel off, or two."""
    detector = tiny_yolo(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses, heads = detector.losses_and_heads(as_float(images(*SQUARE)), OBJECTS)
        outputs, cells = detector.outputs(as_float(images(*SQUARE)))
        boxes = detector.family.candidates(outputs, cells).boxes
    assert {value.dtype for value in (*losses.values(), boxes, cells)} == {torch.float32}
    assert all(head.logits.dtype == torch.float32 for head in heads.heads.values())


def test_yolox_starts_with_a_low_score_everywhere() -> None:
    """The library sets this prior in its training, not in its constructor; without it the first losses are huge."""
    detector = build("yolox", CLASSES, options={"size": "n"})
    head: Any = detector.network.head
    for predictor in (*head.cls_preds, *head.obj_preds):
        assert predictor.bias.sigmoid().tolist() == pytest.approx([0.01] * len(predictor.bias))


def test_the_l1_loss_of_yolox_is_one_more_term() -> None:
    detector = tiny_yolo("yolox", l1=True)
    other = copy.deepcopy(detector)
    ours = detector.losses(as_float(images(*SQUARE)), OBJECTS)
    theirs = library_losses(other, "yolox", other.family.pixels(as_float(images(*SQUARE))), OBJECTS)
    assert list(ours) == [*TERMS["yolox"], "l1_loss"] and ours["l1_loss"] > 0
    torch.testing.assert_close(torch.stack(list(ours.values())).sum(), theirs["total_loss"], rtol=1e-4, atol=1e-6)


def test_only_so_many_candidates_enter_nms() -> None:
    assert yolo9._YOLO9_MAX_NMS_CANDIDATES == CANDIDATES


def test_the_auxiliary_branch_is_removed() -> None:
    """It would have no gradient, for which DDP waits."""
    network = copy.deepcopy(tiny_yolo("yolov9").network)
    network.enable_aux()  # type: ignore[operator]
    assert any(name.startswith("aux") for name in network.state_dict())
    detector = eyas.wrap(network, CLASSES)
    assert not any(name.startswith("aux") for name in detector.network.state_dict())


@pytest.mark.parametrize("model", MODELS)
def test_a_model_of_the_library_is_wrapped(model: str) -> None:
    network = tiny_yolo(model).network
    detector = eyas.wrap(network.eval(), CLASSES)
    assert isinstance(detector, LibreYoloDetector) and detector.network is network
    with pytest.raises(EyasError, match=r"distinguishes 3 classes and there are 2 names"):
        eyas.wrap(network, CLASSES[:2])


def test_other_models_of_the_library_are_refused() -> None:
    class Other(nn.Module):
        __module__ = "libreyolo.models.other"

    with pytest.raises(EyasError, match=r"a Other is not one of libreyolo's LibreYOLO9Model, LibreYOLOXModel"):
        eyas.wrap(Other(), CLASSES)


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("yolov9", {"size": "x"}, "yolov9 has no size x; choose from t, s, m, c"),
        ("yolox", {"size": "c"}, "yolox has no size c; choose from n, t, s, m, l, x"),
        ("yolov9", {"size": ["t"]}, "yolov9 has no size"),
        ("yolov9", {"size": "t", "class_channels": 10**6}, "class_channels must lie in"),
        ("yolox", {"reg_max": 4}, "yolox has no option 'reg_max'; it has size, l1"),
    ],
)
def test_options_are_checked(model: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(EyasError, match=said):
        build(model, CLASSES, options=options)


@pytest.mark.parametrize(
    ("size", "stated"),
    [
        ({"height": 64, "width": 64}, {"imgsz": 64}),
        ({"height": 64, "width": 96}, {"imgsz": 96, "imgsz_h": 64, "imgsz_w": 96}),
        ({"longer": 320}, {"imgsz": 320}),
        ({"shorter": 200, "longer": 320}, {"imgsz": 320}),
        ({"shorter": 200}, {}),
        ({}, {}),
    ],
)
def test_sizes_as_checkpoints_state_them(size: dict[str, int], stated: dict[str, int]) -> None:
    assert as_library_size(size) == stated


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "size"), [*(("yolov9", size) for size in "tsmc"), *(("yolox", size) for size in "ntsmlx")]
)
def test_every_size_learns_and_detects(model: str, size: str) -> None:
    detector = build(model, CLASSES, options={"size": size})
    losses = detector.losses(as_float(images(*SQUARE)), OBJECTS)
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.network.parameters())
    detector.network.eval()
    assert len(detector.predict(as_float(images(*SQUARE)))) == 2
    maps = probe(detector, list(detector.levels), "detector")
    assert len(maps) == 3
