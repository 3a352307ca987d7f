"""Several processes of one command: their environment, the one message of a failure, and none left behind."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eyas.commands.launch import LOST_PROCESS, Nodes, launch
from eyas.types import EyasError


def script(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "script.py"
    path.write_text(f"import os, pathlib, signal, sys, time\nrank = int(os.environ['RANK'])\n{text}\n")
    return [sys.executable, "-S", str(path)]


def test_each_process_knows_its_place(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")
    text = f"print(*[os.environ[name] for name in {names}]); print('noise', file=sys.stderr)"
    path = tmp_path / "found"
    text += f"\npathlib.Path(f'{path}{{rank}}').write_text(' '.join(os.environ[name] for name in {names[:4]}))"
    assert launch(script(tmp_path, text), 3) == 0
    for rank in range(3):
        assert Path(f"{path}{rank}").read_text() == f"{rank} {rank} 3 127.0.0.1"
    shown = capfd.readouterr()
    assert shown.out.startswith("0 0 3 127.0.0.1 ") and shown.out.count("\n") == 1, "the first process alone prints"
    assert shown.err == "noise\n"


def test_a_failure_that_all_share_is_said_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = script(tmp_path, "time.sleep(0.2 * (1 - rank)); print('bad', file=sys.stderr); sys.exit(2)")
    assert launch(command, 2) == 2
    assert capfd.readouterr().err == "bad\n"


def test_a_failure_of_another_process_is_said_and_ends_the_first(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = script(tmp_path, "time.sleep(60 * (1 - rank)); print('bad image', file=sys.stderr); sys.exit(2)")
    started = time.monotonic()
    assert launch(command, 2) == 2
    assert time.monotonic() - started < 10
    assert capfd.readouterr().err == "bad image\n"


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("other", ["sys.exit(75)", "os.abort()", "sys.exit(1)"])
def test_a_process_that_a_signal_ended_is_named(tmp_path: Path, victim: int, other: str) -> None:
    """The other one loses its connection, and ends in one of the ways in which libraries take that."""
    text = f"if rank == {victim}:\n    os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(0.05)\n{other}"
    with pytest.raises(EyasError) as ended:
        launch(script(tmp_path, text), 2)
    assert str(ended.value).startswith(f"process {victim + 1} of 2 was ended by SIGKILL; if nobody sent that, memory")
    assert "--dataset.batch_size" in str(ended.value)


def test_processes_that_lost_another_machine_say_so(tmp_path: Path) -> None:
    with pytest.raises(EyasError, match="the connection to a process of another machine was lost"):
        launch(script(tmp_path, f"sys.exit({LOST_PROCESS})"), 2, Nodes(2, 0, "127.0.0.1:1"))
    with pytest.raises(EyasError, match="the connection to a process of the 2 of this training was lost"):
        launch(script(tmp_path, f"sys.exit({LOST_PROCESS})"), 2)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell's background jobs are started with SIGINT ignored, and their children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("said", "raises"), [(True, False), (False, True)])
def test_an_interrupt_reaches_all(tmp_path: Path, capfd: pytest.CaptureFixture[str], said: bool, raises: bool) -> None:
    """Sent to this process alone, as by `kill -INT`. Who has not said so itself leaves that to this process."""
    status = 130 if said else 1
    text = f"pathlib.Path(r'{tmp_path}', f'up{{rank}}').touch()\ntry:\n    time.sleep(60)\n"
    text += f"except KeyboardInterrupt:\n    pathlib.Path(r'{tmp_path}', f'down{{rank}}').touch(); sys.exit({status})"
    command = script(tmp_path, text)

    def interrupt() -> None:
        while not all((tmp_path / f"up{rank}").exists() for rank in (0, 1)):
            time.sleep(0.05)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    if raises:
        with pytest.raises(KeyboardInterrupt):
            launch(command, 2)
    else:
        assert launch(command, 2) == 130
    thread.join()
    assert (tmp_path / "down0").exists()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_nothing_is_left_when_this_process_is_terminated(
    tmp_path: Path, number: signal.Signals, request: pytest.FixtureRequest
) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # under nohup SIGHUP is ignored
    request.addfinalizer(lambda: signal.signal(number, before))
    text = f"pathlib.Path(r'{tmp_path}', f'pid{{rank}}').write_text(str(os.getpid()))"
    command = script(tmp_path, f"{text}\ntime.sleep(60)")

    def terminate() -> None:
        while not all((tmp_path / f"pid{rank}").exists() for rank in (0, 1)):
            time.sleep(0.05)
        time.sleep(0.2)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=terminate)
    thread.start()
    assert launch(command, 2) == 128 + number
    thread.join()
    for rank in (0, 1):
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / f"pid{rank}").read_text()), 0)
