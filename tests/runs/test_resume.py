"""A run of an earlier version, through the command line: it goes on as it began, is scored and teaches."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from eyas.__main__ import main
from eyas.methods import Schedule
from eyas.methods.method import Auto
from eyas.runs.resume import (
    AUTO_DEFAULTS,
    FORMER_FRACTION,
    SCHEDULE_DEFAULTS,
    check_folder,
    first_difference,
    renamed,
)
from eyas.types import EyasError
from helpers.tiny import options, write_squares

SIZE = "--dataset.resize=64x64"


def test_a_shuffledet_of_an_earlier_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_squares(tmp_path / "data", train=4, val=2)
    old = tmp_path / "old"
    assert main(["train", f"--data={data}", f"--out={old}", SIZE, *options(run_epochs=1)]) == 0
    config = yaml.safe_load((old / "config.yaml").read_text())
    del config["dataset"]["val_fraction"], config["options"]["object_weight"]  # as that version recorded it
    (old / "config.yaml").write_text(yaml.safe_dump(config))
    again = ["train", f"--config={old / 'config.yaml'}", "--run.resume=true"]
    assert main(again) == 2
    said = capsys.readouterr().err
    assert "--options.object_weight 18.75" in said and said.count("\n") == 1
    assert main([*again, "--options.object_weight=18.75"]) == 0, "75 over batches of 4"
    assert main(["evaluate", str(old), "--workers=0"]) == 0
    taught = ["distill", f"--data={data}", f"--teacher={old}", "--any_teacher=true", f"--out={tmp_path / 'new'}"]
    assert main([*taught, SIZE, *options(run_epochs=1)]) == 0


def test_with_a_schedule_a_step_has_as_many_batches_as_before() -> None:
    one = {"devices": 2, "dataset.batch_size": 4, "optim.accumulate": 1, "method.init_args.schedule.start_step": 0}
    other = {**one, "devices": 1, "optim.accumulate": 2}
    assert first_difference(one, other, ()) is None
    one["method.init_args.schedule.stop"] = other["method.init_args.schedule.stop"] = 0.5
    found = first_difference(one, other, ())
    assert found is not None and (found.name, found.before, found.now) == ("optim.accumulate", 1, 2)
    assert first_difference(one, {**one, "devices": 1, "dataset.batch_size": 8}, ()) is None


def test_a_start_step_of_an_earlier_version_is_part_of_a_schedule_now() -> None:
    before = {"method.class_path": "eyas.FGFI", "method.init_args.start_step": 400}
    now = {"method.class_path": "eyas.FGFI", "method.init_args.schedule.start_step": 400}
    now |= {
        f"method.init_args.schedule.{part}": value for part, value in (("ramp_steps", 0), ("stop", 1.0), ("end", 1.0))
    }
    assert first_difference(before, now, ()) is None
    assert renamed(now) == now
    found = first_difference(before, {**now, "method.init_args.schedule.start_step": 0}, ())
    assert found is not None and (found.before, found.now) == (400, 0)


def test_a_schedule_of_an_earlier_version_had_the_defaults_of_what_it_lacks() -> None:
    assert asdict(Schedule()) == SCHEDULE_DEFAULTS
    now = {"method.0.class_path": "eyas.FGFI"} | {
        f"method.0.init_args.schedule.{part}": value for part, value in SCHEDULE_DEFAULTS.items()
    }
    before = {name: value for name, value in now.items() if not name.endswith(".end")}
    assert first_difference(before, now, ()) is None
    found = first_difference(before, {**now, "method.0.init_args.schedule.end": 0.1}, ())
    assert found is not None and (found.before, found.now) == (1.0, 0.1)


def test_an_automatic_weight_of_an_earlier_version_had_another_fraction() -> None:
    assert asdict(Auto()) == AUTO_DEFAULTS
    name = "method.init_args.weight"
    schedule = {f"method.init_args.schedule.{part}": value for part, value in SCHEDULE_DEFAULTS.items()}
    today = {name: "auto"} | schedule
    before = {key: value for key, value in today.items() if not key.endswith(".end")}
    assert first_difference(today, today, ()) is None
    found = first_difference(before, today, ())
    assert found is not None and found.translated
    assert (found.name, found.before, found.now) == (f"{name}.fraction", FORMER_FRACTION, AUTO_DEFAULTS["fraction"])
    asked = {f"{name}.{part}": value for part, value in (AUTO_DEFAULTS | {"fraction": FORMER_FRACTION}).items()}
    assert first_difference(before, asked | schedule, ()) is None


def test_a_name_that_is_no_text_is_refused_before_the_training(tmp_path: Path) -> None:
    """A locale without UTF-8 makes lone surrogates of such names; YAML writes them, and does not read them again."""
    name = os.fsdecode(b"d\xe4t\xe4")
    with pytest.raises(EyasError, match=r"LC_ALL=C\.UTF-8"):
        check_folder(tmp_path / name, resume=False, config=yaml.safe_dump({"data": name}))
    check_folder(tmp_path / "rün", resume=False, config=yaml.safe_dump({"data": "dätä"}))
