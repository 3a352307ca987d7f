"""The run folder: what may start in it, what it records, and a log that survives being cut off."""

from __future__ import annotations

import errno
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from eyas.runs.config import (
    command_config,
    flat_options,
    recorded_config,
    recorded_options,
    resolved_config,
    start_folder,
)
from eyas.runs.log import LogTail, RunLog, read_log
from eyas.runs.resume import check_folder, refuse_other_inputs
from eyas.types import EyasError

CONFIG = {
    **{"data": "d", "out": "o", "optim": {"lr": 0.1, "milestones": [0.5]}, "run": {"epochs": 4, "resume": False}},
    **{"classes": ["a"], "methods": [{"psi": 0.5}, {"psi": 0.6}]},
}
TEXT = yaml.safe_dump(CONFIG)


def test_lines_come_back_by_kind(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log("train", epoch=0, step=1, losses={"a": float("nan")})
    log("val", epoch=1, step=1, summary={"map": 0.5}, per_class={})
    (line,) = read_log(tmp_path, "train")
    assert line["losses"] == {"a": None} and line["time"] > 0
    assert [line["kind"] for line in read_log(tmp_path)] == ["train", "val"]


def test_a_process_that_does_not_write(tmp_path: Path) -> None:
    RunLog(tmp_path / "none", writes=False)("train", epoch=0, step=1, losses={})
    assert list(tmp_path.iterdir()) == []


def test_a_torn_last_line_is_passed_over_and_not_continued(tmp_path: Path) -> None:
    RunLog(tmp_path)("train", epoch=0, step=1, losses={})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "tra')
    assert [line["step"] for line in read_log(tmp_path)] == [1]
    RunLog(tmp_path)("train", epoch=0, step=2, losses={})
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2]
    assert all(json.loads(text) for text in (tmp_path / "log.jsonl").read_text().splitlines())


def test_steps_done_again_after_a_resume_count_once(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log("teacher", name="t", summary={})
    for step in (1, 2, 3):
        log("train", epoch=0, step=step, losses={}, attempt=1)
    log("resume", step=2)
    log("train", epoch=0, step=3, losses={}, attempt=2)
    assert [(line["step"], line["attempt"]) for line in read_log(tmp_path, "train")] == [(1, 1), (2, 1), (3, 2)]
    assert len(read_log(tmp_path, "teacher")) == 1


def test_a_long_log_of_many_resumes_is_read_at_once(tmp_path: Path) -> None:
    """What a resume makes undone is found in one pass: 20,000 times 20,000 lines would take minutes."""
    lines = []
    for number in range(20_000):
        lines.append({"kind": "resume", "step": number, "epoch": 0})
        lines += [{"kind": "train", "epoch": 0, "step": number + more, "time": 0, "losses": {}} for more in (1, 2)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    start = time.monotonic()
    assert [line["step"] for line in read_log(tmp_path, "train")] == list(range(1, 20_002))
    assert time.monotonic() - start < 5


def test_a_resume_before_an_evaluation_makes_only_what_follows_undone(tmp_path: Path) -> None:
    log, result = RunLog(tmp_path), {"summary": {}, "per_class": {}}
    log("val", epoch=1, step=2, **result, attempt=1)
    log("train", epoch=1, step=4, losses={}, attempt=1)
    log("val", epoch=2, step=4, **result, attempt=1)
    log("resume", epoch=1, step=4)
    log("val", epoch=2, step=4, **result, attempt=2)
    log("resume", epoch=2, step=4)
    kept = [(line["kind"], line["step"], line.get("attempt")) for line in read_log(tmp_path)]
    assert kept == [("val", 2, 1), ("train", 4, 1), ("resume", 4, None), ("val", 4, 2), ("resume", 4, None)]


def test_a_full_disk_is_said_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("eyas.tools.files.os.open", full)
    with pytest.raises(EyasError, match=r"log\.jsonl: could not be written .*No space left"):
        RunLog(tmp_path)("train", epoch=0, step=1, losses={})


def test_the_disk_is_asked_to_take_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("eyas.runs.config.os.fsync", full)
    log = RunLog(tmp_path)
    log.sync()  # nothing was written
    log("train", epoch=0, step=1, losses={})
    with pytest.raises(EyasError, match=r"log\.jsonl: could not be written .*No space left"):
        log.sync()
    RunLog(tmp_path, writes=False).sync()


def test_no_log(tmp_path: Path) -> None:
    with pytest.raises(EyasError, match=r"no log\.jsonl here"):
        read_log(tmp_path)


def test_a_folder_with_a_run_is_refused_and_one_without_cannot_resume(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    check_folder(folder, resume=False, config=TEXT)
    with pytest.raises(EyasError, match="holds no run to resume"):
        check_folder(folder, resume=True, config=TEXT)
    assert not folder.exists()
    start_folder(folder, config=TEXT)
    with pytest.raises(EyasError, match="already holds a run; choose another --out"):
        check_folder(folder, resume=False, config=TEXT)
    assert (folder / "config.yaml").read_text() == TEXT
    assert json.loads((folder / "versions.json").read_text())["torch"]


def test_a_folder_of_something_else_is_used(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    check_folder(tmp_path, resume=False, config=TEXT)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"run": {"epochs": 8, "resume": True}}, "run.epochs 4, not 8"),
        ({"optim": {"lr": 0.2, "milestones": [0.5]}}, "optim.lr 0.1, not 0.2"),
        ({"method": "m"}, "method None, not m"),
        ({"classes": ["a", "b"]}, r"classes \['a'\], not \['a', 'b'\]"),
        ({"methods": [{"psi": 0.5}, {"psi": 0.7}]}, "methods.1.psi 0.6, not 0.7"),
        ({"methods": [{"psi": 0.5}]}, "methods.1.psi 0.6, not None"),
    ],
)
def test_resume_with_other_options_is_refused(tmp_path: Path, change: dict[str, object], said: str) -> None:
    start_folder(tmp_path, config=TEXT)
    with pytest.raises(EyasError, match=said):
        check_folder(tmp_path, resume=True, config=yaml.safe_dump({**CONFIG, **change}))


