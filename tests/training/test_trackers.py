"""TensorBoard, W&B (offline) and MLflow (a local store) have the figures of log.jsonl, also after a resume."""

from __future__ import annotations

import csv
import json
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.utils import LoggerType

import eyas.training.trackers
from eyas.__main__ import main
from eyas.args import RunArgs
from eyas.runs.config import recorded_options
from eyas.runs.log import RunLog, read_log
from eyas.training.state import TrainState
from eyas.training.step_log import StepLog
from eyas.training.trackers import Trackers, chosen_trackers, numbers
from eyas.types import EyasError
from helpers.tiny import options, write_squares

Series = dict[str, dict[int, float]]
"""Figure -> step -> value."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares"), train=8, val=2)


def logged(out: Path) -> Series:
    """The log's figures, by names spelled out here and not by the function under test."""
    found: Series = {}
    for line in read_log(out, "train"):
        values = {"train/lr": line["lr"], "train/epoch": line["epoch"], "train/gradient_norm": line["gradient_norm"]}
        for key in ("losses", "weights", "gradient_ratios", "last_gradient_ratios"):
            values |= {f"train/{key}/{name}": value for name, value in line[key].items()}
        for term, shares in line["shares"].items():
            values |= {f"train/shares/{term}/{part}": value for part, value in shares.items()}
        for name, value in values.items():
            found.setdefault(name, {})[line["step"]] = value
    for line in read_log(out, "val"):
        for name, value in line["summary"].items():
            if value is not None:
                found.setdefault(f"val/summary/{name}", {})[line["step"]] = value
    return found


def agree(seen: Series, out: Path, *, relative: float = 1e-12) -> None:
    expected = logged(out)
    assert {"train/lr", "train/losses/fgfi", "train/weights/fgfi", "val/summary/map"} <= expected.keys()
    for name, values in expected.items():
        assert seen[name] == pytest.approx(values, rel=relative), name


def stopped_and_resumed(
    tracker: str, data: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, teacher: Callable[[], Path]
) -> Path:
    """A distillation of two epochs of two steps, interrupted in the second epoch after step 3, then resumed."""
    out = folder / "run"
    arguments = ["distill", f"--data={data}", f"--out={out}", f"--teacher={teacher()}", "--any_teacher=true"]
    arguments += [*options(run_epochs=2), f"--run.trackers={tracker}", "--run.project=squares"]
    log_step = StepLog.values

    def interrupted(self: StepLog, state: TrainState, *given: Any) -> dict[str, float]:
        shown = log_step(self, state, *given)
        if state.step == 3:
            raise KeyboardInterrupt
        return shown

    with monkeypatch.context() as patch:
        patch.setattr(StepLog, "values", interrupted)
        assert main(arguments) == 130
    assert main([*arguments, "--run.resume=true"]) == 0
    assert [line["step"] for line in read_log(out, "train")] == [1, 2, 3, 4]
    return out


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Trained when the first test asks for it."""
    out = tmp_path_factory.mktemp("teacher") / "run"

    def trained() -> Path:
        if not out.exists():
            assert main(["train", f"--data={data}", f"--out={out}", *options(run_epochs=1)]) == 0
        return out

    return trained


def test_tensorboard(data: Path, teacher: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = stopped_and_resumed("tensorboard", data, tmp_path, monkeypatch, teacher)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard" / "squares"), {"scalars": 0})
    events.Reload()
    # Event files hold float32. A step done twice would be in the list twice.
    series = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert [step for step, _ in series["train/lr"]] == [1, 2, 3, 4]
    agree({tag: dict(values) for tag, values in series.items()}, out, relative=1e-6)
    (recorded,) = (out / "tensorboard").rglob("hparams.yml")
    stored = yaml.safe_load(recorded.read_text())
    assert stored.keys() == recorded_options(out).keys() and stored["optim.lr"] == 0.002


@pytest.mark.slow
def test_wandb_offline(
    data: Path, teacher: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    out = stopped_and_resumed("wandb", data, tmp_path, monkeypatch, teacher)
    name = json.loads((out / "trackers.json").read_text())["wandb"]
    files = sorted(out.glob(f"wandb/offline-run-*-{name}/run-{name}.wandb"))
    assert len(files) == 2, "one transaction log for each start of the run, both of the same id"
    seen: Series = {}
    config: dict[str, Any] = {}
    for record in (record for file in files for record in wandb_records(file)):
        if record.HasField("history"):
            values = wandb_values(record.history.item)
            for key, value in values.items():
                # A step that was done again is in both logs, with the same losses.
                assert key.startswith("_") or seen.get(key, {}).get(values["_step"], value) == value
                seen.setdefault(key, {})[values["_step"]] = value
        elif record.HasField("config"):
            config |= wandb_values(record.config.update)
    agree(seen, out)
    assert config["optim.lr"] == 0.002 and config["run.epochs"] == 2


def wandb_values(items: Iterable[Any]) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def wandb_records(file: Path) -> Iterator[Any]:
    """The records of W&B's transaction log: LevelDB's log format behind a header of 7 bytes.

    Blocks of 32 KiB hold chunks of (crc32, length, kind) and a payload; a record is a chunk of kind 1, or those of
    kinds 2, 3, ..., 4. No chunk starts in the last 6 bytes of a block.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    content, block = file.read_bytes(), 32768
    assert content[:4] == b":W&B"
    position, payload = 7, b""
    while position + 7 <= len(content):
        left = block - position % block
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        payload += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield Record.FromString(payload)
            payload = b""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of SQLAlchemy, to MLflow
