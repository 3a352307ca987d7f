"""Start one process per device of this machine, perhaps one of several, with the environment that `torchrun` gives.

`torchrun` itself is not used: it ends with its own traceback and status 1 whatever its processes reported, and every
process would repeat the message of a bad option.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from eyas.tools.children import SAVING, Children, end_all, how_it_ended, start_child, wait_for_all
from eyas.tools.signals import Stopped, stopped_by_termination
from eyas.types import EyasError

PATIENCE = 10.0
"""Seconds that the other processes have to end by themselves when one has failed."""
POLL = 0.1
LOST_PROCESS = 75
"""Status of a process whose connection to another one was lost: EX_TEMPFAIL of sysexits.h."""
INTERRUPTED = 128 + signal.SIGINT
COUNTED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT")
COUNTED_BY_SLURM = ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_JOB_ID")
"""Environment variables that are whole numbers."""
NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What a process of several must know, beside its LOCAL_RANK."""
PORTS = (20000, 40000)
"""Where SLURM names no port, the job's number picks one in this range, so that two jobs on a node differ."""


@dataclass(frozen=True)
class Nodes:
    """The machines of a training.

    Attributes:
        number: number of machines, with as many processes on each.
        rank: rank of this machine, from 0.
        address: HOST:PORT of the machine of rank 0, that the others reach it at; None for one machine.

    Raises:
        EyasError: the options contradict each other.
    """

    number: int = 1
    rank: int = 0
    address: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.number:
            raise EyasError(f"--node_rank must be in 0 to {self.number - 1}, one for each of --nodes; got {self.rank}")
        if self.number > 1 and self.address is None:
            raise EyasError("--nodes above 1 needs --main_address HOST:PORT, the same on all: of the node of rank 0")
        if self.address is not None:
            self.host_and_port()

    def host_and_port(self) -> tuple[str, str]:
        """The two parts of `address`."""
        host, _, port = (self.address or "").rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise EyasError(f"--main_address must be HOST:PORT, got {self.address}")
        return host, port


def launch(command: Sequence[str], processes: int, nodes: Nodes = Nodes()) -> int:
    """Run a command in several processes of this machine; returns 0, or the status of the first that failed.

    The first process has this one's output. What the others write to standard error is shown when one of them failed
    and the first did not. When one fails, or this one is interrupted, all are ended.

    Raises:
        EyasError: a signal has ended one of them, or those of another machine are gone.
    """
    host, port = ("127.0.0.1", str(_free_port())) if nodes.address is None else nodes.host_and_port()
    with ExitStack() as stack:
        errors = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(processes)]
        running = [
            start_child(
                command,
                _environment(rank, processes, nodes, host, port),
                stdout=subprocess.DEVNULL if rank else None,
                stderr=errors[rank] if rank else None,
            )
            for rank in range(processes)
        ]
        stack.callback(end_all, running, PATIENCE)
        stack.enter_context(stopped_by_termination())
        try:
            failed = _wait(running)
        except Stopped as stop:
            end_all(running, SAVING)
            return stop.status
        except KeyboardInterrupt:
            # A terminal sends Ctrl-C to all of them, `kill` sends its signal to this process alone.
            wait_for_all(running, 10 * POLL)
            for process in running:
                if process.poll() is None:
                    process.send_signal(signal.SIGINT)
            wait_for_all(running, SAVING)
            if running[0].poll() == INTERRUPTED:
                return INTERRUPTED  # the process has already reported it
            raise
        if failed is None:
            return 0
        status = running[failed].returncode
        end_all(running, PATIENCE)
        if status < 0 or status == LOST_PROCESS:
            raise EyasError(_why(failed, status, processes, nodes))
        if failed > 0:
            errors[failed].seek(0)
            sys.stderr.write(errors[failed].read().decode(errors="replace"))
        return status


