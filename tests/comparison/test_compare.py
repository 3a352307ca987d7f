"""`eyas compare` end to end on tiny data: the table, a second call, an interruption, a changed arm, a failing one."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file

import eyas.comparison.plan
import eyas.comparison.trainings
from eyas.__main__ import main
from eyas.commands.compare import resolve_command
from eyas.comparison.arms import ArmOptions, resolve_arms, split_schedule
from eyas.comparison.jobs import Job
from eyas.comparison.plan import make_arm
from eyas.report.runs import find_runs
from eyas.runs.checkpoint import save_weights
from eyas.runs.log import read_log
from eyas.runs.results import TrainingTime
from eyas.types import EyasError
from helpers.tiny import MODEL, one_epoch, write_squares

STUDENT = {
    "model": "shuffledet",
    "options": MODEL,
    "dataset": {"batch_size": 4, "workers": 0},
    "optim": {"optimizer": "adamw", "lr": 0.002},
    "run": {"epochs": 2, "log_every": 1, "device": "cpu"},
}
FGFI = {"class_path": "eyas.FGFI", "init_args": {"weight": 0.5}}


@dataclass
class Made:
    root: Path
    config: Path
    out: Path

    def compare(self, *more: str) -> int:
        return main(["compare", f"--config={self.config}", f"--out={self.out}", *more])

    def result(self) -> dict[str, Any]:
        result: dict[str, Any] = json.loads((self.out / "comparison.json").read_text())
        return result

    def change(self, **values: Any) -> None:
        self.config.write_text(yaml.safe_dump({**yaml.safe_load(self.config.read_text()), **values}))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Two arms, one seed and then another; one epoch of teacher and two of each student."""
    root = tmp_path_factory.mktemp("compare")
    data = write_squares(root / "data")
    one_epoch(root / "teacher", data)
    (root / "student.yaml").write_text(yaml.safe_dump(STUDENT))
    config = {
        "data": str(data),
        "teacher": str(root / "teacher"),
        "student": str(root / "student.yaml"),
        "arms": {"fgfi": [FGFI, {"any_teacher": True}]},
        "seeds": [0, 1],
        "threads": 1,
    }
    made = Made(root, root / "compare.yaml", root / "out")
    made.config.write_text(yaml.safe_dump(config))
    assert made.compare("--seeds=[0]") == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eyas.comparison.trainings, "run_jobs", run_here)
        assert made.compare() == 0
    return made


def run_here(jobs: list[Job], *_: Any, **__: Any) -> dict[Job, str]:
    """Instead of `run_jobs`: the same command lines without a new process for each, which takes seconds to start."""
    return {job: "failed" for job in jobs if main(list(job.command)) != 0}


