"""Children that end with their parent, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eyas.tools.children import PARENT, end_all, end_with_parent, how_it_ended, start_child, when_parent_ends

PARENT_PROGRAM = """
import os, sys, time
from eyas.tools.children import start_child
start_child([sys.executable, "-c", sys.argv[1]], os.environ)
time.sleep(60)
"""
SAVES = """
import os, pathlib, signal, time
from eyas.tools.children import end_with_parent
folder = pathlib.Path({folder!r})
def save(*_):
    (folder / "saved").touch()
    raise SystemExit(0)
signal.signal(signal.SIGTERM, save)
assert end_with_parent() and "EYAS_PARENT" not in os.environ
(folder / "pid").write_text(str(os.getpid()))
while True:
    time.sleep(60)
"""
DEAF = """
import os, pathlib, signal, time
import eyas.tools.children as children
children.GRACE = 0.2
signal.signal(signal.SIGTERM, lambda *_: None)
assert children.end_with_parent()
(pathlib.Path({folder!r}) / "pid").write_text(str(os.getpid()))
while True:
    time.sleep(60)
"""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def wait(seconds: float, condition) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(condition())


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize(("program", "saved"), [(SAVES, True), (DEAF, False)])
def test_a_child_of_a_killed_parent_ends(tmp_path: Path, program: str, saved: bool) -> None:
    command = [sys.executable, "-c", PARENT_PROGRAM, program.format(folder=str(tmp_path))]
    with subprocess.Popen(command) as parent:
        assert wait(20, lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        child = int((tmp_path / "pid").read_text())
        assert alive(child)
        parent.kill()
    assert wait(5, lambda: not alive(child))
    assert (tmp_path / "saved").exists() == saved


def test_a_process_that_was_not_started_as_a_child_watches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PARENT, raising=False)
    assert not end_with_parent()


def test_a_parent_that_ended_before_its_child_began_is_noticed() -> None:
    ended: list[int] = []
    when_parent_ends(lambda: ended.append(1), parent=os.getpid())  # which is not its own parent
    assert wait(2, lambda: bool(ended))


def test_all_are_asked_and_those_that_stay_are_killed() -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    programs = ["print('up', flush=True); import time; time.sleep(60)", deaf]
    children = [start_child([sys.executable, "-c", each], os.environ, stdout=subprocess.PIPE) for each in programs]
    for child in children:
        assert child.stdout is not None and child.stdout.readline() == b"up\n"
        child.stdout.close()
    end_all(children, 0.5)
    assert [child.returncode for child in children] == [-signal.SIGTERM, -signal.SIGKILL]


def test_how_a_child_ended() -> None:
    assert how_it_ended(3) == "ended with status 3"
    assert how_it_ended(-signal.SIGTERM) == "was ended by SIGTERM"
    assert how_it_ended(-signal.SIGKILL).startswith("was ended by SIGKILL; if nobody sent that, memory has probably")
    assert how_it_ended(-(signal.SIGRTMAX + 1)) == f"was ended by signal {signal.SIGRTMAX + 1}"
