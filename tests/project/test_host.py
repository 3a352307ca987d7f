"""A program that uses Eyas as a library keeps what is its own: its child processes and its global state."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from helpers.tiny import write_squares

CHILDREN = """
import multiprocessing, os, signal, sys, time
from pathlib import Path
from eyas.data import Resize, eval_transform, loader, read

def child(path, ready):
    def ended(*_):
        path.write_text("SIGTERM")
        sys.exit(0)
    signal.signal(signal.SIGTERM, ended)
    ready.set()
    while True:
        time.sleep(0.05)

folder, fault = Path(sys.argv[1]), sys.argv[2]
context = multiprocessing.get_context("fork")
for name in ("first", "second"):
    ready = context.Event()
    context.Process(target=child, args=(folder / name, ready), daemon=True).start()
    ready.wait()
source = read(folder / "data", "train")
batches = loader(source, eval_transform(Resize()), batch_size=1, shuffle=True, workers=2, seed=0)
iterator = iter(batches)
next(iterator)
workers = batches.dataset.worker_progress.processes()
print(*workers)
if fault == "stopped":
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
"""

STATE = """
import atexit, logging, pkgutil, random, signal, sys, threading, time, warnings
from importlib import import_module
from pathlib import Path

registered = []
register = atexit.register
atexit.register = lambda function, *args, **named: (registered.append(function), register(function, *args, **named))[0]

import numpy, torch
# What other libraries change is theirs.
import accelerate, accelerate.utils, faster_coco_eval, jsonargparse, matplotlib.figure, scipy.special, timm, torchvision
import rich.progress, transformers
from torch.utils import flop_counter, tensorboard

def state():
    loggers = {name: logging.getLogger(name).level for name in ("", "torch", "transformers", "accelerate", "PIL")}
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals() if number != signal.SIGCHLD}
    return {
        "warning filters": list(warnings.filters),
        "logger levels": loggers,
        "path": list(sys.path),
        "signal handlers": handlers,
        "python's random state": random.getstate(),
        "numpy's random state": numpy.random.get_state()[1].tolist(),
        "torch's seed": torch.initial_seed(),
        "torch's random state": torch.get_rng_state().tolist(),
        "threads of torch": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "threads": threading.active_count(),
        "default dtype": torch.get_default_dtype(),
        "exit handlers of eyas": [f for f in registered if (getattr(f, "__module__", "") or "").startswith("eyas")],
    }

def check(what, before, but=()):
    deadline = time.monotonic() + 10  # the thread that feeds a worker's queue ends by itself, a little later
    while threading.active_count() > before["threads"] and time.monotonic() < deadline:
        time.sleep(0.05)
    after = state()
    changed = [name for name in before if name not in but and before[name] != after[name]]
    if changed:
        sys.exit(f"{what} changes {', '.join(changed)}")

torch.manual_seed(3)
before = state()
import eyas
for module in pkgutil.walk_packages(eyas.__path__, "eyas."):
    if not module.name.endswith("__main__"):
        import_module(module.name)
check("importing eyas", before)

from eyas.data import Resize, eval_transform, loader, read
from eyas.evaluation import evaluate
source = read(Path(sys.argv[1]) / "data", "train")
for workers in (0, 1):
    batches = list(loader(source, eval_transform(Resize()), batch_size=2, shuffle=False, workers=workers, seed=0))
check("a loader", before)

truth = [
    {"boxes": torch.from_numpy(record.boxes), "scores": torch.ones(len(record.boxes)),
     "labels": torch.from_numpy(record.labels)}
    for record in source.records
]
assert evaluate("coco", source.records, source.classes, truth).per_class
check("an evaluation", before)

sizes = [{"width": width, "stem_channels": 8, "anchor_shapes": [[20, 20], [32, 32]]} for width in (0.25, 0.5)]
student, teacher = (eyas.build("shuffledet", classes=source.classes, options=options) for options in sizes)
distiller = eyas.Distiller(student, teacher, eyas.FGFI())
images, targets = batches[0]
distiller(eyas.as_float(images), targets)
check("a Distiller", before, but=["torch's random state"])  # its weights are drawn, as torch's own modules' are
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("host")
    write_squares(folder / "data", train=6, val=2)
    return folder


def host(program: str, *arguments: str) -> str:
    """The output of a program that must end well, and without a word on stderr."""
    ran = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


@pytest.mark.parametrize("workers", [pytest.param("waiting", marks=pytest.mark.slow), "stopped"])
def test_children_of_the_host_end_as_python_ends_them(folder: Path, tmp_path: Path, workers: str) -> None:
    """By one SIGTERM each, which they handle; and no data worker outlives or holds up the host."""
    (tmp_path / "data").symlink_to(folder / "data")
    processes = host(CHILDREN, str(tmp_path), workers).split()
    assert [(tmp_path / name).read_text() for name in ("first", "second")] == ["SIGTERM"] * 2
    assert len(processes) == 2 and not any(Path("/proc", process).exists() for process in processes)


def test_a_library_call_changes_nothing_global(folder: Path) -> None:
    host(STATE, str(folder))
