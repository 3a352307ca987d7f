"""A reader that closes the pipe, as `eyas recipes | head -3` does, ends a command without a traceback."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from eyas.tools.output import ended_by_reader


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