def test_a_cache_may_have_moved_but_not_come_or_gone(tmp_path: Path) -> None:
    start_folder(tmp_path, config=yaml.safe_dump({**CONFIG, "cache": "before/"}))
    check_folder(tmp_path, resume=True, config=yaml.safe_dump({**CONFIG, "cache": "now/"}))
    with pytest.raises(EyasError, match="cache a folder, not None"):
        check_folder(tmp_path, resume=True, config=yaml.safe_dump({**CONFIG, "cache": None}))


def test_a_run_goes_on_with_what_it_learned_from_alone(tmp_path: Path) -> None:
    inputs = {"train": "1" * 64, "val": "2" * 64, "teacher": None}
    refuse_other_inputs(tmp_path, inputs)
    RunLog(tmp_path)("inputs", **inputs)
    refuse_other_inputs(tmp_path, inputs)
    refuse_other_inputs(tmp_path, {**inputs, "teacher": "3" * 64})
    for name, said in (("train", "other training images or boxes than --data"), ("val", "other validation images")):
        with pytest.raises(EyasError, match=said):
            refuse_other_inputs(tmp_path, {**inputs, name: "4" * 64})


def test_a_run_older_than_an_option_is_resumed_with_its_default(tmp_path: Path) -> None:
    start_folder(tmp_path, config=TEXT)
    check_folder(tmp_path, resume=True, config=yaml.safe_dump({**CONFIG, "dataset": {"val_fraction": 0.2}}))
    of_teacher = yaml.safe_dump({**CONFIG, "any_classes": False, "teacher_scale": 1.0, "cache": None})
    check_folder(tmp_path, resume=True, config=of_teacher)
    with pytest.raises(EyasError, match=r"any_classes False, not True"):
        check_folder(tmp_path, resume=True, config=yaml.safe_dump({**CONFIG, "any_classes": True}))
    with pytest.raises(EyasError, match=r"dataset\.val_fraction 0\.2, not 0\.3"):
        check_folder(tmp_path, resume=True, config=yaml.safe_dump({**CONFIG, "dataset": {"val_fraction": 0.3}}))


SHUFFLEDET: dict[str, Any] = {
    **{"model": "shuffledet", "options": {"width": 0.5}, "data": "d", "out": "o", "run": {"epochs": 4}},
    "dataset": {"batch_size": 16, "resize": {"height": 160, "width": 160}},
}
"""The config of a run that began before the object weight was that of a mean."""


