"""Checkpoints are written whole or not at all, and read without pickles."""

from __future__ import annotations

import errno
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from torch import nn

import eyas.runs.checkpoint
import eyas.tools.files
from eyas.data import Resize
from eyas.runs.checkpoint import ModelSpec, load_state, load_weights, save_state, save_weights
from eyas.runs.opening import load
from eyas.tools.files import could_not_write, json_text, write_atomic
from eyas.types import EyasError

TINY = {"width": 0.25, "stem_channels": 8}
FULL = OSError(errno.ENOSPC, "No space left on device")


def spec(**changes: Any) -> ModelSpec:
    values = {"model": "shuffledet", "classes": ("a", "b"), "options": TINY, "resize": Resize(height=32, width=48)}
    return ModelSpec(**{**values, **changes})


def saved_run(folder: Path) -> nn.Module:
    """A run folder with a model and its weights."""
    folder.mkdir()
    network = spec().build().network
    spec().save(folder)
    save_weights(network, folder / "student.safetensors")
    return network


def test_a_run_loads_as_it_was_saved(tmp_path: Path) -> None:
    network = saved_run(tmp_path / "run")
    found = load(tmp_path / "run")
    assert found.classes == ("a", "b")
    assert not found.network.training
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in found.network.state_dict().items())
    assert ModelSpec.load(tmp_path / "run") == spec()


def test_best_is_another_file(tmp_path: Path) -> None:
    network = saved_run(tmp_path / "run")
    with pytest.raises(EyasError, match=r"best\.safetensors: no such weights"):
        load(tmp_path / "run", best=True)
    nn.init.constant_(network.head.bias, 3.0)
    save_weights(network, tmp_path / "run" / "best.safetensors")
    assert bool((load(tmp_path / "run", best=True).network.head.bias == 3).all())
    assert not bool((load(tmp_path / "run").network.head.bias == 3).any())


def test_channels_last_weights_and_shared_tensors_are_saved(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)).to(memory_format=torch.channels_last)
    network[1].weight = network[0].weight
    save_weights(network, tmp_path / "w.safetensors")
    before = network[0].weight.detach().clone()
    nn.init.zeros_(network[0].weight)
    load_weights(network, tmp_path / "w.safetensors")
    assert torch.equal(network[0].weight, before)


@pytest.mark.parametrize("change", [{"options": {**TINY, "width": 0.5}}, {"classes": ("a", "b", "c")}])
def test_weights_of_another_architecture(tmp_path: Path, change: dict[str, Any]) -> None:
    saved_run(tmp_path / "run")
    spec(**change).save(tmp_path / "run")
    with pytest.raises(EyasError, match=r"student\.safetensors: a checkpoint of another architecture; \d+ tensors"):
        load(tmp_path / "run")


def test_weights_that_miss_a_tensor_or_have_one_more(tmp_path: Path) -> None:
    save_weights(nn.Linear(2, 2, bias=False), tmp_path / "w.safetensors")
    with pytest.raises(EyasError, match="1 tensors do not fit: bias"):
        load_weights(nn.Linear(2, 2), tmp_path / "w.safetensors")
    save_weights(nn.Linear(2, 2), tmp_path / "w.safetensors")
    with pytest.raises(EyasError, match="1 tensors do not fit: bias"):
        load_weights(nn.Linear(2, 2, bias=False), tmp_path / "w.safetensors")


def test_a_damaged_weights_file(tmp_path: Path) -> None:
    save_weights(nn.Linear(2, 2), tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:-3])
    with pytest.raises(EyasError, match=r"w\.safetensors: not a readable safetensors file"):
        load_weights(nn.Linear(2, 2), tmp_path / "w.safetensors")


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(EyasError, match=r"no model\.json here; give the folder of a run"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not readable as JSON"),
        ("[]", "a mapping of names to values is expected"),
        ("{}", "not a model description"),
        ({"future": 1}, "not a model description"),
        (
            {"resize": {"height": 10**9, "width": 10**9}},
            "not a model description .*resize height must lie in",
        ),
        ({"classes": ["a\x1b[2J"]}, "not a model description .*names must be printable texts"),
    ],
)
def test_a_model_description_that_cannot_be_read(tmp_path: Path, content: str | dict[str, Any], said: str) -> None:
    described = {"model": "shuffledet", "classes": ["a"], "resize": {}}
    text = content if isinstance(content, str) else json.dumps({**described, **content})
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(EyasError, match=rf"model\.json: {said}"):
        load(tmp_path)