@pytest.fixture
def made(finished: Made, tmp_path: Path) -> Made:
    """A copy to change."""
    shutil.copytree(finished.out, tmp_path / "out")
    config = shutil.copy(finished.config, tmp_path / "compare.yaml")
    return Made(finished.root, config, tmp_path / "out")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The jobs of the comparisons that follow, which are run in this process."""
    jobs: list[Job] = []

    def collect(given: list[Job], *_: Any, **__: Any) -> dict[Job, str]:
        jobs.extend(given)
        return run_here(given)

    monkeypatch.setattr(eyas.comparison.trainings, "run_jobs", collect)
    return jobs


def test_everything_is_left(finished: Made) -> None:
    runs = sorted(path.name for path in finished.out.glob("*-*") if path.is_dir())
    assert runs == ["baseline-0", "baseline-1", "fgfi-0", "fgfi-1"]
    result = finished.result()
    assert result["missing"] == []
    assert result["metric"] == "map"
    assert list(result["arms"]) == ["baseline", "fgfi"]
    for name, arm in result["arms"].items():
        values = [read_log(finished.out / f"{name}-{seed}", "val")[-1]["summary"]["map"] for seed in (0, 1)]
        assert arm["metrics"]["map"]["values"] == values
        assert arm["metrics"]["map"]["mean"] == pytest.approx(sum(values) / 2)
        assert arm["seconds_per_step"] > 0
        assert arm["peak_memory"] > 50e6  # torch alone is more
    gain = result["arms"]["fgfi"]["metrics"]["map"]["minus_baseline"]["values"]
    pairs = (result["arms"][name]["metrics"]["map"]["values"] for name in ("fgfi", "baseline"))
    assert gain == [method - baseline for method, baseline in zip(*pairs, strict=True)]
    assert result["teacher"] == read_log(finished.out / "fgfi-0", "teacher")[0]["summary"]
    table = (finished.out / "comparison.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in table[:5]] == ["", "---", "teacher", "baseline", "fgfi"]
    for picture in ("comparison", "curves"):
        with Image.open(finished.out / f"{picture}.png") as image:
            assert len(image.convert("RGB").getcolors(1 << 24) or ()) > 10, f"{picture}.png is blank"


def test_the_arms_of_a_seed_see_the_same_data_from_the_same_weights(finished: Made) -> None:
    first = {
        name: read_log(finished.out / name, "train")[0]["losses"] for name in ("baseline-0", "fgfi-0", "baseline-1")
    }
    fgfi = first["fgfi-0"].pop("fgfi")
    assert fgfi > 0
    assert first["fgfi-0"] == pytest.approx(first["baseline-0"])
    assert first["baseline-1"]["loss_class"] != pytest.approx(first["baseline-0"]["loss_class"])


def test_a_run_is_what_its_config_gives_by_hand(finished: Made, tmp_path: Path) -> None:
    config, data = finished.out / "arms" / "baseline.yaml", finished.root / "data"
    places = [f"--config={config}", f"--data={data}", f"--out={tmp_path / 'run'}"]
    assert main(["train", *places, "--run.seed=1", "--run.threads=1"]) == 0
    mine, its = (load_file(folder / "model.safetensors") for folder in (tmp_path / "run", finished.out / "baseline-1"))
    assert all(bool((mine[name] == its[name]).all()) for name in its)


def test_finished_runs_are_not_repeated_and_stopped_ones_go_on(made: Made, trained: list[Job]) -> None:
    before = made.result()
    shutil.rmtree(made.out / "baseline-1")
    log = made.out / "fgfi-1" / "log.jsonl"  # as a run left it that was stopped before its first checkpoint
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:3]))
    (made.out / "fgfi-1" / "last.pt").unlink()
    assert made.compare() == 0
    assert [job.folder.name for job in trained] == ["fgfi-1", "baseline-1"], "the longer one first"
    assert not any("resume" in word for job in trained for word in job.command)
    after = made.result()
    for arm in ("baseline", "fgfi"):
        assert after["arms"][arm]["metrics"] == before["arms"][arm]["metrics"], "what is trained again is the same"
    trained.clear()
    assert made.compare() == 0
    assert trained == []


def test_a_run_with_a_checkpoint_is_resumed(made: Made, trained: list[Job]) -> None:
    before = made.result()
    folder = made.out / "baseline-1"
    shutil.rmtree(folder)
    made.change(seeds=[1])
    state = _stop_after_an_epoch(made, folder)
    assert state["epoch"] == 1
    assert made.compare() == 0
    assert [job.folder.name for job in trained] == ["baseline-1"]
    assert "--run.resume=true" in trained[0].command
    (resumed,) = read_log(folder, "resume")
    assert resumed["epoch"] == 1
    values = made.result()["arms"]["baseline"]["metrics"]["map"]["values"]
    assert values == before["arms"]["baseline"]["metrics"]["map"]["values"][1:]


def _stop_after_an_epoch(made: Made, folder: Path) -> dict[str, Any]:
    """Leave a run as an interruption in its second epoch does."""
    from eyas.training.trainer import Trainer

    class Stopped(Exception):
        pass

    save = Trainer.save

    def stop(self: Trainer) -> None:
        save(self)
        if not self.state.batch:  # it saves before the evaluation too
            raise Stopped

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Trainer, "save", stop)
        config = made.out / "arms" / "baseline.yaml"
        main(["train", f"--config={config}", f"--data={made.root / 'data'}", f"--out={folder}", "--run.seed=1"])
    state: dict[str, Any] = read_log(folder, "val")[-1]
    return state


def test_a_comparison_whose_baseline_is_called_plain_goes_on(made: Made, trained: list[Job]) -> None:
    before = made.result()
    for seed in (0, 1):
        (made.out / f"baseline-{seed}").rename(made.out / f"plain-{seed}")
    made.change(arms={"plain": None, "fgfi": [FGFI, {"any_teacher": True}]})
    assert made.compare() == 0
    assert trained == []
    after = made.result()
    assert after["arms"] == before["arms"]
    (run, *_) = (found for found in find_runs([made.out]).runs() if found.folder.name == "plain-0")
    assert run.arm == "baseline", "the report reads it so too"
    made.change(seeds=[0, 1, 2])
    assert made.compare() == 0
    assert [job.folder.name for job in trained] == ["fgfi-2", "baseline-2"], "new runs have the name of today"


def test_report_only_trains_nothing_and_says_what_is_missing(
    made: Made, trained: list[Job], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(made.out / "baseline-1")
    assert made.compare("--report_only=true") == 0
    assert trained == []
    result = made.result()
    assert result["missing"] == ["baseline-1"]
    assert result["arms"]["baseline"]["seeds"] == [0]
    assert result["arms"]["baseline"]["metrics"]["map"]["half_width"] is None
    assert len(result["arms"]["fgfi"]["metrics"]["map"]["values"]) == 2
    assert len(result["arms"]["fgfi"]["metrics"]["map"]["minus_baseline"]["values"]) == 1, "paired by seed"
    assert "Not finished: baseline-1" in (made.out / "comparison.md").read_text()
    assert made.compare("--report_only=true", "--rank_by=map_99") == 2
    assert "the runs have map, map_50" in capsys.readouterr().err
    made.out = made.out.with_name("empty")
    capsys.readouterr()
    assert made.compare("--report_only=true") == 0
    assert "no run" in capsys.readouterr().out


def test_arms_are_compared_with_one_of_them_too(
    made: Made, trained: list[Job], capsys: pytest.CaptureFixture[str]
) -> None:
    assert made.compare("--report_only=true", "--reference=fgfi") == 0
    result, table = made.result(), (made.out / "comparison.md").read_text()
    gain = result["arms"]["fgfi"]["metrics"]["map"]["minus_baseline"]["values"]
    assert result["reference"]["arm"] == "fgfi" and list(result["reference"]["minus"]) == ["baseline"]
    assert result["reference"]["minus"]["baseline"]["map"]["values"] == [-value for value in gain]
    assert "## Minus fgfi" in table and "Minus fgfi" in capsys.readouterr().out
    assert made.compare("--reference=fitnets") == 2 and trained == []
    assert "--reference fitnets: the arms are baseline, fgfi" in capsys.readouterr().err


def test_a_changed_arm_is_refused(made: Made, trained: list[Job], capsys: pytest.CaptureFixture[str]) -> None:
    changed = {**FGFI, "init_args": {"weight": 0.25}}
    made.change(arms={"fgfi": [changed, {"any_teacher": True}]})
    assert made.compare() == 2
    error = capsys.readouterr().err
    assert "fgfi-0 was trained with method" in error
    assert "0.5" in error and "0.25" in error and "another name" in error
    made.change(arms={"fgfi": [FGFI, {"any_teacher": True, "optim.lr": 0.1}]})
    assert made.compare() == 2
    assert "optim.lr 0.002" in capsys.readouterr().err
    assert trained == []
    made.change(arms={"fgfi": [FGFI, {"any_teacher": True, "run.threads": 1, "method.sparse_below": 0.3}]})
    assert made.compare() == 0, "how fast it is may change"


def test_another_teacher_is_refused(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = shutil.copytree(made.root / "teacher", tmp_path / "moved")
    made.change(teacher=str(moved))
    assert made.compare() == 0, "the same weights elsewhere"
    weights = moved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert made.compare() == 2
    said = capsys.readouterr().err
    assert f", not {moved}; choose another --out" in " ".join(said.split())


@pytest.mark.usefixtures("trained")
def test_a_failing_run_leaves_the_others_be(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    """The weak teacher is refused where any_teacher is not given, which only the run itself finds out."""
    shutil.rmtree(made.out / "fgfi-0")
    made.change(arms={"weak": FGFI, "fgfi": [FGFI, {"any_teacher": True}]}, seeds=[0])
    assert made.compare() == 2
    error = capsys.readouterr().err
    assert "1 of the trainings failed" in error and "nothing to imitate" in error
    result = made.result()
    assert result["missing"] == ["weak-0"]
    assert list(result["arms"]) == ["baseline", "fgfi"]


@pytest.mark.usefixtures("trained")
def test_other_data_is_refused(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = shutil.copytree(made.root / "data", tmp_path / "moved")
    made.change(data=str(moved))
    shutil.rmtree(made.out / "fgfi-0")
    assert made.compare() == 0, "the same images elsewhere"
    annotations = moved / "annotations" / "instances_train.json"
    content = json.loads(annotations.read_text())
    content["annotations"][0]["bbox"][2] -= 1
    annotations.write_text(json.dumps(content))
    assert made.compare() == 2, "with nothing left to train, too"
    assert f"{moved} holds others, or other boxes; choose another --out" in " ".join(capsys.readouterr().err.split())
    assert made.compare(f"--data={tmp_path / 'nowhere'}") == 2
    assert made.compare(f"--data={tmp_path / 'nowhere'}", "--report_only=true") == 0


def test_a_run_that_was_killed_in_its_last_evaluation_goes_on(made: Made, trained: list[Job]) -> None:
    """Its log has the score of the last epoch, its folder the weights of an earlier one."""
    folder, weights = made.out / "baseline-1", made.out / "baseline-1" / "model.safetensors"
    whole = weights.read_bytes()
    shutil.rmtree(folder)

    class Killed(Exception):
        pass

    def save(*arguments: Any) -> None:
        if read_log(folder, "val")[-1]["epoch"] == 2:
            raise Killed
        save_weights(*arguments)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr("eyas.training.trainer.save_weights", save)
        config = made.out / "arms" / "baseline.yaml"
        main(["train", f"--config={config}", f"--data={made.root / 'data'}", f"--out={folder}", "--run.seed=1"])
    assert [line["epoch"] for line in read_log(folder, "val")] == [1, 2] and weights.read_bytes() != whole
    assert made.compare() == 0
    assert [job.folder.name for job in trained] == ["baseline-1"]
    assert [line["epoch"] for line in read_log(folder, "val")] == [1, 2] and weights.read_bytes() == whole


def test_a_run_out_of_patience_is_finished(made: Made, trained: list[Job]) -> None:
    log = made.out / "baseline-1" / "log.jsonl"
    lines = [
        line for line in log.read_text().splitlines(keepends=True) if '"epoch": 2' not in line or "val" not in line
    ]
    log.write_text("".join(lines))
    (made.out / "baseline-1" / "last.pt").unlink()
    assert [line["epoch"] for line in read_log(made.out / "baseline-1", "val")] == [1]
    assert made.compare() == 0 and trained == []
    assert made.result()["missing"] == []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds of an epoch by arm, instead of those of this machine; filling a cache takes one."""
    seconds = {"baseline": 1.0, "fgfi": 2.0, "cached": 1.0}
    read = eyas.comparison.plan.read_time

    def read_time(folder: Path) -> TrainingTime | None:
        arm, epochs = split_schedule(folder.name.removesuffix("-0"))
        time = read(folder)
        assert time is not None and time.seconds > 0 and epochs is not None
        assert (time.filling is not None) == (arm == "cached")
        return TrainingTime(seconds[arm] * epochs, 1.0 if time.filling else None)

    monkeypatch.setattr(eyas.comparison.plan, "read_time", read_time)
    return seconds


