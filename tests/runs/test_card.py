"""The model card of a run folder says what its files say, and leaves out what they do not."""

from __future__ import annotations

import json
from pathlib import Path

from eyas.data.options import Resize
from eyas.runs.card import CARD, model_card, write_card
from eyas.runs.checkpoint import ModelSpec

CONFIG = """
data: cells
teacher: runs/teacher
teacher_scale: 2.0
method: {class_path: eyas.FGFI, init_args: {psi: 0.5, weight: auto}}
dataset: {train_split: train, val_split: valid}
run: {epochs: 2, seed: 3}
"""


def line(kind: str, **values: object) -> str:
    return json.dumps({"kind": kind, "time": 0, **values}) + "\n"


def test_everything_that_a_run_records(tmp_path: Path) -> None:
    folder = tmp_path / "student"
    folder.mkdir()
    ModelSpec("retinanet", ("nut", "a|b"), "resnet18", resize=Resize(height=240, width=320)).save(folder)
    (folder / "config.yaml").write_text(CONFIG)
    scores = [
        line("val", epoch=epoch, step=epoch, summary={"map": value, "map_50": 0.5}, per_class={})
        for epoch, value in ((1, 0.4), (2, 0.3))
    ]
    (folder / "log.jsonl").write_text(
        "".join([line("teacher", name="t", summary={"map": 0.6, "map_50": None}), *scores])
    )
    write_card(folder)
    rows = (folder / CARD).read_text().splitlines()
    assert rows[0] == "# student"
    for row in (
        "| detector | retinanet, resnet18 |",
        "| classes | 2, in label order: nut, a\\|b |",
        "| input | 240 x 320 (height x width) |",
        "| data | cells, trained on train, scored on valid |",
        "| training | 2 epochs, seed 3 |",
        "| teacher | runs/teacher, images 2 times as large |",
        "| method | eyas.FGFI (psi 0.5, weight auto) |",
        "| last weights, epoch 2 | mAP 0.300, mAP50 0.500 |",
        "| best weights, epoch 1 | mAP 0.400, mAP50 0.500 |",
        "| teacher's score | mAP 0.600, mAP50 - |",
    ):
        assert row in rows
    assert sum(text.startswith("| licence | Not stated") for text in rows) == 1


def test_options_that_are_null(tmp_path: Path) -> None:
    ModelSpec("fcos", ("nut",)).save(tmp_path)
    (tmp_path / "config.yaml").write_text("{data: cells, teacher: t, teacher_scale: null, method: null}")
    assert "| teacher | t |" in model_card(tmp_path, {})


def test_a_folder_with_a_description_alone(tmp_path: Path) -> None:
    ModelSpec("fcos", ("nut",)).save(tmp_path)
    card = model_card(tmp_path, {"file": "student.onnx"})
    assert "| input | the image's own size |" in card and "| file | student.onnx |" in card
    assert "| data |" not in card and "| teacher" not in card