def check_environment(environment: Mapping[str, str]) -> None:
    """Check the variables by which torchrun or srun tell a process its place among others.

    Raises:
        EyasError: one is not a number, or they contradict each other; the message names it.
    """
    advice = "unset it, or let --devices, torchrun or srun start the processes"
    for name in (*COUNTED, *COUNTED_BY_SLURM):
        value = environment.get(name, "0")
        if re.fullmatch(r"-?[0-9]{1,18}", value) is None:
            raise EyasError(f"the environment variable {name} is {value!r:.60}, not a whole number; {advice}")
    if int(environment.get("LOCAL_RANK", "-1")) < 0:
        return
    missing = [name for name in NEEDED if not environment.get(name)]
    if missing:
        raise EyasError(f"the environment has a LOCAL_RANK and no {', '.join(missing)}; {advice}")
    rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    if not 0 <= rank < size:
        raise EyasError(f"the environment variable RANK is {rank}, and WORLD_SIZE {size}; {advice}")


def slurm_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What torchrun would have set in a task that ``srun`` started; empty if there is no such task, or only one.

    Raises:
        EyasError: SLURM's variables do not say which task this is, or on which nodes the others are.
    """
    if "RANK" in environment or int(environment.get("SLURM_NTASKS", "1")) < 2 or "SLURM_PROCID" not in environment:
        return {}
    nodes = environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_JOB_NODELIST", ""))
    low, high = PORTS
    port = low + int(environment.get("SLURM_JOB_ID", "0")) % (high - low)
    own = {
        "RANK": environment["SLURM_PROCID"],
        "LOCAL_RANK": environment.get("SLURM_LOCALID", ""),
        "WORLD_SIZE": environment["SLURM_NTASKS"],
        "MASTER_ADDR": environment.get("MASTER_ADDR") or first_host(nodes),
        "MASTER_PORT": environment.get("MASTER_PORT") or str(port),
    }
    missing = [name for name, value in own.items() if not value]
    if missing:
        raise EyasError(f"SLURM's variables do not say {', '.join(missing)}; start with srun, or by torchrun")
    return own


def first_host(nodes: str) -> str:
    """The first host of a list in SLURM's short form: ``gpu[03-05,9],cpu1`` gives ``gpu03``."""
    match = re.match(r"([^,\[]*)(?:\[(\w+)[^\]]*\])?([^,\[]*)", nodes)
    return "" if match is None else "".join(part or "" for part in match.groups())


def _wait(running: Children) -> int | None:
    """Wait until all have ended, or one has failed: returns its rank. If all fail alike, the first one is reported."""
    while True:
        failed = [rank for rank, process in enumerate(running) if process.poll() not in (None, 0)]
        if failed:
            time.sleep(10 * POLL if failed[0] else 0)
            return _first_cause([process.poll() or 0 for process in running])
        if all(process.poll() == 0 for process in running):
            return None
        time.sleep(POLL)


def _first_cause(statuses: Sequence[int]) -> int:
    """The rank to report, of processes of which some failed: one's end takes the others with it.

    One that a signal ended is a cause. One that lost its connection, or that its library then aborted, is an effect.
    """

    def effect(rank: int) -> tuple[int, int]:
        status = statuses[rank]
        return (3 if status == LOST_PROCESS else 2 if status == -signal.SIGABRT else 0 if status < 0 else 1), rank

    return min((rank for rank, status in enumerate(statuses) if status), key=effect)


def _why(rank: int, status: int, processes: int, nodes: Nodes) -> str:
    """The message for a process that a signal ended, or that lost the others."""
    if status == LOST_PROCESS:
        where = "of another machine" if nodes.number > 1 else f"of the {processes} of this training"
        return f"the connection to a process {where} was lost, and all were ended; what that process printed says why"
    return f"process {rank + 1} of {processes} {how_it_ended(status)}. The others were ended with it"


def _environment(rank: int, processes: int, nodes: Nodes, host: str, port: str) -> dict[str, str]:
    own = {"RANK": nodes.rank * processes + rank, "WORLD_SIZE": nodes.number * processes}
    own |= {"LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": processes}
    shared = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes))}
    if sys.platform == "linux" and nodes.number == 1:
        shared["GLOO_SOCKET_IFNAME"] = "lo"  # all on this machine; its name need not resolve to an address
    main = {"MASTER_ADDR": host, "MASTER_PORT": port}
    return {**shared, **os.environ, **main, **{name: str(value) for name, value in own.items()}}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
