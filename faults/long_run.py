"""Long runs: memory and open files of a distillation over thousands of steps, and data workers that die or hang.

    python -m faults.long_run [--steps N] [--trials N] [--json FILE]

`eyas distill` trains the demo's pair with two data workers on small images, once with the teacher running and once from
a cache, and is sampled from outside. Over the second half of the steps, memory may grow by less than 1 MiB in 1,000
steps (the slope of a least-squares line minus twice its standard error), in the training process and in all its workers
together; the smallest number of open files in the last quarter may exceed that in the second by one. Then workers of
short runs are killed and stopped at random moments: each run must end with a message that names the image that its
worker was decoding.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eyas.data.digits import DigitsSpec, write_digits
from eyas.runs.log import LogTail
from eyas.runs.recipes import shipped_recipes
from faults import command_line
from faults.processes import MIB, Process, Sample, command, descendants, sample, wait_for

TEACHER = Path(__file__).parents[1] / "results" / "digits_methods" / "teacher"
DATA = DigitsSpec(size=96, train_images=200, val_images=20, objects=(1, 4), digit_size=(16, 40))
BATCH, WORKERS = 4, 2
GROWTH = 1.0
"""MiB that memory may grow in 1,000 steps."""
INTERVAL = 0.25
"""Seconds from one sample to the next."""
TIMEOUT = 3
"""Seconds without a batch, in the runs whose worker is stopped."""


@dataclass(frozen=True)
class Line:
    """How a measurement changes over the second half of the steps.

    Attributes:
        start: MiB in the middle of the run.
        slope: MiB in 1,000 steps.
        error: standard error of the slope.
    """

    start: float
    slope: float
    error: float

    def grows(self) -> bool:
        """Whether the slope exceeds the limit by more than the scatter of the samples explains."""
        return self.slope - 2 * self.error > GROWTH


def options(data: Path, out: Path, steps: int, seed: int = 0) -> list[str]:
    """The arguments of `eyas distill` with the pair of the faint digits."""
    recipes = shipped_recipes()
    per_epoch = -(-DATA.train_images // BATCH)
    return [
        "distill",
        *(f"--config={recipes[name]}" for name in ("digits/student", "digits/fgfi")),
        f"--data={data}",
        f"--teacher={TEACHER}",
        f"--out={out}",
        "--any_teacher=true",
        f"--dataset.resize.height={DATA.size}",
        f"--dataset.resize.width={DATA.size}",
        f"--dataset.batch_size={BATCH}",
        f"--dataset.workers={WORKERS}",
        f"--run.epochs={-(-steps // per_epoch)}",
        "--run.evaluate_every=0",
        "--run.threads=1",
        f"--run.seed={seed}",
    ]


def watch(arguments: Sequence[str], out: Path, said: Path, interval: float = INTERVAL) -> list[Sample]:
    """Run a training and sample it from its first step to its last. Raises ChildProcessError when it fails."""
    tail, step, samples = LogTail(out), 0, []
    with command(arguments, said) as running:
        while running.poll() is None:
            for line in tail():
                step = line["step"] if line["kind"] == "train" else step
            found = sample(running.pid, step)
            if found is not None and step:
                samples.append(found)
            time.sleep(interval)
        if running.returncode:
            raise ChildProcessError(said.read_text())
    return [found for found in samples if found.step < step]  # after the last step comes the evaluation


def fitted(samples: Sequence[Sample], figure: Callable[[Sample], float]) -> Line:
    """The line through a measurement, in bytes, over the second half of the steps."""
    half = [found for found in samples if found.step >= samples[-1].step / 2]
    steps, values = (np.array(column) for column in zip(*((s.step / 1000, figure(s) / MIB) for s in half), strict=True))
    centred = steps - steps.mean()
    slope = float((centred * values).sum() / (centred**2).sum())
    residual = values - values.mean() - slope * centred
    error = float(np.sqrt((residual**2).sum() / max(len(values) - 2, 1) / (centred**2).sum()))
    return Line(float(values.mean() - slope * (steps.mean() - steps[0])), slope, error)


def judged(samples: Sequence[Sample]) -> dict[str, Any]:
    """The measurements of a run, and whether they pass."""

    def total(of: Callable[[Process], int]) -> Callable[[Sample], float]:
        return lambda found: sum(map(of, found.children))

    lines = {
        "main, resident": fitted(samples, lambda found: found.main.resident),
        "main, own": fitted(samples, lambda found: found.main.own),
        "workers, resident": fitted(samples, total(lambda process: process.resident)),
        "workers, own": fitted(samples, total(lambda process: process.own)),
    }
    quarters: list[list[int]] = [[], [], [], []]
    for found in samples:
        open_now = found.main.files + sum(child.files for child in found.children)
        quarters[min(4 * found.step // samples[-1].step, 3)].append(open_now)
    # The fewest, with one more allowed: a tensor in transit from a worker holds a file for a moment, and there may
    # be one in every sample. Files that are never closed add up.
    fewest = [min(quarters[1]), min(quarters[3])]
    return {
        "steps": samples[-1].step,
        "samples": len(samples),
        "files, fewest in the second and in the last quarter": fewest,
        "memory": {name: asdict(line) for name, line in lines.items()},
        "as it must be": fewest[1] <= fewest[0] + 1 and not any(line.grows() for line in lines.values()),
    }


def disturb(data: Path, folder: Path, number: signal.Signals, seed: int) -> dict[str, Any]:
    """Kill or stop a worker of a run at a random moment, and check the error."""
    chance, out, said = random.Random(seed), folder / f"{number.name}-{seed}", folder / f"{number.name}-{seed}.txt"
    arguments = [*options(data, out, 100_000), f"--dataset.worker_timeout={TIMEOUT}"]
    with command(arguments, said) as running:
        wait_for(lambda: (out / "log.jsonl").exists() and '"kind": "train"' in (out / "log.jsonl").read_text(), running)
        time.sleep(chance.random())
        workers = descendants(running.pid)
        started = time.monotonic()
        os.kill(chance.choice(workers), number)
        status = running.wait(120)
    text = said.read_text()
    message = next((line for line in text.splitlines() if line.startswith("eyas: ")), "")
    image = re.search(r"train/\S+\.\w+ \(image [^)]+\)", message)
    good = status == 2 and image is not None and "Traceback" not in text
    return {
        "signal": number.name,
        "workers": len(workers),
        "status": status,
        "seconds": round(time.monotonic() - started, 1),
        "said": message.replace(str(folder), ""),
        "as it must be": good,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; 1 when something was not as it must be."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--trials", type=int, default=5, help="workers killed, and as many stopped")
    chosen = parser.parse_args(arguments)
    result: dict[str, Any] = {"runs": {}, "workers": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_digits(folder / "data", DATA)
        for arm, more in (("teacher", []), ("cache", [f"--cache={folder / 'cache'}"])):
            run = [*options(data, folder / arm, chosen.steps), *more]
            result["runs"][arm] = judged(watch(run, folder / arm, folder / f"{arm}.txt"))
            print(f"{arm}: {json.dumps(result['runs'][arm], indent=2)}", flush=True)
        for number in (signal.SIGKILL, signal.SIGSTOP):
            for seed in range(chosen.trials):
                result["workers"].append(disturb(data, folder, number, seed))
                print(json.dumps(result["workers"][-1]), flush=True)
    failed = [entry for entry in (*result["runs"].values(), *result["workers"]) if not entry["as it must be"]]
    print(f"{chosen.steps} steps, {2 * chosen.trials} workers disturbed, seeds from 0: {len(failed)} bad")
    command_line.keep(result, chosen.json)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