@pytest.mark.slow
def test_schedules_and_equal_time(
    made: Made, trained: list[Job], clock: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    """FGFI takes as long as 2 and 4 epochs of the baseline, the cached one 1 and 2, with filling 2 and 3."""
    arm = [FGFI, {"any_teacher": True}]
    cached = [*arm, {"cache": str(made.out / "cache")}]
    made.change(arms={"fgfi": arm, "cached": cached}, seeds=[0], epochs=[1, 2], equal_time=True)
    shutil.rmtree(made.out)
    assert made.compare() == 0
    asked = [f"{name}-e{epochs}-0" for epochs in (2, 1) for name in ("cached", "fgfi", "baseline")]
    assert [job.folder.name for job in trained] == ["cached-e2-cache", *asked, "baseline-e4-0", "baseline-e3-0"]
    assert [job.command[0] for job in trained[:3]] == ["cache", "distill", "distill"]
    said = capsys.readouterr().out
    assert "equal time: fgfi-e2 takes 4 s: as long as 4 epochs of the baseline" in said
    assert "equal time: cached-e2 takes 3 s, its cache filled: as long as 3 epochs of the baseline" in said
    made.compare("--report_only=true")
    decided, result = (made.out / "equal_time.json").read_text(), made.result()
    assert list(result["arms"])[-2:] == ["baseline-e3", "baseline-e4"] and result["missing"] == []
    found = {(each["arm"], each["epochs"]): each for each in result["schedules"]["results"]}
    assert found["cached", 1]["equal_time_with_filling"]["epochs"] == found["fgfi", 1]["equal_time"]["epochs"] == 2
    final = {name: arm["metrics"]["map"]["mean"] for name, arm in result["arms"].items()}
    assert found["fgfi", 2]["equal_time"]["gain"]["values"] == [final["fgfi-e2"] - final["baseline-e4"]]
    short, long = (read_log(made.out / f"baseline-e{epochs}-0", "train") for epochs in (2, 4))
    assert len(long) == 2 * len(short) == 8 and long[3]["lr"] > short[3]["lr"], "the schedule is stretched"
    # Again: nothing to train, and after a loss only what was lost; what is decided stays.
    trained.clear()
    clock["fgfi"] = 3.0
    shutil.rmtree(made.out / "baseline-e4-0")
    assert made.compare() == 0
    assert [job.folder.name for job in trained] == ["baseline-e4-0"]
    assert (made.out / "equal_time.json").read_text() == decided
    assert find_runs([made.out]).times()["cached-e1"][0].filling is not None
    assert main(["report", str(made.out), "--workers=0", "--device=cpu"]) == 0
    page = (made.out / "report.html").read_text()
    assert "Equal steps and equal time" in page and "mAP over the seconds of training" in page
    assert "Whether cached has converged is not known" in page, "with one seed"


# What the options mean -----------------------------------------------------------------------------------------------


def arms_of(student: Any, **arms: Any) -> dict[str, dict[str, Any]]:
    return resolve_arms(ArmOptions(student), {name: ArmOptions(value) for name, value in arms.items()})


def test_layers_override_in_their_order() -> None:
    student = ["digits/student", {"run": {"epochs": 3}, "optim.lr": 0.5}]
    baseline = arms_of(student)["baseline"]
    assert (baseline["run"]["epochs"], baseline["run"]["precision"], baseline["optim"]["lr"]) == (3, "auto", 0.5)
    assert "method" not in baseline
    arms = arms_of(student, longer={"run.epochs": 9}, none=None)
    assert arms["longer"]["run"] == {**baseline["run"], "epochs": 9}
    assert arms["none"] == baseline == arms["baseline"]
    wide = arms_of(student, wide={"options": {"width": 1}})["wide"]
    assert wide["options"] == {"width": 1}, "replaced whole, as on the command line"


def test_every_way_to_give_a_method() -> None:
    shipped = yaml.safe_load((Path(eyas.__file__).parent / "recipes" / "digits" / "fgfi.yaml").read_text())
    arms = arms_of(
        STUDENT,
        recipe="digits/fgfi",
        single=FGFI,
        inline={"method": FGFI},
        several=[FGFI, FGFI],
        both=["digits/fgfi", FGFI],
        heavier={"config": "digits/fgfi", "method.init_args.weight": 7},
        second=["digits/fgfi", FGFI, {"method.1.init_args.weight": 7}],
    )
    methods = {name: options.get("method") for name, options in arms.items()}
    assert methods["recipe"] == shipped["method"]
    assert methods["single"] == methods["inline"] == FGFI
    assert methods["several"] == [FGFI, FGFI]
    assert methods["both"] == [shipped["method"], FGFI]
    assert methods["heavier"]["init_args"] == {**shipped["method"]["init_args"], "weight": 7}
    assert methods["second"] == [shipped["method"], {**FGFI, "init_args": {"weight": 7}}]
    assert FGFI["init_args"] == {"weight": 0.5}, "what was given is not changed"


def test_the_arms_of_the_docs_are_trainings() -> None:
    page = (Path(__file__).parents[2] / "docs" / "compare.md").read_text()
    config = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])
    arms = arms_of(config["student"], **config["arms"])
    assert len(arms) == 4
    for name, given in arms.items():
        arm = make_arm(name, given, Path("data"), "teacher", resolve_command)
        assert arm.epochs == 2
        assert ("method.class_path" in arm.resolved) == (name != "baseline")


