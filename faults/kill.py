"""Kills a real `eyas distill` at any moment and starts it again by the same command, until it finishes.

    python -m faults.kill [--kills N] [--signals N] [--seed S] [--json FILE]

It trains the demo's pair on small images, float32 on one thread, with flips, dropout, a running average of the weights
and a teacher cache, which is filled first. Each round begins with an empty run folder and an empty cache, and has five
kills by SIGKILL: one while the cache is filled, two while a file is saved, two at any time. Every fourth kill leaves
half a line at the end of the log, as a power failure does. Then the command finishes undisturbed, and must equal a run
without kills: weights, checkpoint and cached records bit for bit, and the same log rows, each step once. Other rounds
are stopped by SIGTERM, SIGINT and SIGHUP: they save after the current step, exit with 143, 130 or 129, and resume
likewise.
"""

from __future__ import annotations

import json
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from subprocess import Popen
from typing import Any

from eyas.data.digits import write_digits
from eyas.runs.log import LOG
from faults import command_line, long_run
from faults.equality import cached, differences
from faults.processes import command, descendants, look_at, wait_for

DATA = replace(long_run.DATA, train_images=48, val_images=16)
EPOCHS = 6
DELAY = 0.02
"""Seconds; see `faults.announced`."""
LIMIT = 300
"""Seconds that one command may take."""
PLAN = ("filling", "any", "saving", "any", "saving")
"""The phase that each kill of a round aims at."""
STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}
TORN = '{"kind": "train", "ti'


@dataclass(frozen=True)
class Trial:
    """A command under test.

    Attributes:
        arguments: for `eyas`.
        out: its run folder.
        cache: its cache folder.
        events: the file to which it announces what it does.
        said: the file that gets its output.
        delay: seconds, see `faults.announced`.
    """

    arguments: tuple[str, ...]
    out: Path
    cache: Path
    events: Path
    said: Path
    delay: float = DELAY

    @property
    def program(self) -> tuple[str, ...]:
        return ("faults.announced", str(self.events), str(self.delay))

    def timeline(self) -> list[tuple[float, str]]:
        """The events that the last command announced, with their seconds."""
        if not self.events.exists():
            return []
        whole = self.events.read_text().rpartition("\n")[0].splitlines()
        return [(float(time), what) for time, _, what in (line.partition(" ") for line in whole)]

    def phase(self) -> str:
        """The last phase that the last command announced; "starting" before the first."""
        phases = [what for _, what in self.timeline() if what != "signal" and not what.startswith("step")]
        return phases[-1] if phases else "starting"


@dataclass(frozen=True)
class Kill:
    """One kill.

    Attributes:
        meant: the phase aimed at.
        met: the phase of the command.
        seconds: after its start.
        torn: whether half a line was left at the end of the log.
    """

    meant: str
    met: str
    seconds: float
    torn: bool


def trial(folder: Path, data: Path, name: str, more: Sequence[str] = ()) -> Trial:
    """A distillation of the demo's pair, in its own folders."""
    out, cache = folder / name, folder / f"{name}-cache"
    arguments = [
        *long_run.options(data, out, 1),
        *("--run.resume=auto", f"--cache={cache}", "--run.precision=no", "--dataset.augment.flip=0.5"),
        *("--options.dropout=0.2", "--optim.ema=0.9", f"--run.epochs={EPOCHS}", "--run.evaluate_every=2"),
        *("--run.log_every=1", "--dataset.workers=1", "--run.device=cpu", *more),
    ]
    return Trial(tuple(arguments), out, cache, folder / f"{name}.events", folder / f"{name}.txt")


def finished(trial: Trial, *, slow: bool = True) -> list[tuple[float, str]]:
    """Let the command, or plain `eyas`, finish. Returns its events. Raises ChildProcessError when it fails."""
    trial.events.unlink(missing_ok=True)
    with command(trial.arguments, trial.said, trial.program if slow else ("eyas",)) as running:
        status = running.wait(LIMIT)
    if status:
        raise ChildProcessError(f"it ended with {status}:\n{trial.said.read_text()}")
    return trial.timeline()


