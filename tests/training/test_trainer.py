"""The training loop: its arithmetic by hand, exact resume, the same start for every arm, and several processes."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import eyas.training.accelerator
import eyas.training.state
from eyas.__main__ import main
from eyas.args import DataArgs, OptimArgs, RunArgs
from eyas.data import Augmentation, read
from eyas.runs.checkpoint import ModelSpec
from eyas.runs.log import RunLog, read_log
from eyas.tools.progress import Progress
from eyas.training.accelerator import computes_in_bf16, make_accelerator
from eyas.training.loss_module import Baseline
from eyas.training.optim import average_decay, make_average, make_optimizer, schedule, share_of_first
from eyas.training.state import TrainState
from eyas.training.step_log import StepLog
from eyas.training.trainer import Trainer
from eyas.types import EyasError
from helpers.tiny import MODEL, one_epoch, options, train_lines, write_squares
from helpers.toys import ToyDetector, seeded


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares"), classes=("red", "blue"))


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return one_epoch(tmp_path_factory.mktemp("teacher") / "run", data)


# Schedule, optimiser, average ----------------------------------------------------------------------------------------


def test_warm_up_then_cosine() -> None:
    factor = schedule(OptimArgs(schedule="cosine", warmup=0.2), 10)
    expected = [1 / 3, 2 / 3, 1, *((1 + math.cos(math.pi * done / 8)) / 2 for done in range(1, 8))]
    assert [factor(step) for step in range(10)] == pytest.approx(expected)
    assert factor(6) == pytest.approx(0.5)
    assert factor(10) == pytest.approx(0)


def test_steps_at_milestones() -> None:
    factor = schedule(OptimArgs(schedule="step", milestones=(0.5, 0.8), gamma=0.1, warmup=0.0), 10)
    assert [factor(step) for step in range(10)] == pytest.approx([1] * 5 + [0.1] * 3 + [0.01] * 2)


def test_constant_and_a_run_of_one_step() -> None:
    factor = schedule(OptimArgs(schedule="constant", warmup=0.0), 3)
    assert [factor(step) for step in range(4)] == [1, 1, 1, 1]
    assert schedule(OptimArgs(warmup=0.9), 1)(0) == pytest.approx(0.5)
    assert schedule(OptimArgs(warmup=0.0), 1)(0) == 1


def test_norms_and_biases_do_not_decay_and_frozen_weights_are_left_out() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1))
    model[2].weight.requires_grad_(False)
    made = make_optimizer(model, OptimArgs(optimizer="sgd", lr=0.5, momentum=0.7, weight_decay=0.25))
    decayed, plain = made.param_groups
    assert [id(p) for p in decayed["params"]] == [id(model[0].weight)]
    expected = [model[0].bias, model[1].weight, model[1].bias, model[2].bias]
    assert [id(p) for p in plain["params"]] == [id(p) for p in expected]
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.25, 0)
    assert all((group["lr"], group["momentum"]) == (0.5, 0.7) for group in made.param_groups)
    assert isinstance(make_optimizer(model, OptimArgs(optimizer="adamw")), torch.optim.AdamW)


def test_the_running_average_by_hand() -> None:
    """The decay rises: 2/11 after one step, 3/12 after two, at most the one that was asked for."""
    student = ToyDetector(norm=True)
    ema = make_average(student, 0.2)
    assert ema is not None
    values = []
    for value in (4.0, 8.0, 0.0):
        nn.init.constant_(student.heads["fine"].bias, value)
        student.neck.norm.running_mean.fill_(value)
        ema.update_parameters(student)
        values.append((ema.module.heads["fine"].bias.item(), ema.module.neck.norm.running_mean[0].item()))
    second = 4 * 2 / 11 + 8 * 9 / 11
    expected = [4, second, second * 0.2]
    assert [bias for bias, _ in values] == [mean for _, mean in values] == pytest.approx(expected)
    assert make_average(student, 0.0) is None


def test_the_log_has_the_learning_rate_of_its_step(tmp_path: Path) -> None:
    data = write_squares(tmp_path / "data", train=8, val=1)
    more = options(run_epochs=2, run_evaluate_every=0, optim_warmup=0, optim_schedule="cosine")
    assert main(["train", f"--data={data}", f"--out={tmp_path / 'out'}", *more]) == 0
    rates = [line["lr"] for line in read_log(tmp_path / "out", "train")]
    assert rates == pytest.approx([0.002 * (1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)])


def test_a_baseline_that_fails_is_named() -> None:
    """As where BatchNorm gets one image, the last of an epoch, and a map of one cell."""
    student = seeded(0)
    student.neck.register_forward_hook(lambda *_: nn.BatchNorm1d(2)(torch.zeros(1, 2)))
    with pytest.raises(EyasError, match=r"the student fails on images of 32 x 32 .*more than 1 value per channel"):
        Baseline(student)(torch.zeros(1, 3, 32, 32), [])


def test_whole_numbers_are_not_averaged() -> None:
    """An average of indices is no index: torch's own loses one to rounding after a few steps."""
    student = ToyDetector()
    student.neck.register_buffer("places", torch.arange(100))
    ema = make_average(student, 0.999)
    assert ema is not None
    for _ in range(30):
        ema.update_parameters(student)
    assert ema.module.neck.places.tolist() == list(range(100))
    student.neck.places += 1
    ema.update_parameters(student)
    assert ema.module.neck.places.tolist() == list(range(1, 101))


