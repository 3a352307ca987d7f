"""Files from strangers are refused by name, without running what is in them and within bounds of memory."""

from __future__ import annotations

import math
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from faults.checkpoints import ORIGINALS, PEAK_MIB, holds, in_a_process, read, read_mutations
from faults.hostile import SAFE, WEIGHTS, Case, run, save
from faults.hostile_cases import cases
from torch import nn

from eyas.cache.shards import KEY_BYTES, LevelRecord, encode, well_formed
from eyas.detectors import build
from eyas.detectors.transformers.loading import LOADER_OPTIONS
from eyas.distillation.distiller import Distiller
from eyas.runs.checkpoint import load_weights, save_weights
from eyas.runs.opening import load
from eyas.tools.files import file_digest
from eyas.tools.tensor_files import check_weights, read_pt, read_safetensors
from eyas.training.reproducibility import restore_random_state
from eyas.training.state import TrainState
from eyas.types import Detector, EyasError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by /proc")
NEEDS = {"onnx": "onnxruntime", "transformers": "transformers"}
BOMB_MIB = 256


@pytest.mark.parametrize("case", cases(BOMB_MIB), ids=lambda case: f"{case.reader}-{case.name}")
def test_a_hostile_file(case: Case, tmp_path: Path) -> None:
    if case.reader in NEEDS:
        pytest.importorskip(NEEDS[case.reader])
    outcome = read(case, tmp_path)
    assert holds(case, outcome), outcome


@pytest.mark.parametrize("name", ORIGINALS)
def test_a_good_file_with_bytes_changed(name: str, tmp_path: Path) -> None:
    outcome = read_mutations(name, 100, 1, tmp_path)
    assert outcome.what == "refused" and outcome.peak_mib < PEAK_MIB, outcome


def test_the_measure_sees_a_bomb_and_code_that_runs(tmp_path: Path) -> None:
    """Without the checks of the product, the same files do harm: so the tests above can fail."""
    bomb = next(case for case in cases(BOMB_MIB) if case.name == "zip bomb")
    bomb.write(tmp_path)
    unchecked = in_a_process(lambda: torch.load(tmp_path / WEIGHTS, weights_only=True)["w"].sum())
    assert unchecked.what == "read" and unchecked.peak_mib > BOMB_MIB > PEAK_MIB
    code = next(case for case in cases() if case.name == "runs a command")
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    code.write(tmp_path)
    in_a_process(lambda: torch.load(tmp_path / WEIGHTS, weights_only=False))
    assert (tmp_path / "marker").exists()


def test_a_refusal_does_not_pass_on_the_advice_to_switch_the_safety_off(tmp_path: Path) -> None:
    save(tmp_path, nn.Linear(2, 2))
    with pytest.raises(EyasError, match="nothing of it was read or run") as refusal:
        read_pt(tmp_path / WEIGHTS)
    assert "weights_only" not in str(refusal.value) and "torch.nn.modules.linear.Linear" in str(refusal.value)


def test_shared_tensors_and_old_files_are_read(tmp_path: Path) -> None:
    weight = torch.rand(100, 100)
    save(tmp_path, {"a": weight, "b": weight, "c": weight[:50]})
    found = read_pt(tmp_path / WEIGHTS)
    assert torch.equal(found["a"], weight) and torch.equal(found["c"], weight[:50])


def test_weights_are_left_as_they_are_when_others_are_refused(tmp_path: Path) -> None:
    network = nn.Linear(2, 2)
    before = network.weight.detach().clone()
    broken = nn.Linear(2, 2)
    nn.init.constant_(broken.bias, float("nan"))
    save_weights(broken, tmp_path / SAFE)
    with pytest.raises(EyasError, match=r"1 of 2 tensors have NaN or infinite values: bias"):
        load_weights(network, tmp_path / SAFE)
    assert torch.equal(network.weight, before)


