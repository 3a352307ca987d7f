"""`eyas compare --arms all`, and arms by the names of methods; nothing is trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

import eyas.commands.compare as command
import eyas.comparison.trainings
from eyas.__main__ import main
from eyas.commands.names import METHODS
from eyas.comparison.all_methods import ALL, FILE, Chosen, arms_of, read_chosen, with_all
from eyas.comparison.arms import ArmOptions
from eyas.comparison.jobs import Job
from eyas.types import EyasError
from helpers.tiny import MODEL, write_squares

BEFORE, LATER = ("fgfi", "roi_mimic"), ("vanilla", "chen2017")
"""Methods of an earlier version, and those that a later one has beside them."""


def test_names_are_arms_with_defaults() -> None:
    arms = arms_of(["fgfi", "fgfi:retinanet"])
    assert {name: arm.value for name, arm in arms.items()} == {"fgfi": "fgfi", "fgfi_retinanet": "fgfi:retinanet"}
    with pytest.raises(EyasError, match=r"--arms demo/fgfi: a list has short names"):
        arms_of(["fgfi", "demo/fgfi"])


def test_all_stands_for_an_arm_of_each_method_with_its_layers() -> None:
    given = {"own": ArmOptions("demo/fgfi"), ALL: ArmOptions({"any_classes": True}), "vanilla": ArmOptions("mine.yaml")}
    arms = with_all(given, Chosen(("fgfi", "vanilla"), {"roi_mimic": "no proposals"}))
    assert {name: arm.value for name, arm in arms.items()} == {
        "fgfi": ["fgfi", {"any_classes": True}],
        "vanilla": "mine.yaml",
        "own": "demo/fgfi",
    }


def test_the_record_keeps_a_comparison_as_it_was_begun(tmp_path: Path) -> None:
    chosen = Chosen(("fgfi",), {"vanilla": "no\nheads"})
    assert read_chosen(tmp_path) is None
    chosen.write(tmp_path)
    assert read_chosen(tmp_path) == chosen
    said = list(chosen.describe(["fgfi", "vanilla", "later"]))
    assert said[1] == "left out  vanilla: no heads"
    assert said[2].startswith("new       later: ") and said[2].endswith("--arms all,later")
    assert len(list(chosen.describe(["fgfi", "vanilla"]))) == 2
    (tmp_path / FILE).write_text('{"methods": ["fgfi"], "left_out": ["vanilla"]}')
    with pytest.raises(EyasError, match="is damaged"):
        read_chosen(tmp_path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("data"), train=4, val=2)


@pytest.fixture
def compare(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Plans a comparison in ``tmp_path/out`` and trains nothing."""
    monkeypatch.setattr(eyas.comparison.trainings, "run_jobs", lambda *_, **__: {})
    student = tmp_path / "student.yaml"
    student.write_text(yaml.safe_dump({"model": "shuffledet", "options": MODEL, "dataset": {"resize": {"longer": 64}}}))
    common = [f"--data={data}", "--teacher=helpers.tiny:poor_teacher", f"--student={student}", "--seeds=0"]
    return lambda *more: main(["compare", *common, f"--out={tmp_path / 'out'}", *more])


def shipping(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let Eyas have these methods alone."""
    for module in ("compare", "methods"):
        monkeypatch.setattr(f"eyas.commands.{module}.METHODS", {name: METHODS[name] for name in names})


def arms_in(out: Path) -> list[str]:
    return sorted(file.stem for file in (out / "arms").iterdir())


def test_a_list_of_names(compare: Callable[..., int], tmp_path: Path) -> None:
    assert compare("--arms", "fgfi,vanilla") == 0
    assert arms_in(tmp_path / "out") == ["baseline", "fgfi", "vanilla"]
    arm = yaml.safe_load((tmp_path / "out" / "arms" / "fgfi.yaml").read_text())
    assert arm["method"] == "fgfi"
    assert not (tmp_path / "out" / FILE).exists()


def test_all_methods_that_apply_are_arms_and_stay_so(
    compare: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "check_arms", lambda plan: None)  # each arm was tried just before
    shipping(monkeypatch, *BEFORE)
    assert compare("--arms", "all") == 0
    record = json.loads((tmp_path / "out" / FILE).read_text())
    assert record["methods"] == ["fgfi"] and "makes no proposals" in record["left_out"]["roi_mimic"]
    assert arms_in(tmp_path / "out") == ["baseline", "fgfi"]
    assert "left out  roi_mimic: " in capsys.readouterr().out

    shipping(monkeypatch, *BEFORE, *LATER)
    assert compare("--arms", "all") == 0
    assert json.loads((tmp_path / "out" / FILE).read_text()) == record
    assert "new       vanilla, chen2017: " in capsys.readouterr().out
    assert compare("--arms", "all,vanilla") == 0
    assert arms_in(tmp_path / "out") == ["baseline", "fgfi", "vanilla"]


def test_methods_that_compare_classes_are_left_out_where_the_data_has_others(
    compare: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "check_arms", lambda plan: None)
    shipping(monkeypatch, "fgfi", "vanilla")
    config = tmp_path / "arms.yaml"
    config.write_text("arms: {all: {any_classes: true, dataset.classes: [blue, red]}}")
    assert compare(f"--config={config}") == 0
    record = read_chosen(tmp_path / "out")
    assert record is not None and record.methods == ("fgfi",)
    assert "class by class" in record.left_out["vanilla"]


@pytest.mark.slow
def test_all_methods_on_two_schedules_with_equal_time_are_trained_once(
    compare: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[str] = []

    def run_here(jobs: Sequence[Job], *_: Any, **__: Any) -> dict[Job, str]:
        commands.extend(job.folder.name for job in jobs)
        return {job: "failed" for job in jobs if main(list(job.command)) != 0}

    monkeypatch.setattr(eyas.comparison.trainings, "run_jobs", run_here)
    shipping(monkeypatch, "fgfi", "pkd", "roi_mimic")
    config = tmp_path / "arms.yaml"
    config.write_text("arms: {all: {any_teacher: true}}\nepochs: [1, 2]\nequal_time: true\nthreads: 1\njobs: 1\n")
    assert compare(f"--config={config}") == 0
    arms = {f"{name}-e{epochs}" for name in ("baseline", "fgfi", "pkd") for epochs in (1, 2)}
    assert arms <= {name.removesuffix("-0") for name in commands}
    assert arms <= json.loads((tmp_path / "out" / "comparison.json").read_text())["arms"].keys()
    before = len(commands)
    assert compare(f"--config={config}") == 0
    assert len(commands) == before, "what is finished is not trained again"
