"""Real command lines of several processes that are killed, started twice, suspended, or left without resources."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from faults.processes import ROOT, command, descendants, look_at, wait_for

from eyas.runs.log import read_log
from helpers.tiny import options, write_squares

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")]
STEPS = '"kind": "train"'


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares"), train=24, val=4)


def train(data: Path, out: Path, **more: object) -> list[str]:
    """A training whose steps are many and short, unless ``more`` says otherwise."""
    own = {"run_epochs": 500, "dataset_batch_size": 2, "run_evaluate_every": 0, "run_threads": 1, **more}
    return ["train", f"--data={data}", f"--out={out}", *options(**own)]


def steps(out: Path) -> int:
    log = out / "log.jsonl"
    return log.read_text().count(STEPS) if log.exists() else 0


def living(pids: list[int]) -> list[int]:
    found = []
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            found.append(look_at(pid).pid)
    return found


def ended(pids: list[int], seconds: float = 15) -> bool:
    deadline = time.monotonic() + seconds
    while living(pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not living(pids)


def messages(said: Path) -> list[str]:
    text = said.read_text(errors="replace")
    assert "Traceback" not in text, text
    return [line for line in text.splitlines() if line.startswith("eyas: ")]


def finish(arguments: list[str], said: Path) -> int:
    with command(arguments, said) as running:
        return running.wait(200)


def test_of_two_commands_with_one_folder_one_works(data: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "out", [tmp_path / "a", tmp_path / "b"]
    more = [train(data, out, run_epochs=2, run_seed=seed) for seed in (1, 2)]
    with command(more[0], said[0]) as first, command(more[1], said[1]) as second:
        codes = [first.wait(200), second.wait(200)]
    assert sorted(codes) == [0, 2]
    (message,) = messages(said[codes.index(2)])
    assert message.startswith("eyas: another process (pid ") and f"is at work in {out}; " in message
    assert [line["step"] for line in read_log(out, "train")] == list(range(1, 25))
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGTERM])
def test_nothing_outlives_a_launcher(data: Path, tmp_path: Path, number: int) -> None:
    out, said = tmp_path / "out", tmp_path / "said"
    arguments = train(data, out, devices=2, dataset_workers=1, dataset_batch_size=1)
    with command(arguments, said) as launcher:
        wait_for(lambda: steps(out) >= 3, launcher)
        below = descendants(launcher.pid)
        assert len(below) >= 4, "two processes and a worker of each"
        launcher.send_signal(number)
        assert launcher.wait(100) == (-number if number == signal.SIGKILL else 128 + number)
        assert ended(below)
    assert (out / "last.pt").exists(), "it was saved on the way"
    with command([*arguments, "--run.resume=auto"], said) as again:
        before = steps(out)
        wait_for(lambda: steps(out) > before + 2, again)
        again.terminate()
        assert again.wait(100) == 143


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_of_two_is_one_message(data: Path, tmp_path: Path, victim: int) -> None:
    out, said = tmp_path / "out", tmp_path / "said"
    with command(train(data, out, devices=2), said) as launcher:
        wait_for(lambda: steps(out) >= 3, launcher)
        os.kill(sorted(descendants(launcher.pid))[victim], signal.SIGKILL)
        assert launcher.wait(100) == 2
    (message,) = messages(said)
    assert message.startswith(f"eyas: process {victim + 1} of 2 was ended by SIGKILL; if nobody sent that, memory")
    assert ("the last checkpoint is intact" in message) == (out / "last.pt").exists()


def test_a_killed_process_with_a_checkpoint(data: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "out", tmp_path / "said"
    with command(train(data, out, devices=2), said) as launcher:
        wait_for((out / "last.pt").exists, launcher)
        os.kill(descendants(launcher.pid)[0], signal.SIGKILL)
        assert launcher.wait(100) == 2
    assert messages(said)[0].endswith("the last checkpoint is intact: go on from it with --run.resume true")


@pytest.fixture
def comparison(data: Path, tmp_path: Path) -> list[str]:
    """The baseline alone, one seed."""
    own = options(run_epochs=400, dataset_batch_size=1, run_evaluate_every=0)
    student = dict(each.removeprefix("--").split("=", 1) for each in own)
    student["options"] = json.loads(student["options"])
    file = tmp_path / "compare.yaml"
    teacher = "helpers.tiny:poor_teacher"
    file.write_text(json.dumps({"data": str(data), "teacher": teacher, "student": nested(student), "seeds": [0]}))
    return ["compare", f"--config={file}", "--jobs=1", "--threads=1", f"--out={tmp_path / 'compared'}"]


def nested(flat: dict[str, object]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in flat.items():
        place, _, rest = name.partition(".")
        if rest:
            found.setdefault(place, {})[rest] = json.loads(str(value)) if str(value)[:1].isdigit() else value  # type: ignore[index]
        else:
            found[name] = value
    return found


def test_a_killed_comparison_leaves_no_training(comparison: list[str], tmp_path: Path) -> None:
    run, said = tmp_path / "compared" / "baseline-0", tmp_path / "said"
    with command(comparison, said) as compare:
        wait_for(lambda: steps(run) >= 1, compare)
        below = descendants(compare.pid)
        compare.kill()
        compare.wait()
        assert below and ended(below)
    with command(comparison, said) as again:
        before = steps(run)
        wait_for(lambda: steps(run) > before, again)
        again.terminate()
        assert again.wait(100) == 143


def test_a_comparison_leaves_what_another_process_uses(comparison: list[str], data: Path, tmp_path: Path) -> None:
    """Another comparison, and a training by hand in one of its folders that is before its first checkpoint."""
    run, said = tmp_path / "compared" / "baseline-0", [tmp_path / "a", tmp_path / "b"]
    with command(comparison, said[0]) as first:
        wait_for(lambda: steps(run) >= 1, first)
        (run / "mine.txt").touch()
        assert finish(comparison, said[1]) == 2
        (message,) = messages(said[1])
        assert f"is at work in {tmp_path / 'compared'}; " in message and (run / "mine.txt").exists()
        first.terminate()
        assert first.wait(100) == 143
    shutil.rmtree(run)
    arm = tmp_path / "compared" / "arms" / "baseline.yaml"
    with command(["train", f"--config={arm}", f"--data={data}", f"--out={run}"], said[0]) as training:
        wait_for(lambda: steps(run) >= 1, training)
        training.send_signal(signal.SIGSTOP)
        (run / "last.pt").unlink(missing_ok=True)  # without one, a run is begun afresh
        before = {path.name for path in run.iterdir()}
        assert finish(comparison, said[1]) == 2
        assert f"is at work in {run}; " in messages(said[1])[0]
        assert {path.name for path in run.iterdir()} == before


@pytest.mark.parametrize("output", ["full", "closed"])
def test_a_training_outlasts_the_reader_of_its_output(data: Path, tmp_path: Path, output: str) -> None:
    out, arguments = tmp_path / "out", train(data, tmp_path / "out", run_epochs=2, run_evaluate_every=1)
    with ExitStack() as stack:
        if output == "full":
            stdout: int = stack.enter_context(open("/dev/full", "wb")).fileno()
        else:
            reader, stdout = os.pipe()
            os.close(reader)
            stack.callback(os.close, stdout)
        whole = [sys.executable, "-m", "eyas", *arguments]
        done = subprocess.run(whole, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=200, check=False)
    assert done.returncode == 0 and done.stderr == ""
    assert (out / "last.pt").exists() and len(read_log(out, "val")) == 2


def limited(*limits: tuple[int, int]) -> Callable[[], None]:
    def limit() -> None:
        for what, size in limits:
            resource.setrlimit(what, (size, size))

    return limit


@pytest.mark.parametrize(
    ("limit", "more", "said"),
    [
        (
            (resource.RLIMIT_DATA, 3 * 2**30),
            {"dataset_batch_size": 24, "dataset_resize.height": 3000, "dataset_resize.width": 3000},
            "memory is exhausted",
        ),
        ((resource.RLIMIT_NOFILE, 32), {"dataset_workers": 2, "dataset_batch_size": 8}, "too many files are open"),
    ],
    ids=["memory", "files"],
)
def test_what_runs_out_is_named(
    data: Path, tmp_path: Path, limit: tuple[int, int], more: dict[str, object], said: str
) -> None:
    arguments = [sys.executable, "-m", "eyas", *train(data, tmp_path / "out", **{"run_epochs": 1, **more})]
    done = subprocess.run(
        arguments, capture_output=True, text=True, timeout=200, check=False, preexec_fn=limited(limit), cwd=ROOT
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.count("eyas: ") == 1 and f"eyas: {said}: " in done.stderr


def test_shared_memory_that_is_too_small(data: Path, tmp_path: Path) -> None:
    """As in Docker, where /dev/shm has 64 MB unless --shm-size is given."""
    mount = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"', "sh"]
    if subprocess.run([*mount, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this process may not mount")
    more = {"run_epochs": 1, "dataset_workers": 2, "dataset_batch_size": 8, "dataset_worker_timeout": 100}
    arguments = [*mount, sys.executable, "-m", "eyas", *train(data, tmp_path / "out", **more)]
    started = time.monotonic()
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=200, check=False, cwd=ROOT)
    assert done.returncode == 2 and done.stderr.count("eyas: ") == 1 and "Traceback" not in done.stderr
    assert "/dev/shm" in done.stderr and "--shm-size" in done.stderr and "images/" not in done.stderr
    assert time.monotonic() - started < 60


def test_a_suspended_run_goes_on(data: Path, tmp_path: Path) -> None:
    """Suspended with its workers, as by Ctrl-Z, for longer than its workers may take for a batch."""
    out, said = tmp_path / "out", tmp_path / "said"
    arguments = train(data, out, run_epochs=30, dataset_workers=1, dataset_worker_timeout=2)
    with command(arguments, said) as running:
        wait_for(lambda: steps(out) >= 3, running)
        for _ in range(3):
            family = [running.pid, *descendants(running.pid)]
            for number in (signal.SIGSTOP, signal.SIGCONT):
                for pid in family:
                    os.kill(pid, number)
                time.sleep(4 if number == signal.SIGSTOP else 0.2)
        assert running.wait(200) == 0, said.read_text()
    assert len(read_log(out, "train")) == 30 * 12
