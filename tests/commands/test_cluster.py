"""Several machines: SLURM's variables, the options of the command line, and two 'machines' that are one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eyas.__main__ import main
from eyas.commands.launch import Nodes, _free_port, check_environment, first_host, slurm_environment
from eyas.runs.log import read_log
from eyas.types import EyasError
from helpers.tiny import options, write_squares

TASK = {
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu[03-04]",
    "SLURM_JOB_ID": "1234567",
}


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu[03-05,9],cpu1", "gpu03"),
        ("node7", "node7"),
        ("a1,a2", "a1"),
        ("r[1,3]-eth,x", "r1-eth"),
        ("127.0.0.1", "127.0.0.1"),
        ("", ""),
    ],
)
def test_first_host(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_a_task_of_slurm() -> None:
    assert slurm_environment(TASK) == {
        "RANK": "5",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "8",
        "MASTER_ADDR": "gpu03",
        "MASTER_PORT": str(20000 + 1234567 % 20000),
    }
    named = slurm_environment({**TASK, "MASTER_ADDR": "head", "MASTER_PORT": "99"})
    assert (named["MASTER_ADDR"], named["MASTER_PORT"]) == ("head", "99")


def test_no_task_of_slurm() -> None:
    assert slurm_environment({}) == {}
    assert slurm_environment({**TASK, "SLURM_NTASKS": "1"}) == {}
    assert slurm_environment({**TASK, "RANK": "0"}) == {}, "torchrun under srun has said it already"
    assert slurm_environment({"SLURM_NTASKS": "8"}) == {}, "a batch script, not a task of it"
    with pytest.raises(EyasError, match="LOCAL_RANK, MASTER_ADDR"):
        slurm_environment({"SLURM_NTASKS": "8", "SLURM_PROCID": "1"})


PLACE = {"RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        *(({name: value}, rf"variable {name} is '{value}', not a whole number; unset it")
          for name in (*TASK, *PLACE) for value in ("", "x", "1.5")
          if name not in ("SLURM_STEP_NODELIST", "MASTER_ADDR")),
        ({"LOCAL_RANK": "0"}, "a LOCAL_RANK and no RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT; unset it"),
        ({**PLACE, "MASTER_ADDR": ""}, "a LOCAL_RANK and no MASTER_ADDR"),
        ({**PLACE, "RANK": "2"}, "RANK is 2, and WORLD_SIZE 2"),
        ({**PLACE, "WORLD_SIZE": "-1"}, "RANK is 1, and WORLD_SIZE -1"),
    ],
)  # fmt: skip
def test_an_environment_of_no_process_is_refused(
    change: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(EyasError, match=said):
        check_environment(change)
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    assert main(["recipes", "copy", "nothing"]) == 2
    assert capsys.readouterr().err.startswith("eyas: the environment ")


def test_an_environment_of_processes_is_taken() -> None:
    for environment in ({}, TASK, PLACE, {"LOCAL_RANK": "-1", "RANK": "-1"}, {"WORLD_SIZE": "1"}):
        check_environment(environment)


def test_options_that_contradict_each_other() -> None:
    with pytest.raises(EyasError, match="--node_rank must be in 0 to 1"):
        Nodes(2, 2, "a:1")
    with pytest.raises(EyasError, match="needs --main_address"):
        Nodes(2, 0)
    for address in ("a", ":1", "a:b", "a:0", "a:70000"):
        with pytest.raises(EyasError, match="HOST:PORT"):
            Nodes(2, 0, address)
    assert Nodes(2, 1, "10.0.0.1:29500").host_and_port() == ("10.0.0.1", "29500")


def training(data: Path, out: Path) -> list[str]:
    return ["train", f"--data={data}", f"--out={out}", *options(run_epochs=1, dataset_batch_size=2)]


@pytest.mark.slow
def test_two_nodes_of_one_process(tmp_path: Path) -> None:
    """By the options, and by SLURM's variables: the losses of `--devices 2`."""
    data = write_squares(tmp_path / "squares")
    assert main([*training(data, tmp_path / "devices"), "--devices=2"]) == 0
    start = [sys.executable, "-m", "eyas"]
    loopback = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else dict(os.environ)
    place = ["--nodes=2", f"--main_address=127.0.0.1:{_free_port()}"]
    by_options = [
        subprocess.Popen([*start, *training(data, tmp_path / "nodes"), *place, f"--node_rank={rank}"], env=loopback)
        for rank in range(2)
    ]
    assert [process.wait(120) for process in by_options] == [0, 0]
    slurm = {
        "SLURM_NTASKS": "2",
        "SLURM_LOCALID": "0",
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_JOB_ID": str(os.getpid()),
    }
    by_slurm = [
        subprocess.Popen(
            [*start, *training(data, tmp_path / "slurm")], env={**loopback, **slurm, "SLURM_PROCID": str(rank)}
        )
        for rank in range(2)
    ]
    assert [process.wait(120) for process in by_slurm] == [0, 0]
    first, *others = (
        [line["losses"] for line in read_log(tmp_path / name, "train")] for name in ("devices", "nodes", "slurm")
    )
    assert len(first) == 2 and all(other == first for other in others)


@pytest.mark.slow
def test_resumed_by_another_number_of_processes(tmp_path: Path) -> None:
    """Two processes of two images, killed; then one of four: the steps of a run that had four from the start."""
    data = write_squares(tmp_path / "squares")

    def command(name: str, batch: int) -> list[str]:
        # Frozen BatchNorms and no sampling: what a process sees alone makes no difference.
        model = {"model": "retinanet", "backbone": "resnet18", "options": '{"norm": "frozen", "fpn_channels": 16}'}
        own = options(**model, run_epochs=3, dataset_batch_size=batch)
        return ["train", f"--data={data}", f"--out={tmp_path / name}", *own]

    killed = subprocess.Popen(
        [sys.executable, "-m", "eyas", *command("parts", 2), "--devices=2"], start_new_session=True
    )
    while not ((tmp_path / "parts" / "log.jsonl").exists() and read_log(tmp_path / "parts", "val")):
        assert killed.poll() is None
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    before = len(read_log(tmp_path / "parts", "train"))
    assert main([*command("parts", 4), "--run.resume=true"]) == 0
    assert main(command("whole", 4)) == 0
    parts, whole = ([line["losses"] for line in read_log(tmp_path / name, "train")] for name in ("parts", "whole"))
    assert len(parts) == len(whole) > before
    for one, other in zip(parts, whole, strict=True):
        assert one == pytest.approx(other, rel=1e-3)
    assert main([*command("parts", 8), "--run.resume=true"]) == 2