def test_the_state_loads_without_pickles_and_pickles_are_refused(tmp_path: Path) -> None:
    state = {"a": torch.ones(2), "nested": {"b": [1, 2.5, None, "c"], "best": -float("inf")}}
    save_state(state, tmp_path / "last.pt")
    found = torch.load(tmp_path / "last.pt", weights_only=True)
    assert found["nested"] == state["nested"] and torch.equal(found["a"], state["a"])
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"a": Path("x")}))
    with pytest.raises(EyasError, match=r"evil\.pt: it is not a PyTorch checkpoint"):
        load_state(tmp_path / "evil.pt")
    with pytest.raises(EyasError, match="no checkpoint to resume from"):
        load_state(tmp_path / "none.pt")


def half_written(path: Path) -> None:
    path.write_bytes(b"half")
    raise FULL


def half_saved(error: Exception) -> Callable[..., None]:
    """A save function that writes something and then fails, as on a disk that is full."""

    def save(state: object, file: BinaryIO) -> None:
        file.write(b"half")
        raise error

    return save


def only_old(path: Path) -> None:
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(b"old")
    with pytest.raises(EyasError, match=r"w: could not be written .*No space left.*free some space"):
        write_atomic(path, half_written)
    only_old(path)


def test_an_interrupt_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(b"old")

    def interrupted(part: Path) -> None:
        part.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, interrupted)
    only_old(path)


# The zip writer of torch.save has errors of its own.
@pytest.mark.parametrize("error", [FULL, RuntimeError("[enforce fail at inline_container.cc] . unexpected pos")])
def test_a_full_disk_while_saving_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(b"old")
    monkeypatch.setattr(torch, "save", half_saved(error))
    with pytest.raises(EyasError, match=r"last\.pt: could not be written"):
        save_state({}, path)
    only_old(path)


def test_a_full_disk_while_saving_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"old")

    def half(self: Path, content: bytes) -> None:
        with self.open("wb") as file:
            half_saved(FULL)(content, file)

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(EyasError, match=r"w\.safetensors: could not be written"):
        save_weights(nn.Linear(1, 1), path)
    only_old(path)


def test_a_full_disk_that_shows_at_the_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise FULL

    monkeypatch.setattr(eyas.tools.files.os, "fsync", full)
    with pytest.raises(EyasError, match="could not be written"):
        write_atomic(path, lambda part: part.write_bytes(b"new"))
    only_old(path)


def test_a_place_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EyasError, match="could not be written"):
        write_atomic(tmp_path / "file" / "w", lambda part: part.write_text("x"))


def test_json_has_no_nan() -> None:
    assert json.loads(json_text({"a": [float("nan"), (1.5, float("inf"))]})) == {"a": [None, [1.5, None]]}


def test_the_reason_of_the_system_is_told() -> None:
    """PyTorch raises an error of its own while it closes what it could not write."""
    try:
        try:
            raise OSError(28, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904 (as it comes)
    except RuntimeError as error:
        assert "No space left" in str(could_not_write(Path("last.pt"), error))
    assert "(odd)" in str(could_not_write(Path("last.pt"), RuntimeError("odd")))


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EACCES, "make its folder writable"),
        (errno.EROFS, "read-only"),
        (errno.ENAMETOOLONG, "choose a shorter name"),
        (errno.ENOENT, "its folder is missing"),
        (errno.ENOTDIR, "a file stands in the way"),
        (errno.EMFILE, "raise the limit"),
        (errno.EIO, "choose another place"),
    ],
)
def test_the_advice_follows_the_reason(number: int, advice: str) -> None:
    said = str(could_not_write(Path("w"), OSError(number, os.strerror(number))))
    assert said.startswith("w: could not be written") and advice in said.partition("); ")[2]
    assert ("free some space" in said) == (number == errno.ENOSPC)
