"""The command line end to end: six steps of a teacher and of a student, and everything that is done with a run."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torchvision.models import resnet18
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from eyas.__main__ import COMMANDS, main, parse, parser_of
from eyas.methods import FGFI
from eyas.runs.checkpoint import save_weights
from eyas.runs.log import read_log
from eyas.runs.opening import load
from eyas.runs.recipes import allow_code
from helpers.tiny import CLASSES, MODEL, options, train_lines, write_squares


class Third(FGFI):
    """A user's own method, by import path."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight, name="third")


@dataclasses.dataclass
class Runs:
    data: Path
    teacher: Path
    student: Path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A teacher of three epochs of two steps, and a student of as many under it."""
    root = tmp_path_factory.mktemp("runs")
    made = Runs(write_squares(root / "data"), root / "teacher", root / "student")
    assert main(["train", f"--data={made.data}", f"--out={made.teacher}", *options(optim_ema=0.5)]) == 0
    arguments = [f"--data={made.data}", f"--teacher={made.teacher}", f"--out={made.student}", "--any_teacher=true"]
    assert main(["distill", *arguments, *options()]) == 0
    return made


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_exactly_these_files_are_left(runs: Runs) -> None:
    common = ["MODEL_CARD.md", "best.safetensors", "config.yaml", "last.pt", "log.jsonl", "model.json", "versions.json"]
    assert names(runs.teacher) == sorted([*common, "model.safetensors"])
    assert names(runs.student) == sorted([*common, "student.safetensors"])


def test_the_log_has_every_loss_and_score(runs: Runs) -> None:
    steps = list(read_log(runs.student, "train"))
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert all({"loss_class", "loss_box", "loss_confidence", "fgfi"} == line["losses"].keys() for line in steps)
    assert all(line["losses"]["fgfi"] > 0 and line["gradient_norm"] > 0 for line in steps)
    detection = {"loss_class", "loss_box", "loss_confidence"}
    assert all(line["losses"].keys() == detection for line in train_lines(runs.teacher))
    scores = list(read_log(runs.student, "val"))
    assert [(line["epoch"], line["step"]) for line in scores] == [(1, 2), (2, 4), (3, 6)]
    assert all("map" in line["summary"] and set(line["per_class"]) == set(CLASSES) for line in scores)
    (teacher,) = read_log(runs.student, "teacher")
    assert teacher["name"] == str(runs.teacher)
    assert teacher["summary"] == list(read_log(runs.teacher, "val"))[-1]["summary"]
    (balance,) = read_log(runs.student, "balance")
    assert balance["detection"] > 0 and balance["imitation"]["fgfi"] > 0
    assert "%" in balance["notes"]["fgfi"]


def test_the_weights_are_the_students_alone(runs: Runs) -> None:
    state = load_file(runs.student / "student.safetensors")
    network = load(runs.student).network
    assert state.keys() == network.state_dict().keys()
    assert not any("adapter" in key or "teacher" in key or "method" in key for key in state)
    resume = torch.load(runs.student / "last.pt", weights_only=True)
    assert any("adapter" in key for key in resume["model"])
    assert not any("teacher" in key for key in resume["model"])


def test_versions_and_model_say_how_to_make_it_again(runs: Runs) -> None:
    versions = json.loads((runs.student / "versions.json").read_text())
    assert versions["torch"] == torch.__version__.partition("+")[0] or versions["torch"] == torch.__version__
    assert versions.keys() >= {"python", "eyas", "torchvision", "accelerate", "numpy"}
    spec = json.loads((runs.student / "model.json").read_text())
    assert (spec["model"], spec["classes"], spec["options"]) == ("shuffledet", list(CLASSES), MODEL)


@pytest.mark.parametrize("which", ["teacher", "student"])
def test_the_config_of_a_run_gives_the_same_run_again(
    runs: Runs, which: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = "train" if which == "teacher" else "distill"
    folder: Path = getattr(runs, which)
    assert main([command, f"--config={folder / 'config.yaml'}", f"--out={tmp_path / 'again'}"]) == 0
    last, again = capsys.readouterr().out.splitlines()[-1], tmp_path / "again"
    assert last == f"run       {again}   next: eyas evaluate {again}, eyas export {again}, eyas report {again}"
    assert train_lines(tmp_path / "again") == train_lines(folder)
    for file in ("best.safetensors", "model.safetensors" if which == "teacher" else "student.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (folder / file).read_bytes()
    before, after = (yaml.safe_load((path / "config.yaml").read_text()) for path in (folder, tmp_path / "again"))
    assert after.pop("out") != before.pop("out")
    assert after == before


def test_the_running_average_is_what_is_saved(runs: Runs) -> None:
    """With a decay of 0.5 the average is well apart from the weights of the last step."""
    saved = load_file(runs.teacher / "model.safetensors")
    resume = torch.load(runs.teacher / "last.pt", weights_only=True)
    assert torch.equal(saved["head.weight"], resume["ema"]["module.head.weight"])
    assert not torch.equal(saved["head.weight"], resume["model"]["student.head.weight"])


def test_evaluate_finds_data_and_teacher_by_itself(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    assert main(["evaluate", str(runs.student), "--workers=0", "--device=cpu", f"--json_file={out}"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("red", "blue", "mean", "teacher", str(runs.teacher), "mAP"))
    figures = json.loads(out.read_text())
    assert figures["model"]["summary"] == list(read_log(runs.student, "val"))[-1]["summary"]
    assert figures["teacher"]["summary"] == list(read_log(runs.teacher, "val"))[-1]["summary"]
    assert figures["model"]["cost"]["parameters"] > 0
    assert len(figures["model"]["confusion"]["counts"]) == len(CLASSES) + 1


def test_evaluate_shows_the_last_and_the_best_weights_side_by_side(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The best are those of the last epoch until they are replaced by others."""
    copy, out = shutil.copytree(runs.student, tmp_path / "copy"), tmp_path / "scores.json"
    common = ["evaluate", str(copy), "--workers=0", "--device=cpu", f"--json_file={out}"]
    shutil.copy(copy / "student.safetensors", copy / "best.safetensors")
    assert main(common) == 0
    assert list(json.loads(out.read_text())) == ["metric", "data", "split", "model", "teacher"]
    network = load(copy).network
    torch.nn.init.constant_(network.head.weight, 0.0)
    save_weights(network, copy / "best.safetensors")
    capsys.readouterr()
    assert main(common) == 0
    written = json.loads(out.read_text())
    assert list(written)[3:] == ["model", "best", "teacher"]
    assert written["model"]["summary"] == list(read_log(copy, "val"))[-1]["summary"]
    assert f"best  {copy} (best weights)" in capsys.readouterr().out
    assert main([*common, "--best=true"]) == 0
    again = json.loads(out.read_text())
    assert again["model"]["summary"] == written["best"]["summary"] and "best" not in again


