"""The demo end to end at a small size, and the teacher that is bundled with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import eyas.commands.demo
import eyas.commands.digits
import eyas.comparison.arms
from eyas.commands.compare import resolve_command
from eyas.commands.demo import CONFIG, TEACHER, demo
from eyas.commands.digits import DIGITS, caption, digits_plan, remove, table, train_digits_teacher
from eyas.comparison.statistics import compare_arms
from eyas.data import DetectionDataset, eval_transform, read
from eyas.data.digits import CLASSES, DigitsSpec, compose
from eyas.data.formats.coco_write import write_coco
from eyas.evaluation import evaluate
from eyas.evaluation.cost import ModelCost
from eyas.ops.pixels import as_float
from eyas.runs.config import flat_options
from eyas.runs.opening import load
from eyas.runs.recipes import shipped_recipes
from eyas.runs.results import RunResult, read_run
from eyas.types import EyasError

TINY = {
    "model": "shuffledet",
    "options": {"width": 0.25, "stem_channels": 8, "anchor_shapes": [[17, 24], [43, 50]]},
    "dataset": {"resize": {"height": 96, "width": 96}, "augment": {"flip": 0.0}, "batch_size": 4, "workers": 0},
    "optim": {"optimizer": "adamw", "lr": 0.001},
    "run": {"epochs": 1},
}
METHOD = {"method": {"class_path": "eyas.FGFI", "init_args": {"weight": 0.01}}, "any_teacher": True}


@pytest.fixture
def tiny_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {"digits/teacher": TINY, "digits/student": TINY, "digits/fgfi": METHOD}
    paths = {name: tmp_path / f"{name.replace('/', '_')}.yaml" for name in contents}
    for name, path in paths.items():
        path.write_text(yaml.safe_dump(contents[name]))
    spec = DigitsSpec(size=96, train_images=8, val_images=6, objects=(1, 3), digit_size=(18, 40))
    monkeypatch.setattr(eyas.commands.digits, "DIGITS", spec)
    monkeypatch.setattr(eyas.commands.digits, "shipped_recipes", lambda: paths)
    monkeypatch.setattr(eyas.comparison.arms, "shipped_recipes", lambda: paths)


@pytest.mark.usefixtures("tiny_recipes")
def test_the_demo_leaves_a_comparison_pictures_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    teacher = train_digits_teacher(tmp_path / "made", eyas.commands.digits.compose(tmp_path / "made" / "data"))
    provenance = json.loads((teacher / "provenance.json").read_text())
    assert provenance["recipe"] == "digits/teacher"
    assert provenance["seed"] == 0
    monkeypatch.setattr(eyas.commands.demo, "TEACHER", teacher)

    demo(out=out, seeds=[3])

    result = json.loads((out / "comparison.json").read_text())
    assert result["data_hash"] == provenance["data_hash"]
    assert list(result["arms"]) == ["baseline", "distilled"]
    assert result["missing"] == []
    for name, arm in result["arms"].items():
        assert arm["seeds"] == [3]
        assert arm["metrics"]["map"]["values"] == [read_run(out / f"{name}-3").summary["map"]]
    assert list(result["cost"]) == ["teacher", "baseline", "distilled"]
    assert all(cost["latency_ms"] > 0 and cost["image_size"] == [96, 96] for cost in result["cost"].values())
    assert result["seconds"] > 0
    for picture in ("comparison", "curves", "near_masks", "detections"):
        with Image.open(out / f"{picture}.png") as image:
            assert len(image.convert("RGB").getcolors(1 << 24) or ()) > 10, f"{picture}.png is blank"
    printed = capsys.readouterr().out
    assert "Gain per seed: " in printed
    assert [line.split()[0] for line in printed.splitlines() if " ms" in line] == ["teacher", "baseline", "distilled"]
    runs = sorted(path.name for path in out.glob("*-*") if path.is_dir())
    assert runs == ["baseline-3", "distilled-3"]

    before = (out / "baseline-3" / "model.safetensors").read_bytes()
    (out / "baseline-3").rename(out / "plain-3")
    demo(out=out, seeds=[3])
    assert (out / "plain-3" / "model.safetensors").read_bytes() == before, "a finished run is not trained again"
    assert not (out / "baseline-3").exists(), "nor is one of an earlier version"
    assert "0 trainings, 2 finished before" in capsys.readouterr().out

    with pytest.raises(EyasError, match="compares under the teacher"):
        demo(out=out, seeds=[3], train_teacher=True)
    assert not (out / "teacher").exists(), "refused before the teacher is trained"


def test_a_fresh_start_removes_what_a_demo_leaves_and_nothing_else(tmp_path: Path) -> None:
    for folder in ("data", "teacher", "arms", "baseline-0", "plain-0", "distilled-1", "mine"):
        (tmp_path / folder).mkdir()
    for file in ("comparison.json", "comparison.md", "teacher.json", "curves.png", "distilled-1.txt", "notes.md"):
        (tmp_path / file).touch()
    remove(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "notes.md"]


def test_the_arms_have_the_options_of_the_recipes_on_the_command_line(tmp_path: Path) -> None:
    """The published scores are those of these options."""
    recipes = shipped_recipes()
    by_hand = {
        "baseline": ["train", f"--config={recipes['digits/student']}"],
        "distilled": [
            *("distill", f"--config={recipes['digits/student']}", f"--config={recipes['digits/fgfi']}"),
            f"--teacher={TEACHER}",
        ],
    }
    plan = digits_plan(CONFIG, tmp_path / "data", TEACHER, tmp_path / "out", [0, 1])
    assert [arm.name for arm in plan.arms] == list(by_hand)
    for arm in plan.arms:
        command, *words = by_hand[arm.name]
        expected = resolve_command(command, [*words, f"--data={tmp_path / 'data'}", f"--out={arm.resolved['out']}"])
        assert arm.resolved == flat_options(yaml.safe_load(expected))


def test_the_table_has_the_cost_of_the_detectors() -> None:
    summary = {"map": 0.2, "map_50": 0.5}
    runs = {
        "baseline": {seed: RunResult(summary, None, ((1, summary),), 0.1, 1, None) for seed in (0, 1)},
        "distilled": {
            seed: RunResult({"map": 0.3 + seed / 50, "map_50": 0.6}, {"map": 0.4, "map_50": 0.7}, (), 0.1, 1, None)
            for seed in (0, 1)
        },
    }
    comparison = compare_arms(runs)
    cost = ModelCost(156_237, 0.0757, 7.46, 7.3, 11.6, None, 1, (160, 160), "cpu", 2)
    shown = table(comparison, {"teacher": replace(cost, parameters=1_415_661), "baseline": cost, "distilled": cost})
    head = ["", "mAP", "mAP50", "minus baseline", "gap closed", "parameters", "GFLOPs", "CPU latency"]
    assert shown[0] == head
    assert shown[1] == ["teacher", "0.400", "0.700", "", "", "1.42 M", "0.08", "7.5 ms"]
    assert shown[3][0] == "distilled"
    assert shown[3][3:] == ["+0.110 ± 0.127", "55% (-9% to 119%)", "0.16 M", "0.08", "7.5 ms"]
    assert "Gain per seed: +0.100, +0.120." in caption(comparison)


def test_the_bundled_teacher_scores_what_its_provenance_says(tmp_path: Path) -> None:
    provenance = json.loads((TEACHER / "provenance.json").read_text())
    items = ((f"{index:06d}", *compose("val", index, DIGITS)) for index in range(48))
    write_coco(tmp_path, "val", CLASSES, items)
    source = read(tmp_path, "val")
    dataset = DetectionDataset(source, eval_transform(eyas.commands.digits.ModelSpec.load(TEACHER).resize))
    images = torch.stack([dataset[index][0] for index in range(len(dataset))])
    result = evaluate("coco", source.records, source.classes, load(TEACHER).predict(as_float(images)))
    assert result.summary["map"] == pytest.approx(provenance["map"], abs=0.08)  # 48 images of 400


@pytest.mark.slow
def test_the_bundled_teacher_was_trained_on_the_data_that_the_demo_composes(tmp_path: Path) -> None:
    provenance = json.loads((TEACHER / "provenance.json").read_text())
    data = eyas.commands.digits.compose(tmp_path / "data")
    assert eyas.commands.digits.data_hash(data) == provenance["data_hash"]
