"""One message for each error that is not a mistake in the code."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from eyas.__main__ import main
from eyas.commands.failures import explained, lost_process
from eyas.tools.children import PARENT
from eyas.tools.shortage import FILES, MEMORY
from eyas.types import EyasError

GLOO = "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:29500"


def test_bad_input_speaks_for_itself_and_a_mistake_does_not() -> None:
    assert explained(EyasError("--out: no")) == "--out: no"
    assert explained(KeyError("x")) is None and explained(RuntimeError(GLOO)) is None


def test_what_ran_out_goes_before_the_file_where_it_was_noticed() -> None:
    error = EyasError("annotations.json: cannot be read; replace it")
    error.__cause__ = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    assert explained(error) == FILES
    assert explained(MemoryError()) == MEMORY


def test_notes_follow_the_message() -> None:
    error = EyasError("the disk is gone")
    error.add_note("the last checkpoint is intact")
    assert explained(error) == "the disk is gone; the last checkpoint is intact"


@pytest.mark.parametrize("name", ["/tmp/x.png", None])
def test_a_full_disk(name: str | None) -> None:
    said = explained(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name))
    place = name or "a temporary folder or /dev/shm"
    assert said == f"{place}: could not be written (No space left on device); free some space"


def test_a_process_that_lost_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for text in (GLOO, "NCCL error: remote process exited or there was a network error", "writev: Broken pipe"):
        assert lost_process(RuntimeError(text))
    assert not lost_process(RuntimeError("NCCL error: invalid usage, duplicate GPU detected"))
    assert not lost_process(RuntimeError("shapes do not fit")) and not lost_process(ConnectionResetError(GLOO))
    assert "the connection to another process of this training was lost" in str(explained(RuntimeError(GLOO)))


def test_a_link_that_leads_to_itself() -> None:
    assert explained(RuntimeError("Symlink loop from '/x'")) == (
        "Symlink loop from '/x'; remove the link, or choose another path"
    )


def test_a_process_that_lost_another_one_while_it_did_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library, or the message for what failed, wraps the error of the connection."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    for outer in (EyasError("weights/last.pt: not read"), ValueError("while gathering")):
        outer.__cause__ = RuntimeError(GLOO)
        assert lost_process(outer)
    suppressed = EyasError("bad option")
    suppressed.__context__, suppressed.__suppress_context__ = RuntimeError(GLOO), True
    assert not lost_process(suppressed)


def test_a_child_that_cannot_watch_its_parent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The thread that watches is started within the error handling."""

    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setenv(PARENT, str(os.getppid()))
    monkeypatch.setattr(threading.Thread, "start", refused)
    assert main(["--version"]) == 2
    assert capsys.readouterr().err.startswith("eyas: no more processes or threads can be started")


def test_a_working_folder_that_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    assert explained(error) is None
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "the working folder was removed; go to another one" in str(explained(error))