def killed(trial: Trial, meant: str, usual: Sequence[tuple[float, str]], chance: random.Random) -> Kill | None:
    """Start the command and kill it; None if it finished before.

    Args:
        trial: the command.
        meant: the phase to aim at, or "any".
        usual: the timeline of an undisturbed run.
        chance: chooses the moment.
    """
    trial.events.unlink(missing_ok=True)
    started = time.monotonic()
    with command(trial.arguments, trial.said, trial.program) as running:
        workers = _waited(trial, meant, usual, chance, running)
        running.kill()
        if running.wait() != -signal.SIGKILL:
            return None
    met, seconds = re.sub(r"[0-9a-f]{8,}", "*", trial.phase()), round(time.monotonic() - started, 2)
    _await_end(workers)
    torn = chance.random() < 0.25 and (trial.out / LOG).exists()
    if torn:
        with (trial.out / LOG).open("a") as file:
            file.write(TORN)
    return Kill(meant, met, seconds, torn)


def _waited(
    trial: Trial, meant: str, usual: Sequence[tuple[float, str]], chance: random.Random, running: Popen[bytes]
) -> list[int]:
    """Wait for the moment to kill. Returns the process ids of the command's workers."""
    if meant == "any":
        with suppress(TimeoutError, ChildProcessError):
            wait_for(lambda: False, running, limit=chance.uniform(0, usual[-1][0] - usual[0][0]))
    else:
        pass_by, lengths = chance.randrange(8 if meant == "saving" else 1), lengths_of(usual, meant)
        with suppress(TimeoutError, ChildProcessError):
            wait_for(lambda: begun(trial.timeline(), meant) > pass_by, running, LIMIT)
            time.sleep(chance.uniform(0, 0.8 * min(lengths)))
    with suppress(FileNotFoundError, ProcessLookupError):
        return descendants(running.pid)
    return []


class FinishedFirst(Exception):
    """A command finished before the moment of its signal."""


def begun(timeline: Sequence[tuple[float, str]], phase: str) -> int:
    """How many times a phase began."""
    return sum(what.startswith(phase) for _, what in timeline)


def lengths_of(timeline: Sequence[tuple[float, str]], phase: str) -> list[float]:
    """The seconds of each occurrence of a phase."""
    phases = [entry for entry in timeline if not entry[1].startswith("step")]
    return [after - at for (at, what), (after, _) in pairwise(phases) if what.startswith(phase)]


def _await_end(workers: Sequence[int], limit: float = 60) -> None:
    """Wait until orphaned workers have exited. Raises TimeoutError."""
    end = time.monotonic() + limit
    for worker in workers:
        with suppress(FileNotFoundError, ProcessLookupError):
            while look_at(worker):
                if time.monotonic() > end:
                    raise TimeoutError(f"the worker {worker} has outlived its command")
                time.sleep(0.05)


def stopped(trial: Trial, number: signal.Signals, phase: str, chance: random.Random) -> dict[str, Any]:
    """Stop the command by a signal in a phase and check how it exits; its run must be resumed afterwards."""
    trial.events.unlink(missing_ok=True)
    with command(trial.arguments, trial.said, trial.program) as running:
        pass_by = chance.randrange(4) if phase == "training" else 0
        try:
            wait_for(lambda: begun(trial.timeline(), phase) > pass_by, running, LIMIT)
        except ChildProcessError:
            if running.returncode == 0:
                raise FinishedFirst from None
            raise
        time.sleep(chance.uniform(0, 0.3))
        met, sent = trial.phase(), time.monotonic()
        running.send_signal(number)
        status, seconds = running.wait(LIMIT), time.monotonic() - sent
    events = [what for _, what in trial.timeline()]
    steps = sum(what.startswith("step") for what in events[events.index("signal") :]) if "signal" in events else None
    text = trial.said.read_text()
    message = next((line for line in text.splitlines() if line.startswith("eyas: ")), "")
    last = [int(what.split()[1]) for what in events if what.startswith("step")][-1:]
    good = status == STATUS[number] and message != "" and "Traceback" not in text
    if met == "training" and "signal" in events:
        good = good and steps is not None and steps <= 1 and f"stopped after step {last[0]}, which is saved" in message
    return {
        "signal": number.name,
        "met": met,
        "status": status,
        "steps after it": steps,
        "seconds": round(seconds, 2),
        "said": message,
        "as it must be": good,
    }


def judged(trial: Trial, reference: Trial) -> list[str]:
    """What differs from the undisturbed run."""
    found = differences(reference.out, trial.out)
    mine, theirs = cached(trial.cache), cached(reference.cache)
    wrong = sum(mine.get(name, {}).get(key) != record for name, keys in theirs.items() for key, record in keys.items())
    return found + ([f"{wrong} records of the cache"] if wrong or mine.keys() != theirs.keys() else [])


