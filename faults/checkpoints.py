"""Hostile checkpoints: reads every file of `faults.hostile`, and good files with random bytes changed.

    python -m faults.checkpoints [--mutations N] [--seed S] [--json FILE]

Each file is read in its own process, whose additional peak memory is measured. A hostile file must be refused by an
`EyasError` that names it, without running its code, within 128 MiB and 20 s. A file with changed bytes is read or
refused within the same limits; a valid file is read.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from eyas.detectors.weight_files import read_weights_file
from eyas.export.formats import ExportedDetector
from eyas.export.onnx_format import OnnxRuntime
from eyas.runs.checkpoint import load_state
from eyas.runs.opening import load
from eyas.types import EyasError
from faults import command_line
from faults import hostile as h
from faults.hostile import LEGACY, MIB, SAFE, WEIGHTS, Case
from faults.hostile_cases import cases

PEAK_MIB, SECONDS = 128, 20

READERS: dict[str, Callable[[Path], object]] = {
    "weights": read_weights_file,
    "resume": load_state,
    "run": lambda path: load(path.parent),
    "transformers": lambda path: load(path.parent),
    "onnx": lambda path: ExportedDetector(OnnxRuntime(path), str(path)),
}


@dataclass(frozen=True)
class Outcome:
    """How reading a file ended.

    Attributes:
        what: "read", "refused", or what went wrong.
        said: the error message.
        peak_mib: peak memory beyond that of the process before.
        seconds: time taken.
        ran: code in the file was run.
    """

    what: str
    said: str
    peak_mib: float
    seconds: float
    ran: bool = False


def read(case: Case, folder: Path) -> Outcome:
    """Write a case into an empty folder and read it in its own process."""
    case.write(folder)
    found = in_a_process(partial(READERS[case.reader], folder / case.file))
    return Outcome(**{**asdict(found), "ran": (folder / h.MARKER).exists()})


def holds(case: Case, outcome: Outcome) -> bool:
    """Whether a case ended as it must."""
    if case.good:
        return outcome.what == "read"
    named = case.file in outcome.said or (case.reader == "transformers" and "transformers" in outcome.said)
    bounded = outcome.peak_mib < PEAK_MIB and outcome.seconds < SECONDS
    return outcome.what == "refused" and named and bounded and not outcome.ran


def in_a_process(action: Callable[[], object]) -> Outcome:
    """Call a function in a fork of this process and measure it. Linux only."""
    end, start = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(end)
        with os.fdopen(start, "w") as pipe:
            pipe.write(json.dumps(asdict(_measured(action))))
            pipe.flush()
        os._exit(0)
    os.close(start)
    with os.fdopen(end) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if not text:
        return Outcome(f"died ({os.waitstatus_to_exitcode(status)})", "", 0, 0)
    return Outcome(**json.loads(text))


def _measured(action: Callable[[], object]) -> Outcome:
    torch.set_num_threads(1)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, started = _memory("VmRSS"), time.monotonic()
    what, said = "read", ""
    try:
        action()
    except EyasError as error:
        what, said = "refused", str(error)
    except BaseException as error:
        what, said = f"raised {type(error).__name__}", "".join(traceback.format_exception(error)[-3:])
    return Outcome(what, said, (_memory("VmHWM") - before) / MIB, time.monotonic() - started)


def _memory(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


ORIGINALS: dict[str, tuple[str, Callable[[Path], object]]] = {
    WEIGHTS: ("weights", lambda f: h.save(f, h.state())),
    LEGACY: ("weights", lambda f: h.save(f, h.state(), LEGACY)),
    SAFE: ("weights", lambda f: save_file(h.state(), f / SAFE)),
    "last.pt": ("resume", h.resumable),
    "model.json": ("run", h.finished),
}


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Data with some bytes changed, removed, doubled or cut off."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at, length = chance.randrange(len(changed)), chance.randint(1, 8)
        match chance.randrange(4):
            case 0:
                changed[at : at + length] = chance.randbytes(length)
            case 1:
                del changed[at : at + length]
            case 2:
                changed[at:at] = changed[at : at + length]
            case _:
                changed[at] ^= 1 << chance.randrange(8)
        if len(changed) < 16:
            break
    return bytes(changed[: chance.randrange(1, len(changed))] if chance.random() < 0.05 else changed)


def read_mutations(name: str, count: int, seed: int, folder: Path) -> Outcome:
    """Read ``count`` mutations of a good file; stops at the first that is neither read nor refused."""
    kind, write = ORIGINALS[name]
    write(folder)
    data, counts = (folder / name).read_bytes(), Counter[str]()

    def all_of_them() -> None:
        for number in range(count):
            chance = random.Random(f"{seed} {name} {number}")
            (folder / name).write_bytes(mutate(data, chance))
            try:
                READERS[kind](folder / name)
                counts["read"] += 1
            except EyasError as error:
                if str(folder) not in str(error):
                    raise AssertionError(f"number {number}: {error}") from error
                counts["refused"] += 1
            except Exception as error:
                raise AssertionError(f"number {number}") from error
        raise EyasError(f"{counts['read']} read, {counts['refused']} refused")

    return in_a_process(all_of_them)


def _read_apart(case: Case) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        outcome = read(case, Path(folder))
        said = outcome.said.replace(folder, "")
    good = holds(case, outcome)
    verdict = "ok " if good else "BAD"
    print(f"{verdict} {case.reader:12} {case.name:40} {outcome.what:8} {outcome.peak_mib:6.1f} MiB  {said}", flush=True)
    return {"reader": case.reader, "fault": case.name, "as it must be": good, **asdict(outcome), "said": said}


def _mutations_apart(name: str, count: int, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        outcome = read_mutations(name, count, seed, Path(folder))
        said = outcome.said.replace(folder, "")
    good = outcome.what == "refused" and outcome.peak_mib < PEAK_MIB
    print(f"{'ok ' if good else 'BAD'} {count} mutations of {name}: {said}, {outcome.peak_mib:.1f} MiB", flush=True)
    return {"file": name, "mutations": count, "as it must be": good, **asdict(outcome), "said": said}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; 1 when something was not as it must be."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--mutations", type=int, default=5000, help="mutations of each format")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    rows = [_read_apart(case) for case in cases()]
    mutated = [_mutations_apart(name, chosen.mutations, chosen.seed) for name in ORIGINALS]
    failed = sum(not row["as it must be"] for row in (*rows, *mutated))
    print(f"{len(rows)} files, {chosen.mutations} mutations of {len(mutated)}, seed {chosen.seed}: {failed} bad")
    result = {"seed": chosen.seed, "limit_mib": PEAK_MIB, "files": rows, "mutations": mutated}
    command_line.keep(result, chosen.json)
    return int(failed > 0)


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        sys.exit(main())
