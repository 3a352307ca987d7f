"""OpenVINO's files: in float32 they do what PyTorch does, and they say which other precision they were scored in."""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import openvino
import pytest
import torch

from eyas.__main__ import main
from eyas.commands.export import RuntimeName, RuntimePrecision
from eyas.data import read
from eyas.detectors import deploy
from eyas.export import export_detector, open_detector
from eyas.export.check import raw_differences
from eyas.export.formats import EXPORTERS
from eyas.export.onnx_format import to_onnx
from eyas.export.openvino_format import (
    HINTS,
    LAYERS,
    OpenVinoExporter,
    _without,
    after_the_layers,
    default_precision,
)
from eyas.export.protocols import Files
from eyas.tools.signal_stack import _sigaltstack, _Stack
from eyas.types import EyasError
from helpers.exportable import cells_detector
from helpers.tiny import one_epoch, write_squares

SIZE = (64, 64)
EXPORTER = OpenVinoExporter()


@pytest.fixture(scope="module")
def graph() -> Any:
    return to_onnx(deploy(cells_detector()), SIZE, raw=False, dynamic_size=False)


def read_model(files: Files) -> Any:
    return openvino.Core().read_model(model=files[".xml"], weights=files[".bin"])


def layers_and_inputs(model: Any) -> list[tuple[str, set[str]]]:
    """Type of each convolution and matrix product, and the types of the operations before it."""
    found = []
    for operation in model.get_ordered_ops():
        if operation.get_type_name() in LAYERS:
            before = {value.get_source_output().get_node().get_type_name() for value in operation.inputs()}
            found.append((operation.get_type_name(), before))
    return found


@pytest.mark.parametrize("batch", [1, 3])
def test_float32_equals_pytorch_at_any_batch_size(graph: Any, batch: int) -> None:
    runtime = EXPORTER.open(EXPORTER.build(graph, {}, "float32", heads=True))
    differences = raw_differences(deploy(cells_detector()), runtime, [torch.rand(batch, 3, *SIZE)])
    assert differences.keys() == {"logits", "sides"} and max(differences.values()) < 1e-5


def test_a_file_runs_in_the_precision_that_it_names(graph: Any) -> None:
    """Where OpenVINO's own choice is another one than float32, that is seen in the numbers."""
    own = default_precision()
    assert EXPORTER.precisions() == tuple(dict.fromkeys(("float32", own)))
    found = {}
    for precision in EXPORTER.precisions():
        files = EXPORTER.build(graph, {"eyas.model": "cells"}, precision, heads=True)
        runtime = EXPORTER.open(files, threads=1)
        assert runtime.metadata == {"eyas.model": "cells", "eyas.precision": precision}
        assert runtime.compiled.get_property("INFERENCE_NUM_THREADS") == 1
        assert runtime.compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == HINTS[precision]
        found[precision] = raw_differences(deploy(cells_detector()), runtime, [torch.rand(2, 3, *SIZE)])["logits"]
    assert found["float32"] < 1e-5
    assert own == "float32" or found[own] > 1e-4


def test_the_shipped_file_has_detections_alone(graph: Any) -> None:
    model = read_model(EXPORTER.build(graph, {}, "float32", heads=False))
    assert [output.get_any_name() for output in model.outputs] == ["boxes", "scores", "labels"]


def test_layers_are_quantised_and_decoding_is_not(graph: Any) -> None:
    files = EXPORTER.build(graph, {"eyas.model": "cells"}, "float32", heads=False)
    model = read_model(files)
    kept = after_the_layers(model)
    types = {operation.get_friendly_name(): operation.get_type_name() for operation in model.get_ordered_ops()}
    assert {"NonMaxSuppression", "Sigmoid", "TopK"} <= {types[name] for name in kept}
    assert LAYERS.isdisjoint(types[name] for name in kept) and len(kept) < len(types)
    images = [torch.rand(1, 3, *SIZE) for _ in range(3)]
    quantised = EXPORTER.quantise(files, images)
    layers = layers_and_inputs(read_model(quantised))
    assert len(layers) == 2 and all("FakeQuantize" in before for _, before in layers)
    assert len(quantised[".bin"]) < len(files[".bin"])
    assert handles_signals()
    runtime = EXPORTER.open(quantised)
    assert runtime.metadata == {"eyas.model": "cells", "eyas.precision": "float32"}
    ours, theirs = (one.run(images[0], ["scores"])[0] for one in (EXPORTER.open(files), runtime))
    assert 0 < float((ours - theirs).abs().max()) < 0.1


def test_signals_are_handled_when_runtimes_have_ended(graph: Any) -> None:
    """In the order in which they were opened: the signal stack of the second one's plugin outlives the first one's."""
    files = EXPORTER.build(graph, {}, "float32", heads=True)
    first, second = EXPORTER.open(files), EXPORTER.open(files)
    del first
    gc.collect()
    del second
    gc.collect()
    assert handles_signals()


def mapped(address: int) -> bool:
    """Whether this process has memory there."""
    ranges = (line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines())
    return any(int(start, 16) <= address < int(end, 16) for start, end in ranges)