def test_an_arm_is_a_method_by_its_short_name() -> None:
    arms = {
        "fgfi": "fgfi",
        "narrow": {"method": "fgfi", "method.psi": 0.3},
        "both": ["fgfi", {"method": "fitnets"}],
        "heavy": [FGFI, {"method.psi": 0.3}],
        "short": {"method": "fgfi", "method.schedule.stop": 0.9},
        "second": ["fgfi", "pkd", {"method.1.schedule.stop": 0.9}],
    }
    given = {name: options.get("method") for name, options in arms_of(STUDENT, **arms).items()}
    assert given["fgfi"] == "fgfi" and given["both"] == ["fgfi", "fitnets"]
    assert given["narrow"] == {"class_path": "fgfi", "init_args": {"psi": 0.3}}
    assert given["heavy"] == {**FGFI, "init_args": {"weight": 0.5, "psi": 0.3}}
    stop = {"init_args": {"schedule": {"stop": 0.9}}}
    assert given["short"] == {"class_path": "fgfi"} | stop
    assert given["second"] == [{"class_path": "fgfi"}, {"class_path": "pkd"} | stop]
    for name in ("short", "second"):
        arm = make_arm(name, {"model": "shuffledet", "method": given[name]}, Path("data"), "teacher", resolve_command)
        assert 0.9 in (value for option, value in arm.resolved.items() if option.endswith("schedule.stop"))
    for name, psi in {"fgfi": 0.5, "narrow": 0.3}.items():
        arm = make_arm(name, {"model": "shuffledet", "method": given[name]}, Path("data"), "teacher", resolve_command)
        assert arm.resolved["method.class_path"] == "eyas.FGFI" and arm.resolved["method.init_args.psi"] == psi


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ({"baseline": FGFI}, "without a method"),
        ({"plain": FGFI}, "arm baseline: it is the student without a method"),
        ({"plain": None, "baseline": None}, "both name the student without a method"),
        ({"a/b": None}, "folders"),
        ({"x": "digits/nothing"}, "arm x: digits/nothing: no such recipe"),
        ({"x": "./fgfi"}, "arm x: ./fgfi: no such recipe"),
        ({"x": 3}, "neither a recipe nor a mapping"),
        ({"x": [FGFI, FGFI, {"method.init_args.weight": 1}]}, "say which by 0 to 1"),
        ({"x": [{"run": {}}] * 101}, "arm x: more than 100 recipes and mappings"),
        ({"x": {1: 2}}, "arm x: 1 is not the name of an option"),
        ({"x": [FGFI, {"teacher": "runs/big"}]}, "arm x: teacher: all arms have that of the comparison.*another --out"),
        ({"x": {"data": "elsewhere"}}, "arm x: data: all arms"),
        ({"x": {"run.seed": 3}}, "arm x: run.seed: .* --seeds gives"),
        ({"x": {"run": {"seed": 3}}}, "arm x: run.seed: .* --seeds gives"),
        ({"x": {"run": {None: 2}}}, "arm x: None is not the name of an option"),
        ({"x": [{"optim": 5}, {"optim.lr.x": 5}]}, "arm x: optim.lr.x: 5 has no options"),
    ],
)
def test_arms_that_mean_nothing_are_refused(arms: dict[str, Any], message: str) -> None:
    with pytest.raises(EyasError, match=message):
        arms_of(STUDENT, **arms)


