"""Bad input gives one message that names the file or option and says what to do, exit status 2, and no run folder."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from eyas.__main__ import main
from eyas.detectors import ShuffleDet
from helpers.tiny import MODEL, one_epoch, options, write_squares

Refused = Callable[..., str]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares"), train=4, val=2)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return one_epoch(tmp_path_factory.mktemp("run") / "run", data)


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must fail, and returns what it said on standard error."""

    def call(*arguments: object, status: int = 2) -> str:
        capfd.readouterr()
        assert main([str(argument) for argument in arguments]) == status
        said = capfd.readouterr().err
        assert said.startswith("eyas: ") and said.endswith("\n")
        assert said.count("eyas: ") == 1
        assert "Traceback" not in said and "usage:" not in said
        return said

    return call


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def no_teacher() -> str:
    return "nothing"


def wide_teacher() -> ShuffleDet:
    """An untrained detector of more classes than the squares, in another order."""
    torch.manual_seed(3)
    return ShuffleDet(("blue", "owl", "red"), **MODEL)


def train(data: Path, out: Path, **more: object) -> list[str]:
    return ["train", f"--data={data}", f"--out={out}", *options(**{"run_epochs": 1, **more})]


def test_a_data_folder_that_is_missing(refused: Refused, out: Path) -> None:
    assert "nowhere: no such folder; give the folder of a data set" in refused(*train(Path("nowhere"), out))
    assert not out.exists()


def test_a_split_that_is_missing(refused: Refused, data: Path, out: Path) -> None:
    said = refused(*train(data, out, dataset_val_split="test"))
    assert "no split 'test' (coco format); the splits there are: train, val" in said and "--dataset.val_split" in said


def test_images_without_objects_are_not_trained_on(refused: Refused, tmp_path: Path, out: Path) -> None:
    """All annotations of the training split are crowd."""
    file = write_squares(tmp_path / "data", train=4, val=2) / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"] = [{**entry, "iscrowd": 1} for entry in content["annotations"]]
    file.write_text(json.dumps(content))
    said = refused(*train(tmp_path / "data", out))
    assert f"ignore regions: {len(content['annotations'])}" in said and "are crowd" in said
    assert not out.exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"model": "yolo99"}, ["no model 'yolo99'", "retinanet", "shuffledet"]),
        ({"backbone": "resnet18"}, ["shuffledet has its own backbone"]),
        ({"options": '{"widht": 0.5}'}, ["no option 'widht'", "width"]),
        ({"weights": "nowhere.safetensors"}, ["nowhere.safetensors"]),
    ],
)
def test_a_model_that_is_unknown(
    refused: Refused, data: Path, out: Path, more: dict[str, str], words: list[str]
) -> None:
    said = refused(*train(data, out, **more))
    assert all(word in said for word in words), said
    assert not out.exists(), "the same --out can be used once the option is right"


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--optim.optimizer=adam", ["optim.optimizer", "adam", "sgd"]),
        ("--optim.lr=fast", ["optim.lr", "fast"]),
        ("--optim.lr=-1", ["lr must be at least 0"]),
        ("--optim.ema=1", ["ema is a decay in [0, 1)"]),
        ("--run.epochs=0", ["epochs must be at least 1"]),
        ("--dataset.resize.height=32", ["resize height and width go together"]),
        ("--dataset.augment.flip=2", ["flip is a probability"]),
        ("--run.precision=int8", ["run.precision", "int8", "bf16"]),
        ("--run.precision=fp16", ["--run.precision fp16 needs an accelerator"]),
        ("--run.metric=map", ["run.metric", "map", "coco"]),
        ("--dataset.format=csv", ["format 'csv' is unknown"]),
        ("--dataset.classes=[red, bleu]", ["no object of class bleu", "blue"]),
        ("--no_such_option=1", ["no_such_option"]),
        ("--devices=0", ["devices"]),
    ],
)
def test_a_value_that_is_unknown(refused: Refused, data: Path, out: Path, argument: str, words: list[str]) -> None:
    said = refused(*train(data, out), argument)
    assert all(word in said for word in words), said
    assert not out.exists()


