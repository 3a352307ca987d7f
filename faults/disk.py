"""Disks that are full, read-only, slow or gone, under a real `eyas distill`.

    python -m faults.disk [--json FILE]

The run folder, or the cache, is on its own tmpfs, which is filled up, mounted read-only or made too small. Without the
right to mount, these faults are left out, and the result records that. Each fault strikes while the command trains,
after its first checkpoint, or while it fills its cache. The command must end with status 2 and one message that names
the file, without a traceback; the last good checkpoint must remain and load. Then the fault is repaired, and the same
command must give the files of an undisturbed run, bit for bit. A slow write, and a cache that vanishes after it was
read, must not change the run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from eyas.data.digits import write_digits
from eyas.runs.checkpoint import ModelSpec, load_state
from eyas.runs.config import RESUME
from eyas.runs.log import LOG, read_log
from eyas.runs.opening import load
from eyas.types import EyasError
from faults import command_line
from faults.kill import DATA, LIMIT, Trial, begun, finished, judged, trial
from faults.processes import MIB, command, wait_for

FILLER = "others'"
ROOM = 256 * MIB
"""Bytes; enough for a run."""


@dataclass(frozen=True)
class Fault:
    """A fault of a disk while a command uses it.

    Attributes:
        name: shown in the results.
        strike: causes it.
        mend: repairs it.
        names: a pattern that the message must match.
        when: the phase in which it strikes, see `faults.announced`, or "saved": after a checkpoint.
        delay: seconds, see `faults.announced`.
        survived: whether the command must finish all the same; None where it may, since the moment decides.
    """

    name: str
    strike: Callable[[], None]
    mend: Callable[[], None]
    names: str = ""
    when: str = "saved"
    delay: float = 0.0
    survived: bool | None = False


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        fault: the name of the fault.
        status: its exit status.
        said: its message.
        checkpoint: the step of the checkpoint left behind; None if there is none or it cannot be read.
        logged: the last step in its log.
        differs: what differs from an undisturbed run after the repair.
        good: all checks passed.
    """

    fault: str
    status: int
    said: str
    checkpoint: int | None
    logged: int
    differs: list[str]
    good: bool


def tried(trial: Trial, fault: Fault, reference: Trial) -> Outcome:
    """Start the command, let the fault strike, check what is left, repair it and let the command finish."""
    trial = replace(trial, delay=fault.delay)
    trial.events.unlink(missing_ok=True)
    saved = trial.out / RESUME
    with command(trial.arguments, trial.said, trial.program) as running:
        wait_for(lambda: saved.exists() if fault.when == "saved" else begun(trial.timeline(), fault.when) > 0, running)
        fault.strike()
        status = running.wait(LIMIT)
    messages = [line for line in trial.said.read_text().splitlines() if line.startswith("eyas: ")]
    said = " | ".join(messages)
    checkpoint, logged = checkpoint_of(trial.out), last_step(trial.out)
    survived = status == 0 if fault.survived is None else fault.survived
    good = status == (0 if survived else 2) and "Traceback" not in trial.said.read_text()
    if not survived:
        good = good and len(messages) == 1 and re.search(fault.names, said) is not None
    if fault.when == "saved" and saved.exists():
        good = good and checkpoint is not None and checkpoint <= logged
    fault.mend()
    finished(trial)
    wrong = judged(trial, reference)
    return Outcome(fault.name, status, said, checkpoint, logged, wrong, good and not wrong)


def checkpoint_of(out: Path) -> int | None:
    """The step of the checkpoint in a run folder, None if it has none. Loads its weights too, if there are any."""
    try:
        state = load_state(out / RESUME)
        if (out / ModelSpec.load(out).weights).exists():
            load(out)
    except EyasError:
        return None
    return int(state["progress"]["step"])


def last_step(out: Path) -> int:
    """The last step in the log of a run folder, 0 if there is none."""
    lines = read_log(out, "train") if (out / LOG).exists() else []
    return int(lines[-1]["step"]) if lines else 0


@contextmanager
def disk(place: Path, size: int) -> Iterator[None]:
    """A tmpfs of ``size`` bytes. Raises PermissionError when this process may not mount."""
    place.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place))
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def remount(place: Path, options: str) -> None:
    """Mount a disk again with other options; waits until no file is open for writing."""
    for _ in range(200):
        try:
            return _mount("-o", f"remount,{options}", str(place))
        except PermissionError:
            time.sleep(0.02)
    raise TimeoutError(f"{place} stays busy")


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PermissionError(done.stderr)


def fill_up(place: Path, left: int) -> None:
    """Fill a disk, leaving ``left`` bytes."""
    with (place / FILLER).open("wb", buffering=0) as file, suppress(OSError):
        while (room := _free(place) - left) > 0:
            file.write(b"\1" * min(room, MIB))


def _free(place: Path) -> int:
    state = os.statvfs(place)
    return state.f_bavail * state.f_frsize


def empty(place: Path) -> None:
    """Undo `fill_up`."""
    (place / FILLER).unlink()


