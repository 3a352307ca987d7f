"""An export format is an entry in EXPORTERS and its suffix in RUNTIMES; the pipeline knows no more of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from eyas.data import read
from eyas.detectors.deployed import DETECTIONS, Deployed
from eyas.export import export_detector, open_detector
from eyas.export.formats import EXPORTERS, RUNTIMES, Runtime
from eyas.runs.opening import load
from eyas.types import EyasError, Size
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
    """A format whose files hold metadata only."""

    suffix, runtime = ".memory", "memory"

    def require(self) -> None:
        pass

    def trace(self, deployed: Deployed, size: Size, *, raw: bool, dynamic_size: bool) -> Deployed:
        self.deployed = deployed
        return deployed

    def serialise(self, model: Deployed, metadata: Mapping[str, Any], *, raw: bool) -> tuple[bytes, bytes]:
        content = json.dumps({"metadata": metadata, "scale": 1.0}).encode()
        return content, content

    def open(self, model: Path | bytes, threads: int | None = None) -> Runtime:
        return MemoryRuntime(model if isinstance(model, bytes) else model.read_bytes(), self.deployed)

    def quantise(self, model: bytes, images: Iterable[Tensor]) -> bytes:
        assert all(batch.shape[:2] == (1, 3) for batch in images)
        return json.dumps({**json.loads(model), "scale": 0.5}).encode()


def test_a_new_format_is_compared_quantised_and_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = MemoryExporter()
    monkeypatch.setitem(EXPORTERS, "memory", exporter)  # type: ignore[arg-type]
    monkeypatch.setitem(RUNTIMES, exporter.suffix, exporter.open)  # type: ignore[arg-type]
    data = write_squares(tmp_path / "data", train=4, val=2)
    detector, source = load(one_epoch(tmp_path / "run", data)), read(data, "val")
    out = tmp_path / "small.memory"
    result = export_detector(
        detector, out, source, format="memory", training=read(data, "train"), calibration=2, runs=1
    )
    assert list(result["score"]) == list(result["latency_ms"]) == ["PyTorch", "memory", "INT8"]
    assert set(result["difference"].values()) == {0.0}
    _, opened = open_detector(out)
    _, halved = open_detector(tmp_path / "small.int8.memory")
    assert opened.classes == CLASSES
    images = torch.rand(1, 3, *result["size"])
    (ours,), (theirs,), (half,) = (one.predict(images) for one in (detector, opened, halved))
    assert len(ours["scores"]) > 0 and torch.equal(ours["scores"], theirs["scores"])
    assert torch.equal(half["scores"], ours["scores"] * 0.5)
    with pytest.raises(EyasError, match="there is no export format 'stone'; choose from onnx, memory"):
        export_detector(detector, out, source, format="stone")