def test_a_required_option_that_is_missing(refused: Refused, data: Path) -> None:
    assert "model" in refused("train", f"--data={data}", "--out=o")
    assert "give a COMMAND; the commands are demo, data, methods, train" in refused()
    assert "no command fly; the commands are demo, data, methods, train" in refused("fly")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optim: {lr: fast}", ["optim.lr", "fast"]),
        ("optim: {rate: 1}", ["rate"]),
        ("optim: [", []),
        ("method: {class_path: eyas.Nothing}", ["eyas.Nothing"]),
        ("method: {class_path: eyas.FGFI, init_args: {psi: 7}}", ["psi"]),
        ("method: {class_path: eyas.FGFI, init_args: {sigh: 7}}", ["sigh"]),
    ],
)
def test_a_config_file_that_is_wrong(
    refused: Refused, data: Path, run: Path, tmp_path: Path, text: str, words: list[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(text)
    arguments = ["distill", f"--data={data}", f"--teacher={run}", f"--out={tmp_path / 'out'}", *options()]
    said = refused(*arguments, f"--config={config}")
    assert all(word in said for word in words), said
    assert not (tmp_path / "out").exists()


def test_a_config_file_that_is_missing(refused: Refused, data: Path, out: Path) -> None:
    assert "nowhere.yaml" in refused(*train(data, out), "--config=nowhere.yaml")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read(refused: Refused, data: Path, tmp_path: Path, out: Path, workers: int) -> None:
    broken = tmp_path / "data"
    shutil.copytree(data, broken)
    (broken / "images" / "train" / "train2.png").write_bytes(b"\x89PNG no more")
    started = time.monotonic()
    said = refused(*train(broken, out, dataset_workers=workers))
    assert "train2.png: cannot be decoded" in said and "replace or remove it" in said
    assert said.count("\n") == 1
    assert time.monotonic() - started < 30


@pytest.mark.slow
def test_an_image_that_cannot_be_read_by_two_processes(refused: Refused, data: Path, tmp_path: Path, out: Path) -> None:
    """The message is that of the process that failed, and the other one does not wait for it."""
    broken = tmp_path / "data"
    shutil.copytree(data, broken)
    for index in range(4):
        (broken / "images" / "train" / f"train{index}.png").write_bytes(b"no image")
    started = time.monotonic()
    said = refused(*train(broken, out, dataset_batch_size=2), "--devices=2")
    assert "cannot be decoded" in said
    assert time.monotonic() - started < 100


def test_a_teacher_that_scores_near_zero(refused: Refused, data: Path, out: Path) -> None:
    arguments = ["distill", f"--data={data}", f"--out={out}", *options(run_epochs=1)]
    said = refused(*arguments, "--teacher=helpers.tiny:poor_teacher")
    assert "helpers.tiny:poor_teacher scores 0.0" in said and "--any_score true" in said
    assert not out.exists()
    assert main([*arguments, "--teacher=helpers.tiny:poor_teacher", "--any_score=true"]) == 0


def test_validation_images_without_objects_do_not_accuse_the_teacher(
    data: Path, run: Path, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The metric is undefined, and every command says why; the last weights count as the best."""
    empty = write_squares(tmp_path / "data", train=4, val=2)
    file = empty / "annotations" / "instances_val.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "annotations": []}))
    why = "no image of split val has an object"
    assert main(["data", str(empty)]) == 0
    assert why in capsys.readouterr().out
    arguments = ["distill", f"--data={empty}", f"--teacher={run}", f"--out={out}", *options(run_epochs=2)]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert said.index(why) < said.index("epoch   1/2") and "the last weights count as the best" in said
    assert (out / "best.safetensors").read_bytes() == (out / "student.safetensors").read_bytes()
    assert main(["evaluate", str(out), "--best=true", "--workers=0", "--device=cpu"]) == 0
    assert why in capsys.readouterr().out


def test_a_run_without_best_weights(refused: Refused, run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "best.safetensors").unlink()
    assert "leave out --best" in refused("evaluate", copy, "--best=true")


def test_a_teacher_of_more_classes_in_another_order(
    data: Path, out: Path, capfd: pytest.CaptureFixture[str], refused: Refused
) -> None:
    """Features need no class, so it is scored in the data's; the switch for its classes leaves the score check on."""
    arguments = ["distill", f"--data={data}", "--teacher=test_bad_input:wide_teacher", f"--out={out}"]
    said = refused(*arguments, "--any_classes=true", *options(run_epochs=1))
    assert "test_bad_input:wide_teacher scores 0.0" in said and "--any_score true" in said
    said = refused(*arguments, "--method=eyas.Vanilla", "--any_teacher=true", *options(run_epochs=1))
    assert "vanilla compares the outputs of student and teacher class by class" in said and "--dataset.classes" in said
    assert main([*arguments, "--any_score=true", *options(run_epochs=1)]) == 0
    assert "teacher   mAP 0.0" in capfd.readouterr().out


def test_a_teacher_that_does_not_know_a_class(
    refused: Refused, run: Path, tmp_path: Path, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is scored on the classes that it knows, and needs a switch of its own."""
    other = write_squares(tmp_path / "data", train=4, val=2, classes=("red", "azure"))
    arguments = ["distill", f"--data={other}", f"--teacher={run}", f"--out={out}", *options(run_epochs=1)]
    said = refused(*arguments, "--any_score=true")
    assert "does not know 1 of 2 classes" in said and "--any_classes true" in said
    assert "teacher: red, blue" in said and "data:    red, azure" in said
    assert main([*arguments, "--any_classes=true", "--any_score=true"]) == 0
    assert "on 2 images, over the classes it knows: red\n" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        ("nowhere", ["nowhere: no model.json here"]),
        ("no_such_module:teacher", ["no_such_module", "package.module:function"]),
        ("test_bad_input:absent", ["absent"]),
        ("test_bad_input:no_teacher", ["test_bad_input:no_teacher: a str is not an eyas.Detector"]),
    ],
)
def test_a_teacher_that_is_not_there(refused: Refused, data: Path, out: Path, teacher: str, words: list[str]) -> None:
    said = refused("distill", f"--data={data}", f"--teacher={teacher}", f"--out={out}", *options())
    assert all(word in said for word in words), said


def test_levels_that_cannot_be_paired(refused: Refused, data: Path, run: Path, out: Path) -> None:
    arguments = ["distill", f"--data={data}", f"--teacher={run}", f"--out={out}", "--any_teacher=true", *options()]
    said = refused(*arguments, '--pairs={"backbone": "neck"}')
    assert "no level is called neck" in said and "stride 16" in said


def test_a_run_folder_that_holds_a_run(refused: Refused, data: Path, run: Path) -> None:
    before = (run / "last.pt").read_bytes()
    assert "already holds a run; choose another --out" in refused(*train(data, run))
    said = refused(*train(data, run, run_epochs=2), "--run.resume=true")
    assert "run.epochs 1, not 2" in said and "--config" in said
    assert (run / "last.pt").read_bytes() == before


def test_resume_without_a_run(refused: Refused, data: Path, out: Path) -> None:
    assert "holds no run to resume" in refused(*train(data, out), "--run.resume=true")
    assert not out.exists()


def test_resume_without_its_checkpoint(refused: Refused, data: Path, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "copy")
    (tmp_path / "copy" / "last.pt").unlink()
    said = refused(*train(data, tmp_path / "copy"), "--run.resume=true")
    assert "last.pt: no checkpoint to resume from" in said


def test_a_run_folder_that_cannot_be_made(refused: Refused, data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "could not be written" in refused(*train(data, tmp_path / "file" / "run"))


def test_a_loss_that_is_not_finite(refused: Refused, data: Path, out: Path) -> None:
    more = {"optim_optimizer": "sgd", "optim_lr": 1e30, "optim_clip_norm": 0, "optim_warmup": 0, "run_epochs": 9}
    said = refused(*train(data, out, **more))
    assert "the loss is not finite in step" in said and "loss_class" in said and "images " in said
    assert "--optim.lr" in said
    assert not list(out.glob("*.part"))


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_a_folder_that_is_no_run(refused: Refused, command: str, data: Path, out: Path) -> None:
    arguments = [command, data, *([data] if command == "predict" else []), *([f"--out={out}"] * (command == "predict"))]
    assert "no model.json here; give the folder of a run" in refused(*arguments)


def test_a_checkpoint_of_another_architecture(refused: Refused, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "copy")
    spec = json.loads((tmp_path / "copy" / "model.json").read_text())
    spec["options"]["width"] = 0.5
    (tmp_path / "copy" / "model.json").write_text(json.dumps(spec))
    said = refused("evaluate", tmp_path / "copy", "--workers=0")
    assert "model.safetensors: a checkpoint of another architecture" in said


def test_evaluate_with_data_of_other_classes(refused: Refused, run: Path, tmp_path: Path) -> None:
    other = write_squares(tmp_path / "data", train=1, val=4, classes=("cat", "dog"))
    said = refused("evaluate", run, f"--data={other}")
    assert "unknown class" in said and "red, blue" in said


def test_predict_without_images(refused: Refused, run: Path, tmp_path: Path, out: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no image there" in refused("predict", run, tmp_path / "empty", f"--out={out}")
    assert "no image" in refused("predict", run, tmp_path / "absent", f"--out={out}")
    (tmp_path / "empty" / "a.png").write_bytes(b"no image")
    assert "a.png: cannot be read as an image" in refused("predict", run, tmp_path / "empty", f"--out={out}")
    assert not out.exists()


def test_predict_goes_on_after_broken_images(
    refused: Refused, run: Path, data: Path, tmp_path: Path, out: Path
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(data / "images" / "val", photos)
    good = {str(path) for path in photos.iterdir()}
    (photos / "cut.png").write_bytes((photos / "val0.png").read_bytes()[:200])
    (photos / "notes.jpg").write_text("not an image")
    (photos / "PHONE.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    said = refused("predict", run, photos, f"--out={out}", "--threshold=0")
    assert f"3 of {len(good) + 3} images cannot be used" in said and "cut.png: cannot be decoded" in said
    assert "PHONE.HEIC: cannot be read as an image" in said and "convert it to JPEG or PNG" in said
    assert "notes.jpg: cannot be read as an image" in said
    assert {entry["image"] for entry in json.loads((out / "predictions.json").read_text())} <= good
    assert sorted(path.stem for path in out.glob("*.png")) == sorted(Path(path).stem for path in good)


def test_an_interrupt(refused: Refused, data: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("eyas.training.trainer.Trainer.train_epoch", interrupted)
    assert "--run.resume true" in refused(*train(data, out), status=130)