def test_integers_and_masks_are_weights_too() -> None:
    check_weights("w", {"n": torch.tensor(3), "mask": torch.tensor([True]), "half": torch.ones(2).half()})
    with pytest.raises(EyasError, match=r"w: 1 tensors have an unsupported type"):
        check_weights("w", {"w": torch.ones(1, dtype=torch.complex64)})


@pytest.mark.parametrize("option", ["trust_remote_code", "token", "revision"])
def test_the_configuration_of_a_detector_is_no_way_to_the_library(option: str) -> None:
    pytest.importorskip("transformers")
    assert option in LOADER_OPTIONS
    with pytest.raises(EyasError, match=f"{option} is not a value of a configuration"):
        build("transformers", ("a",), backbone="org/name", options={"config": {option: True}})


def a_training() -> TrainState:
    """After one step of AdamW, in the first of three epochs."""
    model = nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    ema = torch.optim.swa_utils.AveragedModel(model)
    return TrainState(model, cast(Detector, model), optimizer, scheduler, ema, epochs=3, batches=1, best=0.5)


ALONE = cast(
    Accelerator,
    SimpleNamespace(
        unwrap_model=lambda model: model, get_state_dict=nn.Module.state_dict, scaler=None, is_main_process=True
    ),
)


def put(state: Any, place: str, value: object) -> None:
    """Put a value into nested mappings and lists, at a place such as ``optimizer.state.0.exp_avg``."""
    *path, last = (int(name) if name.isdigit() else name for name in place.split("."))
    for name in path:
        state = state[name]
    state[last] = value


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *(("progress", value) for value in ({}, None, [])),
        *(("progress.epoch", value) for value in ("x", -5, 1.5, 10**30, 4, None, True)),
        *((f"progress.{name}", value) for name in ("batch", "step", "waited") for value in ("x", -1, 10**30)),
        *(("progress.best", value) for value in ("x", None, math.nan)),
        *(("optimizer", value) for value in ([], None, {"state": 3})),
        *(
            ("optimizer.state.0.exp_avg", value)
            for value in (torch.ones(2, 3), torch.ones(()), torch.ones(7), "x", [1])
        ),
        *(("optimizer.state.0.exp_avg", torch.full((3, 2), value)) for value in (math.nan, math.inf)),
        *(("optimizer.state.0.exp_avg_sq", torch.full((3, 2), value)) for value in (math.nan, -1.0)),
        *(("optimizer.state.0.step", value) for value in (torch.tensor(-5.0), torch.tensor(math.nan), -5)),
        *(("optimizer.param_groups.0.lr", value) for value in ("x", None, math.nan, [1], -1.0)),
        *(("optimizer.param_groups.0.betas", value) for value in (5, (2,), ("x", "y"), (2.0, 2.0), (0.9, 1.0))),
        *((f"optimizer.param_groups.0.{name}", -1.0) for name in ("eps", "weight_decay", "initial_lr")),
        *(("optimizer.param_groups.0.amsgrad", value) for value in (1, None)),
        *(("random", value) for value in (None, 5, {})),
        *(("scheduler", value) for value in (None, 5, {"step": 5})),
        *(("scheduler.last_epoch", value) for value in ("x", math.nan, None, -3)),
        *(("scheduler.base_lrs", value) for value in ([], ["x"], [1e9])),
        ("ema.n_averaged", torch.tensor(-10)),
        *(("ema", value) for value in (None, [], {})),
        *(("model", value) for value in ({"a": torch.ones(1)}, {"weight": torch.ones(2, 3)})),
    ],
)
def test_a_checkpoint_that_fits_no_run(tmp_path: Path, place: str, value: object) -> None:
    """What PyTorch would take as it is, and fail over in the next step, is refused when it is read."""
    path = tmp_path / "last.pt"
    a_training().save(path, ALONE)
    a_training().restore(path, ALONE)  # as it was written, it fits
    state = torch.load(path, weights_only=True)
    put(state, place, value)
    torch.save(state, path)
    with pytest.raises(EyasError, match=r"last\.pt: not a checkpoint of this run"):
        a_training().restore(path, ALONE)


