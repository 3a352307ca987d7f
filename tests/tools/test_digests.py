"""Digests that are remembered: a file that has not changed is not read again, and any other is."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from eyas.tools import digests
from eyas.tools.digests import file_digests, memory_of
from eyas.types import EyasError


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Six files old enough to be remembered, which are enough here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(digests, "MANY", 6)
    monkeypatch.setattr(digests, "SETTLED", 0)
    found = [tmp_path / "data" / f"{number}.jpg" for number in range(6)]
    found[0].parent.mkdir()
    for number, path in enumerate(found):
        path.write_bytes(bytes(1000 + number))
    time.sleep(0.02)  # more than a tick of the file system's clock
    return found


def ask(files: list[Path]) -> tuple[list[bytes], int]:
    """The digests, and how many files were read for them."""
    read: list[None] = []
    return file_digests(files, files[0].parent, lambda: read.append(None)), len(read)


def expected(files: list[Path]) -> list[bytes]:
    return [hashlib.sha256(path.read_bytes()).digest() for path in files]


def test_a_file_is_read_once(files: list[Path]) -> None:
    assert ask(files) == (expected(files), 6)
    assert ask(files) == (expected(files), 0)
    assert ask(files[::-1]) == (expected(files)[::-1], 0)


def test_a_file_that_changes_is_read_again_even_with_its_old_size_and_time(files: list[Path]) -> None:
    ask(files)
    before = files[2].stat()
    files[2].write_bytes(b"\1" * before.st_size)
    os.utime(files[2], ns=(before.st_atime_ns, before.st_mtime_ns))
    files[4].with_suffix(".new").write_bytes(files[4].read_bytes())  # the same contents in another file
    files[4].with_suffix(".new").replace(files[4])
    time.sleep(0.02)
    assert ask(files) == (expected(files), 2)
    assert ask(files) == (expected(files), 0)


def test_a_file_as_young_as_its_reading_is_not_remembered(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be written once more within the same tick of the clock."""
    monkeypatch.setattr(digests, "SETTLED", 10**12)
    assert ask(files)[1] == ask(files)[1] == 6


def test_parts_of_two_processes_are_joined(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "MANY", 3)
    assert ask(files[:3])[1] == ask(files[3:])[1] == 3
    assert ask(files) == (expected(files), 0)
    assert len(list(memory_of(files[0].parent).glob("*.npy"))) == 1


def test_few_files_leave_no_memory(files: list[Path]) -> None:
    assert ask(files[:5])[1] == ask(files[:5])[1] == 5
    assert not memory_of(files[0].parent).exists()


def test_a_damaged_memory_counts_as_none(files: list[Path]) -> None:
    ask(files)
    (part,) = memory_of(files[0].parent).glob("*.npy")
    for content in (b"", part.read_bytes()[:200], b"\x93NUMPY damaged", b"text"):
        part.write_bytes(content)
        assert ask(files) == (expected(files), 6)
        (part,) = memory_of(files[0].parent).glob("*.npy")
    np.save(part, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert ask(files) == (expected(files), 6)


def test_where_nothing_can_be_written_files_are_read_each_time(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "home").write_text("not a folder")
    assert ask(files) == ask(files) == (expected(files), 6)


def test_a_user_without_a_home_has_files_read_each_time(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(_: int) -> None:
        raise KeyError("no such user")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert ask(files) == ask(files) == (expected(files), 6)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_missing_file_is_named(files: list[Path]) -> None:
    files[3].unlink()
    with pytest.raises(EyasError, match=r"3\.jpg: cannot be read .*; restore it, or remove its annotations"):
        ask(files)


ASK = """
import sys, time
from pathlib import Path
from eyas.tools import digests
digests.MANY, digests.SETTLED = 6, 0
paths, read = sorted(Path(sys.argv[1]).glob("*.jpg")), []
def advance():
    read.append(None)
    time.sleep(0.1)
digests.file_digests(paths, Path(sys.argv[1]), advance, same_elsewhere=True)
print(len(read))
"""


def test_of_processes_that_start_together_one_reads(files: list[Path]) -> None:
    command = [sys.executable, "-c", ASK, str(files[0].parent)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert sorted(process.communicate(timeout=60)[0].strip() for process in running) == ["0", "0", "6"]