@pytest.mark.parametrize(("recorded", "today"), [({}, 4.6875), ({"object_weight": 30}, 1.875)])
def test_an_older_shuffledet_keeps_its_confidence_loss(
    tmp_path: Path, recorded: dict[str, float], today: float
) -> None:
    """It was divided by the batch of a process: 75 / 16 is what a default of 75 meant with batches of 16."""
    start_folder(tmp_path, config=yaml.safe_dump({**SHUFFLEDET, "options": {"width": 0.5, **recorded}}))
    for options in ({}, {"object_weight": 9.375}, {"object_weight": 30}):
        asked = {**SHUFFLEDET, "options": {"width": 0.5, **options}}
        with pytest.raises(EyasError, match=rf"give --options\.object_weight {today}, which means today"):
            check_folder(tmp_path, resume=True, config=yaml.safe_dump(asked))
    same = {**SHUFFLEDET, "options": {"width": 0.5, "object_weight": today}}
    check_folder(tmp_path, resume=True, config=yaml.safe_dump(same))
    halves = {**same, "devices": 2, "dataset": {**SHUFFLEDET["dataset"], "batch_size": 8}}
    check_folder(tmp_path, resume=True, config=yaml.safe_dump(halves))


def test_a_shuffledet_of_today_is_resumed_as_it_was_recorded(tmp_path: Path) -> None:
    today = yaml.safe_dump({**SHUFFLEDET, "dataset": {**SHUFFLEDET["dataset"], "val_fraction": 0.2}})
    start_folder(tmp_path, config=today)
    check_folder(tmp_path, resume=True, config=today)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"optim": {"ema": 0.99}}, "running average"),
        ({"teacher": "t", "teacher_scale": 2.0}, "teacher's larger images"),
        ({"teacher": "t", "optim": {"accumulate": 4}}, "accumulated batches"),
        ({"method": {"class_path": "eyas.FitNets"}, "optim": {"accumulate": 4}}, "accumulated batches"),
        ({"method": [{"class_path": "eyas.Vanilla"}], "optim": {"accumulate": 4}}, None),
        ({"optim": {"accumulate": 4, "ema": 0.0}}, None),
        ({"model": "shuffledet", "dataset": {"resize": {"height": 160, "width": None}}}, "ShuffleDet's anchors"),
        ({"teacher": "t", "teacher_scale": 1.0}, None),
    ],
)
def test_an_older_run_that_no_option_trains_as_it_began_is_refused(
    tmp_path: Path, change: dict[str, Any], said: str | None
) -> None:
    older = {**CONFIG, "model": "ssd", **change}
    dataset = {**change.get("dataset", {}), "val_fraction": 0.2}
    for folder, config in (("older", older), ("today", {**older, "dataset": dataset})):
        start_folder(tmp_path / folder, config=yaml.safe_dump(config))
        if folder == "today" or said is None:
            check_folder(tmp_path / folder, resume=True, config=yaml.safe_dump(config))
            continue
        with pytest.raises(EyasError, match=rf"earlier version, in which .*{said}"):
            check_folder(tmp_path / folder, resume=True, config=yaml.safe_dump(config))


def test_resume_may_change_where_and_how_fast(tmp_path: Path) -> None:
    start_folder(tmp_path, config=TEXT)
    changed = {**CONFIG, "data": "elsewhere", "run": {"epochs": 4, "resume": True, "threads": 3, "log_every": 5}}
    check_folder(tmp_path, resume=True, config=yaml.safe_dump(changed))
    check_folder(tmp_path, resume=True, config="")
    start_folder(tmp_path, config=yaml.safe_dump(changed))
    assert (tmp_path / "config.yaml").read_text() == TEXT, "the config is that of the run's beginning"


def test_resume_may_change_how_fast_a_method_computes(tmp_path: Path) -> None:
    def config(psi: float, sparse_below: float | None) -> str:
        one, two = ({"init_args": {"psi": each, "sparse_below": sparse_below}} for each in (0.5, psi))
        return yaml.safe_dump({**CONFIG, "method": [one, two]})

    start_folder(tmp_path, config=config(0.5, 0.4))
    check_folder(tmp_path, resume=True, config=config(0.5, None))
    with pytest.raises(EyasError, match=r"method\.1\.init_args\.psi 0\.5, not 0\.6"):
        check_folder(tmp_path, resume=True, config=config(0.6, None))


def test_options_are_named_with_dots_and_methods_by_their_place(tmp_path: Path) -> None:
    assert recorded_options(tmp_path) == recorded_config(tmp_path) == {}
    start_folder(tmp_path, config=TEXT)
    assert recorded_config(tmp_path) == CONFIG
    assert recorded_options(tmp_path) == {
        **{"data": "d", "out": "o", "optim.lr": 0.1, "optim.milestones": [0.5], "run.epochs": 4, "run.resume": False},
        **{"classes": ["a"], "methods.0.psi": 0.5, "methods.1.psi": 0.6},
    }
    assert flat_options({"a": {}, "b": [], "c": None, "d": [{}, 1]}) == {
        "a": {},
        "b": [],
        "c": None,
        "d.0": {},
        "d.1": 1,
    }
    assert flat_options(None) == flat_options({}) == {}


