"""The graphs of transformers' detectors against `predict`, and their ONNX files at any size (slow)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from eyas.__main__ import main
from eyas.detectors import TransformersDetector, deploy
from eyas.detectors.deployed import Candidates, Deployed, as_predictions
from eyas.detectors.transformers.deployed import OpenSizes, Rule, in_pixels, read_rule
from eyas.export.check import raw_differences
from eyas.export.onnx_format import OnnxRuntime, to_onnx
from eyas.runs.opening import load
from eyas.types import EyasError, Prediction, Size
from helpers.families import TRANSFORMERS, of_transformers, trained
from helpers.tiny import CLASSES, options, write_squares
from helpers.tiny_transformers import CONFIGS

every_family = pytest.mark.parametrize("name", TRANSFORMERS)
SIZES: tuple[Size, ...] = ((64, 96), (50, 70))


def detector_of(name: str, **more: Any) -> TransformersDetector:
    torch.manual_seed(0)
    detector = of_transformers(name).eval()
    for key, value in more.items():
        setattr(detector, key, value)
    return detector


def found_by(deployed: Deployed, images: Tensor) -> list[Prediction]:
    with torch.no_grad():
        return as_predictions(Candidates(*deployed(images)[-3:]))


def assert_equal(ours: list[Prediction], theirs: list[Prediction]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(b["scores"], a["scores"])
        torch.testing.assert_close(b["boxes"], a["boxes"], atol=1e-3, rtol=1e-4)
        assert b["labels"].equal(a["labels"])


@every_family
def test_the_graph_detects_what_predict_does(name: str) -> None:
    """Sizes that are padded, too; then a threshold that half of the detections stay below."""
    detector = detector_of(name)
    for size in SIZES:
        images = torch.rand(2, 3, *size)
        with torch.no_grad():
            expected = detector.predict(images)
        assert min(len(found["scores"]) for found in expected) >= 12
        assert_equal(expected, found_by(deploy(detector), images))
    detector.score_threshold = float(expected[0]["scores"].median())
    with torch.no_grad():
        fewer = detector.predict(images)
    assert 0 < len(fewer[0]["scores"]) < len(expected[0]["scores"])
    assert_equal(fewer, found_by(deploy(detector), images))


def test_empty_places() -> None:
    detector = detector_of("YOLOS", score_threshold=1.0)
    with torch.no_grad():
        boxes, scores, labels = deploy(detector)(torch.rand(1, 3, 64, 96))[-3:]
    assert not boxes.any() and not scores.any() and (labels == -1).all()


@pytest.mark.parametrize(
    ("processor", "rule"),
    [
        ("DetrImageProcessor", Rule(True, None)),
        ("YolosImageProcessor", Rule(True, None)),
        ("ConditionalDetrImageProcessor", Rule(False, 100)),
        ("DeformableDetrImageProcessor", Rule(False, 100)),
        ("RTDetrImageProcessor", Rule(False, None)),
        ("RfDetrImageProcessor", Rule(False, None)),
    ],
)
def test_rules_of_image_processors(processor: str, rule: Rule) -> None:
    assert read_rule(getattr(transformers, processor)()) == rule


def test_the_processor_decides_not_the_family() -> None:
    """As it does in `predict`, where a model came with another than its family's."""
    detector = detector_of("RT-DETR", processor=transformers.DeformableDetrImageProcessor(do_normalize=False))
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected = detector.predict(images)
    assert len(expected[0]["scores"]) == 36  # 12 queries, 3 classes, fewer than its 100
    assert_equal(expected, found_by(deploy(detector), images))


def test_queries_that_the_encoder_chooses_are_matched() -> None:
    names = {name: deploy(detector_of(name)).raw_names for name in TRANSFORMERS}
    learnt = ("DETR", "Table Transformer", "Conditional DETR", "DAB-DETR", "Deformable DETR", "YOLOS")
    for name in TRANSFORMERS:
        assert ("proposals" in names[name]) == (name not in learnt)
    assert names["RT-DETR"] == ("proposals", "class_logits", "pred_boxes")
    config: Any = CONFIGS["DeformableDetrForObjectDetection"]()
    config.two_stage = config.with_box_refine = True
    config.two_stage_num_proposals = 12
    model = transformers.DeformableDetrForObjectDetection(config)
    deployed = deploy(TransformersDetector(model).eval())
    assert deployed.raw_names == deployed.matched == names["RT-DETR"]
    with torch.no_grad():
        (proposals, *_), _ = deployed.raw(torch.rand(2, 3, 64, 96))
    assert proposals.shape == (2, 12, 4) and (proposals[..., 2:] > proposals[..., :2]).all()


class Saying(Deployed):
    """Four proposals of one image."""

    raw_names = matched = ("proposals", "class_logits")

    def raw(self, images: Tensor) -> tuple[tuple[Tensor, ...], list[int]]:
        corners = torch.arange(4.0)[:, None] * 10
        boxes = torch.cat((corners, corners, corners + 5, corners + 5), dim=1)[None]
        return (boxes, corners[None]), []