def slow_trial(made: Trial, reference: Trial) -> Outcome:
    """A fault: writing is so slow that a save takes seconds, while the checkpoint is read all the time."""
    made, found, seen = replace(made, delay=0.2), set(), 0
    made.events.unlink(missing_ok=True)
    with command(made.arguments, made.said, made.program) as running:
        while running.poll() is None:
            if (made.out / RESUME).exists():
                found.add(checkpoint_of(made.out))
                seen += made.phase().startswith("saving")
            time.sleep(0.05)
        status = running.returncode
    wrong = judged(made, reference)
    good = status == 0 and None not in found and seen > 0 and not wrong
    said = f"read {seen} times during a save, of the steps {sorted(step or -1 for step in found)}"
    return Outcome("slow", status, said, checkpoint_of(made.out), last_step(made.out), wrong, good)


def hidden(place: Path) -> tuple[Callable[[], None], Callable[[], None]]:
    """Functions that take a folder away and bring it back."""
    away = place.with_name(place.name + "-away")

    def hide() -> None:
        place.rename(away)

    def show() -> None:
        away.rename(place)

    return hide, show


def of_folders(data: Path, made: Trial) -> list[Fault]:
    """Faults that need no mount: images, the run folder and the cache vanish."""
    images, back = hidden(data / "images" / "train")

    def vanish() -> None:
        shutil.rmtree(made.cache)

    return [
        Fault("images deleted while training", images, back, r"images/train/\S+: no such image"),
        Fault("images deleted while filling", images, back, r"images/train/\S+: no such image", when="filling"),
        Fault("run folder vanished", *hidden(made.out), rf"{LOG}: could not be written"),
        Fault("cache vanished while filling", vanish, _nothing, re.escape(str(made.cache)), "filling", 0.01, None),
        Fault("cache vanished while training", vanish, _nothing, survived=True),
    ]


def of_mounts(place: Path, made: Trial) -> list[Fault]:
    """Faults of the mounted disk that holds the run folder and the cache."""
    out, cache = re.escape(str(made.out)), re.escape(str(made.cache))
    full = rf"{out}.* could not be written \(.*No space left"

    def room() -> None:
        empty(place)

    def rw() -> None:
        remount(place, "rw")

    return [
        Fault("full, no byte left", lambda: fill_up(place, 0), room, full),
        Fault("full, a tenth of a checkpoint left", lambda: fill_up(place, 2 * MIB), room, full),
        Fault("full while saving", lambda: fill_up(place, 0), room, full, when=f"saving {RESUME}", delay=0.05),
        Fault("full before the run", lambda: fill_up(place, 0), room, rf"{out}.*No space left", when=""),
        Fault("full while filling", lambda: fill_up(place, 0), room, rf"{cache}.*No space left", "filling", delay=0.01),
        Fault("read-only while training", lambda: remount(place, "ro"), rw, rf"{out}.*Read-only file system"),
        Fault("read-only before the run", lambda: remount(place, "ro"), rw, rf"{out}.*Read-only file system", when=""),
    ]


def _nothing() -> None:
    """Repairs nothing: for faults that the command survives."""


def on_folders(folder: Path, data: Path, reference: Trial) -> Iterator[Outcome]:
    """Try the faults that need no mount."""
    for at in range(len(of_folders(data, reference))):
        made = trial(folder, data, f"folders{at}")
        yield tried(made, of_folders(data, made)[at], reference)


def on_mounts(folder: Path, data: Path, reference: Trial) -> Iterator[Outcome]:
    """Try the faults of a mounted disk, each on its own disk."""
    for at in range(len(of_mounts(folder, reference))):
        place = folder / f"disk{at}"
        with disk(place, ROOM):
            made = trial(place, data, "run")
            made = replace(made, events=folder / f"disk{at}.events", said=folder / f"disk{at}.txt")
            yield tried(made, of_mounts(place, made)[at], reference)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; 1 when something was not as it must be."""
    parser = command_line.parser(__doc__)
    chosen = parser.parse_args(arguments)
    outcomes, how = [], "tmpfs, filled up or mounted read-only"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_digits(folder / "data", DATA)
        reference = trial(folder, data, "undisturbed")
        finished(reference, slow=False)

        def take(outcome: Outcome) -> None:
            text = json.dumps(asdict(outcome)).replace(name, "")
            outcomes.append(json.loads(text))
            print("ok " if outcome.good else "BAD", text, flush=True)

        for outcome in on_folders(folder, data, reference):
            take(outcome)
        take(slow_trial(trial(folder, data, "slow"), reference))
        try:
            for outcome in on_mounts(folder, data, reference):
                take(outcome)
        except PermissionError as error:
            how = f"none: this process may not mount ({str(error).strip()})"
    failed = sum(not outcome["good"] for outcome in outcomes)
    print(f"{len(outcomes)} faults, disks: {how}: {failed} bad")
    command_line.keep({"disks": how, "faults": outcomes}, chosen.json)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
