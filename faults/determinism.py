"""The same command gives the same weights: twice, with 0 and 4 data workers, with and without a teacher cache.

    python -m faults.determinism [--json FILE]

`eyas distill --run.deterministic true` trains the demo's pair on small images and two threads, in float32 and in its
recipe's bfloat16; `eyas train` trains torchvision's detectors. All runs of a group must have the same weights,
checkpoint and log rows, bit for bit. A cache of float32 vectors must not change them.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyas.data.digits import write_digits
from faults import command_line, long_run
from faults.equality import differences
from faults.kill import DATA, LIMIT
from faults.processes import command

THREADS = 2
DISTILLED = ("--run.epochs=3", "--options.dropout=0.2", "--optim.ema=0.9", "--dataset.augment.flip=0.5")
COLOURS = ("--dataset.augment.brightness=0.2", "--dataset.augment.hue=0.1", "--dataset.augment.shift=0.1")
"""Only without a cache: a cached teacher never sees these."""


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        arguments: beyond the data, the run folder and the common ones.
        workers: data workers.
        cache: the name of its cache folder, if any; runs that give the same name share it.
    """

    arguments: tuple[str, ...]
    workers: int
    cache: str = ""


@dataclass(frozen=True)
class Group:
    """Runs that must be equal.

    Attributes:
        name: shown in the results.
        runs: the others are compared with the first.
    """

    name: str
    runs: tuple[Run, ...]


def groups() -> list[Group]:
    """All groups."""
    single, mixed = ("--run.precision=no", *DISTILLED), ("--run.precision=bf16", *DISTILLED)
    cached, rounded = (*single, "--cache_dtype=float32"), (*mixed, "--cache_dtype=bfloat16")
    detectors = [
        Group(f"{model}, float32", tuple(Run(_torchvision(model), workers) for workers in (0, 0, 4)))
        for model in ("retinanet", "faster_rcnn")
    ]
    return [
        Group("no cache, float32, colours and shifts", tuple(Run((*single, *COLOURS), w) for w in (0, 0, 4))),
        Group("no cache, bfloat16, colours and shifts", tuple(Run((*mixed, *COLOURS), w) for w in (0, 0, 4))),
        Group(
            "float32: no cache, a cache that is filled, the same one full, one filled by 4 workers",
            (Run(single, 0), Run(cached, 0, "one"), Run(cached, 4, "one"), Run(cached, 4, "other")),
        ),
        Group(
            "bfloat16: a cache that is filled, the same one full, one filled by 4 workers",
            (Run(rounded, 0, "mixed"), Run(rounded, 4, "mixed"), Run(rounded, 4, "more")),
        ),
        *detectors,
    ]


def _torchvision(model: str) -> tuple[str, ...]:
    backbone = "mobilenet_v3_large" if model == "faster_rcnn" else "resnet18"
    own = ("--dataset.augment.flip=0.5", "--optim.optimizer=sgd", "--optim.lr=0.001", "--run.epochs=1")
    return (f"--model={model}", f"--backbone={backbone}", *own)


def started(run: Run, folder: Path, data: Path, name: str) -> tuple[Path, float]:
    """Run it. Returns its folder and the seconds taken. Raises ChildProcessError when it fails."""
    out, begun = folder / name, time.monotonic()
    common = (f"--dataset.workers={run.workers}", f"--run.threads={THREADS}", "--run.deterministic=true")
    more = [*run.arguments, *common, "--run.log_every=1", "--run.evaluate_every=0", "--run.device=cpu"]
    if run.cache:
        more.append(f"--cache={folder / run.cache}")
    if any(text.startswith("--model=") for text in run.arguments):
        size = [f"--dataset.resize.height={long_run.DATA.size}", f"--dataset.resize.width={long_run.DATA.size}"]
        arguments = ["train", f"--data={data}", f"--out={out}", *size, "--dataset.batch_size=8", *more]
    else:
        arguments = [*long_run.options(data, out, 1), *more]
    said = folder / f"{name}.txt"
    with command(arguments, said) as running:
        if running.wait(LIMIT):
            raise ChildProcessError(said.read_text())
    return out, round(time.monotonic() - begun, 1)


def compared(group: Group, folder: Path, data: Path, number: int) -> dict[str, Any]:
    """Run a group and compare its runs."""
    done = [started(run, folder, data, f"group{number}-{at}") for at, run in enumerate(group.runs)]
    first = done[0][0]
    rows = []
    for run, (out, seconds) in zip(group.runs, done, strict=True):
        (weights,) = [path for path in out.glob("*.safetensors") if path.name != "best.safetensors"]
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:16]
        entry = {"workers": run.workers, "cache": run.cache or None, "seconds": seconds, "weights": digest}
        rows.append({**entry, "differs": differences(first, out)})
    good = not any(row["differs"] for row in rows)
    return {"group": group.name, "runs": rows, "as it must be": good}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; 1 when something was not as it must be."""
    parser = command_line.parser(__doc__)
    chosen = parser.parse_args(arguments)
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_digits(folder / "data", DATA)
        for number, group in enumerate(groups()):
            found.append(compared(group, folder, data, number))
            print(json.dumps(found[-1], indent=2), flush=True)
    failed = sum(not group["as it must be"] for group in found)
    print(f"{sum(len(group['runs']) for group in found)} runs in {len(found)} groups: {failed} bad")
    command_line.keep({"threads": THREADS, "groups": found}, chosen.json)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