def test_evaluate_names_a_detector_that_returns_too_few_detections(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ShuffleDet returns at most 64 detections of an image."""
    data = shutil.copytree(runs.data, tmp_path / "data")
    file = data / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    first = content["annotations"][0]
    content["annotations"] += [{**first, "id": 1000 + i, "bbox": [i % 50, 4, 8, 8], "area": 64} for i in range(120)]
    file.write_text(json.dumps(content))
    assert main(["evaluate", str(runs.teacher), f"--data={data}", "--workers=0", "--device=cpu"]) == 0
    said = capsys.readouterr().out
    assert "model: the detector returns at most 64 detections of an image" in said
    assert "more than 100 objects of one class" in said and "max_detections" in said


def test_predictions_have_the_ids_of_the_data_set(runs: Runs, tmp_path: Path) -> None:
    """Category ids that are neither contiguous nor in the order of the names, and image ids from 41."""
    data = shutil.copytree(runs.data, tmp_path / "data")
    file = data / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    number = {entry["id"]: {"red": 17, "blue": 3}[entry["name"]] for entry in content["categories"]}
    for entry in (*content["categories"], *content["annotations"]):
        key = "id" if "name" in entry else "category_id"
        entry[key] = number[entry[key]]
    for entry in (*content["images"], *content["annotations"]):
        key = "id" if "file_name" in entry else "image_id"
        entry[key] += 40
    file.write_text(json.dumps(content))
    found = tmp_path / "predictions.json"
    arguments = [f"--data={data}", "--workers=0", "--device=cpu", f"--predictions={found}"]
    assert main(["evaluate", str(runs.teacher), *arguments]) == 0
    entries = json.loads(found.read_text())
    assert {(entry["category"], entry["category_id"]) for entry in entries} <= {("red", 17), ("blue", 3)}
    images = {entry["id"]: Path(entry["file_name"]).name for entry in content["images"]}
    assert entries and all(images[entry["image_id"]] == entry["file_name"] for entry in entries)


def test_evaluate_takes_the_best_checkpoint_other_data_and_split(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "best.json"
    data = write_squares(tmp_path / "other", train=3, val=2)
    common = ["evaluate", str(runs.teacher), "--workers=0", "--device=cpu", f"--json_file={out}"]
    assert main([*common, "--best=true"]) == 0
    scores = [line["summary"]["map"] for line in read_log(runs.teacher, "val")]
    assert json.loads(out.read_text())["model"]["summary"]["map"] == max(scores)
    assert "best" not in json.loads(out.read_text())
    assert main([*common, f"--data={data}", "--split=train", "--metric=voc"]) == 0
    figures = json.loads(out.read_text())
    assert (figures["split"], figures["metric"], figures["data"]) == ("train", "voc", str(data))
    capsys.readouterr()


def test_predict_writes_json_and_drawings(runs: Runs, tmp_path: Path) -> None:
    photos = tmp_path / "photos" / "deep"
    photos.mkdir(parents=True)
    with Image.open(runs.data / "images" / "val" / "val0.png") as image:
        image.resize((90, 48)).save(photos / "a.jpg")
        image.save(photos / "b.png")
        image.save(photos / "b.bmp")
        image.save(photos / "b.bmp.jpg")
    out = tmp_path / "found"
    assert main(["predict", str(runs.teacher), str(tmp_path / "photos"), f"--out={out}", "--threshold=0.01"]) == 0
    entries = json.loads((out / "predictions.json").read_text())
    assert {entry["image"] for entry in entries} == {
        str(photos / name) for name in ("a.jpg", "b.png", "b.bmp", "b.bmp.jpg")
    }
    for entry in entries:
        assert entry.keys() == {"image", "category", "bbox", "score"}
        assert entry["category"] in CLASSES and 0 < entry["score"] <= 1
        x, y, width, height = entry["bbox"]
        limit = (90, 48) if entry["image"].endswith("a.jpg") else (64, 64)
        assert min(x, y) >= 0 and x + width <= limit[0] + 0.02 and y + height <= limit[1] + 0.02
    assert names(out / "deep") == ["a.png", "b.bmp.jpg.png", "b.bmp.png", "b.png.png"]
    with Image.open(out / "deep" / "a.png") as drawn:
        assert abs(drawn.width / drawn.height - 90 / 48) < 0.02
        assert len(drawn.convert("RGB").getcolors(1 << 24) or ()) > 50


def test_predict_takes_one_image_and_never_overwrites_it(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = tmp_path / "photo.png"
    with Image.open(runs.data / "images" / "val" / "val0.png") as image:
        image.save(photo)
    before = photo.read_bytes()
    assert main(["predict", str(runs.student), str(photo), f"--out={tmp_path}"]) == 2
    assert "overwritten" in capsys.readouterr().err
    assert photo.read_bytes() == before
    assert main(["predict", str(runs.student), str(photo), f"--out={tmp_path / 'out'}"]) == 0
    assert names(tmp_path / "out") == ["photo.png", "predictions.json"]


def test_data_reports_splits_images_and_anchors(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_squares(tmp_path / "data", train=2, val=2)
    assert main(["data", str(data)]) == 0
    shown = capsys.readouterr().out
    assert "split train" in shown and "split val" in shown and "anchors" not in shown and "problems     none" in shown
    (data / "images" / "val" / "val1.png").write_bytes(b"no image")
    assert main(["data", str(data), '--split=["val"]', "--images=true", f"--model={runs.teacher}"]) == 0
    shown = capsys.readouterr().out
    assert "split train" not in shown
    assert "val1.png: cannot be decoded" in shown
    assert "anchors      best IoU of a box with an anchor" in shown


def test_recipes_are_listed_and_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["recipes"]) == 0
    assert "digits/fgfi" in capsys.readouterr().out
    assert main(["recipes", "copy", "digits/student"]) == 0
    assert yaml.safe_load((tmp_path / "student.yaml").read_text())["model"] == "shuffledet"
    assert main(["recipes", "copy", "digits/student"]) == 0, "it is there, unchanged"
    (tmp_path / "student.yaml").write_text("model: retinanet\n")
    assert main(["recipes", "copy", "digits/student"]) == 2
    assert "student.yaml exists already" in capsys.readouterr().err
    assert (tmp_path / "student.yaml").read_text() == "model: retinanet\n"
    assert main(["recipes", "copy", "nothing/here"]) == 2
    assert "no recipe 'nothing/here'; eyas recipes lists them" in capsys.readouterr().err
    assert names(tmp_path) == ["student.yaml"]


# Help and options ----------------------------------------------------------------------------------------------------


def parsed(arguments: list[str]) -> tuple[Any, Any]:
    """The config of a command and its instances, without running it."""
    _, parser, config = parse(arguments)
    return config, parser.instantiate(config)


DISTILL = ["distill", "--data=d", "--teacher=t", "--model=m", "--out=o"]


def test_help_tells_the_story(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"eyas {name}" in shown for name in ("demo", "data", "train", "distill", "evaluate", "predict"))
    assert all(f"\n  {name} " in shown for name in COMMANDS)
    assert "--print_config" in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_documented(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for action in parser_of(name, methods=False)._actions:
        if action.dest.rpartition(".")[2] not in ("help", "config", "print_config"):
            assert action.help, f"{name}: {action.dest} has no help"
            assert [*action.option_strings, action.dest.upper()][0] in shown
    assert "--config" in shown


def test_methods_come_by_import_path_and_options() -> None:
    _, made = parsed([*DISTILL, "--method=eyas.FGFI", "--method.weight=0.2", "--method.psi=0.4"])
    assert isinstance(made.method, FGFI)
    assert (made.method.weight, made.method.psi) == (0.2, 0.4)


def test_no_method_is_the_default() -> None:
    config, made = parsed(DISTILL)
    assert config.method is None and made.method is None


def test_methods_from_yaml_one_or_a_list(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {
                "method": [
                    {"class_path": "eyas.FGFI", "init_args": {"weight": 0.3, "assignment": "per_level"}},
                    {"class_path": "test_command_line.Third", "init_args": {"weight": 0.7}},
                ],
                "dataset": {"resize": {"height": 32, "width": 48}, "augment": {"flip": 0.25}},
                "optim": {"lr": 0.5, "milestones": [0.25, 0.5]},
            }
        )
    )
    with allow_code(True):
        _, made = parsed([*DISTILL, f"--config={recipe}", "--dataset.augment.hue=0.1", "--optim.lr=0.125"])
    first, second = made.method
    assert (type(first), first.weight, first.assignment) == (FGFI, 0.3, "per_level")
    assert (type(second).__name__, second.weight) == ("Third", 0.7)
    assert (made.dataset.resize.height, made.dataset.resize.width) == (32, 48)
    assert (made.dataset.augment.flip, made.dataset.augment.hue) == (0.25, 0.1)
    assert (made.optim.lr, made.optim.milestones) == (0.125, (0.25, 0.5))
    assert made.run.epochs == 12


def test_two_recipes_stack(tmp_path: Path) -> None:
    """A student's recipe and a method's: the later overrides the earlier, option by option."""
    (tmp_path / "a.yaml").write_text("optim: {lr: 0.5, ema: 0.9}\n")
    (tmp_path / "b.yaml").write_text("optim: {lr: 0.25}\nmethod: {class_path: eyas.FGFI, init_args: {weight: 0.4}}\n")
    _, made = parsed([*DISTILL, f"--config={tmp_path / 'a.yaml'}", f"--config={tmp_path / 'b.yaml'}"])
    assert (made.optim.lr, made.optim.ema, made.method.weight) == (0.25, 0.9, 0.4)


def test_print_config_is_the_resolved_config(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*DISTILL, "--optim.lr=0.125", "--method=eyas.FGFI", "--print_config"])
    assert stop.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["optim"]["lr"] == 0.125
    assert config["method"]["class_path"] == "eyas.FGFI"
    assert config["method"]["init_args"]["psi"] == 0.5


def test_a_method_from_the_command_line_trains(runs: Runs, tmp_path: Path) -> None:
    """Two methods in a list, each with its loss and its adapters."""
    methods = [
        {"class_path": "eyas.FGFI", "init_args": {"weight": 0.01}},
        {"class_path": "test_command_line.Third", "init_args": {"weight": 1.0}},
    ]
    out = tmp_path / "two"
    arguments = [f"--data={runs.data}", f"--teacher={runs.teacher}", f"--out={out}", "--any_teacher=true"]
    assert main(["distill", *arguments, *options(run_epochs=1, method=json.dumps(methods))]) == 0
    losses = train_lines(out)[0]["losses"]
    assert losses["third"] > losses["fgfi"] > 0


def test_a_torchvision_student_loads_in_plain_torchvision(runs: Runs, tmp_path: Path) -> None:
    """ShuffleDet teaches a RetinaNet at stride 16, and nothing of that, nor of this package, is in what is left."""
    out, channels = tmp_path / "retina", 16
    more = {"model": "retinanet", "backbone": "resnet18", "options": json.dumps({"fpn_channels": channels})}
    arguments = [f"--data={runs.data}", f"--teacher={runs.teacher}", f"--out={out}", "--any_teacher=true"]
    assert main(["distill", *arguments, *options(run_epochs=1, optim_optimizer="sgd", **more)]) == 0
    assert train_lines(out)[0]["losses"]["fgfi"] > 0
    body = BackboneWithFPN(
        resnet18(weights=None),
        {"layer2": "0", "layer3": "1", "layer4": "2"},
        [128, 256, 512],
        channels,
        extra_blocks=LastLevelP6P7(channels, channels),
    )
    plain = RetinaNet(body, len(CLASSES), anchor_generator=load(out).network.anchor_generator)
    plain.load_state_dict(load_file(out / "student.safetensors"), strict=True)


def test_a_process_of_its_own() -> None:
    """`python -m eyas`, which the tests above call in this process, and its exit status; warnings are errors."""
    command = [sys.executable, "-W", "error", "-m", "eyas", "data", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == "eyas: nowhere: no such folder; give the folder of a data set, the YAML file of a YOLO data set, the "
        "JSON file of a COCO data set, or hf:ORG/NAME\n"
    )
