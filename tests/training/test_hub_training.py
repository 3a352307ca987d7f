"""Trainings on a Hugging Face data set are those on the same images in a folder: steps, cache, scores, processes."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
from faults.equality import cached

from eyas.__main__ import main
from eyas.data import SplitOptions, read_splits
from helpers.tiny import CLASSES, one_epoch, options, train_lines, write_squares

FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "objects": {
            "bbox": [[datasets.Value("float32")]],
            "category": [datasets.ClassLabel(names=list(CLASSES))],
        },
    }
)


def saved(folder: Path, root: Path) -> Path:
    """The images and boxes of a folder as `datasets` saves them."""
    splits = {}
    for source in read_splits(folder, SplitOptions()):
        objects = [
            {"bbox": [[x1, y1, x2, y2] for x1, y1, x2, y2 in r.boxes.tolist()], "category": r.labels.tolist()}
            for r in source.records
        ]
        rows = {"image": [{"bytes": r.path.read_bytes(), "path": None} for r in source.records], "objects": objects}
        splits["validation" if source.split == "val" else "train"] = datasets.Dataset.from_dict(rows, features=FEATURES)
    datasets.DatasetDict(splits).save_to_disk(root)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares"))


@pytest.fixture(scope="module")
def arrow(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    datasets.disable_progress_bars()
    return saved(folder, tmp_path_factory.mktemp("arrow") / "set")


def weights(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


def test_a_training_and_its_evaluation_are_those_of_a_folder(folder, arrow, tmp_path, capsys):
    """With a worker, which opens the images in its own process."""
    one_epoch(tmp_path / "folder", folder)
    given = ["train", f"--data={arrow}", f"--out={tmp_path / 'arrow'}", "--dataset.boxes=xyxy"]
    assert main([*given, *options(run_epochs=1, dataset_workers=1)]) == 0
    assert weights(tmp_path / "arrow") == weights(tmp_path / "folder")
    assert train_lines(tmp_path / "arrow") == train_lines(tmp_path / "folder")
    scores = []
    for name in ("folder", "arrow"):
        out = tmp_path / f"{name}.json"
        assert main(["evaluate", str(tmp_path / name), "--workers=0", "--device=cpu", f"--json_file={out}"]) == 0
        scores.append(json.loads(out.read_text())["model"]["summary"])
    assert scores[0] == scores[1]
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "folder"), "--workers=0", "--device=cpu", f"--data={arrow}"]) == 2
    assert "give xywh or xyxy by --dataset.boxes (`eyas data`, `eyas evaluate`: --boxes" in capsys.readouterr().err
    given = ["--boxes=xyxy", f"--data={arrow}", f"--predictions={tmp_path / 'found.json'}"]
    assert main(["evaluate", str(tmp_path / "folder"), "--workers=0", "--device=cpu", *given]) == 0


def test_a_cache_of_a_folder_serves_the_same_images_elsewhere(folder, arrow, tmp_path):
    teacher, cache = one_epoch(tmp_path / "teacher", folder), tmp_path / "cache"
    runs = {}
    for name, data in (("folder", [f"--data={folder}"]), ("arrow", [f"--data={arrow}", "--dataset.boxes=xyxy"])):
        runs[name] = tmp_path / name
        given = ["distill", *data, f"--teacher={teacher}", "--any_teacher=true", f"--cache={cache}"]
        assert main([*given, f"--out={runs[name]}", "--method=eyas.FGFI", *options(run_epochs=1)]) == 0
        (records,) = cached(cache).values()
        assert len(records) == 16, "eight images, as they are and flipped"
    first, second = ((run / "student.safetensors").read_bytes() for run in runs.values())
    assert first == second


@pytest.mark.slow
def test_two_processes_share_it_as_a_folder(folder, arrow, tmp_path):
    for name, data in (("folder", [f"--data={folder}"]), ("arrow", [f"--data={arrow}", "--dataset.boxes=xyxy"])):
        own = options(run_epochs=2, dataset_batch_size=2, dataset_workers=1)
        assert main(["train", *data, f"--out={tmp_path / name}", *own, "--devices=2"]) == 0
    assert weights(tmp_path / "arrow") == weights(tmp_path / "folder")