def test_recipes_that_build_on_one_another_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("config: [b.yaml]\n")
    Path("b.yaml").write_text("config: a.yaml\n")
    with pytest.raises(EyasError, match=r"arm x: a\.yaml: builds on itself \(a\.yaml -> b\.yaml -> a\.yaml\)"):
        arms_of(STUDENT, x="a.yaml")
    for level in range(12):
        Path(f"{level}.yaml").write_text(f"config: [{', '.join([f'{level + 1}.yaml'] * 9)}]\n")
    Path("12.yaml").write_text("run: {epochs: 3}\n")
    with pytest.raises(EyasError, match="more than 100 recipes"):
        arms_of(STUDENT, x="0.yaml")
    assert arms_of(STUDENT, x="12.yaml", y=["12.yaml", "12.yaml"])["y"]["run"]["epochs"] == 3


def test_an_option_that_does_not_exist_is_refused_before_any_training(
    made: Made, trained: list[Job], capsys: pytest.CaptureFixture[str]
) -> None:
    made.change(arms={"fgfi": [FGFI, {"optim.speed": 1}]})
    assert made.compare() == 2
    error = capsys.readouterr().err
    assert "arm fgfi" in error and "speed" in error
    made.change(arms={"fgfi": {**FGFI, "init_args": {"psi": 7}}})
    assert made.compare() == 2
    assert "psi" in capsys.readouterr().err
    assert trained == []


