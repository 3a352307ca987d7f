"""ONNX files: they do what PyTorch does, for every family, and none is left that does not."""

from __future__ import annotations

import functools
import json
import logging
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from eyas.__main__ import main
from eyas.commands.export import export
from eyas.detectors import build, deploy
from eyas.detectors.deployed import Candidates, Deployed, as_predictions, detections, nms_kept, top_scores
from eyas.export.check import difference, failures, latencies, raw_differences
from eyas.export.formats import ExportedDetector, open_detector, pad_to
from eyas.export.onnx_format import OnnxExporter, OnnxRuntime, add_metadata, to_onnx, without_heads
from eyas.ops.pixels import FILL, as_float
from eyas.runs.checkpoint import ModelSpec, save_weights
from eyas.runs.opening import load
from eyas.types import Detector, EyasError, Prediction, Size
from helpers.tiny import CLASSES, MODEL, one_epoch, write_squares

SIZE = (64, 96)
BACKBONE: dict[str, Any] = {"backbone": "resnet18"}
LEVELS = {"strides": (16,)}
"""Few levels: the exporter's time goes with the number of operations."""
FAMILIES: dict[str, dict[str, Any]] = {
    "shuffledet": {"options": MODEL},
    "retinanet": {
        **BACKBONE,
        "options": {"fpn_channels": 16, "head_convs": 0, "score_threshold": 0.008, **LEVELS, "top": "pool"},
    },
    "fcos": {
        **BACKBONE,
        "options": {"fpn_channels": 64, "head_convs": 1, "score_threshold": 0.01, **LEVELS, "top": "pool"},
    },
    "ssd": {**BACKBONE, "options": {"extra_channels": 16, "extra_levels": 1}},
    "faster_rcnn": {**BACKBONE, "options": {"fpn_channels": 16, "head_width": 16, "strides": (8, 16)}},
}


@dataclass
class Exported:
    detector: Detector
    deployed: Deployed
    model: onnx.ModelProto


def lively(name: str) -> Detector:
    """A detector of random weights whose scores and boxes spread: the normalisation layers know their statistics."""
    torch.manual_seed(0)
    detector = build(name, CLASSES, **FAMILIES[name])
    network = detector.network
    for module_name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
        if isinstance(module, nn.Conv2d) and "head" in module_name:
            nn.init.normal_(module.weight, std=0.02)
    network.train()
    target = {"boxes": torch.tensor([[4.0, 4, 40, 40]]), "labels": torch.tensor([0])}
    with torch.no_grad():
        detector.losses(torch.rand(4, 3, *SIZE), [target] * 4)
    network.eval()
    return detector


@functools.cache
def exported(name: str, dynamic_size: bool = False) -> Exported:
    detector = lively(name)
    deployed = deploy(detector)
    return Exported(detector, deployed, to_onnx(deployed, SIZE, raw=False, dynamic_size=dynamic_size))


def opened(model: onnx.ModelProto, size: Size | None) -> ExportedDetector:
    """The detector of a model's file."""
    shipped = without_heads(model)
    values = {"classes": CLASSES, "resize": {}, "size": size, "raw": False, "parameters": 1, "gflops": 1.0}
    add_metadata(shipped, {f"eyas.{name}": value for name, value in values.items()})
    return ExportedDetector(OnnxRuntime(shipped.SerializeToString()))