def test_a_running_average_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    a_training().save(path, ALONE)
    state = torch.load(path, weights_only=True)
    state["ema"]["module.weight"] = torch.full((3, 2), math.nan)
    torch.save(state, path)
    with pytest.raises(EyasError, match=r"last\.pt: its running average: .* NaN"):
        a_training().restore(path, ALONE)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scale", 0.0),
        ("scale", -1.0),
        ("scale", math.nan),
        ("scale", "x"),
        ("growth_factor", 1e9),
        ("backoff_factor", 0),
    ],
)
def test_a_loss_scale_that_is_none_is_refused(tmp_path: Path, name: str, value: object) -> None:
    scaler = torch.amp.GradScaler("cpu", enabled=True)
    accelerator = cast(Accelerator, SimpleNamespace(**{**vars(ALONE), "scaler": scaler}))
    path = tmp_path / "last.pt"
    a_training().save(path, accelerator)
    a_training().restore(path, accelerator)
    state = torch.load(path, weights_only=True)
    state["scaler"][name] = value
    torch.save(state, path)
    with pytest.raises(EyasError, match=r"last\.pt: not a checkpoint of this run.*its loss scale"):
        a_training().restore(path, accelerator)


@pytest.mark.parametrize("batches", [-1, "x", 1.5, None, True])
def test_a_distiller_that_trained_on_no_number_of_batches_is_refused(batches: object) -> None:
    with pytest.raises(ValueError, match="batches"):
        Distiller.set_extra_state(cast(Distiller, SimpleNamespace()), cast(dict[str, int], {"batches": batches}))


@pytest.mark.parametrize("name", ["last.pt", "student.safetensors"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    os.mkfifo(path)
    for reader in (read_pt, read_safetensors, file_digest):
        with pytest.raises(EyasError, match=f"{name}: is not a file"):
            reader(path)


@pytest.mark.parametrize("states", [[{}], [{"cpu": torch.zeros(3)}], [5], [{"cpu": "x"}]])
def test_a_random_state_that_is_none_is_refused(states: list[Any]) -> None:
    accelerator = SimpleNamespace(num_processes=1, process_index=0, device=torch.device("cpu"))
    with pytest.raises(EyasError, match="the random state in the checkpoint is damaged"):
        restore_random_state(states, cast(Accelerator, accelerator))


def test_a_run_in_order_is_loaded_on_the_cpu_and_twice_the_same(tmp_path: Path) -> None:
    run(tmp_path)
    first, second = load(tmp_path), load(tmp_path)
    weights = zip(first.network.state_dict().values(), second.network.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in weights)
    assert all(value.device.type == "cpu" for value in first.network.state_dict().values())


def record(**changes: object) -> memoryview:
    values = {"size": (4, 6), "cells": np.array([0, 5, 23], dtype=np.int32), **changes}
    cells = values["cells"]
    assert isinstance(cells, np.ndarray)
    vectors = np.zeros((len(cells), 8), dtype=np.int16)
    level = LevelRecord(values["size"], cells, vectors)  # type: ignore[arg-type]
    return memoryview(encode(bytes(KEY_BYTES), [level]))


def test_a_record_of_the_cache_that_lies_about_itself() -> None:
    assert well_formed(record(), [8], 2)
    assert well_formed(record(cells=np.zeros(0, dtype=np.int32)), [8], 2)
    assert not well_formed(record()[:40], [8], 2)
    assert not well_formed(record(), [8], 4), "it would be longer"
    assert not well_formed(record(), [40], 2)
    assert not well_formed(record(size=(4, 5)), [8], 2), "cell 23 of 20"
    assert not well_formed(record(size=(2**20, 2**20)), [8], 2), "a map of 2^40 cells"
    assert not well_formed(record(cells=np.array([5, 5, 6], dtype=np.int32)), [8], 2)
    assert not well_formed(record(cells=np.array([-1, 5, 6], dtype=np.int32)), [8], 2)