def test_the_config_of_a_command_is_known_inside_it_only() -> None:
    with command_config("a: 1"):
        assert resolved_config() == "a: 1"
    assert resolved_config() == ""


GOOD = {"kind": "val", "epoch": 1, "step": 2, "summary": {"map": 0.5}, "per_class": {"a": {"map": None}}}


@pytest.mark.parametrize(
    "line",
    [
        *(b"rubbish", b"", b"[]", b"5", b"{}", b'{"kind": 5}', b"\0" * 100, b'{"kind": "val"\xff}', b"[" * 100_000),
        *(json.dumps({**GOOD, **change}).encode() for change in (
            {"epoch": "1"}, {"epoch": -1}, {"step": None}, {"summary": []}, {"summary": {"map": "x"}},
            {"summary": {"a\x1b[2J": 1}}, {"per_class": {"a": 5}}, {"per_class": None},
            {"epoch": 10**400}, {"summary": {"map": 10**400}}, {"summary": {"map": math.nan}},
            {"kind": "balance", "step": "2"}, {"kind": "teacher", "epoch": None},
        )),
        json.dumps({name: value for name, value in GOOD.items() if name != "epoch"}).encode(),
        b'{"kind": "train", "epoch": 0, "step": 1, "time": 0, "losses": {"a": []}}',
    ],
)  # fmt: skip
def test_a_damaged_line_is_named_by_every_reader(tmp_path: Path, line: bytes) -> None:
    good = json.dumps(GOOD).encode()
    (tmp_path / "log.jsonl").write_bytes(b"\n".join([good, line, good, b""]))
    for reader in (lambda: read_log(tmp_path), lambda: read_log(tmp_path, "val"), LogTail(tmp_path)):
        with pytest.raises(EyasError, match=r"log\.jsonl: line 2 is damaged.*take it out"):
            reader()
    (tmp_path / "log.jsonl").write_bytes(b"\n".join([good, good, line]))
    assert len(read_log(tmp_path)) == 2, "a torn last line is passed over"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epoch": "1"}, "its epoch is '1', not a count"),
        ({"summary": [1]}, r"its summary is \[1\], not a mapping of names to finite numbers"),
        ({"per_class": {"a": 5}}, "its per_class is {'a': 5}, not a mapping of names to their numbers"),
        ({"kind": "train"}, "it has no time"),
        (
            {"kind": "train", "time": 1.0, "losses": {}, "weights": None},
            "its weights is None, not a mapping of names to finite numbers",
        ),
        (
            {"kind": "train", "time": 1.0, "losses": {}, "shares": {"a": 1}},
            "its shares is {'a': 1}, not a mapping of names to their numbers",
        ),
    ],
)
def test_a_damaged_line_says_what_is_wrong(tmp_path: Path, change: dict[str, object], said: str) -> None:
    lines = [json.dumps({**GOOD, **change}), json.dumps(GOOD), ""]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    with pytest.raises(EyasError, match=rf"line 1 is damaged: {said}; take it out"):
        read_log(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dataset": None}, "dataset is None, not a mapping"),
        ({"dataset": [1]}, r"dataset is \[1\], not a mapping"),
        ({"dataset": {"val_split": 5}}, "dataset.val_split is 5, not a printable text"),
        ({"data": 5}, "data is 5, not a printable text"),
        ({"teacher": 5}, "teacher is 5, not a printable text"),
        ({"teacher": "a\x1b[2J"}, "not a printable text"),
        ({"data": "a\0"}, "not a printable text"),
        ({"run": {"epochs": "2"}}, "run.epochs is '2', not a whole number"),
        ({"teacher_scale": float("nan")}, "teacher_scale is nan, not a number"),
    ],
)
def test_a_config_of_other_types_is_refused(tmp_path: Path, change: dict[str, object], said: str) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**CONFIG, **change}))
    with pytest.raises(EyasError, match=rf"config\.yaml: .*{said}"):
        recorded_config(tmp_path)


def test_options_that_are_null_or_not_there(tmp_path: Path) -> None:
    for config in ({}, {"data": None, "teacher": None, "run": {"metric": None}, "dataset": {}}):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        assert recorded_config(tmp_path) == config
