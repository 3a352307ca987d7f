"""A run that was stopped in the middle of an epoch goes on in another number of processes: the same images are left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.data_loader import BatchSamplerShard
from faults.processes import command, wait_for
from torch.utils.data import BatchSampler

from eyas.__main__ import main
from eyas.data.dataset import EpochSampler
from eyas.runs.log import read_log
from eyas.training.reproducibility import other_processes, restore_random_state, seed_epoch
from eyas.training.trainer import Trainer
from helpers.tiny import options, write_squares

IMAGES = 16
RETINANET = {"model": "retinanet", "backbone": "resnet18", "options": '{"norm": "frozen", "fpn_channels": 16}'}
"""Frozen BatchNorms and no sampling: what a process sees alone makes no difference."""


@pytest.mark.parametrize("images", [32, 27])
@pytest.mark.parametrize(("processes", "batch", "accumulate"), [(2, 2, 1), (1, 2, 2), (4, 1, 1), (2, 1, 2)])
def test_a_step_has_the_same_images_in_any_number_of_processes(images, processes, batch, accumulate):
    """Steps of four images. Only the last of an epoch is filled up, where several processes share it."""

    def steps(processes: int, batch: int, accumulate: int) -> list[set[int]]:
        sampler = BatchSampler(EpochSampler(images, shuffle=True, seed=5), batch, drop_last=False)
        shards = [list(BatchSamplerShard(sampler, processes, rank)) for rank in range(processes)]
        groups = range(0, len(shards[0]), accumulate)
        drawn = [[one for shard in shards for one in shard[start : start + accumulate]] for start in groups]
        return [{draw.index for batch in group for draw in batch} for group in drawn]

    alone, shared = steps(1, 4, 1), steps(processes, batch, accumulate)
    assert len(shared) == len(alone) == -(-images // 4)
    assert shared[:-1] == alone[:-1] and alone[-1] <= shared[-1]


def test_what_is_drawn_by_chance_is_new_after_the_step():
    def drawn(*seeds: int) -> float:
        seed_epoch(*seeds)
        return float(torch.rand(1))

    assert len({drawn(1, 0, 0), drawn(1, 0, 0, 3), drawn(1, 0, 1, 3), drawn(1, 0, 0, 4)}) == 4
    assert drawn(1, 0, 0) == drawn(1, 0, 0, 0)
    two = [{"cpu": torch.get_rng_state()}] * 2
    accelerator = cast(Accelerator, SimpleNamespace(num_processes=1, process_index=0, device=torch.device("cpu")))
    seed_epoch(1, 0, 0, 3)
    restore_random_state(two, accelerator)  # of two processes: the seed stays
    assert float(torch.rand(1)) == drawn(1, 0, 0, 3)
    assert "of 2 processes, with 1: the steps that are left have the same images" in other_processes(two, accelerator)
    assert not other_processes([], accelerator) and not other_processes(two[:1], accelerator)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares"), train=IMAGES, val=2)


def training(data: Path, out: Path, **more: Any) -> list[str]:
    own = {**RETINANET, "run_epochs": 2, "run_evaluate_every": 0, "run_threads": 1, "optim_lr": 1e-4, **more}
    return ["train", f"--data={data}", f"--out={out}", "--run.resume=auto", *options(**own)]


def after_step(patch: pytest.MonkeyPatch, number: int, act: Callable[[], object], seen: list[list[int]]) -> None:
    """Call a function in a step, and keep the images of each step."""
    train_step = Trainer.train_step

    def watched(self: Trainer, batches: Any) -> Any:
        seen.append([target["index"] for _, targets in batches for target in targets])
        if self.state.step + 1 == number:
            act()
        return train_step(self, batches)

    patch.setattr(Trainer, "train_step", watched)


def losses(folder: Path) -> list[dict[str, float]]:
    return [line["losses"] for line in read_log(folder, "train")]


def assert_like(parts: Path, whole: Path, steps: int) -> None:
    """Every step is there once, and has the losses of a run that was not stopped."""
    assert [line["step"] for line in read_log(parts, "train")] == list(range(1, steps + 1))
    for one, other in zip(losses(parts), losses(whole), strict=True):
        assert one == pytest.approx(other, rel=1e-3)


@pytest.mark.slow
def test_batches_of_a_step_may_be_shared_otherwise(data, tmp_path, monkeypatch, capsys):
    """Eight images a step, in one batch and then in two, from the middle of an epoch."""
    seen: list[list[int]] = []
    with monkeypatch.context() as patch:
        after_step(patch, 1, lambda: signal.raise_signal(signal.SIGTERM), seen)
        assert main(training(data, tmp_path / "parts", dataset_batch_size=8)) == 143
    assert main(training(data, tmp_path / "parts", dataset_batch_size=4, optim_accumulate=1)) == 2
    said = capsys.readouterr().err
    assert "holds a run with devices x dataset.batch_size x optim.accumulate 8, not 4" in said
    with monkeypatch.context() as patch:
        after_step(patch, 0, lambda: None, seen)
        assert main(training(data, tmp_path / "parts", dataset_batch_size=4, optim_accumulate=2)) == 0
    assert "resume    after step 1" in capsys.readouterr().out
    epochs = [sorted(index for step in seen[start : start + 2] for index in step) for start in (0, 2)]
    assert epochs == [list(range(IMAGES))] * 2
    assert main(training(data, tmp_path / "whole", dataset_batch_size=8)) == 0
    assert_like(tmp_path / "parts", tmp_path / "whole", 4)


def test_other_images_in_a_step_are_refused_in_the_middle_of_an_epoch(data, tmp_path, monkeypatch, capsys):
    """From Python there is no config to compare: the steps that were made do not fit."""
    with monkeypatch.context() as patch:
        after_step(patch, 1, lambda: signal.raise_signal(signal.SIGTERM), [])
        assert main(training(data, tmp_path / "parts", dataset_batch_size=8)) == 143
    (tmp_path / "parts/config.yaml").write_text("")
    assert main(training(data, tmp_path / "parts", dataset_batch_size=16)) == 2
    assert "stopped in the middle of epoch 1, after step 1, and here an epoch has 1 steps" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_stopped_run_goes_on_in_fewer_or_more_processes(tmp_path, before, after):
    """By real command lines, with four images a step; a signal stops the first in the middle of an epoch."""
    data, out, said = write_squares(tmp_path / "data", train=32, val=4), tmp_path / "parts", tmp_path / "said.txt"

    def given(out: Path, processes: int) -> list[str]:
        return [*training(data, out, dataset_batch_size=4 // processes), f"--devices={processes}"]

    with command(given(out, before), said) as running:
        wait_for(lambda: (out / "log.jsonl").exists() and '"step": 2' in (out / "log.jsonl").read_text(), running)
        running.send_signal(signal.SIGTERM)
        assert running.wait(100) == 143
    step = torch.load(out / "last.pt", weights_only=True)["progress"]["step"]
    assert 2 <= step < 8, "stopped in the middle of an epoch of eight steps"
    line = [sys.executable, "-m", "eyas", *given(out, after)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=200, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert f"resume    after step {step}" in done.stdout
    assert f"of {before} process{'es' * (before > 1)}, with {after}: the steps that are left" in done.stdout
    assert main(given(tmp_path / "whole", 1)) == 0
    assert_like(out, tmp_path / "whole", 16)
    weights = [torch.load(folder / "last.pt", weights_only=True)["model"] for folder in (out, tmp_path / "whole")]
    for name, value in weights[0].items():
        assert np.allclose(value, weights[1][name], rtol=1e-2, atol=1e-3), name
