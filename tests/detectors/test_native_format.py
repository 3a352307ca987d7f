"""Teachers that another library saved: folders of `save_pretrained`, and hub ids, without a network."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from eyas.__main__ import main
from eyas.cache.identity import TeacherOnDemand
from eyas.comparison.plan import same_teacher
from eyas.data import Resize, read
from eyas.detectors import TransformersDetector, native_format
from eyas.detectors.transformers import SavedPretrained, is_hub_id
from eyas.detectors.transformers import loading as huggingface_sources
from eyas.detectors.transformers.input_size import LONGEST, read_input_size, write_input_size
from eyas.runs.checkpoint import SPEC
from eyas.runs.log import read_log
from eyas.runs.opening import load, resolve_detector
from eyas.runs.teachers import unlike_training
from eyas.types import Detector, EyasError
from helpers.tiny import CLASSES, options, train_lines, write_squares
from helpers.tiny_transformers import CONFIGS

HUB = "owls/yolos-nano"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a YOLOS of the squares' classes."""
    torch.manual_seed(0)
    config: Any = CONFIGS["YolosForObjectDetection"]()
    config.id2label = dict(enumerate(CLASSES))
    detector = TransformersDetector(transformers.YolosForObjectDetection(config))
    folder = tmp_path_factory.mktemp("saved") / "yolos"
    detector.export_native(folder, {"height": 64, "width": 64})
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    return Path(shutil.copytree(made, tmp_path / "yolos"))


