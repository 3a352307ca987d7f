"""Teachers that another library saved: folders of `save_pretrained`, and hub ids, without a network."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from eyas.__main__ import main
from eyas.cache.identity import TeacherOnDemand
from eyas.comparison.plan import same_teacher
from eyas.detectors import TransformersDetector, native_format
from eyas.detectors.transformers import SavedPretrained, is_hub_id
from eyas.detectors.transformers import loading as huggingface_sources
from eyas.runs.checkpoint import SPEC
from eyas.runs.log import read_log
from eyas.runs.opening import load, resolve_detector
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
    detector.export_native(folder)
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

    read = huggingface_sources._read
    monkeypatch.setattr(
        huggingface_sources, "_read", lambda source, reader, **more: read(source, Offline(reader), **more)
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


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(EyasError, match=r"not the configuration of a detector|cannot read it"):
        load(str(tmp_path))


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
