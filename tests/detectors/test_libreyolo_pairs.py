"""YOLO teaches, and is taught, across libraries on the command line; every student is exported and checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

import eyas
from eyas.__main__ import main
from eyas.detectors import TransformersDetector
from eyas.detectors.libreyolo.files import NATIVE_FILE
from eyas.runs.checkpoint import NATIVE
from eyas.runs.opening import load
from helpers.tiny import CLASSES, train_lines, write_squares
from helpers.tiny_transformers import CONFIGS

pytestmark = pytest.mark.slow
FEED = ["--dataset.batch_size=2", "--dataset.workers=0", "--dataset.resize=64x64", "--run.device=cpu"]
FEED += ["--run.epochs=1", "--run.log_every=1", "--optim.lr=1e-4"]
YOLO = ["--model=yolov9", "--options={size: t}"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares"), train=4, val=2)


@pytest.fixture(scope="module")
def yolov9_s(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of libreyolo."""
    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(0)
    eyas.build("yolov9", CLASSES, options={"size": "s"}).export_native(folder, {"longer": 64})  # type: ignore[attr-defined]
    return folder / NATIVE_FILE


@pytest.fixture(scope="module")
def dfine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of save_pretrained."""
    torch.manual_seed(0)
    config = CONFIGS["DFineForObjectDetection"]()
    config.id2label = dict(enumerate(CLASSES))  # type: ignore[attr-defined]
    folder = tmp_path_factory.mktemp("dfine")
    TransformersDetector(transformers.DFineForObjectDetection(config)).export_native(
        folder, {"height": 64, "width": 64}
    )
    return folder


def distilled(out: Path, data: Path, teacher: Path, student: list[str], steps: int = 2) -> Path:
    """A run whose student imitated the teacher in every step, exported with the default check."""
    arguments = [f"--data={data}", f"--teacher={teacher}", f"--out={out}", "--any_teacher=true", *student, *FEED]
    assert main(["distill", *arguments, "--method=fgfi", "--method.weight=1"]) == 0
    lines = train_lines(out)
    assert len(lines) == steps and all(line["losses"]["fgfi"] > 0 for line in lines)
    assert main(["export", str(out), f"--out={out / 'student.onnx'}", f"--data={data}", "--dynamic_size=true"]) == 0
    return out


def scored(name: Path, data: Path, tmp_path: Path) -> float:
    """The mAP by `eyas evaluate`."""
    file = tmp_path / f"{name.name}.json"
    assert main(["evaluate", str(name), f"--data={data}", "--workers=0", "--device=cpu", f"--json_file={file}"]) == 0
    return float(json.loads(file.read_text())["model"]["summary"]["map"])


def test_yolov9_s_teaches_a_torchvision_retinanet(data: Path, yolov9_s: Path, tmp_path: Path) -> None:
    student = ["--model=retinanet", "--backbone=mobilenet_v3_small", "--options={fpn_channels: 16, head_convs: 1}"]
    distilled(tmp_path / "run", data, yolov9_s, student)


def test_yolov9_s_teaches_yolov9_t(data: Path, yolov9_s: Path, tmp_path: Path) -> None:
    """The run and its file score the same, and its checkpoint is the student."""
    run = distilled(tmp_path / "run", data, yolov9_s, YOLO)
    assert scored(run, data, tmp_path) == pytest.approx(scored(run / "student.onnx", data, tmp_path), abs=1e-3)
    images = torch.rand(1, 3, 64, 64)
    native, own = load(run / NATIVE / NATIVE_FILE), load(run)
    assert native.predict(images)[0]["scores"].equal(own.predict(images)[0]["scores"])


def test_dfine_teaches_yolox_n(data: Path, dfine: Path, tmp_path: Path) -> None:
    distilled(tmp_path / "run", data, dfine, ["--model=yolox", "--options={size: n}"])


def test_yolov9_distils_outputs(data: Path, yolov9_s: Path, tmp_path: Path) -> None:
    arguments = [f"--data={data}", f"--teacher={yolov9_s}", f"--out={tmp_path / 'run'}", "--any_teacher=true", *YOLO]
    assert main(["distill", *arguments, *FEED, "--method=vanilla", "--method.weight=1"]) == 0
    assert all(line["losses"]["vanilla"] > 0 for line in train_lines(tmp_path / "run"))