@pytest.fixture
def hub(made: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of that folder on a hub that has nothing else."""

    class Offline:
        def __init__(self, reader: Any) -> None:
            self.reader = reader

        def from_pretrained(self, source: str, **more: Any) -> Any:
            if source != HUB:
                raise OSError(f"{source} is not a valid model identifier")
            return self.reader.from_pretrained(made, **more)

    read = huggingface_sources.read_pretrained
    monkeypatch.setattr(
        huggingface_sources, "read_pretrained", lambda source, reader, **more: read(source, Offline(reader), **more)
    )
    return HUB


def refuse(name: str) -> Detector:
    raise AssertionError(f"{name} was loaded")


def on_demand(name: str, load: Any = refuse) -> TeacherOnDemand:
    source = replace(resolve_detector(name), open=partial(load, name))
    return TeacherOnDemand(source, torch.device("cpu"), torch.contiguous_format)


def test_a_folder_is_a_teacher(made: Path) -> None:
    teacher = load(str(made))
    assert teacher.classes == CLASSES and not teacher.network.training
    model = transformers.AutoModelForObjectDetection.from_pretrained(made)
    state = model.state_dict()
    assert all(value.equal(state[name]) for name, value in teacher.network.state_dict().items())
    assert teacher.predict(torch.rand(1, 3, 64, 96))[0]["labels"].max() < len(CLASSES)


def test_a_hub_id_is_a_teacher(hub: str) -> None:
    assert load(hub).classes == CLASSES
    with pytest.raises(EyasError, match=r"owls/none: there is no such folder here, so it is taken for a hub id"):
        load("owls/none")


def test_what_is_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistyped run folder is not looked for on a hub."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert is_hub_id(HUB) and native_format(HUB) is not None
    for name in ("runs/teacher", "teacher", "./teacher", "../owls", "/owls/nano", "owls/nano/one", "module:function"):
        assert not is_hub_id(name) and native_format(name) is None, name
    with pytest.raises(EyasError, match=r"runs/teacher: no model\.json here"):
        load("runs/teacher")
    (tmp_path / "runs").rmdir()
    for name in ("runs/teacher", "models/rtdetr"):  # no folder of that name is needed
        assert not is_hub_id(name)
        with pytest.raises(EyasError, match=r"give the folder of a run.*or a hub id.*There is no such folder"):
            load(name)


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(EyasError, match=r"not the configuration of a detector|cannot read it"):
        load(str(tmp_path))


def refused(folder: Path) -> str:
    """The message with which `load` refuses a folder."""
    with pytest.raises(EyasError) as caught:
        load(str(folder))
    return str(caught.value)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"1": "red", "2": "blue"}, "id2label has the labels 1, 2; they must count from 0"),
        ({"0": "red", "2": "blue"}, "id2label has the labels 0, 2"),
        ({"0": "red", "1": None}, "id2label must map each label to a class name"),
        ({"0": {"name": "red"}, "1": "blue"}, "id2label must map each label to a class name"),
        ({"red": 0, "blue": 1}, "cannot read it"),
        (["red", "blue"], "transformers cannot make a model of it"),
        ("red", "transformers cannot make a model of it"),
        (None, "its weights do not fit"),
        ({str(label): str(label) for label in range(3)}, "its weights do not fit its config.json"),
    ],
    ids=str,
)
def test_class_names_that_cannot_be_are_refused(folder: Path, labels: Any, said: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    if labels is None:  # the library then invents LABEL_0 and LABEL_1, and a third class is in the weights
        labels = config["id2label"] | {"2": "third"}
    inverse = {name: int(label) for label, name in labels.items()} if said.startswith("id2label has") else {}
    (folder / "config.json").write_text(json.dumps(config | {"id2label": labels, "label2id": inverse}))
    message = refused(folder)
    assert message.startswith(f"{folder}: ") and said in message


def test_label2id_may_be_old_but_not_contradict(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"label2id": {"LABEL_0": 0, "LABEL_1": 1}}))
    assert load(str(folder)).classes == CLASSES
    (folder / "config.json").write_text(json.dumps(config | {"label2id": {"red": 1, "blue": 0}}))
    assert "id2label gives red the label 0, and label2id 1" in refused(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "unheard_of"}, {"model_type": 3}, {"hidden_act": "none_such"}, {"hidden_size": "many"},
        {"hidden_size": -1}, {"num_labels": "x"}, {"patch_size": {}}, {"image_size": 7},
    ],
    ids=str,
)  # fmt: skip
def test_whatever_a_config_says_there_is_no_traceback(folder: Path, change: dict[str, Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    assert refused(folder).startswith(f"{folder}: ")


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff\xfe", b"[" * 100_000], ids=lambda content: repr(content[:4]))
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_json_of_another_kind_is_refused(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    assert str(folder) in refused(folder)


def test_weights_that_do_not_fit_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    whole, tensors = file.read_bytes(), load_file(file)
    name = "class_labels_classifier.layers.2.weight"

    def said(state: dict[str, torch.Tensor]) -> str:
        save_file(state, file, metadata={"format": "pt"})
        return refused(folder)

    assert "1 missing" in said({key: value for key, value in tensors.items() if key != name})
    assert name in said(tensors | {name: torch.zeros(7, 32)})
    assert "NaN or infinite" in said(tensors | {name: tensors[name] * torch.nan})
    for cut in (0, 4, 2000, len(whole) - 10):
        file.write_bytes(whole[:cut])
        assert str(folder) in refused(folder)
    file.unlink()
    assert str(folder) in refused(folder)


def test_a_folder_has_the_size_of_its_image_processor(
    made: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert resolve_detector(made).resize == Resize(64, 64) and resolve_detector(HUB).resize == Resize()
    data = write_squares(tmp_path / "data", train=4, val=2)
    larger = folder / "preprocessor_config.json"
    larger.write_text(json.dumps(json.loads(larger.read_text()) | {"size": {"height": 96, "width": 128}}))
    scored = ["evaluate", str(folder), f"--data={data}", "--workers=0", "--device=cpu"]
    assert main(scored) == 0
    stated = capsys.readouterr().out
    assert "size     images are resized to height 96, width 128 pixels" in stated
    assert main([*scored, "--resize=128x96"]) == 0
    given = capsys.readouterr().out
    assert "images are resized" not in given
    assert re.sub(r"[\d.]+ ms", "", given).splitlines() == re.sub(r"[\d.]+ ms", "", stated).splitlines()[1:]
    larger.write_text(json.dumps(json.loads(larger.read_text()) | {"do_resize": False}))
    assert main(scored) == 0 and "images keep their size" in capsys.readouterr().out
    records = read(data, "val").records
    assert "was trained on images of 64 x 64" in str(unlike_training(str(made), Resize(32, 32), records))


@pytest.mark.parametrize(
    "size", [{"height": "9", "width": 9}, {"height": 9}, {"longest_edge": -3}, {"shortest_edge": 1e9}]
)
def test_a_size_that_is_none_is_refused(folder: Path, size: dict[str, Any]) -> None:
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps({"size": size}))
    with pytest.raises(EyasError, match="its files state a size that no image can have"):
        _ = resolve_detector(folder).resize


@pytest.mark.parametrize(
    ("stated", "read_as"),
    [
        ({"size": {"height": 480, "width": 640}}, {"height": 480, "width": 640}),
        ({"size": {"shortest_edge": 800, "longest_edge": 1333}}, {"shorter": 800, "longer": 1333}),
        ({"size": {"shortest_edge": 800, "longest_edge": None}}, {"shorter": 800}),
        ({"size": 800, "max_size": 1333}, {"shorter": 800, "longer": 1333}),
        ({"size": {"max_height": 512, "max_width": 512}}, {"longer": 512}),
        ({"size": {"height": 480, "width": 640}, "do_resize": False}, {}),
        ({"size": [480, 640]}, {}),
        ({}, {}),
    ],
)
def test_sizes_as_image_processors_state_them(stated: dict[str, Any], read_as: dict[str, int], tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stated))
    assert read_input_size(tmp_path) == read_as
    write_input_size(tmp_path, read_as)
    again = read_input_size(tmp_path)
    assert again == read_as or again == {**read_as, "longer": LONGEST}


def test_the_cache_knows_a_folder_by_its_files(made: Path, folder: Path, tmp_path: Path) -> None:
    before = on_demand(str(made)).identity(tmp_path)
    assert before == on_demand(str(folder)).identity(tmp_path)
    assert [path.name for path in SavedPretrained().files(folder)][-1] == "model.safetensors"
    (folder / "README.md").write_text("notes")
    assert before == on_demand(str(folder)).identity(tmp_path)
    processor = folder / "preprocessor_config.json"
    processor.write_text(processor.read_text().replace('"do_normalize": true', '"do_normalize": false'))
    assert (other := on_demand(str(folder)).identity(tmp_path)) != before
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert on_demand(str(folder)).identity(tmp_path) not in (before, other)


def test_the_cache_looks_at_a_hub_id(hub: str, tmp_path: Path) -> None:
    """What is there may have changed, so what the cache remembers of the name does not count."""
    (tmp_path / "teacher-0.json").write_text(f'{{"identity": "before", "names": ["{hub}"]}}')
    first = on_demand(hub, load).identity(tmp_path)
    assert first == on_demand(hub, load).identity(tmp_path) != "before"

    def changed(name: str) -> Detector:
        teacher = load(name)
        nn.init.ones_(next(teacher.network.parameters()))
        return teacher

    assert on_demand(hub, changed).identity(tmp_path) != first


def test_a_comparison_keeps_to_its_teacher(folder: Path, tmp_path: Path) -> None:
    same_teacher(tmp_path / "out", str(folder))
    moved = folder.rename(tmp_path / "moved")
    same_teacher(tmp_path / "out", str(moved))
    (moved / "config.json").write_text((moved / "config.json").read_text() + " ")
    with pytest.raises(EyasError, match="choose another --out"):
        same_teacher(tmp_path / "out", str(moved))


def test_distill_with_a_cache_and_inspect(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_squares(tmp_path / "data", train=4, val=2)
    common = [f"--data={data}", f"--teacher={made}", "--any_teacher=true", *options(run_epochs=1)]
    cache = [f"--cache={tmp_path / 'cache'}", "--cache_dtype=float32"]
    assert main(["distill", f"--out={tmp_path / 'plain'}", *common]) == 0
    assert main(["distill", f"--out={tmp_path / 'cached'}", *cache, *common]) == 0
    plain, cached = (train_lines(tmp_path / out) for out in ("plain", "cached"))
    assert plain == cached and plain[0]["losses"]["fgfi"] > 0
    (teacher,) = read_log(tmp_path / "plain", "teacher")
    assert teacher["name"] == str(made)
    assert not (made / SPEC).exists()
    assert main(["inspect", str(made), f"--data={data}", f"--out={tmp_path / 'seen'}", "--workers=0"]) == 0
    assert "token_maps:0" in capsys.readouterr().out