def handles_signals() -> bool:
    """Whether a handler of Python runs; without its stack, the process would end by a segmentation fault."""
    stack = _Stack()
    _sigaltstack(None, ctypes.byref(stack))
    if stack.start is not None and not mapped(stack.start):
        return False
    received: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: received.append(number))
    try:
        signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    return received == [signal.SIGUSR1]


def test_export_writes_both_files_and_opens_them(tmp_path: Path) -> None:
    data, out = write_squares(tmp_path / "data", train=3, val=2), tmp_path / "cells.xml"
    detector = cells_detector().eval()
    result = export_detector(detector, out, read(data, "val"), runtime="openvino", runs=1)
    assert {path.name for path in tmp_path.glob("cells*")} == {"cells.xml", "cells.bin"} == set(result["bytes"])
    assert next(iter(result["score"])) == "PyTorch" and result["shipped"].startswith("OpenVINO")
    _, opened = open_detector(out)
    images = torch.rand(3, 3, *SIZE)
    with torch.no_grad():
        expected = detector.predict(images)
    for ours, theirs in zip(expected, opened.predict(images), strict=True):
        assert len(ours["scores"]) > 1
        torch.testing.assert_close(theirs["scores"], ours["scores"], atol=1e-4, rtol=0)
        torch.testing.assert_close(theirs["boxes"], ours["boxes"], atol=1e-2, rtol=0)
        assert torch.equal(theirs["labels"], ours["labels"])
    (tmp_path / "cells.bin").unlink()
    with pytest.raises(EyasError, match=r"cells\.xml: OpenVINO: ."):
        open_detector(out)


def test_bad_files_are_refused(tmp_path: Path, graph: Any) -> None:
    with pytest.raises(EyasError, match=r"none\.xml: no such file; eyas export RUN --runtime openvino"):
        open_detector(tmp_path / "none.xml")
    (tmp_path / "voc.xml").write_text("<annotation><object/></annotation>")
    with pytest.raises(EyasError, match=r"voc\.xml: OpenVINO: ."):
        open_detector(tmp_path / "voc.xml")
    files = EXPORTER.build(graph, {}, "float32", heads=True)
    model = read_model(files)
    foreign = {"[1, 2]": "OpenVINO", '{"eyas.precision": "float3"}': "OpenVINO", '{"eyas.classes": 3}': "not a file of"}
    for text, message in foreign.items():
        model.set_rt_info(text, ["eyas", "metadata"])
        openvino.save_model(model, tmp_path / "foreign.xml")
        with pytest.raises(EyasError, match=rf"foreign\.xml: {message}"):
            open_detector(tmp_path / "foreign.xml")


@pytest.mark.parametrize(("package", "extra"), [("openvino", "openvino"), ("nncf", "nncf"), ("onnx", "onnx")])
def test_a_missing_package_is_named(package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(EyasError, match=rf"{package}.*pip install \"eyas\[{extra}\]\""):
        EXPORTER.require()
        EXPORTER.quantise({".xml": b"", ".bin": b""}, [])


def test_a_package_is_hidden_only_in_the_context() -> None:
    for name in ("colorsys", "json"):
        with _without(name), pytest.raises(ImportError):
            importlib.import_module(name)
        assert importlib.import_module(name).__name__ == name
    assert sys.modules["json"] is json


def test_the_options_are_those_of_the_exporters() -> None:
    assert set(get_args(RuntimeName)) == EXPORTERS.keys()
    assert set(get_args(RuntimePrecision)) == HINTS.keys()


@pytest.mark.slow
def test_the_command_exports_quantises_and_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = one_epoch(tmp_path / "run", write_squares(tmp_path / "data", train=8, val=3))
    out, again = tmp_path / "out" / "small.xml", tmp_path / "again.json"
    common = [f"--out={out}", "--runtime=openvino", "--runs=2", "--calibration=3"]
    assert main(["export", str(run), "--int8=true", f"--json_file={again}", *common]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("PyTorch", "OpenVINO", "INT8", "class_logits", "small.int8.bin"))
    names: Sequence[str] = ("small.bin", "small.int8.bin", "small.int8.xml", "small.md", "small.xml")
    assert sorted(path.name for path in out.parent.iterdir()) == sorted(names)
    score = json.loads(again.read_text())["score"]
    arguments = [f"--data={tmp_path / 'data'}", "--workers=0", "--device=cpu", f"--json_file={again}"]
    for file, row in (
        (out, next(name for name in score if "OpenVINO" in name)),
        (out.parent / "small.int8.xml", "INT8"),
    ):
        assert main(["evaluate", str(file), *arguments]) == 0
        assert json.loads(again.read_text())["model"]["summary"]["map"] == pytest.approx(score[row], abs=1e-6)
    photo = next((tmp_path / "data").rglob("*val0*.png"))
    assert main(["predict", str(out), str(photo), f"--out={tmp_path / 'found'}", "--threshold=0"]) == 0
    boxes = json.loads((tmp_path / "found" / "predictions.json").read_text())
    assert boxes and np.isfinite([box["score"] for box in boxes]).all()