def assert_same(ours: list[Prediction], theirs: list[Prediction]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert len(a["scores"]) > 3
        torch.testing.assert_close(b["scores"], a["scores"], atol=1e-4, rtol=0)
        # Scores that agree to the last digits may change places.
        for label in range(len(CLASSES)):
            boxes = (found["boxes"][found["labels"] == label] for found in (a, b))
            left, right = (rows[rows.sum(dim=1).argsort()] for rows in boxes)
            torch.testing.assert_close(right, left, atol=1e-2, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_graph_of_fixed_shapes_detects_the_same(name: str) -> None:
    detector = lively(name)
    deployed = deploy(detector)
    for size in (SIZE, (100, 75)):
        images = torch.rand(2, 3, *size)
        with torch.no_grad():
            found = deployed(images)[-3:]
        assert_same(detector.predict(images), as_predictions(Candidates(*found)))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name != "retinanet")) for name in FAMILIES],
)
def test_a_file_equals_pytorch_at_any_batch_size(name: str) -> None:
    case = exported(name)
    runtime, found = OnnxRuntime(case.model.SerializeToString()), opened(case.model, SIZE)
    for batch in (1, 3):
        images = torch.rand(batch, 3, *SIZE)
        differences = raw_differences(case.deployed, runtime, [images])
        assert set(differences) - {"unmatched"} == set(case.deployed.raw_names)
        assert max(differences.values()) < 1e-4
        with torch.no_grad():
            assert_same(case.detector.predict(images), found.predict(images))
    with pytest.raises(EyasError, match="cannot be trained"):
        found.losses(torch.rand(1, 3, *SIZE), [])


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_file_of_any_size_equals_pytorch(name: str) -> None:
    case = exported(name, dynamic_size=True)
    runtime = OnnxRuntime(case.model.SerializeToString())
    images = [torch.rand(1, 3, 128, 96), torch.rand(2, 3, 75, 130)]
    assert max(raw_differences(case.deployed, runtime, images).values()) < 1e-4
    found = opened(case.model, None)
    for batch in images:
        with torch.no_grad():
            assert_same(case.detector.predict(batch), found.predict(batch))


def test_nms_by_image_and_group() -> None:
    """Box 1 overlaps box 0 with IoU 0.6, box 2 neither; what is out suppresses nothing."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 6], [20, 20, 30, 30]]).expand(4, 3, 4)
    scores = torch.tensor([[0.9, 0.8, 0.7], [0.9, 0.8, 0.7], [-1, 0.8, 0.7], [0.5, 0.8, -1]])
    groups = torch.tensor([[0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]])
    kept = nms_kept(boxes, scores, groups, 2, 0.5)
    assert kept.tolist() == [[True, False, True], [True, True, True], [False, True, True], [False, True, False]]
    assert nms_kept(boxes, scores, groups, 2, 0.7)[0].all()


def test_top_scores_are_all_where_there_are_fewer() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5]])
    assert top_scores(scores, 2)[1].tolist() == [[1, 2]]
    assert top_scores(scores, 5)[1].tolist() == [[1, 2, 0]]


def test_images_are_padded_as_in_a_batch() -> None:
    images = torch.rand(2, 3, 4, 5)
    padded = pad_to(images, (6, 8))
    assert torch.equal(padded[:, :, :4, :5], images)
    assert torch.equal(padded[1, :, 5, 7], as_float(torch.tensor(FILL, dtype=torch.uint8)))
    with pytest.raises(EyasError, match=r"up to 3 x 8 .* 4 x 5; export with --dynamic_size"):
        pad_to(images, (3, 8))


def test_a_dropped_background_leaves_no_gap_in_the_scores() -> None:
    found = Candidates(torch.arange(12.0).view(1, 3, 4), torch.tensor([[0.9, 0.8, 0.7]]), torch.tensor([[1, 0, 2]]))
    left = detections(found, 3, threshold=0.1, nms=1.0, count=4, first_label=1)
    assert left.scores.tolist() == [[pytest.approx(0.9), pytest.approx(0.7), 0.0]]
    assert left.labels.tolist() == [[0, 1, -1]] and left.boxes[0, 1].tolist() == [8, 9, 10, 11]
    assert left.boxes[0, 2].tolist() == [0] * 4


def test_failures_name_every_output_that_differs() -> None:
    assert failures({"a": 1e-4, "unmatched": 0.005}, 1e-3, 0.5, 0.5009) == []
    assert failures({}, 1e-3, float("nan"), float("nan")) == []
    texts = failures({"a": 2e-3, "b": float("nan"), "unmatched": 0.02}, 1e-3, 0.5, 0.4985)
    assert [text.split()[0] for text in texts] == ["a", "b", "unmatched", "mAP"]
    assert len(failures({}, 1e-3, 0.5, float("nan"))) == 1


def test_differences_are_relative_above_one() -> None:
    assert difference(torch.tensor([0.5]), torch.tensor([0.25])) == 0.25
    assert difference(torch.tensor([8.0, 100.0]), torch.tensor([8.5, 100.0])) == pytest.approx(0.005)
    assert difference(torch.zeros(2), torch.zeros(3)) == float("inf")
    assert difference(torch.zeros(1), torch.tensor([float("nan")])) != 0


def test_latencies_take_turns() -> None:
    calls: list[str] = []
    figures = latencies({"a": lambda _: calls.append("a"), "b": lambda _: calls.append("b")}, [torch.zeros(1)], 2)
    assert calls == ["a", "b"] * 3 and figures.keys() == {"a", "b"}


def test_a_detector_without_a_deployed_form_is_refused() -> None:
    with pytest.raises(EyasError, match="SimpleNamespace has no deployed form; give it a method deployed"):
        deploy(cast(Detector, SimpleNamespace(network=nn.Identity())))


@pytest.mark.parametrize("name", ["onnxscript", "onnx_ir"])
def test_the_exporters_loggers_are_silent_only_while_it_traces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logger, inside = logging.getLogger(name), []

    class Broken(Deployed):
        def raw(self, images: torch.Tensor) -> Any:
            inside.append(logger.level)
            raise RuntimeError("no trace")

    monkeypatch.setattr(logger, "level", logging.INFO)
    with pytest.raises(EyasError, match="cannot trace this detector"):
        to_onnx(Broken().eval(), SIZE, raw=False, dynamic_size=False)
    assert set(inside) == {logging.ERROR} and logger.level == logging.INFO


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of tests/tiny.py."""
    root = tmp_path_factory.mktemp("export")
    return one_epoch(root / "run", write_squares(root / "data", train=8, val=3))


