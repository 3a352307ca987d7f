"""A data set without a validation split: training, evaluation and their records see the same two parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from eyas.__main__ import main
from eyas.data import SplitOptions, read_splits
from eyas.runs.results import run_source
from helpers.tiny import CLASSES, options, write_squares


@pytest.fixture
def one_split(tmp_path: Path) -> Path:
    root = write_squares(tmp_path / "data", train=8, val=1)
    (root / "annotations/instances_val.json").unlink()
    (root / "annotations/instances_train.json").rename(root / "annotations/instances_default.json")
    (root / "images/train").rename(root / "images/default")
    return root


def test_a_run_is_evaluated_on_what_it_held_out(
    one_split: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    more = options(run_epochs=1, dataset_val_fraction=0.4, dataset_val_seed=5)
    assert main(["train", f"--data={one_split}", f"--out={out}", *more]) == 0
    assert "3 of the 8 images of default are held out for evaluation" in capsys.readouterr().out
    dataset = yaml.safe_load((out / "config.yaml").read_text())["dataset"]
    assert (dataset["val_fraction"], dataset["val_seed"]) == (0.4, 5)
    train, val = read_splits(one_split, SplitOptions(val_fraction=0.4, val_seed=5))
    for split, expected in ((None, val), ("val", val), ("train", train)):
        found = run_source(out, CLASSES, split=split)
        assert [record.path for record in found.records] == [record.path for record in expected.records]
    assert len(run_source(out, CLASSES, split="default").records) == 8
    report = tmp_path / "scores.json"
    assert main(["evaluate", str(out), "--workers=0", "--device=cpu", f"--json_file={report}"]) == 0
    assert "3 of the 8 images of default are held out" in capsys.readouterr().out
    assert json.loads(report.read_text())["split"] == "val"
    assert main(["inspect", str(out), "--workers=0", "--device=cpu"]) == 0
    assert "3 of the 8 images of default are held out" in capsys.readouterr().out
    page = tmp_path / "report.html"
    assert main(["report", str(out), "--workers=0", "--device=cpu", "--images=1", f"--out={page}"]) == 0
    assert "3 of the 8 images of default are held out" in page.read_text()


def test_without_a_fraction_a_split_is_asked_for(
    one_split: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = options(run_epochs=1, dataset_val_fraction=0)
    assert main(["train", f"--data={one_split}", f"--out={tmp_path / 'run'}", *more]) == 2
    said = capsys.readouterr().err
    assert "no split 'val' (coco format); the splits there are: default" in said
    assert "--dataset.val_split" in said and "--dataset.val_fraction 0.2" in said
