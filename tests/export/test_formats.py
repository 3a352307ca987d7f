"""A runtime is an entry in EXPORTERS and its suffix in RUNTIMES; the pipeline knows no more of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from eyas.args import DataArgs
from eyas.data import read, write_coco
from eyas.detectors.deployed import DETECTIONS, Deployed
from eyas.export import export_detector, open_detector
from eyas.export.formats import EXPORTERS, RUNTIMES
from eyas.export.pipeline import summary
from eyas.export.protocols import Files, Runtime
from eyas.export.trial import ExportImages, Trial
from eyas.runs.opening import load
from eyas.types import EyasError, Level, Prediction, Size
from helpers.tiny import CLASSES, one_epoch, write_squares


class MemoryRuntime:
    """Runs the deployed module itself; its scores may be scaled."""

    def __init__(self, content: bytes, deployed: Deployed) -> None:
        values = json.loads(content)
        self.metadata: Mapping[str, Any] = values["metadata"]
        self.deployed, self.scale = deployed, values["scale"]

    def run(self, images: Tensor, names: Sequence[str]) -> list[Tensor]:
        with torch.no_grad():
            outputs = dict(zip((*self.deployed.raw_names, *DETECTIONS), self.deployed(images), strict=True))
        return [outputs[name] * self.scale if name == "scores" else outputs[name] for name in names]


class MemoryExporter:
    """A runtime whose files hold metadata only, in two precisions; the second halves its scores."""

    runtime, suffixes = "memory", (".memory", ".extra")

    def require(self) -> None:
        pass

    def precisions(self) -> tuple[str, ...]:
        return ("float32", "float4")

    def advice(self, precision: str) -> str:
        return f"ask for {precision}"

    def trace(self, deployed: Deployed, size: Size, *, raw: bool, dynamic_size: bool) -> Deployed:
        self.deployed = deployed
        return deployed

    def build(self, model: Deployed, metadata: Mapping[str, Any], precision: str, *, heads: bool) -> Files:
        scale = 1.0 if precision == "float32" else 0.5
        return {".memory": json.dumps({"metadata": metadata, "scale": scale}).encode(), ".extra": b"more"}

    def open(self, model: Path | Files, threads: int | None = None) -> Runtime:
        return MemoryRuntime(model.read_bytes() if isinstance(model, Path) else model[".memory"], self.deployed)

    def quantise(self, files: Files, images: Iterable[Tensor]) -> Files:
        for _ in range(2):
            assert [batch.shape[:2] for batch in images] == [(1, 3)] * 2
        return {**files, ".memory": json.dumps({**json.loads(files[".memory"]), "scale": 0.25}).encode()}


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = MemoryExporter()
    monkeypatch.setitem(EXPORTERS, "memory", exporter)  # type: ignore[arg-type]
    monkeypatch.setitem(RUNTIMES, ".memory", exporter.open)  # type: ignore[arg-type]


@pytest.mark.usefixtures("memory")
def test_a_new_runtime_is_compared_quantised_and_opened(tmp_path: Path) -> None:
    data = write_squares(tmp_path / "data", train=4, val=2)
    detector, source = load(one_epoch(tmp_path / "run", data)), read(data, "val")
    out = tmp_path / "small.memory"
    result = export_detector(
        detector, out, source, runtime="memory", training=read(data, "train"), calibration=2, runs=1
    )
    assert list(result["score"]) == list(result["latency_ms"]) == ["PyTorch", "memory float32", "memory float4", "INT8"]
    assert result["shipped"] == "memory float32"
    assert set(result["difference"].values()) == {0.0}
    names = {"small.memory", "small.extra", "small.int8.memory", "small.int8.extra"}
    assert {path.name for path in tmp_path.glob("small*")} == set(result["bytes"]) == names
    _, opened = open_detector(out)
    _, quarter = open_detector(tmp_path / "small.int8.memory")
    assert opened.classes == CLASSES
    images = torch.rand(1, 3, *result["size"])
    (ours,), (theirs,), (less,) = (one.predict(images) for one in (detector, opened, quarter))
    assert len(ours["scores"]) > 0 and torch.equal(ours["scores"], theirs["scores"])
    assert torch.equal(less["scores"], ours["scores"] * 0.25)
    result = export_detector(detector, out, source, runtime="memory", precision="float4", runs=1)
    assert result["shipped"] == "memory float4"
    assert summary(result).endswith("small.memory 0.0 MB, run as memory float4; ask for float4")
    assert torch.equal(open_detector(out)[1].predict(images)[0]["scores"], ours["scores"] * 0.5)
    assert {path.name for path in tmp_path.glob("small*")} == {"small.memory", "small.extra"}, "of this export alone"
    refused: dict[str, Any] = {"runtime": "stone", "precision": "float8", "out": tmp_path / "small.onnx"}
    for option, value in refused.items():
        given: dict[str, Any] = {"out": out, "runtime": "memory", option: value}
        with pytest.raises(
            EyasError, match=r"no runtime 'stone'; choose .*memory|in float32 and float4|ends in .memory"
        ):
            export_detector(detector, source=source, **given)


def test_images_that_are_larger_than_the_input_do_not_calibrate(tmp_path: Path) -> None:
    source = read(write_squares(tmp_path, train=3, val=1), "train")
    small = replace(source.records[1], height=32)
    images = ExportImages(replace(source, records=[source.records[0], small, source.records[2]]), DataArgs(), (40, 64))
    assert images.fitting().source.records == [small]
    assert len(replace(images, size=(64, 64)).fitting().source.records) == 3
    assert replace(images, size=None).fitting() == replace(images, size=None)
    with pytest.raises(EyasError, match="no image of train fits in 8 x 8"):
        replace(images, size=(8, 8)).fitting()


class Seen(nn.Module):
    """Detects nothing, and keeps the sizes of what it is given."""

    classes = CLASSES
    levels: Mapping[str, Level] = {}

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, int]] = []

    @property
    def network(self) -> nn.Module:
        return self

    def predict(self, images: Tensor) -> list[Prediction]:
        self.sizes.append((images.shape[-2], images.shape[-1]))
        nothing = Prediction(boxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0).long())
        return [nothing] * len(images)


def test_pytorch_is_scored_on_what_the_file_is_given(tmp_path: Path) -> None:
    """Where images differ in size, both see them padded to the input, and the score without padding stands beside."""
    root = write_coco_of_sizes(tmp_path, [(40, 64), (64, 48)])
    images, detector = ExportImages(read(root, "val"), DataArgs(batch_size=1, workers=0), (64, 64)), Seen()
    images.score("PyTorch", detector, "coco")  # type: ignore[arg-type]
    assert detector.sizes == [(64, 64), (64, 64)] == [tuple(image.shape[-2:]) for image in images]
    trial = Trial(detector, detector, None, images, "coco", raw=False)  # type: ignore[arg-type]
    assert trial.score_without_padding() is not None and detector.sizes[2:] == [(40, 64), (64, 48)]
    one = replace(trial, images=images.first(1))
    assert one.score_without_padding() is not None
    assert replace(one, images=replace(one.images, size=(40, 64))).score_without_padding() is None


def write_coco_of_sizes(root: Path, sizes: Sequence[tuple[int, int]]) -> Path:
    boxes, labels = torch.tensor([[4.0, 5.0, 30.0, 30.0]]), torch.zeros(1, dtype=torch.int64)
    items = [(f"{n}", np.zeros((*size, 3), np.uint8), boxes, labels) for n, size in enumerate(sizes)]
    write_coco(root, "val", CLASSES, items)
    return root
