"""Processes on several machines: which process this one is, by SLURM or by the options of the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from eyas.types import EyasError

PORTS = (20000, 40000)
"""Where SLURM names no port, one in this range, from the number of the job, so that two jobs on a node differ."""


@dataclass(frozen=True)
class Nodes:
    """The machines of a training.

    Attributes:
        number: of machines, with as many processes on each.
        rank: of this one, from 0.
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


def slurm_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What torchrun would have set in a task that ``srun`` started; nothing where there is no such task, or one alone.

    Raises:
        EyasError: SLURM's variables do not say which task this is, or on which nodes the others are.
    """
    if "RANK" in environment or int(environment.get("SLURM_NTASKS", "1")) < 2 or "SLURM_PROCID" not in environment:
        return {}
    nodes = environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_JOB_NODELIST", ""))
    job = environment.get("SLURM_JOB_ID", "0")
    low, high = PORTS
    own = {
        "RANK": environment["SLURM_PROCID"],
        "LOCAL_RANK": environment.get("SLURM_LOCALID", ""),
        "WORLD_SIZE": environment["SLURM_NTASKS"],
        "MASTER_ADDR": environment.get("MASTER_ADDR") or first_host(nodes),
        "MASTER_PORT": environment.get("MASTER_PORT") or str(low + int(job) % (high - low)),
    }
    missing = [name for name, value in own.items() if not value]
    if missing:
        raise EyasError(f"SLURM's variables do not say {', '.join(missing)}; start with srun, or by torchrun")
    return own


def first_host(nodes: str) -> str:
    """The first host of a list in SLURM's short form: ``gpu[03-05,9],cpu1`` gives ``gpu03``."""
    match = re.match(r"([^,\[]*)(?:\[(\w+)[^\]]*\])?([^,\[]*)", nodes)
    return "" if match is None else "".join(part or "" for part in match.groups())