@pytest.mark.slow
def test_mlflow_in_a_local_store(
    data: Path, teacher: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    out = stopped_and_resumed("mlflow", data, tmp_path, monkeypatch, teacher)
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("squares").experiment_id])
    assert run.info.run_id == json.loads((out / "trackers.json").read_text())["mlflow"]
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    seen = {
        name: {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, name)}
        for name in run.data.metrics
    }
    agree(seen, out)
    assert run.data.params["optim.lr"] == "0.002" and run.data.params["run.project"] == "squares"


# Without any of them -------------------------------------------------------------------------------------------------


def test_figures_are_named_by_their_path_and_text_and_nan_are_left_out() -> None:
    line = {
        **{"kind": "val", "epoch": 2, "step": 7, "time": 1.5, "name": "text", "best": True},
        "summary": {"map": 0.5, "map_large": float("nan")},
        "per_class": {"cat: grey": {"map": 1}},
        "norm": None,
    }
    assert numbers(line) == {"val/epoch": 2, "val/summary/map": 0.5, "val/per_class/cat_ grey/map": 1}


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_package_is_named_with_its_extra(
    tracker: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(eyas.training.trackers, "get_available_trackers", lambda: [])
    arguments = ["train", f"--data={data}", f"--out={tmp_path / 'run'}", *options()]
    assert main([*arguments, f"--run.trackers=[{tracker}]"]) == 2
    assert f"pip install 'eyas[{tracker}]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_one_several_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eyas.training.trackers, "get_available_trackers", lambda: list(LoggerType))
    assert chosen_trackers(RunArgs()) == []
    assert chosen_trackers(RunArgs(trackers="wandb")) == ["wandb"]
    assert chosen_trackers(RunArgs(trackers=["mlflow", "wandb", "mlflow"])) == ["mlflow", "wandb"]


class Tracker:
    """Records what it is given, and fails at a step."""

    def __init__(self, name: str, fails_at: int | None = None) -> None:
        self.name, self.run_name, self.fails_at = name, name, fails_at
        self.calls: list[tuple[int, dict[str, float]]] = []

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config = values

    def log(self, values: dict[str, float], step: int) -> None:
        if step == self.fails_at:
            raise ConnectionError("server is down")
        self.calls.append((step, values))


class Accelerator:
    """What `Trackers` uses of accelerate's."""

    def __init__(self, *trackers: Tracker, main: bool = True, refuses: bool = False) -> None:
        self.log_with, self.trackers = list(trackers), list[Tracker]()
        self.is_main_process, self.refuses = main, refuses

    def init_trackers(self, project: str, init_kwargs: dict[str, dict[str, Any]]) -> None:
        if self.refuses:
            raise ConnectionError("no route to host")
        self.project, self.settings = project, init_kwargs
        self.trackers = list(self.log_with)


def lines(*steps: int) -> list[dict[str, Any]]:
    return [{"kind": "train", "step": step, "lr": step / 10} for step in steps]


def test_what_is_logged_before_the_start_is_sent_then(tmp_path: Path) -> None:
    tracker = Tracker("own")
    trackers = Trackers(Accelerator(tracker), tmp_path, "p")
    trackers({"kind": "teacher", "summary": {"map": 0.25}})
    assert tracker.calls == []
    trackers.start(lambda text: None)
    trackers(lines(1)[0])
    assert tracker.calls == [(0, {"teacher/summary/map": 0.25}), (1, {"train/lr": 0.1})]


def test_a_tracker_that_fails_is_left_out_with_a_warning_and_the_others_go_on(tmp_path: Path) -> None:
    failing, good, said = Tracker("failing", fails_at=2), Tracker("good"), list[str]()
    trackers = Trackers(Accelerator(failing, good), tmp_path, "p")
    trackers.start(said.append)
    for line in lines(1, 2, 3):
        trackers(line)
    assert [step for step, _ in failing.calls] == [1]
    assert [step for step, _ in good.calls] == [1, 2, 3]
    assert len(said) == 2 and "failing failed" in said[1] and "server is down" in said[1]


def test_a_tracker_that_does_not_start_stops_the_run(tmp_path: Path) -> None:
    trackers = Trackers(Accelerator(Tracker("own"), refuses=True), tmp_path, "p")
    with pytest.raises(EyasError, match="did not start: no route to host"):
        trackers.start(lambda text: None)


def test_a_resumed_run_goes_on_in_the_runs_it_has(tmp_path: Path) -> None:
    (tmp_path / "trackers.json").write_text('{"wandb": "abc", "mlflow": "def"}')
    (tmp_path / "config.yaml").write_text("optim:\n  lr: 0.1\n  milestones: [0.5]\nmethod:\n- class_path: eyas.FGFI\n")
    old, new = Tracker("mlflow"), Tracker("added")
    new_id = type("Run", (), {"info": type("Info", (), {"run_id": "def"})})
    old.tracker = new_id  # type: ignore[attr-defined]
    accelerator = Accelerator(old, new)
    trackers = Trackers(accelerator, tmp_path, "p")
    trackers({"kind": "balance", "step": 0, "detection": 2.0})
    trackers.start(lambda text: None, resumed_at=6)
    assert accelerator.settings["wandb"]["id"] == "abc"
    assert accelerator.settings["mlflow"]["run_id"] == "def"
    assert accelerator.settings["tensorboard"] == {"purge_step": 7}
    options = {"optim.lr": 0.1, "optim.milestones": "[0.5]", "method.0.class_path": "eyas.FGFI"}
    assert not hasattr(old, "config") and new.config == options
    assert old.calls == [(6, {"balance/detection": 2.0})], "not before the step at which it goes on"
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"wandb": "abc", "mlflow": "def", "added": "added"}


def test_other_processes_start_nothing(tmp_path: Path) -> None:
    accelerator = Accelerator(Tracker("own"), main=False)
    trackers = Trackers(accelerator, tmp_path, "p")
    trackers.start(lambda text: None)
    trackers(lines(1)[0])
    assert accelerator.trackers == [] and list(tmp_path.iterdir()) == []


def test_a_log_as_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The block of the page, on a log of which a resumed run did a step again."""
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/student")
    folder.mkdir(parents=True)
    log = RunLog(folder)
    for step, loss in ((1, 0.5), (2, 0.25)):
        log("train", epoch=0, step=step, losses={"fgfi": loss})
    log("resume", step=1)
    log("train", epoch=0, step=2, losses={"fgfi": 0.125})
    page = Path(__file__).parents[2] / "docs" / "trackers.md"
    block = re.search(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    assert block is not None
    exec(compile(block[1], page.name, "exec"), {})
    with open("metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["losses.fgfi"]) for row in rows] == [("1", "0.5"), ("2", "0.125")]