def test_export_evaluate_and_predict(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, figures = tmp_path / "small.onnx", tmp_path / "figures.json"
    common = [f"--out={out}", "--int8=true", "--runs=2", "--calibration=3", f"--json_file={figures}"]
    assert main(["export", str(run), *common]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("shuffledet, 64 x 64", "PyTorch", "onnxruntime", "INT8", "class_logits"))
    files = ["figures.json", "small.int8.onnx", "small.md", "small.onnx"]
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    assert "| file | small.onnx, compared with PyTorch |" in (tmp_path / "small.md").read_text()
    written = json.loads(figures.read_text())
    assert written["score"]["PyTorch"] == pytest.approx(written["score"]["onnxruntime"], abs=1e-3)
    assert all(value > 0 for value in written["latency_ms"].values())
    assert (tmp_path / "small.int8.onnx").read_bytes() != out.read_bytes()
    for file in (out, tmp_path / "small.int8.onnx"):
        resize, detector = open_detector(file)
        assert (detector.classes, resize) == (CLASSES, ModelSpec.load(run).resize)
    data = run.parent / "data"
    again = tmp_path / "again.json"
    recommended = shown.rpartition("next: eyas ")[2].partition(", or")[0]
    arguments = ["--workers=0", "--device=cpu", f"--json_file={again}"]
    assert main([*shlex.split(recommended), *arguments]) == 0
    model = json.loads(again.read_text())["model"]
    assert model["summary"]["map"] == pytest.approx(written["score"]["onnxruntime"])
    assert model["cost"]["parameters"] > 1000 and model["cost"]["gflops"] > 0
    photo = next((data).rglob("*val0*.png"))
    assert main(["predict", str(out), str(photo), f"--out={tmp_path / 'found'}", "--threshold=0"]) == 0
    theirs = json.loads((tmp_path / "found" / "predictions.json").read_text())
    assert main(["predict", str(run), str(photo), f"--out={tmp_path / 'ours'}", "--device=cpu"]) == 0
    ours = json.loads((tmp_path / "ours" / "predictions.json").read_text())
    assert sorted(box["score"] for box in theirs) == pytest.approx(sorted(box["score"] for box in ours), abs=1e-4)
    assert theirs and (tmp_path / "found" / "val0.png").is_file()


@pytest.fixture(scope="module")
def raw_file(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of the heads' outputs."""
    out = tmp_path_factory.mktemp("raw") / "raw.onnx"
    assert main(["export", str(run), f"--out={out}", "--raw=true", "--runs=1"]) == 0
    return out


@pytest.mark.slow
def test_a_raw_file_has_head_outputs_and_opens_as_no_detector(run: Path, raw_file: Path) -> None:
    runtime = OnnxRuntime(raw_file)
    names = [output.name for output in runtime.session.get_outputs()]
    assert names == ["class_logits", "confidence_logits", "box_deltas", "anchors"]
    assert max(raw_differences(deploy(load(run)), runtime, [torch.rand(2, 3, 64, 64)]).values()) < 1e-3
    with pytest.raises(EyasError, match="without --raw"):
        open_detector(raw_file)


@pytest.mark.slow
def test_the_command_exports_any_size(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "any.onnx"
    assert main(["export", str(run), f"--out={out}", "--dynamic_size=true", "--runs=1"]) == 0
    assert "any size, any number of images, detections inside" in capsys.readouterr().out
    images = torch.rand(2, 3, 96, 75)
    (_, ours), (_, theirs) = open_detector(run), open_detector(out)
    for a, b in zip(ours.predict(images), theirs.predict(images), strict=True):
        torch.testing.assert_close(b["scores"], a["scores"], atol=1e-4, rtol=0)


def test_an_export_that_differs_is_refused(
    run: Path, raw_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of an earlier export goes too: it is not of this run."""

    def damaged(*_: Any, **__: Any) -> onnx.ModelProto:
        model = onnx.load(raw_file)
        (weights,) = [entry for entry in model.graph.initializer if entry.name.endswith("head.bias")]
        weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) + 1e3, weights.name))
        return model

    monkeypatch.setattr(OnnxExporter, "trace", staticmethod(damaged))
    out = tmp_path / "student.onnx"
    out.write_bytes(b"an earlier one")
    assert main(["export", str(run), f"--out={out}", "--raw=true"]) == 2
    message = capsys.readouterr().err
    assert "nothing was written" in message
    assert re.search(r"class_logits differs by .* \(tolerance 0\.001\)", message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_named(
    run: Path, package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["export", str(run)]) == 2
    message = capsys.readouterr().err
    assert package in message and 'pip install "eyas[onnx]"' in message


def test_bad_files_and_options_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(EyasError, match="no such file"):
        open_detector(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not onnx")
    with pytest.raises(EyasError, match=r"bad\.onnx: onnxruntime"):
        open_detector(tmp_path / "bad.onnx")
    with pytest.raises(EyasError, match="leave out --best"):
        open_detector(tmp_path / "bad.onnx", best=True)
    foreign = onnx.helper.make_model(
        onnx.helper.make_graph([onnx.helper.make_node("Identity", ["a"], ["b"])], "g",
            [onnx.helper.make_tensor_value_info("a", 1, [1])], [onnx.helper.make_tensor_value_info("b", 1, [1])]),
        opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10,
    )  # fmt: skip
    with pytest.raises(EyasError, match="not a file of eyas export"):
        ExportedDetector(OnnxRuntime(foreign.SerializeToString()))
    with pytest.raises(EyasError, match="at least 1"):
        export(run, calibration=0)


def test_exporting_a_run_without_data_asks_for_data(tmp_path: Path) -> None:
    spec = ModelSpec("shuffledet", CLASSES, options=MODEL)
    save_weights(spec.build().network, tmp_path / spec.weights)
    spec.save(tmp_path)
    with pytest.raises(EyasError, match="give --data"):
        export(tmp_path)
