"""The demo end to end at a small size, and the teacher that is bundled with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import eyas.commands.demo
from eyas.commands.demo import DIGITS, TEACHER, demo, train_digits_teacher
from eyas.data import DetectionDataset, eval_transform, read
from eyas.data.digits import CLASSES, DigitsSpec, compose
from eyas.data.formats.coco import write_coco
from eyas.evaluation import evaluate
from eyas.ops.pixels import as_float
from eyas.runs.opening import load

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
    monkeypatch.setattr(eyas.commands.demo, "DIGITS", spec)
    monkeypatch.setattr(eyas.commands.demo, "shipped_recipes", lambda: paths)


@pytest.mark.usefixtures("tiny_recipes")
def test_the_demo_leaves_figures_pictures_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    teacher = train_digits_teacher(tmp_path / "made", eyas.commands.demo.compose(tmp_path / "made" / "data"))
    provenance = json.loads((teacher / "provenance.json").read_text())
    assert provenance["recipe"] == "digits/teacher"
    assert provenance["seed"] == 0
    monkeypatch.setattr(eyas.commands.demo, "TEACHER", teacher)

    demo(out=out, seeds=[3])

    results = json.loads((out / "results.json").read_text())
    assert results["data_hash"] == provenance["data_hash"]
    for name in ("teacher", "plain", "distilled"):
        for figure in ("map", "map_50"):
            values = results[name][figure]["values"]
            assert [results[name][figure]["mean"]] == pytest.approx(values)
    assert results["gap_closed"].keys() >= {"mean", "values"}
    assert results["seconds"] > 0
    for picture in ("curves", "near_masks", "detections"):
        with Image.open(out / f"{picture}.png") as image:
            assert len(image.convert("RGB").getcolors(1 << 24) or ()) > 10, f"{picture}.png is blank"
    assert "distilled" in capsys.readouterr().out
    runs = sorted(path.name for path in out.glob("*-*") if path.is_dir())
    assert runs == ["distilled-3", "plain-3"]

    before = (out / "plain-3" / "model.safetensors").read_bytes()
    demo(out=out, seeds=[3])
    assert (out / "plain-3" / "model.safetensors").read_bytes() == before, "a finished run is not trained again"


def test_figures_are_means_over_the_seeds() -> None:
    found = eyas.commands.demo._scores([{"map": 0.2, "map_50": 0.5}, {"map": 0.4, "map_50": 0.6}])
    assert found["map"]["values"] == [0.2, 0.4] and found["map_50"]["values"] == [0.5, 0.6]
    assert [found[figure]["mean"] for figure in ("map", "map_50")] == pytest.approx([0.3, 0.55])


def test_the_bundled_teacher_scores_what_its_provenance_says(tmp_path: Path) -> None:
    provenance = json.loads((TEACHER / "provenance.json").read_text())
    items = ((f"{index:06d}", *compose("val", index, DIGITS)) for index in range(48))
    write_coco(tmp_path, "val", CLASSES, items)
    source = read(tmp_path, "val")
    dataset = DetectionDataset(source, eval_transform(eyas.commands.demo.ModelSpec.load(TEACHER).resize))
    images = torch.stack([dataset[index][0] for index in range(len(dataset))])
    result = evaluate("coco", source.records, source.classes, load(TEACHER).predict(as_float(images)))
    assert result.summary["map"] == pytest.approx(provenance["map"], abs=0.08)  # 48 images of 400


@pytest.mark.slow
def test_the_bundled_teacher_was_trained_on_the_data_that_the_demo_composes(tmp_path: Path) -> None:
    provenance = json.loads((TEACHER / "provenance.json").read_text())
    data = eyas.commands.demo.compose(tmp_path / "data")
    assert eyas.commands.demo.data_hash(data) == provenance["data_hash"]