def test_a_short_run_forgets_its_first_weights() -> None:
    """With a constant decay of 0.999 the first of 80 steps would make up 92 % of the average."""
    student = ToyDetector()
    ema = make_average(student, 0.999)
    assert ema is not None
    for step in range(80):
        nn.init.constant_(student.heads["fine"].bias, float(step == 0))
        ema.update_parameters(student)
    share = share_of_first(0.999, 80)
    assert share < 1e-9 and ema.module.heads["fine"].bias.item() == pytest.approx(share, rel=1e-4)
    assert [share_of_first(0.999, steps) for steps in (1, 2, 3)] == pytest.approx([1, 2 / 11, 2 / 11 * 3 / 12])
    assert average_decay(0.999, 10**6) == 0.999


def test_a_running_average_of_few_steps_warns(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for epochs, warned in ((1, True), (3, False)):  # of two steps each
        arguments = options(run_epochs=epochs, optim_ema=0.999)
        assert main(["train", f"--data={data}", f"--out={tmp_path / str(epochs)}", *arguments]) == 0
        said = "18% of the running average that is evaluated and saved" in capsys.readouterr().out
        assert said == warned


# The loop ------------------------------------------------------------------------------------------------------------


def trainer(folder: Path, data: Path, *, batch_size: int, optim: OptimArgs, **run: Any) -> Trainer:
    """A trainer of a toy that has one class, whose loss is a mean over the batch."""
    args = RunArgs(device="cpu", log_every=1, **run)
    train, val = (read(data, split) for split in ("train", "val"))
    accelerator = make_accelerator(args, optim)
    return Trainer(
        Baseline(seeded(0)),
        ModelSpec("toy", train.classes),
        train=train,
        val=val,
        metric="coco",
        data=DataArgs(batch_size=batch_size, workers=0, augment=Augmentation(flip=0.5)),
        val_data=DataArgs(batch_size=batch_size, workers=0),
        optim=optim,
        run=args,
        folder=folder,
        accelerator=accelerator,
    )


def fitted(folder: Path, data: Path, **options: Any) -> dict[str, torch.Tensor]:
    folder.mkdir()
    made = trainer(folder, data, **options)
    with Progress(quiet=True) as progress:
        made.fit(progress)
    return {key: value.clone() for key, value in made.state.student.state_dict().items()}


SGD = {"optimizer": "sgd", "lr": 0.1, "warmup": 0.0, "clip_norm": 0.0}


def test_two_batches_of_four_are_one_of_eight(tmp_path: Path, data: Path) -> None:
    whole = fitted(tmp_path / "whole", data, batch_size=8, optim=OptimArgs(**SGD), epochs=2)
    parts = fitted(tmp_path / "parts", data, batch_size=4, optim=OptimArgs(**SGD, accumulate=2), epochs=2)
    start = seeded(0).state_dict()
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value)
        assert not torch.equal(value, start[key]), key
    assert [line["step"] for line in train_lines(tmp_path / "parts")] == [1, 2]


