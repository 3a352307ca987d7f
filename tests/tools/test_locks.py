"""A folder that one command at a time works in, also after kills and forks, and where nothing can be locked."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from eyas.tools.locks import LOCK, sole_use
from eyas.types import EyasError

HOLD = """
import sys, time
from pathlib import Path
from eyas.tools.locks import sole_use
with sole_use(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_one_is_told_who_is_at_work(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "a"
    with sole_use(folder):
        with pytest.raises(EyasError) as refused, sole_use(folder):
            pytest.fail("two at a time")
        who = rf"pid {os.getpid()} on {socket.gethostname()}, since 20"
        assert f"another process ({who}" in str(refused.value) and f"is at work in {folder}; " in str(refused.value)
        with sole_use(tmp_path / "runs" / "b"):
            pass
        (folder / "result").touch()
    with sole_use(folder):
        pass
    assert [path.name for path in folder.iterdir()] == ["result"]


def test_a_folder_that_was_made_for_nothing_is_removed(tmp_path: Path) -> None:
    with sole_use(tmp_path / "runs" / "a"):
        assert (tmp_path / "runs" / "a" / LOCK).is_file()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "own").mkdir()
    with sole_use(tmp_path / "own"):
        pass
    assert (tmp_path / "own").is_dir(), "it was there before"


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(EyasError, match=f"pid {holder.pid} on"), sole_use(tmp_path):
        pass
    holder.kill()
    assert holder.wait() == -signal.SIGKILL
    assert (tmp_path / LOCK).is_file()
    with sole_use(tmp_path):
        assert (tmp_path / LOCK).read_text().startswith(f"pid {os.getpid()} on")
    holder.stdout.close()


def test_a_forked_child_of_a_killed_process_does_not_keep_the_lock(tmp_path: Path) -> None:
    """As a data worker that outlives its parent for a moment."""
    forks = HOLD.replace('print("held"', "os.fork() or print(os.getpid()").replace("import sys", "import os, sys")
    holder = subprocess.Popen([sys.executable, "-c", forks, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    holder.kill()
    holder.wait()
    with sole_use(tmp_path):
        os.kill(child, 0)  # it is still there
    os.kill(child, signal.SIGKILL)
    holder.stdout.close()


def test_a_lock_file_that_its_holder_removed_protects_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder ends between the opening and the locking of its file, and a third command takes the folder."""
    first, flock, seen = sole_use(tmp_path), fcntl.flock, []
    first.__enter__()

    def late(descriptor: int, how: int) -> None:
        if not seen:
            seen.append(1)
            first.__exit__(None, None, None)
            (tmp_path / LOCK).touch()
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with sole_use(tmp_path):
        monkeypatch.setattr(fcntl, "flock", flock)
        with pytest.raises(EyasError, match="at work in"), sole_use(tmp_path):
            pass


def test_a_file_system_without_locks_warns_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    said = r"cannot be locked here \(.*No locks available\); start no second command"
    with pytest.warns(UserWarning, match=said), sole_use(tmp_path / "run"):
        (tmp_path / "run" / "result").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["result"]


def test_a_network_file_system_that_locks_only_what_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock

    def over_nfs(descriptor: int, how: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", over_nfs)
    with sole_use(tmp_path), pytest.raises(EyasError, match="at work in"), sole_use(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(EyasError, match=rf"{LOCK}: could not be written \(.*{os.strerror(number)}"), sole_use(tmp_path):
        pass


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("kept")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "other")
    with pytest.raises(EyasError, match="could not be written"), sole_use(tmp_path / "run"):
        pass
    assert (tmp_path / "other").read_text() == "kept"