def test_arms_are_scored_by_one_metric(made: Made, trained: list[Job], capsys: pytest.CaptureFixture[str]) -> None:
    made.change(arms={"more": {"run.max_detections": 300}})
    assert made.compare() == 2
    assert "arm more has run.max_detections 300, the baseline None" in " ".join(capsys.readouterr().err.split())
    assert trained == []


def test_a_run_on_a_schedule_has_all_its_epochs(
    made: Made, trained: list[Job], capsys: pytest.CaptureFixture[str]
) -> None:
    assert made.compare("--epochs=[1,2]", "--arms={patient: {run.patience: 1}}") == 2
    assert "arm patient-e1: with run.patience a run may end early" in " ".join(capsys.readouterr().err.split())
    assert trained == []


def test_a_metric_to_rank_by_is_checked_before_any_training(
    made: Made, trained: list[Job], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(made.out / "fgfi-0")
    assert made.compare("--rank_by=map_99") == 2
    assert "--rank_by map_99: the runs have map, map_50" in " ".join(capsys.readouterr().err.split())
    assert trained == []
    assert made.compare("--rank_by=map_75") == 0 and len(trained) == 1


def test_an_arm_may_be_what_a_run_recorded(made: Made) -> None:
    """The config of a run has data, teacher and seed, which are those of the comparison here."""
    config = str(made.out / "fgfi-0" / "config.yaml")
    assert resolve_arms(ArmOptions(STUDENT), {"again": ArmOptions(config)})["again"]["data"] == str(made.root / "data")