class Shuffled:
    """A runtime whose rows are in another order, the last perhaps moved."""

    metadata: Mapping[str, Any] = {}

    def __init__(self, order: list[int], shift: float) -> None:
        self.order, self.shift = order, shift

    def run(self, images: Tensor, names: Sequence[str]) -> list[Tensor]:
        boxes, logits = (rows[:, self.order].clone() for rows in Saying().raw(torch.zeros(1))[0])
        boxes[:, -1] += self.shift
        logits[:, -1] += self.shift
        return [boxes, logits]


@pytest.mark.parametrize(
    ("order", "shift", "coupled", "ordered", "unmatched", "logits"),
    [
        ([0, 1, 2, 3], 0.0, False, False, 0, 0),
        ([1, 0, 2, 3], 0.0, True, False, 0, 0),
        ([1, 0, 2, 3], 0.0, True, True, 1, 0),  # of an image that is left out nothing counts but what lacks
        ([0, 1, 2, 3], 2.0, False, False, 0.25, 0),
        ([0, 1, 2, 3], 2.0, True, False, 1, 0),
        ([0, 1, 2, 3], 0.01, True, True, 0, 0.01 / 30),
    ],
)
def test_rows_are_compared_by_proposal(
    order: list[int], shift: float, coupled: bool, ordered: bool, unmatched: float, logits: float
) -> None:
    deployed = Saying()
    deployed.coupled, deployed.ordered = coupled, ordered
    runtime = Shuffled(order, shift)
    found = raw_differences(deployed, runtime, [torch.rand(1, 3, 8, 8)])
    assert found["unmatched"] == unmatched
    assert found["class_logits"] == pytest.approx(logits, rel=1e-3)


def test_boxes_in_pixels() -> None:
    boxes = torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.25, 0.5, 0.5, 0.25]])
    assert in_pixels(boxes, (100, 200)).tolist() == [[0, 0, 200, 100], [0, 37.5, 100, 62.5]]


class Grid(nn.Module):
    """The centres of an image's columns of 8 pixels and the size of its map, as Deformable DETR makes them."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        columns = images.shape[3] // 8
        with OpenSizes():
            centres = torch.linspace(0.5, columns - 0.5, columns, dtype=torch.float32)
            return centres, torch.as_tensor([(1, columns)], dtype=torch.long)


def test_sizes_stay_open() -> None:
    open_width = ({3: torch.export.Dim.DYNAMIC},)
    grid = torch.export.export(Grid(), (torch.rand(1, 3, 8, 64),), dynamic_shapes=open_width).module()
    for width in (16, 80):
        for centres, size in (grid(torch.rand(1, 3, 8, width)), Grid()(torch.rand(1, 3, 8, width))):
            assert torch.equal(centres, torch.arange(width // 8) + 0.5)
            assert size.tolist() == [[1, width // 8]] and size.dtype == torch.int64


class Fixed(Deployed):
    """Says the same of every image, of as many as it was traced with."""

    raw_names = ("numbers",)

    def raw(self, images: Tensor) -> tuple[tuple[Tensor, ...], list[int]]:
        return (images.mean(dim=(2, 3)) + torch.arange(len(images))[:, None],), []


def test_a_graph_of_one_batch_size_is_refused() -> None:
    with pytest.raises(EyasError, match="cannot trace this detector"):
        to_onnx(Fixed(), (32, 32), raw=True, dynamic_size=False)


@pytest.mark.slow
@every_family
def test_a_file_of_any_size_equals_pytorch(name: str) -> None:
    deployed = deploy(trained(name))
    model = to_onnx(deployed, (64, 96), raw=False, dynamic_size=True)
    runtime = OnnxRuntime(model.SerializeToString())
    for images in (torch.rand(1, 3, 128, 96), torch.rand(3, 3, 75, 130)):
        assert max(raw_differences(deployed, runtime, [images]).values()) < 1e-3


@pytest.mark.slow
def test_trained_exported_and_scored_by_the_commands(tmp_path: Path) -> None:
    data = write_squares(tmp_path / "data", train=8, val=3)
    config = tmp_path / "config.json"
    config.write_text(CONFIGS["YolosForObjectDetection"]().to_json_string())
    run, figures = tmp_path / "run", tmp_path / "figures.json"
    more = options(model="transformers", backbone=str(config), options=None, run_epochs=1)
    assert main(["train", f"--data={data}", f"--out={run}", *more]) == 0
    assert main(["export", str(run), "--dynamic_size=true", "--runs=1", f"--json_file={figures}"]) == 0
    written = json.loads(figures.read_text())
    assert written["score"]["PyTorch"] == pytest.approx(written["score"]["onnxruntime"], abs=1e-3, nan_ok=True)
    file = next(run.glob("*.onnx"))
    assert main(["evaluate", str(file), f"--data={data}", "--workers=0", "--device=cpu"]) == 0
    assert load(run).classes == CLASSES
