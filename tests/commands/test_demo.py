"""The demo end to end at a small size, and the teacher that is bundled with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import eyas.commands.demo_digits
import eyas.commands.demo_images
import eyas.commands.demo_task
import eyas.comparison.arms
from eyas.commands.compare import resolve_command
from eyas.commands.demo import demo
from eyas.commands.demo_digits import compose as compose_folder
from eyas.commands.demo_digits import train_digits_teacher
from eyas.commands.demo_results import caption, claim, costs, remove, table
from eyas.commands.demo_task import BUNDLED_TEACHER, STARTING_POINT, DemoTask
from eyas.comparison.statistics import compare_arms
from eyas.data import DetectionDataset, eval_transform, read
from eyas.data.digits import CLASSES, DEMO, TAUGHT, DigitsSpec, compose, data_hash, write_digits
from eyas.data.formats.coco_write import write_coco
from eyas.evaluation import evaluate
from eyas.evaluation.cost import ModelCost
from eyas.ops.pixels import as_float
from eyas.runs.checkpoint import ModelSpec
from eyas.runs.config import flat_options, recorded_config
from eyas.runs.opening import load
from eyas.runs.recipes import shipped_recipes
from eyas.runs.results import RunResult, read_run
from eyas.types import EyasError
from helpers.tiny import write_squares

TINY = {
    "model": "shuffledet",
    "options": {"width": 0.25, "stem_channels": 8, "anchor_shapes": [[17, 24], [43, 50]], "object_weight": 18.75},
    "dataset": {"resize": {"height": 96, "width": 96}, "augment": {"flip": 0.0}, "batch_size": 4, "workers": 0},
    "optim": {"optimizer": "adamw", "lr": 0.001},
    "run": {"epochs": 1},
}
METHOD = {"method": {"class_path": "eyas.FGFI", "init_args": {"weight": 0.01}}, "any_teacher": True}


@pytest.fixture
def small_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A demo of seconds. Returns the folder of its bundled teacher, which is its starting point as well."""
    contents = {"demo/teacher": TINY, "demo/student": TINY, "demo/fgfi": METHOD}
    paths = {name: tmp_path / f"{name.replace('/', '_')}.yaml" for name in contents}
    for name, path in paths.items():
        path.write_text(yaml.safe_dump(contents[name]))
    spec = DigitsSpec(size=96, train_images=8, val_images=6, objects=(1, 3), digit_size=(18, 40))
    monkeypatch.setattr(eyas.commands.demo_digits, "DEMO", spec)
    monkeypatch.setattr(eyas.commands.demo_task, "shipped_recipes", lambda: paths)
    monkeypatch.setattr(eyas.comparison.arms, "shipped_recipes", lambda: paths)
    teacher = train_digits_teacher(tmp_path / "made", compose_folder(tmp_path / "made" / "data"))
    for module in (eyas.commands.demo_task, eyas.commands.demo_digits, eyas.commands.demo_images):
        monkeypatch.setattr(module, "BUNDLED_TEACHER", teacher)
    monkeypatch.setattr(eyas.commands.demo_task, "STARTING_POINT", teacher)
    return teacher


