"""Training from a teacher cache: the same training, without the teacher."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from eyas.__main__ import main
from eyas.cache.shards import Shards, ShardWriter
from eyas.cache.store import TeacherCache, record_key
from eyas.data import Augmentation, Resize, read, train_transform
from eyas.data.dataset import loader
from eyas.data.identity import record_digest
from eyas.distillation.outlines import anchor_grids
from eyas.nn.taps import tap_features
from eyas.ops.near_objects import near_object_masks
from eyas.ops.pixels import as_float
from eyas.runs import opening
from eyas.runs.log import read_log
from eyas.runs.opening import load
from eyas.tools.files import file_digest
from eyas.types import Detector
from helpers.tiny import one_epoch, options, train_lines, write_squares

METHODS = [
    {"class_path": "eyas.FGFI", "init_args": {"weight": 0.01, "init_std": 0.01}},
    {"class_path": "eyas.FitNets", "init_args": {"weight": 0.001, "init_std": 0.01}},
]
ONE = METHODS[:1]
EMPTY = 2
"""The training image without objects."""


@dataclass
class Place:
    """A data set, a teacher and a full float32 cache, which a test may spoil."""

    root: Path
    loads: list[str] = field(default_factory=list)

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def arguments(self, *, method: Any = ONE, **more: Any) -> list[str]:
        folders = [f"--data={self.root / 'data'}", f"--teacher={self.root / 'teacher'}", "--any_teacher=true"]
        return [*folders, *options(method=json.dumps(method), **more)]

    def fill(self, dtype: str = "float32", **more: Any) -> int:
        return main(["cache", f"--cache={self.cache}", f"--cache_dtype={dtype}", *self.arguments(**more)])

    def distil(self, out: str, dtype: str | None = "float32", **more: Any) -> list[dict[str, Any]]:
        cached = [] if dtype is None else [f"--cache={self.cache}", f"--cache_dtype={dtype}"]
        assert main(["distill", f"--out={self.root / out}", *cached, *self.arguments(**more)]) == 0
        return train_lines(self.root / out)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    data = write_squares(root / "data")
    annotations = data / "annotations" / "instances_train.json"
    content = json.loads(annotations.read_text())
    empty = content["images"][EMPTY]["id"]
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] != empty]
    annotations.write_text(json.dumps(content))
    one_epoch(root / "teacher", data)
    assert Place(root).fill() == 0
    return root


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    shutil.copytree(made, tmp_path / "own")
    own = Place(tmp_path / "own")
    # The teacher is known under the name that it had when the cache was filled.
    for path in own.cache.glob("teacher-*.json"):
        path.write_text(path.read_text().replace(str(made), str(own.root)))
    load_run = opening.load_run

    def counted(folder: Path, *, best: bool = False) -> Detector:
        own.loads.append(str(folder))
        return load_run(folder, best=best)

    monkeypatch.setattr(opening, "load_run", counted)
    return own


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The number of images in each batch that the teacher was run on to be cached."""
    batches: list[int] = []
    split = TeacherCache.split
    monkeypatch.setattr(
        TeacherCache, "split", lambda self, wanted: batches.append(wanted[0].size[0]) or split(self, wanted)
    )
    yield batches


# --- the same training ---


def test_twenty_steps_are_those_without_a_cache(place: Place) -> None:
    """Losses, gradient norms and weights, bit by bit, with flips and an image without objects; ten epochs of two."""
    plain = place.distil("plain", None, method=METHODS, run_epochs=10, run_evaluate_every=0)
    cached = place.distil("cached", method=METHODS, run_epochs=10, run_evaluate_every=0)
    assert len(cached) == 20 and cached == plain
    assert all(line["losses"]["fgfi"] > 0 and line["losses"]["fitnets"] > 0 for line in cached)
    mine, theirs = (load_file(place.root / out / "student.safetensors") for out in ("cached", "plain"))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    (teacher,), (remembered,) = (list(read_log(place.root / out, "teacher")) for out in ("plain", "cached"))
    assert {**teacher, "time": 0} == {**remembered, "time": 0}
    assert sorted(path.name.split("-")[0] for path in place.cache.iterdir() if path.is_dir()) == ["fgfi", "fitnets"]


def test_accumulated_steps_are_those_without_a_cache(place: Place) -> None:
    """N_p of a step of three batches, the last of a single one, is counted from the records as from the masks."""
    more = {"run_epochs": 2, "run_evaluate_every": 0, "dataset_batch_size": 2, "optim_accumulate": 3}
    plain = place.distil("plain", None, method=METHODS, **more)
    cached = place.distil("cached", method=METHODS, **more)
    assert len(cached) == 4 and cached == plain