def test_a_last_group_that_is_not_full_makes_its_step(tmp_path: Path, data: Path) -> None:
    fitted(tmp_path / "run", data, batch_size=2, optim=OptimArgs(**SGD, accumulate=3), epochs=2)
    assert [(line["epoch"], line["step"]) for line in train_lines(tmp_path / "run")] == [(0, 1), (0, 2), (1, 3), (1, 4)]


def test_a_last_group_that_is_not_full_has_the_mean_gradient_of_its_batches(tmp_path: Path, data: Path) -> None:
    """Two batches of four, where three would be accumulated: one step, as of one batch of eight."""
    whole = fitted(tmp_path / "whole", data, batch_size=8, optim=OptimArgs(**SGD), epochs=1)
    parts = fitted(tmp_path / "parts", data, batch_size=4, optim=OptimArgs(**SGD, accumulate=3), epochs=1)
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value)
    (one,), (other,) = (train_lines(tmp_path / name) for name in ("whole", "parts"))
    assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-4)


def test_gradients_are_clipped_to_their_norm(tmp_path: Path, data: Path) -> None:
    options = {**SGD, "clip_norm": 0.01, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"}
    after = fitted(tmp_path / "run", data, batch_size=8, optim=OptimArgs(**options), epochs=1)
    start = seeded(0).state_dict()
    moved = torch.stack([(after[key] - start[key]).norm() for key in after]).norm()
    assert train_lines(tmp_path / "run")[0]["gradient_norm"] > 0.1
    assert float(moved) == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_evaluations_at_their_epochs_and_at_the_last(tmp_path: Path, data: Path) -> None:
    for every, epochs in ((2, [2, 4, 5]), (0, [5])):
        folder = tmp_path / str(every)
        fitted(folder, data, batch_size=8, optim=OptimArgs(**SGD), epochs=5, evaluate_every=every)
        assert [line["epoch"] for line in read_log(folder, "val")] == epochs


@pytest.mark.parametrize("precision", ["bf16", "no"])
def test_runs_of_one_process_may_differ_in_precision(tmp_path: Path, data: Path, precision: str) -> None:
    """accelerate keeps its settings as long as the process lives."""
    after = fitted(tmp_path / "run", data, batch_size=8, optim=OptimArgs(**SGD), epochs=1, precision=precision)
    assert all(value.dtype == torch.float32 for value in after.values())


@pytest.mark.parametrize(
    ("says", "expected"), [({"avx512_bf16": True}, "bf16"), ({"avx512_bf16": False}, "no"), ({}, "no")]
)
def test_automatic_precision_is_that_of_the_device(
    monkeypatch: pytest.MonkeyPatch, says: dict[str, bool], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: says, raising=False)
    made = make_accelerator(RunArgs(precision="auto", device="cpu"), OptimArgs())
    assert made.mixed_precision == expected


def test_automatic_precision_is_float32_where_pytorch_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not computes_in_bf16(torch.device("cpu"))


def test_a_loss_that_is_not_finite_stops_with_losses_and_images(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainer(tmp_path, data, batch_size=4, optim=OptimArgs(**SGD), epochs=1)
    nn.init.constant_(made.state.student.heads["fine"].bias, float("inf"))
    with pytest.raises(EyasError, match=r"in step 1: loss_fine inf, loss_coarse .*; images \d, \d, \d, \d\. Lower"):
        made.fit(Progress(quiet=True))
    assert not (tmp_path / "last.pt").exists()


# Resume --------------------------------------------------------------------------------------------------------------


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ctrl-C in the middle of a step."""
    log_step = StepLog.values

    def interrupted(self: StepLog, state: TrainState, *arguments: Any) -> dict[str, float]:
        if state.step == step:
            raise KeyboardInterrupt
        return log_step(self, state, *arguments)

    monkeypatch.setattr(StepLog, "values", interrupted)


@pytest.mark.parametrize("command", ["train", "distill"])
def test_a_resumed_run_is_the_uninterrupted_one(
    command: str,
    data: Path,
    teacher: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """AdamW, a running average, dropout, augmentation, adapters and a late start of the imitation: bit by bit."""
    arguments = [command, f"--data={data}", *options(run_epochs=4, optim_ema=0.9)]
    if command == "distill":
        arguments += [
            f"--teacher={teacher}",
            "--any_teacher=true",
            "--method=eyas.FGFI",
            "--method.schedule.start_step=3",
        ]
    assert main([*arguments, f"--out={tmp_path / 'whole'}"]) == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, 6)
        assert main([*arguments, f"--out={tmp_path / 'parts'}"]) == 130
    assert "stopped" in capsys.readouterr().err
    assert not list((tmp_path / "parts").glob("*.part"))
    assert torch.load(tmp_path / "parts" / "last.pt", weights_only=True)["progress"]["epoch"] == 2

    assert main([*arguments, f"--out={tmp_path / 'parts'}", "--run.resume=true"]) == 0
    shown = capsys.readouterr().out
    assert "resume    after epoch 2" in shown
    whole, parts = ([without_time(line) for line in read_log(tmp_path / name, "train")] for name in ("whole", "parts"))
    assert parts == whole and len(whole) == 8
    if command == "distill":
        assert [line["losses"]["fgfi"] > 0 for line in whole] == [False] * 3 + [True] * 5
    assert [without_time(line) for line in read_log(tmp_path / "parts", "val")] == [
        without_time(line) for line in read_log(tmp_path / "whole", "val")
    ]
    for path in (tmp_path / "whole").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "parts" / path.name).read_bytes(), path.name
    for name in ("model", "ema"):
        states = [torch.load(tmp_path / run / "last.pt", weights_only=True)[name] for run in ("whole", "parts")]
        same(*states)


def same(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]) if isinstance(value, torch.Tensor) else value == second[key], key


def without_time(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key != "time"}


def test_a_run_stopped_before_its_first_checkpoint_begins_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["train", f"--data={data}", *options(run_epochs=1)]
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2)
        assert main([*arguments, f"--out={tmp_path / 'parts'}"]) == 130
    assert not (tmp_path / "parts" / "last.pt").exists()
    assert main([*arguments, f"--out={tmp_path / 'parts'}", "--run.resume=true"]) == 0
    assert main([*arguments, f"--out={tmp_path / 'whole'}"]) == 0
    whole, parts = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert parts == whole
    assert [line["step"] for line in read_log(tmp_path / "parts", "train")] == [1, 2]


def test_a_finished_run_that_is_resumed_is_only_evaluated(
    data: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = ["train", f"--data={data}", f"--out={out}", *options(run_epochs=1)]
    assert main(arguments) == 0
    before = (out / "model.safetensors").read_bytes()
    assert main([*arguments, "--run.resume=true"]) == 0
    assert (out / "model.safetensors").read_bytes() == before
    assert len(train_lines(out)) == 2
    said = capsys.readouterr().out.rpartition("resume")[2]
    assert "after epoch 1" in said and "epoch   1/1" not in said
    assert len(read_log(out, "val")) == len(read_log(out, "cost")) == 1


def test_the_disk_has_the_log_before_the_checkpoint(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where power fails, what a run goes on from is never ahead of what it has logged."""
    done: list[Any] = []
    monkeypatch.setattr(RunLog, "sync", lambda log: done.append(len(train_lines(log.path.parent))))
    monkeypatch.setattr(eyas.training.state, "save_state", lambda _, path: done.append(path.name))
    fitted(tmp_path / "run", data, batch_size=4, optim=OptimArgs(**SGD), epochs=1)
    assert done == [2, "last.pt", 2, "last.pt"]  # before the evaluation, and after it


def test_resume_from_python_with_other_epochs_is_refused(tmp_path: Path, data: Path) -> None:
    """There is no config to compare then; the checkpoint itself knows."""
    fitted(tmp_path / "run", data, batch_size=8, optim=OptimArgs(**SGD), epochs=1)
    made = trainer(tmp_path / "run", data, batch_size=8, optim=OptimArgs(**SGD), epochs=2, resume=True)
    with pytest.raises(EyasError, match="holds a run of 1 epochs"):
        made.fit(Progress(quiet=True))


# Arms and processes --------------------------------------------------------------------------------------------------


def test_plain_and_distilled_start_alike_and_see_the_same(data: Path, teacher: Path, tmp_path: Path) -> None:
    """Same initial weights, batches, augmentation and dropout: the first step's detection losses agree to the bit."""
    plain, distilled, other = (tmp_path / name for name in ("plain", "distilled", "other"))
    both = [f"--data={data}", *options(run_epochs=1, run_seed=5, optim_lr=0)]
    assert main(["train", *both, f"--out={plain}"]) == 0
    assert main(["distill", *both, f"--out={distilled}", f"--teacher={teacher}", "--any_teacher=true"]) == 0
    assert main(["train", f"--data={data}", *options(run_epochs=1, run_seed=6, optim_lr=0), f"--out={other}"]) == 0
    first, second, third = (train_lines(folder) for folder in (plain, distilled, other))
    for a, b, c in zip(first, second, third, strict=True):  # at a learning rate of 0 the second step agrees as well
        assert {name: b["losses"][name] for name in a["losses"]} == a["losses"]
        assert c["losses"] != a["losses"]
    assert first[0]["losses"] != first[1]["losses"]


@pytest.mark.slow
def test_two_processes_make_one_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One folder, one log; the score is that of the saved weights, BatchNorm's statistics included."""
    data, out = write_squares(tmp_path / "data", train=32, val=12), tmp_path / "two"
    more = {"run_epochs": 20, "run_evaluate_every": 20, "dataset_batch_size": 2, "optim_lr": 0.004}
    more["options"] = json.dumps({**MODEL, "dropout": 0.0})
    assert main(["train", f"--data={data}", f"--out={out}", *options(**more), "--devices=2"]) == 0
    shown = capfd.readouterr()
    assert shown.err == ""
    assert shown.out.count("epoch  20/20") == 1
    assert [line["step"] for line in train_lines(out)] == list(range(1, 8 * 20 + 1))
    assert read_log(out, "val")[-1]["summary"]["map"] > 0.002, "a score of 0 would agree with anything"
    assert "devices: 2" in (out / "config.yaml").read_text()
    figures = tmp_path / "figures.json"
    assert main(["evaluate", str(out), "--workers=0", "--device=cpu", f"--json_file={figures}"]) == 0
    assert json.loads(figures.read_text())["model"]["summary"] == read_log(out, "val")[-1]["summary"]


@pytest.mark.parametrize("precision", ["no", "auto"])
def test_processes_wait_longer_than_the_library_does(monkeypatch: pytest.MonkeyPatch, precision: Any) -> None:
    """The limit must reach whichever call starts the group of processes: with "auto" that is an earlier one."""
    module, given = eyas.training.accelerator, []
    state, real = module.PartialState, module.Accelerator

    def accelerator(*, kwargs_handlers: list[Any], **more: Any) -> Any:
        given.extend(handler.timeout for handler in kwargs_handlers)
        return real(kwargs_handlers=kwargs_handlers, **more)

    monkeypatch.setattr(module, "PartialState", lambda *, timeout, **more: given.append(timeout) or state(**more))
    monkeypatch.setattr(module, "Accelerator", accelerator)
    make_accelerator(RunArgs(device="cpu", precision=precision), OptimArgs())
    assert given == [module.WAIT] * (1 if precision == "no" else 2)


def test_processes_evaluate_with_the_buffers_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.BatchNorm2d(2)
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(eyas.training.accelerator, "broadcast", seen.append)
    eyas.training.accelerator.broadcast_buffers(network)
    assert [id(buffer) for buffer in seen] == [id(buffer) for buffer in network.buffers()] and len(seen) == 3


def test_a_run_is_resumed_on_its_own_images_and_under_its_own_teacher(
    data: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, taught, out = tmp_path / "data", tmp_path / "teacher", tmp_path / "run"
    shutil.copytree(data, own)
    shutil.copytree(teacher, taught)
    arguments = ["distill", f"--data={own}", f"--teacher={taught}", "--any_teacher=true", f"--out={out}"]
    arguments += options(run_epochs=1)
    assert main(arguments) == 0
    (line,) = read_log(out, "inputs")
    assert all(line[name] for name in ("train", "val", "teacher"))
    assert main([*arguments, "--run.resume=true"]) == 0
    weights = taught / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    assert main([*arguments, "--run.resume=true"]) == 2
    assert "other weights of its teacher than --teacher gives now" in " ".join(capsys.readouterr().err.split())
    weights.write_bytes(kept)
    annotations = own / "annotations" / "instances_train.json"
    annotations.write_text(annotations.read_text().replace('"bbox": [', '"bbox": [1', 1))
    assert main([*arguments, "--run.resume=true"]) == 2
    assert "other training images or boxes than --data gives now" in " ".join(capsys.readouterr().err.split())