def test_the_demo_leaves_a_comparison_pictures_and_runs(
    small_demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    provenance = json.loads((small_demo / "provenance.json").read_text())
    assert (provenance["recipe"], provenance["seed"]) == ("demo/teacher", 0)

    demo(out=out, seeds=[3])

    result = json.loads((out / "comparison.json").read_text())
    assert result["data_hash"] == provenance["data_hash"]
    assert list(result["arms"]) == ["baseline", "distilled"]
    assert result["missing"] == []
    for name, arm in result["arms"].items():
        assert arm["seeds"] == [3]
        assert arm["metrics"]["map"]["values"] == [read_run(out / f"{name}-3").summary["map"]]
        assert recorded_config(out / f"{name}-3")["weights"] == str(small_demo / "model.safetensors")
    assert list(result["cost"]) == ["teacher", "baseline", "distilled"]
    assert result["cost"]["baseline"] == result["cost"]["distilled"], "one architecture, measured once"
    assert all(cost["latency_ms"] > 0 and cost["image_size"] == [96, 96] for cost in result["cost"].values())
    assert result["seconds"] > 0
    for picture in ("comparison", "curves", "near_masks", "detections"):
        with Image.open(out / f"{picture}.png") as image:
            assert len(image.convert("RGB").getcolors(1 << 24) or ()) > 10, f"{picture}.png is blank"
    assert list((out / "cache").rglob("*.bin")) or list((out / "cache").iterdir()), "the teacher's features are kept"
    printed = capsys.readouterr().out
    assert "Gain per seed: " in printed
    assert [line.split()[0] for line in printed.splitlines() if " ms" in line] == ["teacher", "baseline", "distilled"]
    assert {"baseline-3", "distilled-3"} <= {path.name for path in out.glob("*-*") if path.is_dir()}

    before = (out / "baseline-3" / "model.safetensors").read_bytes()
    demo(out=out, seeds=[3])
    assert (out / "baseline-3" / "model.safetensors").read_bytes() == before, "a finished run is not trained again"
    assert "0 trainings, 2 finished before" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is for another number of classes")
def test_the_demo_on_images_of_the_users_trains_a_teacher_on_copies_of_them(
    small_demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eyas.commands.demo_images, "AREA", 64 * 64)
    data, out = write_squares(tmp_path / "squares"), tmp_path / "own"
    monkeypatch.setattr(eyas.commands.demo_images, "TEACHER_STEPS", 2)
    monkeypatch.setattr(eyas.commands.demo_images, "STUDENT_STEPS", 3)

    demo(out=out, data=data)

    result = json.loads((out / "comparison.json").read_text())
    assert result["image_size"] == [64, 64]
    assert {name: arm["seeds"] for name, arm in result["arms"].items()} == {"baseline": [0], "distilled": [0]}
    assert recorded_config(out / "teacher")["weights"] == str(small_demo / "model.safetensors")
    for run, epochs in {"teacher": 2, "baseline-0": 3, "distilled-0": 3}.items():
        assert recorded_config(out / run)["run"]["epochs"] == epochs
        assert ModelSpec.load(out / run).classes == ("red", "blue")
    assert len(read(out / "data", "train").records) == 8


def test_a_teacher_of_the_users_images_is_trained_in_any_case(tmp_path: Path) -> None:
    with pytest.raises(EyasError, match="--train_teacher"):
        demo(out=tmp_path / "out", data=write_squares(tmp_path / "squares"), train_teacher=True)


def test_another_teacher_is_refused_before_it_is_trained(small_demo: Path, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    out.mkdir()
    (out / "demo.json").write_text("{}")
    (out / "teacher.json").write_text(json.dumps({"teacher": "another", "sha256": "1"}))
    with pytest.raises(EyasError, match="compares under the teacher another"):
        demo(out=out, seeds=[3])
    assert not (out / "data").exists()


def test_a_fresh_start_removes_what_a_demo_leaves_and_nothing_else(tmp_path: Path) -> None:
    for folder in ("data", "cache", "teacher", "arms", "baseline-0", "plain-0", "distilled-1", "mine"):
        (tmp_path / folder).mkdir()
    for file in (
        "comparison.json",
        "comparison.md",
        "teacher.json",
        "curves.png",
        "distilled-1.txt",
        "notes.md",
        "my.png",
    ):
        (tmp_path / file).touch()
    remove(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "my.png", "notes.md"]


@pytest.mark.parametrize("name", ["data", "teacher", "cache", "baseline-0"])
def test_a_folder_with_something_of_the_user_s_is_left_alone(tmp_path: Path, name: str) -> None:
    """``--out runs`` would take the teacher that a user trained there for its own, and --fresh remove it."""
    (tmp_path / name).mkdir()
    kept = tmp_path / name / "log.jsonl"
    kept.touch()
    for fresh in (False, True):
        with pytest.raises(EyasError, match=f"holds {name}, and no demo made that"):
            demo(out=tmp_path, fresh=fresh)
    assert kept.is_file() and not (tmp_path / "demo.json").exists()


def test_the_user_s_images_are_not_where_the_demo_writes(tmp_path: Path) -> None:
    data = write_squares(tmp_path / "data")
    for out in (tmp_path, data):
        with pytest.raises(EyasError, match=r"--data .* lies in --out"):
            demo(out=out, data=data, fresh=True)


def test_a_demo_s_folder_is_marked_and_one_of_before_is_known_by_its_arm(tmp_path: Path) -> None:
    claim(tmp_path / "new", None)
    (tmp_path / "new" / "data").mkdir()
    claim(tmp_path / "new", None)
    (tmp_path / "old" / "arms").mkdir(parents=True)
    (tmp_path / "old" / "arms" / "distilled.yaml").touch()
    claim(tmp_path / "old", None)
    assert (tmp_path / "old" / "demo.json").is_file()


def test_the_arms_have_the_options_of_the_recipes_on_the_command_line(tmp_path: Path) -> None:
    """The published scores are those of these options."""
    recipes = shipped_recipes()
    student = [f"--config={recipes['demo/student']}", f"--weights={STARTING_POINT / 'model.safetensors'}"]
    teacher = [f"--config={recipes['demo/fgfi']}", f"--teacher={BUNDLED_TEACHER}", f"--cache={tmp_path / 'out/cache'}"]
    by_hand = {"baseline": ["train", *student], "distilled": ["distill", *student, *teacher]}
    task = DemoTask("digits", tmp_path / "data", BUNDLED_TEACHER, {}, {})
    plan = task.plan(tmp_path / "out", [0, 1])
    assert [arm.name for arm in plan.arms] == list(by_hand)
    for arm in plan.arms:
        command, *words = by_hand[arm.name]
        expected = resolve_command(command, [*words, f"--data={tmp_path / 'data'}", f"--out={arm.resolved['out']}"])
        assert arm.resolved == flat_options(yaml.safe_load(expected))


def test_students_of_one_architecture_have_one_latency() -> None:
    found = costs({"teacher": BUNDLED_TEACHER, "baseline": STARTING_POINT, "distilled": STARTING_POINT})
    assert found["baseline"] is found["distilled"]
    assert found["teacher"].parameters > 4 * found["baseline"].parameters


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
    provenance = json.loads((BUNDLED_TEACHER / "provenance.json").read_text())
    items = ((f"{index:06d}", *compose("val", index, DEMO)) for index in range(48))
    write_coco(tmp_path, "val", CLASSES, items)
    source = read(tmp_path, "val")
    dataset = DetectionDataset(source, eval_transform(ModelSpec.load(BUNDLED_TEACHER).resize))
    images = torch.stack([dataset[index][0] for index in range(len(dataset))])
    result = evaluate("coco", source.records, source.classes, load(BUNDLED_TEACHER).predict(as_float(images)))
    assert result.summary["map"] == pytest.approx(provenance["map"], abs=0.08)  # 48 images of 300


@pytest.mark.slow
def test_the_bundled_teacher_was_trained_on_what_its_provenance_says(tmp_path: Path) -> None:
    provenance = json.loads((BUNDLED_TEACHER / "provenance.json").read_text())
    assert data_hash(write_digits(tmp_path / "data", TAUGHT)) == provenance["data_hash"]


def test_the_demo_composes_a_part_of_what_the_teacher_was_trained_on() -> None:
    """An image depends on its number alone, so the first of both are the same."""
    assert replace(DEMO, train_images=2000) == TAUGHT
    one, same = compose("train", 1599, DEMO), compose("train", 1599, TAUGHT)
    assert all((first == second).all() for first, second in zip(one, same, strict=True))
