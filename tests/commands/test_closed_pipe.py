"""A reader that closes the pipe, as `eyas recipes | head -3` does, ends a command without a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from rich.console import Console

from eyas.__main__ import WRITING, main
from eyas.tools.output import ended_by_reader, outlasting_reader


@pytest.mark.parametrize(
    ("arguments", "statuses", "said"),
    [
        (["--help"], {1}, ""),
        (["recipes"], {1}, ""),
        (["data", "--help"], {0, 1}, ""),  # 0 where argparse meets the closed pipe itself, which it ignores
        (["recipes", "copy", "nothing"], {2}, "eyas: there is no recipe 'nothing'"),
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_ends_a_command_quietly(
    arguments: list[str], statuses: set[int], said: str, unbuffered: str
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "eyas", *arguments]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=100, env=environment)
    os.close(writer)
    assert done.returncode in statuses
    assert done.stderr.startswith(said) and done.stderr.count("\n") == bool(said)


def test_another_broken_pipe_is_an_error() -> None:
    with pytest.raises(BrokenPipeError, match="of a tracker"), ended_by_reader():
        raise BrokenPipeError("of a tracker")


def test_a_listing_onto_a_full_disk_is_an_error() -> None:
    command = [sys.executable, "-m", "eyas", "recipes"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=100, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("eyas: standard output cannot be written (No space left on device)")


@pytest.mark.parametrize("unread", ["/dev/full", "pipe"])
def test_work_goes_on_when_nobody_reads(unread: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w") if unread == "pipe" else open(unread, "w")  # noqa: SIM115
    with redirect_stdout(stream), outlasting_reader():
        for step in range(3):
            print("step", step, flush=True)
            print("x" * 100_000)
            Console().print("more")
        assert not sys.stdout.isatty()
        step = 4
    stream.close()  # what it still holds leads nowhere
    assert step == 4


def test_what_is_read_is_written_whole(tmp_path: Path) -> None:
    with (tmp_path / "said").open("w") as stream, redirect_stdout(stream), outlasting_reader():
        print("one")
        Console().print("two")
    assert (tmp_path / "said").read_text() == "one\ntwo\n"


def test_no_standard_output_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with outlasting_reader():
        print("nothing")


def test_a_message_that_cannot_be_written_leaves_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w", buffering=1) as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert main(["nothing"]) == 2
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())


def test_trainings_are_among_the_commands_that_go_on() -> None:
    assert {"train", "distill", "cache", "compare"} <= set(WRITING)


def test_streams_that_are_closed_take_no_number_of_a_file(tmp_path: Path) -> None:
    """Else what a library prints on standard error would land in the next file that is opened."""
    script = (
        "import os, sys; from eyas.__main__ import main; status = main(['recipes', 'copy', 'digits/student'])\n"
        f"file = open({str(tmp_path / 'opened.txt')!r}, 'w'); os.write(2, b'a library speaks'); file.close()\n"
        "sys.exit(status)"
    )
    command = f"exec '{sys.executable}' -c \"$1\" <&- >&- 2>&-"
    done = subprocess.run(["sh", "-c", command, "sh", script], cwd=tmp_path, timeout=100, check=False)
    assert done.returncode == 0
    assert (tmp_path / "opened.txt").read_text() == "" and (tmp_path / "student.yaml").is_file()


def test_what_the_encoding_of_a_terminal_lacks_is_printed_as_its_code() -> None:
    command = [sys.executable, "-m", "eyas", "recipes", "copy", "\u732b"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONIOENCODING": "ascii:strict"}, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 2 and done.stderr.startswith("eyas: there is no recipe '\\u732b'")
    assert done.stderr.count("\n") == 1
