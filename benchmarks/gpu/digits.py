"""The demo's digits over five seeds at convergence: `eyas compare`, all trainings side by side on one card."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from subprocess import STDOUT
from typing import Any

from benchmarks.gpu.cases import Bench, Case, Row
from eyas.commands.demo_task import BUNDLED_TEACHER, STARTING_POINT
from eyas.data.digits import DEMO, DigitsSpec, write_digits
from eyas.runs.log import LOG, read_log
from eyas.tools.children import end_all, start_child
from eyas.tools.files import write_json

EPOCHS, EVALUATIONS = 15, 3
SEEDS = (0, 1, 2, 3, 4)
REPORT = 25.0
"""Seconds kept for the report of what is finished when the time is over."""
POLL, SAYS_EVERY = 0.5, 20.0


def cases(bench: Bench) -> list[Case]:
    return [Case("comparison", partial(comparison, bench))]


def comparison(bench: Bench) -> Iterator[Row]:
    """How far the trainings are, now and then; then ``comparison.json``, and every run's mAP by epoch.

    What is not finished when the time is over is ended; the JSON names it under ``missing``.
    """
    spec = DigitsSpec(train_images=8, val_images=4) if bench.tiny else DEMO
    began = time.monotonic()
    data, out = write_digits(bench.folder / "digits", spec), bench.folder / "comparison"
    yield {"composed in seconds": round(time.monotonic() - began, 1)}
    config = bench.folder / "compare.yaml"
    write_json(config, options(data, out, bench))
    with (bench.folder / "compare.txt").open("wb") as printed:
        command = [sys.executable, "-P", "-m", "eyas", "compare", f"--config={config}"]
        process = start_child(command, os.environ, stdout=printed, stderr=STDOUT)
        said = time.monotonic()
        try:
            while process.poll() is None and bench.left() > REPORT:
                time.sleep(POLL)
                if time.monotonic() - said > SAYS_EVERY:
                    said = time.monotonic()
                    yield {"seconds": round(said - began, 1), "steps": {run.name: last_step(run) for run in runs(out)}}
        finally:
            end_all([process], 10.0)
        seconds = round(time.monotonic() - began, 1)
        report = start_child([*command, "--report_only=true"], os.environ, stdout=printed, stderr=STDOUT)
        report.wait(max(1.0, bench.left()))
    curves = {run.name: curve(run) for run in runs(out)}
    found = json.loads((out / "comparison.json").read_text()) if (out / "comparison.json").is_file() else None
    yield {"seconds": seconds, "mAP by epoch": curves}
    yield {"comparison": found}
    if process.returncode or report.returncode or found is None or found["missing"]:
        tail = (bench.folder / "compare.txt").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"not every training is finished; eyas compare printed last\n{tail}")


def options(data: Path, out: Path, bench: Bench) -> dict[str, Any]:
    """The config of `eyas compare`: the demo's pair and starting point, in larger batches and for longer."""
    epochs = 1 if bench.tiny else EPOCHS
    seeds = list(SEEDS[:2] if bench.tiny else SEEDS)
    longer = {
        "weights": str(STARTING_POINT / "model.safetensors"),
        "dataset.batch_size": 16,
        "run.epochs": epochs,
        "run.evaluate_every": max(1, epochs // EVALUATIONS),
        "run.export_check": False,
        "run.device": "cpu" if bench.device == "cpu" else "auto",
    }
    return {
        "data": str(data),
        "teacher": str(BUNDLED_TEACHER),
        "out": str(out),
        "seeds": seeds,
        "student": ["demo/student", longer],
        "arms": {"fgfi": "demo/fgfi"},
        "jobs": 2 * len(seeds),
        "threads": 1,
    }


def runs(out: Path) -> Sequence[Path]:
    """The run folders that have begun."""
    return sorted(log.parent for log in out.glob(f"*/{LOG}"))


def last_step(run: Path) -> int:
    return max((line["step"] for line in read_log(run, "train")), default=0)


def curve(run: Path) -> list[tuple[int, float]]:
    """Epoch and mAP of every evaluation of the student."""
    return [(line["epoch"], line["summary"]["map"]) for line in read_log(run, "val")]
