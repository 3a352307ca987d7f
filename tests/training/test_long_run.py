"""Memory and files of a run from outside, in short; and workers that die or hang, told of with their image."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import multiprocessing.queues
import os
import re
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest
import torch
from faults.long_run import fitted, judged, watch
from faults.processes import MIB, Process, Sample, command

import eyas.data.dataset
from eyas.__main__ import main
from eyas.data import DetectionDataset, eval_transform, loader, read
from eyas.data.options import Resize
from eyas.data.worker_watch import HUNG, RunningTime, name_failed_images, safe_batches
from eyas.data.workers import WorkerProcess, WorkerProgress
from eyas.types import EyasError, Record
from helpers.tiny import options, write_squares

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc"),
    # A worker that is killed leaves the standard library's sockets and files open until they are collected.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
decode = eyas.data.dataset.decode


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares"), train=8, val=2)


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """What is left open is collected here, and not in a test that follows."""
    yield
    gc.collect()


def at_image(name: str, act: Callable[[], object]) -> Callable[[Record], torch.Tensor]:
    """A decoder that calls a function in a worker when it decodes that image."""

    def decoded(record: Record) -> torch.Tensor:
        if record.path.stem == name and torch.utils.data.get_worker_info() is not None:
            act()
        return decode(record)

    return decoded


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_is_killed(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    killed = at_image("train3", lambda: os.kill(os.getpid(), signal.SIGKILL))
    monkeypatch.setattr(eyas.data.dataset, "decode", killed)
    arguments = [f"--data={data}", f"--out={tmp_path / 'out'}", *options(run_epochs=1, dataset_workers=workers)]
    assert main(["train", *arguments]) == 2
    said = capfd.readouterr().err
    assert re.search("a data worker (is killed by signal: Killed|exited unexpectedly); its last image was ", said)
    assert "train3.png (image " in said and "Traceback" not in said and "--dataset.workers" in said


@pytest.mark.slow
def test_a_command_that_fails_leaves_its_workers_no_time(tmp_path: Path) -> None:
    """The loaders of training and evaluation have workers that wait for more; the command ends all the same."""
    data, said = write_squares(tmp_path / "squares", train=8, val=2), tmp_path / "said"
    image = data / "images" / "train" / "train5.png"
    image.write_bytes(image.read_bytes()[:-200])  # its header is in order
    more = options(run_epochs=1, dataset_workers=1)
    with command(["train", f"--data={data}", f"--out={tmp_path / 'out'}", *more], said) as running:
        assert running.wait(timeout=120) == 2
    assert "train5.png: cannot be decoded" in said.read_text() and "Traceback" not in said.read_text()


def test_a_worker_that_hangs(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eyas.data.dataset, "decode", at_image("train5", lambda: time.sleep(1000)))
    started = time.monotonic()
    more = {"run_epochs": 1, "dataset_workers": 2, "dataset_worker_timeout": 1}
    assert main(["train", f"--data={data}", f"--out={tmp_path / 'out'}", *options(**more)]) == 2
    said = capfd.readouterr().err
    assert "the data workers gave no batch for 1 s; they are decoding " in said and "train5.png (image " in said
    assert "Traceback" not in said and "--dataset.worker_timeout" in said
    assert time.monotonic() - started < 30


def test_a_worker_that_dies_while_the_student_is_scored(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eyas.data.dataset, "decode", at_image("val1", lambda: os._exit(9)))
    batches = loader(read(data, "val"), eval_transform(Resize()), batch_size=1, shuffle=False, workers=1, seed=0)
    with pytest.raises(EyasError, match=r"exited unexpectedly.*val1\.png"), name_failed_images(batches):
        for _ in batches:
            pass


class ForkedWorker(ForkProcess, WorkerProcess):
    """A data worker whose target need not be sent."""


class Fetched:
    """A loader of one worker, which gives one batch and then waits for what another process sends it."""

    num_workers = 1

    def __init__(self, dataset: DetectionDataset, sender: Callable[[], None]) -> None:
        self.dataset = dataset
        self.receiver, end = multiprocessing.Pipe(duplex=False)
        self.worker = ForkedWorker(target=sender, daemon=True)
        self.worker.start()
        end.close()  # the worker alone has it now
        assert self.worker.pid is not None
        dataset.worker_progress._table[0] = torch.tensor([self.worker.pid, 3, 0, -1])

    def __iter__(self) -> Iterator[str]:
        yield "first"
        self.receiver.recv()


@pytest.mark.parametrize(
    ("sender", "timeout", "message"),
    [
        (lambda: time.sleep(1000), 0.2, r"gave no batch for 0\.2 s; their last images were .*train3\.png"),
        (lambda: time.sleep(0.05), 60.0, r"a data worker exited unexpectedly; its last image was .*train3\.png"),
    ],
    ids=["stopped", "ended"],
)
def test_a_worker_that_does_not_hand_over_what_it_announced(
    data: Path, sender: Callable[[], None], timeout: float, message: str
) -> None:
    batches = Fetched(
        DetectionDataset(read(data, "train"), eval_transform(Resize()), WorkerProgress(1, timeout)), sender
    )
    with pytest.raises(EyasError, match=message):
        assert list(safe_batches(batches)) == []
    assert not batches.worker.is_alive()


def test_the_time_that_the_training_takes_is_not_the_workers(data: Path) -> None:
    source = read(data, "val")
    batches = loader(
        source, eval_transform(Resize()), batch_size=1, shuffle=False, workers=1, seed=0, worker_timeout=0.5
    )
    seen = 0
    for _ in safe_batches(batches):
        time.sleep(2)
        seen += 1
    assert seen == len(source.records) > 1


def test_workers_of_a_loader_in_order_end_with_it(data: Path) -> None:
    batches = loader(read(data, "val"), eval_transform(Resize()), batch_size=1, shuffle=False, workers=1, seed=0)
    assert len(list(batches)) > 0
    assert not {child.pid for child in multiprocessing.active_children()} & set(
        batches.dataset.worker_progress.processes()
    )


def test_the_error_of_another_loaders_worker_passes(data: Path) -> None:
    batches = loader(read(data, "val"), eval_transform(Resize()), batch_size=1, shuffle=False, workers=1, seed=0)
    with pytest.raises(RuntimeError, match="pid 1"), name_failed_images(batches):
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed. ")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left (28)"), "/dev/shm"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "ulimit -n"),
    ],
)
def test_a_batch_that_cannot_be_handed_over(data: Path, error: Exception, said: str) -> None:
    """The worker says at once what it lacks, and no image is blamed."""

    def refuse(*_: object) -> None:
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            eyas.data.dataset,
            "decode",
            at_image("val1", lambda: setattr(multiprocessing.queues._ForkingPickler, "dumps", refuse)),
        )
        batches = loader(
            read(data, "val"),
            eval_transform(Resize()),
            batch_size=1,
            shuffle=False,
            workers=1,
            seed=0,
            worker_timeout=99,
        )
        started = time.monotonic()
        with pytest.raises(EyasError) as refused:
            list(safe_batches(batches))
    assert said in str(refused.value) and "--dataset.workers" in str(refused.value) and "val1" not in str(refused.value)
    assert time.monotonic() - started < 20
    # PyTorch tells a lost worker from too many open files by opening ten. Its handler of SIGCHLD may raise in between,
    # and the file that was just opened then hangs on the traceback.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del refused
        gc.collect()


def test_time_in_which_a_process_was_suspended_does_not_count() -> None:
    now = 0.0
    running = RunningTime(2.0, clock=lambda: now)
    for pause, seconds in ((1.0, 1.0), (1.5, 2.5), (3600.0, 4.5), (0.5, 5.0)):
        now += pause
        assert running.read() == running.seconds == seconds


def test_a_loop_of_your_own_has_the_timeout_too(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eyas.data.dataset, "decode", at_image("val1", lambda: time.sleep(1000)))
    batches = loader(
        read(data, "val"), eval_transform(Resize()), batch_size=1, shuffle=False, workers=1, seed=0, worker_timeout=0.5
    )
    with pytest.raises(RuntimeError, match=r"timed out after 0\.5 seconds"):
        for _ in batches:
            pass


def test_other_errors_pass_as_they_are(data: Path) -> None:
    batches = loader(read(data, "val"), eval_transform(Resize()), batch_size=1, shuffle=False, workers=0, seed=0)
    with pytest.raises(RuntimeError, match="something else"), name_failed_images(batches):
        raise RuntimeError("something else")
    with pytest.raises(RuntimeError, match="timed out"), name_failed_images(object()):
        raise RuntimeError("DataLoader timed out after 1 seconds")
    assert HUNG.search("DataLoader timed out after 1.5 seconds")


def test_waiting_for_ever_is_a_choice(data: Path) -> None:
    source = read(data, "val")
    batches = [
        loader(source, eval_transform(Resize()), batch_size=1, shuffle=False, workers=workers, seed=0, worker_timeout=9)
        for workers in (0, 1)
    ]
    assert [batch.dataset.worker_progress.timeout for batch in batches] == [9, 9]


def made(resident: Callable[[int], float], files: Callable[[int], int]) -> list[Sample]:
    def process(step: int) -> Process:
        return Process(1, int(resident(step) * MIB), int(resident(step) * MIB), files(step))

    return [Sample(step, process(step), (process(step),)) for step in range(1, 2001, 10)]


def test_the_criterion_sees_growth() -> None:
    noise = {step: (step * 7919 % 13) / 13 for step in range(2001)}

    def holds(resident: Callable[[int], float], files: Callable[[int], int] = lambda _: 9) -> bool:
        return bool(judged(made(resident, files))["as it must be"])

    assert holds(lambda step: 500 + noise[step])
    assert holds(lambda step: 500 + min(step, 500) + noise[step]), "warm-up"
    assert not holds(lambda step: 500 + step / 500 + noise[step]), "2 MiB in 1,000"
    assert not holds(lambda step: 500 + noise[step], lambda step: 9 + step // 500), "a file every 500 steps"
    slope = fitted(made(lambda step: 500 + step / 500, lambda _: 9), lambda sample: sample.main.resident)
    assert slope.slope == pytest.approx(2, abs=0.01)


@pytest.mark.slow
def test_a_short_run_is_watched(data: Path, tmp_path: Path) -> None:
    """A hundred steps with two workers: the figures are there, and the files are steady."""
    more = {"run_epochs": 50, "dataset_workers": 2, "run_evaluate_every": 0, "run_threads": 1}
    arguments = ["train", f"--data={data}", f"--out={tmp_path / 'out'}", *options(**more)]
    samples = watch(arguments, tmp_path / "out", tmp_path / "said", interval=0.02)
    assert len(samples) > 20 and all(len(sample.children) >= 2 for sample in samples[5:])
    found = judged(samples)
    fewest = found["files, fewest in the second and in the last quarter"]
    assert fewest[1] <= fewest[0] + 1
    assert found["memory"]["main, resident"]["start"] > 100
    half = samples[len(samples) // 2].main.own
    assert samples[-1].main.own - half < 8 * MIB
