"""YOLOv9 and YOLOX as ONNX files of open size: head outputs and detections are PyTorch's at every size and number."""

from __future__ import annotations

import pytest
import torch

from eyas.detectors import deploy
from eyas.detectors.deployed import as_predictions
from eyas.export.check import raw_differences
from eyas.export.onnx_format import OnnxRuntime, to_onnx
from helpers.tiny_yolo import MODELS, tiny_yolo

RAW = {
    "yolov9": ("class_logits", "distance_logits", "cells"),
    "yolox": ("class_logits", "object_logits", "box_deltas", "cells"),
}
SIZES = [(64, 64, 1), (50, 97, 3), (128, 96, 2)]
"""Height, width and number of images."""


@pytest.mark.parametrize("model", MODELS)
def test_the_head_outputs_have_a_row_for_each_cell(model: str) -> None:
    deployed = deploy(tiny_yolo(model))
    assert deployed.raw_names == RAW[model]
    outputs, rows = deployed.raw(torch.rand(2, 3, 50, 97))
    count = 8 * 16 + 4 * 8 + 2 * 4  # 64 x 128 after padding
    assert list(rows) == [count] and {output.shape[1] for output in outputs[:-1]} == {count}
    assert outputs[-1][0].tolist() == [0, 0, 8] and outputs[-1][-1].tolist() == [3, 1, 32]


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_a_file_of_open_size_is_the_detector(model: str) -> None:
    detector = tiny_yolo(model, detections=20).eval()
    deployed = deploy(detector)
    runtime = OnnxRuntime(to_onnx(deployed, (64, 64), raw=False, dynamic_size=True).SerializeToString())
    for height, width, count in SIZES:
        images = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(2))
        assert max(raw_differences(deployed, runtime, [images]).values()) < 1e-3
        boxes, scores, labels = runtime.run(images, ["boxes", "scores", "labels"])
        with torch.no_grad():
            ours = detector.predict(images)
        theirs = as_predictions((boxes, scores, labels))  # type: ignore[arg-type]
        for mine, other in zip(ours, theirs, strict=True):
            assert len(mine["scores"]) > 3
            torch.testing.assert_close(other["scores"], mine["scores"], rtol=0, atol=1e-4)
            assert other["boxes"].amin() >= 0 and other["boxes"][:, 3].amax() <= height