def test_bfloat16_changes_little(place: Place) -> None:
    """Its rounding, 2^-9 of a value at most, moves a loss by a thousandth at once, by a few percent in 20 steps."""
    more = {"run_epochs": 10, "run_evaluate_every": 0, "optim_optimizer": "sgd", "optim_lr": 1e-4}
    plain = place.distil("plain", None, **more)
    cached = place.distil("cached", "bfloat16", **more)
    assert plain[0]["losses"]["fgfi"] != cached[0]["losses"]["fgfi"]
    for step, tolerance in ((0, 2e-3), (19, 0.05)):
        for name, value in plain[step]["losses"].items():
            assert cached[step]["losses"][name] == pytest.approx(value, rel=tolerance)
        assert cached[step]["gradient_norm"] == pytest.approx(plain[step]["gradient_norm"], rel=tolerance)


def test_vectors_are_the_teachers_at_near_cells(place: Place) -> None:
    """Variant 1 holds vectors of the flipped image, not of a flipped map."""
    source = read(place.root / "data", "train")
    teacher = load(str(place.root / "teacher"))
    (folder,) = [path for path in place.cache.iterdir() if path.is_dir()]
    known = json.loads((folder / "meta.json").read_text())
    (channels,) = [level.channels for level in teacher.levels.values()]
    store = TeacherCache(folder, known, [channels], "float32")
    for variant in (0, 1):
        transform = train_transform(Resize(), Augmentation(flip=float(variant)))
        ((images, targets),) = list(loader(source, transform, batch_size=8, shuffle=False, workers=0, seed=0))
        (features,) = tap_features(teacher, teacher.levels, as_float(images)).values()
        masks = near_object_masks(anchor_grids(teacher, (64, 64)), [target["boxes"] for target in targets])
        keys = [record_key(record_digest(record, file_digest(record.path)), variant) for record in source.records]
        (found,) = store.read(keys, torch.device("cpu"))
        for mine, theirs in zip(found.cells, masks[0].nonzero(as_tuple=True), strict=True):
            assert torch.equal(mine, theirs)
        expected = features.permute(0, 2, 3, 1)[found.cells]
        # Not bit by bit: the teacher that filled the cache had its BatchNorms folded.
        torch.testing.assert_close(found.vectors, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        assert EMPTY not in found.cells[0] and len(found.cells[0]) > 8


def test_the_teacher_may_be_gone(place: Place, written: list[int]) -> None:
    (place.root / "teacher").rename(place.root / "elsewhere")
    lines = place.distil("cached", run_epochs=1, optim_ema=0.5)
    assert lines[0]["losses"]["fgfi"] > 0 and not place.loads and not written
    assert len(list(read_log(place.root / "cached", "teacher"))) == 1
    (timed,) = place.cache.glob("fgfi-*/filling.json")
    filling = json.loads(timed.read_text())
    assert filling["records"] == 16, "eight images, each in two variants"
    (line,) = read_log(place.root / "cached", "cache")
    assert line["seconds"] == pytest.approx(filling["seconds"]) and line["seconds"] > 0


def test_a_full_cache_opens_the_teacher_only_to_score_it(place: Place, written: list[int]) -> None:
    place.distil("scored", run_epochs=1)
    assert not place.loads, "its score on these images is in the cache"
    place.distil("another_metric", run_epochs=1, run_metric="voc")
    assert len(place.loads) == 1 and not written
    place.distil("again", run_epochs=1, run_metric="voc")
    assert len(place.loads) == 1


def test_a_complete_cache_that_cannot_be_written_is_used(
    place: Place, written: list[int], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The cache knows the teacher by another name, and not its score: neither can be remembered."""
    for path in place.cache.glob("teacher-*.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "names": ["elsewhere"]}))
    for path in place.cache.glob("score-*.json"):
        path.unlink()
    before = sorted(place.cache.rglob("*"))
    monkeypatch.setattr("eyas.cache.session.os.access", lambda *_: False)
    lines = place.distil("cached", run_epochs=1)
    assert lines[0]["losses"]["fgfi"] > 0 and not written
    assert sorted(place.cache.rglob("*")) == before
    assert capsys.readouterr().out.count("is read-only: ") == 2


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("teacher", {"identity": 5}),
        ("teacher", {"identity": "0" * 64}),
        ("teacher", {"names": None}),
        ("teacher", {"names": 5}),
        ("teacher", {"classes": ["\x1b[2J"]}),
        ("teacher", {"levels": 5}),
        ("score", {"summary": {"map": "x"}}),
        ("score", {"summary": {}}),
        ("score", {"metric": 5}),
        ("score", {"per_class": {"a": 1}}),
    ],
)
def test_a_file_of_the_cache_that_says_something_else_is_refused(
    place: Place, file: str, change: dict[str, Any], capsys: Any
) -> None:
    (path,) = place.cache.glob(f"{file}-*.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(AssertionError, match="assert 2 == 0"):
        place.distil("cached", run_epochs=1)
    assert re.search(rf"{path.name}: not a file of this cache.*; remove it, and it is made", capsys.readouterr().err)


def test_colours_may_vary(place: Place) -> None:
    more = {"dataset_augment.brightness": 0.4, "dataset_augment.hue": 0.2}
    plain = place.distil("plain", run_epochs=1)
    varied = place.distil("varied", run_epochs=1, **more)
    assert not place.loads and varied[0]["losses"]["fgfi"] != plain[0]["losses"]["fgfi"]


# --- stale, torn, interrupted ---


def test_only_what_changed_is_computed_again(place: Place, written: list[int]) -> None:
    data = place.root / "data"
    image = data / "images" / "train" / "train1.png"
    with Image.open(image) as picture:
        pixels = picture.copy()
    pixels.putpixel((0, 0), (1, 2, 3))
    pixels.save(image)
    annotations = data / "annotations" / "instances_train.json"
    content = json.loads(annotations.read_text())
    moved = next(entry for entry in content["annotations"] if entry["image_id"] == content["images"][5]["id"])
    moved["bbox"][0] += 1
    annotations.write_text(json.dumps(content))
    place.distil("again", run_epochs=1)
    # Two images of two variants; in whole batches, as they would be computed all together.
    assert len(new_records(place)) == 4 and written == [4, 4] and len(place.loads) == 1


def test_another_psi_or_other_weights_use_nothing_old(place: Place, written: list[int]) -> None:
    assert place.fill(method=[{"class_path": "eyas.FGFI", "init_args": {"psi": 0.7}}]) == 0
    assert sum(written) == 16
    weights = place.root / "teacher" / "model.safetensors"
    save_file({name: value * 1.01 for name, value in load_file(weights).items()}, weights)
    written.clear()
    assert place.fill() == 0
    assert sum(written) == 16
    written.clear()
    assert place.fill() == 0
    assert not written


@pytest.mark.parametrize("harm", ["shard", "index"])
def test_torn_records_are_computed_again(place: Place, written: list[int], harm: str) -> None:
    suffix = {"shard": "bin", "index": "index"}[harm]
    before = records(place)
    (path,) = place.cache.glob(f"fgfi-*/shard-*.{suffix}")
    path.write_bytes(path.read_bytes()[:-1])
    place.distil("again", run_epochs=1)
    assert len(new_records(place)) == 1 and written == [4]
    assert records(place) == before


def test_interrupted_filling_goes_on_and_ends_the_same(
    place: Place, written: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of a batch, which is computed whole again: the last bits depend on its size."""
    before = records(place)
    for path in place.cache.glob("fgfi-*"):
        shutil.rmtree(path)
    add, calls = ShardWriter.add, []

    def interrupted(self: ShardWriter, *record: Any) -> None:
        calls.append(record)
        if len(calls) == 7:
            raise KeyboardInterrupt
        add(self, *record)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "add", interrupted)
        assert place.fill() == 130
    assert len(records(place)) == 6
    (timed,) = place.cache.glob("fgfi-*/filling.json")
    first = json.loads(timed.read_text())
    assert first["records"] == 6 and first["seconds"] > 0, "what was filled, and how long it took, stays"
    written.clear()
    assert place.fill() == 0
    assert written == [4, 4, 4] and len(new_records(place)) == 10
    second = json.loads(timed.read_text())
    assert second["records"] == 16 and second["seconds"] > first["seconds"]
    assert records(place) == before and len(before) == 16


def records(place: Place) -> dict[bytes, bytes]:
    """Every record of the one cache there is, by its key."""
    (folder,) = place.cache.glob("fgfi-*")
    shards = Shards(folder)
    return {key: bytes(shards[key]) for key in shards}


def new_records(place: Place) -> list[str]:
    """The keys in the newest shard."""
    path = max(place.cache.glob("fgfi-*/shard-*.index"))
    return [json.loads(line)[0] for line in path.read_text().splitlines()[1:]]


# --- the command ---


def test_it_says_the_size_beforehand_and_what_came_of_it(made: Path, tmp_path: Path, capsys: Any) -> None:
    own = Place(tmp_path)
    for name in ("data", "teacher"):
        shutil.copytree(made / name, tmp_path / name)
    assert own.fill("bfloat16") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("cache     fgfi: ")]
    assert len(lines) == 2 and "to write, 16 images" in lines[0]
    assert lines[0].replace("to write, ", "") == lines[1] and "% of whole maps (" in lines[1] and "an image" in lines[1]


def test_refusals_name_option_and_method(place: Place, capsys: Any) -> None:
    assert place.fill(**{"dataset_augment.shift": 0.1}) == 2
    assert "--dataset.augment.shift 0" in capsys.readouterr().err
    assert place.fill(method=[{"class_path": "eyas.Vanilla"}]) == 2
    assert "Vanilla looks at more" in capsys.readouterr().err
    assert not place.loads


@pytest.mark.slow
def test_two_processes_fill_disjoint_parts(made: Path, tmp_path: Path) -> None:
    own = Place(tmp_path)
    for name in ("data", "teacher"):
        shutil.copytree(made / name, tmp_path / name)
    command = [sys.executable, "-m", "eyas", "cache", "--devices=2", f"--cache={own.cache}", *own.arguments()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    parts = [path.read_text().splitlines()[1:] for path in own.cache.glob("fgfi-*/shard-*.index")]
    keys = [[json.loads(line)[0] for line in part] for part in parts]
    assert [len(part) for part in keys] == [8, 8] and not set(keys[0]) & set(keys[1])
    assert done.stdout.count("cache     fgfi") == 2