def kills(
    make: Callable[[str], Trial],
    reference: Trial,
    usual: Sequence[tuple[float, str]],
    count: int,
    chance: random.Random,
) -> list[dict[str, Any]]:
    """Rounds of kills, until there are `enough`."""
    rounds: list[dict[str, Any]] = []
    done: list[Kill] = []
    while not enough(done, count):
        current = make(f"round{len(rounds)}")
        mine = []
        for meant in PLAN:
            kill = killed(current, meant, usual, chance)
            if kill is None:
                break
            mine.append(kill)
            print(f"{len(done) + len(mine):3d}  {kill}", flush=True)
        done += mine
        finished(current)
        wrong = judged(current, reference)
        rounds.append({"kills": [asdict(kill) for kill in mine], "differs": wrong, "as it must be": not wrong})
        print(f"round {len(rounds)}: {wrong or 'equal'}", flush=True)
    return rounds


def enough(done: Sequence[Kill], count: int) -> bool:
    """Whether there are ``count`` kills, a fifth of them while filling and a fifth while saving."""
    met = Counter(kill.met.split()[0] for kill in done)
    return len(done) >= count and min(met["filling"], met["saving"]) >= count // 5


def stops(make: Callable[[str], Trial], reference: Trial, count: int, chance: random.Random) -> list[dict[str, Any]]:
    """Run ``count`` trials, each stopped by both signals while training, and by one of them in another phase.

    A trial whose command finishes before its signal is made again. SIGHUP must not be ignored, as it is under nohup.
    """
    rounds: list[dict[str, Any]] = []
    names = (f"stops{index}" for index in range(10 * count))
    while len(rounds) < count:
        at = len(rounds)
        current, elsewhere = make(next(names)), ("filling", "evaluation", "saving")[at % 3]
        order = [(signal.SIGTERM, "training"), (signal.SIGINT, "training")]
        order.insert(0 if elsewhere == "filling" else 1, (list(STATUS)[at % len(STATUS)], elsewhere))
        signals = []
        for number, phase in order:
            try:
                signals.append(stopped(current, number, phase, chance))
            except FinishedFirst:
                print(f"finished before {number.name} in {phase}", flush=True)
                break
        if len(signals) < len(order) and all(entry["as it must be"] for entry in signals):
            continue
        finished(current)
        wrong = judged(current, reference)
        good = len(signals) == len(order) and not wrong and all(entry["as it must be"] for entry in signals)
        rounds.append({"signals": signals, "differs": wrong, "as it must be": good})
        print(json.dumps(rounds[-1]), flush=True)
    return rounds


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; 1 when something was not as it must be."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--signals", type=int, default=4, help="runs that are stopped by signals, three times each")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    chance = random.Random(chosen.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_digits(folder / "data", DATA)
        plain, reference = trial(folder, data, "plain"), trial(folder, data, "undisturbed")
        finished(plain, slow=False)
        usual = finished(reference)
        seconds = round(usual[-1][0] - usual[0][0], 1)
        wrong = judged(reference, plain)
        print(f"an undisturbed run: {seconds} s, {wrong or 'equal to that of eyas itself'}", flush=True)
        rounds = kills(lambda name: trial(folder, data, name), plain, usual, chosen.kills, chance)
        signals = stops(lambda name: trial(folder, data, name), plain, chosen.signals, chance)
    done = [kill for round in rounds for kill in round["kills"]]
    met = Counter(kill["met"].split()[0] for kill in done)
    files = Counter(kill["met"].split()[1] for kill in done if kill["met"].startswith("saving"))
    failed = sum(not round["as it must be"] for round in (*rounds, *signals)) + bool(wrong)
    print(f"{len(done)} kills, {dict(met)}, seed {chosen.seed}: {failed} of {len(rounds) + len(signals)} rounds bad")
    result = {
        "seed": chosen.seed,
        "seconds of an undisturbed run": seconds,
        "kills": len(done),
        "met": dict(met),
        "saving": dict(files),
        "torn lines": sum(kill["torn"] for kill in done),
        "bad": failed,
        "rounds": rounds,
        "signals": signals,
    }
    command_line.keep(result, chosen.json)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
