"""Equal time and convergence by hand: how long runs train, which baselines are as long, and what the tables say."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import eyas.comparison.trainings
from eyas.comparison.arms import BASELINE, ArmOptions, baseline_of, resolve_arms, split_schedule
from eyas.comparison.equal_time import EqualTime, decide, missing_baselines, read_decided, write_decided
from eyas.comparison.jobs import Job, cores
from eyas.comparison.plan import Arm, Plan
from eyas.comparison.presentation import conclusions, tables
from eyas.comparison.schedules import (
    Doubling,
    Schedules,
    TimeToBaseline,
    compare_schedules,
    converged_at,
    doublings,
    mean_curve,
    seconds_until,
)
from eyas.comparison.statistics import compare_arms
from eyas.comparison.trainings import threads_so_far
from eyas.comparison.waves import train_in_waves, with_decided
from eyas.report.comparison_files import write_comparison
from eyas.runs.results import RunResult, TrainingTime, training_time
from eyas.types import EyasError


def line(epoch: int, step: int, time: float | None) -> dict[str, Any]:
    return {"kind": "train", "epoch": epoch, "step": step, "time": time, "losses": {}}


def val(epoch: int, step: int) -> dict[str, Any]:
    return {"kind": "val", "epoch": epoch, "step": step, "time": 0.0, "summary": {}, "per_class": {}}


def cost(seconds: float | None) -> dict[str, Any]:
    return {"kind": "cost", "steps": 9, "seconds_per_step": seconds, "peak_memory": 1, "peak_device_memory": None}


# Time ----------------------------------------------------------------------------------------------------------------


def test_training_time_leaves_evaluations_out_and_takes_dear_steps_in() -> None:
    """Ten steps an epoch: nine of 1 s and one of 11 s, then 500 s of evaluation. A step takes 2 s of the mean."""
    lines, clock = [], 0.0
    for step in range(1, 31):
        clock += 11.0 if step % 10 == 5 else 1.0
        lines.append(line((step - 1) // 10, step, clock))
        if step % 10 == 0:
            clock += 500.0
            lines.append(val(step // 10, step))
    found = training_time([*lines, cost(1.0)])
    # From the first to the last line of an epoch: nine steps in 19 s.
    assert found == TrainingTime(pytest.approx(30 * 19 / 9), None)


def test_an_epoch_that_was_slow_or_cut_in_two_does_not_count() -> None:
    """Epochs of 1 s a step; the machine slept in the second; in the third a run was resumed, hours later."""
    lines = [line(0, 1, 0.0), line(0, 5, 4.0), val(1, 5), line(1, 6, 10.0), line(1, 10, 4000.0), val(2, 10)]
    lines += [line(2, 11, 5000.0), line(2, 12, 5001.0), {"kind": "resume", "step": 12}]
    lines += [line(2, 13, 90000.0), line(2, 15, 90002.0), val(3, 15)]
    assert training_time(lines) == TrainingTime(pytest.approx(15.0))


def test_a_log_with_one_line_an_epoch_has_the_median_step() -> None:
    lines = [line(0, 1, 0.0), val(1, 4), line(1, 8, None), val(2, 8)]
    assert training_time([*lines, cost(None), cost(0.5)]) == TrainingTime(pytest.approx(4.0))
    assert training_time([*lines, cost(None)]) is None
    back = [line(0, 1, 9.0), line(0, 4, 1.0), val(1, 4)]
    assert training_time(back) is None, "the clock was set back"


def test_the_filling_of_the_cache_is_the_run_s() -> None:
    lines = [{"kind": "cache", "seconds": 7.5}, line(0, 1, 0.0), line(0, 3, 2.0), val(1, 3)]
    assert training_time(lines) == TrainingTime(pytest.approx(3.0), 7.5)


# Names ---------------------------------------------------------------------------------------------------------------


def test_names_of_schedules() -> None:
    assert split_schedule("fgfi-e40") == ("fgfi", 40)
    assert split_schedule("a-e4-e8") == ("a-e4", 8)
    assert [split_schedule(name)[1] for name in ("fgfi", "lr-1e3", "fgfi-e0", "fgfi-e4x", "-e4")] == [None] * 5
    names = {"baseline-e20", "baseline", "baseline-e40", "fgfi-e40"}
    assert [baseline_of(name, names) for name in ("fgfi-e40", "fgfi", "fgfi-e80", "baseline-e20")] == [
        "baseline-e40",
        "baseline",
        "baseline",
        "baseline-e20",
    ]
    with pytest.raises(EyasError, match=r"arm baseline-e40: .*another name"):
        resolve_arms(ArmOptions(None), {"baseline-e40": ArmOptions({"model": "ssd"})})


# The baselines of equal time -----------------------------------------------------------------------------------------


BATCHES = {"dataset.batch_size": 4, "optim.accumulate": 1, "run.device": "cpu"}


def arm(name: str, epochs: int) -> Arm:
    options: dict[str, Any] = {"model": "ssd", "optim": {"lr": 0.1}, "run": {"seed": 0}}
    if not name.startswith(BASELINE):
        options["method"] = "fgfi"
    return Arm(name, options, {**BATCHES, "run.epochs": epochs})


def times(*seconds: float, filling: float | None = None) -> dict[int, TrainingTime]:
    return {seed: TrainingTime(each, filling) for seed, each in enumerate(seconds)}


def test_the_baseline_gets_the_epochs_that_fit() -> None:
    """20 epochs of the baseline take 100 s (median), so one 5 s; FGFI takes 188 s: 37.6 epochs. The cached one takes
    104 s, 20.8 epochs, and 130 s with its filling, 26."""
    arms = [arm(BASELINE, 20), arm("fgfi", 20), arm("cached", 20), arm("other", 20)]
    taken = {
        BASELINE: times(90, 100, 400),
        "fgfi": times(180, 188, 189),
        "cached": times(104, 104, 104, filling=26.0),
        "other": times(50, 50),
    }
    found = decide(arms, taken, seeds=3)
    assert [(each.arm, each.with_filling, each.epochs, each.baseline) for each in found] == [
        ("fgfi", False, 38, "baseline-e38"),
        ("cached", False, 21, "baseline-e21"),
        ("cached", True, 26, "baseline-e26"),
    ], "the arm whose third run is not finished has none yet"
    assert (found[0].seconds, found[0].baseline_epoch) == (188, 5)
    made = missing_baselines(arms, found)
    assert [(each.name, each.epochs, each.options["run"]) for each in made] == [
        (f"baseline-e{epochs}", epochs, {"seed": 0, "epochs": epochs}) for epochs in (38, 21, 26)
    ]
    assert made[0].options["optim"] == {"lr": 0.1} and "method" not in made[0].options
    assert missing_baselines([*arms, *made], found) == []
    assert [each.epochs for each in missing_baselines(arms[:2], found)] == [38], (
        "of arms that are not compared now: none"
    )


def test_a_baseline_of_as_many_epochs_serves() -> None:
    arms = [arm(BASELINE, 20), arm("cached", 20), arm("fgfi", 20), arm("slow", 20)]
    taken = {BASELINE: times(100), "cached": times(101), "fgfi": times(200), "slow": times(201)}
    found = decide(arms, taken, seeds=1)
    assert [(each.epochs, each.baseline) for each in found] == [
        (20, BASELINE),
        (40, "baseline-e40"),
        (40, "baseline-e40"),
    ]
    assert [each.name for each in missing_baselines(arms, found)] == ["baseline-e40"]


def test_schedules_are_measured_by_their_own_baselines() -> None:
    """An epoch takes 5 s on the short schedule and 4 s on the long one; the equal time of the short is the long."""
    arms = [arm("baseline-e20", 20), arm("fgfi-e20", 20), arm("baseline-e40", 40), arm("fgfi-e40", 40)]
    taken = {
        "baseline-e20": times(100),
        "fgfi-e20": times(200),
        "baseline-e40": times(160),
        "fgfi-e40": times(328),
    }
    found = decide(arms, taken, seeds=1)
    assert [(each.arm, each.epochs, each.baseline) for each in found] == [
        ("fgfi-e20", 40, "baseline-e40"),
        ("fgfi-e40", 82, "baseline-e82"),
    ]
    assert [each.name for each in missing_baselines(arms, found)] == ["baseline-e82"]


def test_one_epoch_is_one() -> None:
    said = str(EqualTime("fgfi", True, 3.2, 3.0, 1, BASELINE))
    assert said == "fgfi takes 3 s, its cache filled: as long as 1 epoch of the baseline"


def test_what_is_decided_stays(tmp_path: Path) -> None:
    arms = [arm(BASELINE, 20), arm("fgfi", 20)]
    first = decide(arms, {BASELINE: times(100), "fgfi": times(150)}, seeds=1)
    assert read_decided(tmp_path) == []
    write_decided(tmp_path, first)
    assert read_decided(tmp_path) == first
    later = decide(arms, {BASELINE: times(100, 100), "fgfi": times(150, 900)}, seeds=2, decided=read_decided(tmp_path))
    assert later == first
    for broken in ([{"arm": "fgfi"}], "x", [{**asdict(first[0]), "epochs": "9"}], [{**asdict(first[0]), "more": 1}]):
        (tmp_path / "equal_time.json").write_text(json.dumps({"equal_time": broken}))
        with pytest.raises(EyasError, match=r"equal_time\.json: .*remove it to decide anew"):
            read_decided(tmp_path)


def test_an_arm_is_on_a_schedule_by_its_folder_and_its_options(tmp_path: Path) -> None:
    arms = tuple(arm(name, 5).on_schedule(40) for name in (BASELINE, "fgfi"))
    plan = Plan(tmp_path, "teacher", tmp_path, (0, 3), arms)
    assert plan.missing() == ["baseline-e40-0", "baseline-e40-3", "fgfi-e40-0", "fgfi-e40-3"]
    assert plan.folder(arms[1], 3) == tmp_path / "fgfi-e40-3"
    assert plan.config(arms[1]) == tmp_path / "arms" / "fgfi-e40.yaml"
    assert (arms[1].epochs, arms[1].options["run"]) == (40, {"seed": 0, "epochs": 40})


class FakeJobs:
    """Instead of `run_jobs`: each training leaves a log of four steps an epoch, with the seconds of its arm."""

    def __init__(self) -> None:
        self.step = {"baseline": 1.0, "fgfi": 2.0, "cached": 1.0}
        self.ran: list[str] = []
        self.commands: list[tuple[str, ...]] = []
        self.broken = ""

    def __call__(self, jobs: list[Job], *_: Any, **__: Any) -> dict[Job, str]:
        self.ran += [job.folder.name for job in jobs]
        self.commands += [job.command for job in jobs]
        for job in jobs:
            if job.command[0] != "cache" and job.folder.name != self.broken:
                self.train(job)
        return {job: "failed" for job in jobs if job.folder.name == self.broken}

    def train(self, job: Job) -> None:
        arm, epochs = split_schedule(job.folder.name.rpartition("-")[0])
        epochs = epochs or 1
        assert job.steps == 4 * epochs or arm == "a"
        lines = [{"kind": "cache", "seconds": 4.0}] if arm == "cached" else []
        for epoch in range(epochs):
            clock = 1000.0 * epoch
            lines += [line(epoch, 4 * epoch + at, clock + at * self.step[arm]) for at in (1, 2, 3, 4)]
            lines.append({**val(epoch + 1, 4 * epoch + 4), "summary": {"map": 0.1}})
        job.folder.mkdir()
        (job.folder / "log.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> FakeJobs:
    fake = FakeJobs()
    split = SimpleNamespace(records=[None] * 16)
    monkeypatch.setattr(eyas.comparison.trainings, "run_jobs", fake)
    monkeypatch.setattr(eyas.comparison.trainings, "same_teacher", lambda *_: None)
    monkeypatch.setattr(eyas.comparison.trainings, "same_data", lambda *_: None)
    monkeypatch.setattr(eyas.comparison.trainings, "read_splits", lambda *_: (split, split))
    return fake


def plan_of(out: Path, seeds: tuple[int, ...] = (0,)) -> Plan:
    own = [arm(BASELINE, 9), arm("fgfi", 9), replace(arm("cached", 9), resolved={**BATCHES, "cache": "cache/"})]
    return Plan(
        Path("data"), "teacher", out, seeds, tuple(each.on_schedule(epochs) for epochs in (1, 2) for each in own)
    )


def test_a_comparison_trains_in_two_waves(tmp_path: Path, jobs: FakeJobs, capsys: pytest.CaptureFixture[str]) -> None:
    """FGFI takes as long as 2 and 4 epochs of the baseline; the cached one as 1 and 2, and with filling as 2 and 3."""
    plan = plan_of(tmp_path)
    assert train_in_waves(plan, equal_time=True) == {}
    asked = [f"{name}-e{epochs}-0" for epochs in (2, 1) for name in ("fgfi", "cached", "baseline")]
    assert jobs.ran == ["cached-e2-cache", *asked, "baseline-e4-0", "baseline-e3-0"]
    said = capsys.readouterr().out
    assert "equal time: fgfi-e2 takes 16 s: as long as 4 epochs of the baseline" in said
    assert "equal time: cached-e2 takes 12 s, its cache filled: as long as 3 epochs of the baseline" in said
    assert yaml.safe_load((tmp_path / "arms" / "baseline-e4.yaml").read_text())["run"]["epochs"] == 4
    whole = with_decided(plan)
    assert [each.name for each in whole.arms[6:]] == ["baseline-e4", "baseline-e3"] and whole.missing() == []
    assert compare_schedules(whole.finished(), whole.times(), read_decided(tmp_path), "map") is not None


def test_a_second_call_trains_what_is_missing_and_decides_nothing_anew(tmp_path: Path, jobs: FakeJobs) -> None:
    train_in_waves(plan_of(tmp_path), equal_time=True)
    decided = (tmp_path / "equal_time.json").read_text()
    jobs.ran.clear()
    train_in_waves(plan_of(tmp_path), equal_time=True)
    assert jobs.ran == []
    jobs.step["fgfi"] = 9.0
    shutil.rmtree(tmp_path / "baseline-e4-0")
    shutil.rmtree(tmp_path / "fgfi-e1-0")
    train_in_waves(plan_of(tmp_path), equal_time=True)
    assert jobs.ran == ["baseline-e4-0", "fgfi-e1-0"], "in one wave; the cache is not filled for arms without one"
    train_in_waves(plan_of(tmp_path, (0, 1)), equal_time=True)
    assert (tmp_path / "equal_time.json").read_text() == decided


def test_an_arm_whose_training_failed_is_decided_once_it_is_finished(tmp_path: Path, jobs: FakeJobs) -> None:
    jobs.broken = "fgfi-e2-0"
    assert train_in_waves(plan_of(tmp_path), equal_time=True) == {"fgfi-e2-0": "failed"}
    assert "fgfi-e2" not in {each.arm for each in read_decided(tmp_path)}
    assert "baseline-e4-0" not in jobs.ran and "baseline-e3-0" in jobs.ran
    jobs.broken = ""
    jobs.ran.clear()
    assert train_in_waves(plan_of(tmp_path), equal_time=True) == {}
    assert jobs.ran == ["fgfi-e2-0", "baseline-e4-0"]


def test_trainings_that_are_added_have_the_threads_of_those_before(tmp_path: Path, jobs: FakeJobs) -> None:
    plan = plan_of(tmp_path)
    assert threads_so_far(plan) is None
    train_in_waves(plan, equal_time=False, threads=1)
    assert {word for command in jobs.commands for word in command if "run.threads" in word} == {"--run.threads=1"}
    (tmp_path / "fgfi-e1-0" / "config.yaml").write_text("run: {threads: 64}")
    assert threads_so_far(plan) == cores(), "never more than there are"
    (tmp_path / "fgfi-e1-0" / "config.yaml").write_text("run: {threads: 1}")
    jobs.commands.clear()
    train_in_waves(plan_of(tmp_path, (0, 1)), equal_time=False)
    assert {word for command in jobs.commands for word in command if "run.threads" in word} == {"--run.threads=1"}


def test_arms_whose_caches_differ_are_filled_each(tmp_path: Path, jobs: FakeJobs) -> None:
    """Arms of the user's own may be called as schedules are."""
    own = [
        arm(BASELINE, 1),
        *(replace(arm(f"a-e{n}", 1), resolved={**BATCHES, "run.epochs": 1, "cache": "c", "psi": n}) for n in (1, 2)),
    ]
    jobs.step["a"] = 1.0
    train_in_waves(Plan(Path("data"), "teacher", tmp_path, (0,), tuple(own)), equal_time=False)
    assert [name for name in jobs.ran if name.endswith("cache")] == ["a-e1-cache", "a-e2-cache"]


def test_a_run_that_may_end_early_has_no_equal_time(tmp_path: Path, jobs: FakeJobs) -> None:
    plan = plan_of(tmp_path)
    impatient = replace(
        plan, arms=tuple(replace(each, resolved={**each.resolved, "run.patience": 2}) for each in plan.arms)
    )
    with pytest.raises(EyasError, match=r"run\.patience a run may end early"):
        train_in_waves(impatient, equal_time=True)
    assert jobs.ran == []


def test_without_equal_time_there_is_one_wave(tmp_path: Path, jobs: FakeJobs) -> None:
    train_in_waves(plan_of(tmp_path), equal_time=False)
    assert len(jobs.ran) == 7 and not (tmp_path / "equal_time.json").exists()


# Convergence and time to the baseline --------------------------------------------------------------------------------


def test_convergence_is_where_a_doubling_adds_less_than_the_seeds_differ() -> None:
    """20 to 40 adds 0.10, of a spread of 0.02; 40 to 80 adds 0.01, of a spread of 0.02; 80 has no double."""
    runs = {
        20: {0: 0.28, 1: 0.30, 2: 0.32, 9: 0.9},
        40: {0: 0.40, 1: 0.42, 2: 0.38},
        80: {0: 0.41, 1: 0.41, 2: 0.41},
        100: {0: 0.5, 1: 0.5},
    }
    found = doublings(runs)
    assert [each.epochs for each in found] == [20, 40]
    assert [each.adds for each in found] == pytest.approx([0.10, 0.01])
    assert [each.spread for each in found] == pytest.approx([0.02, 0.02]), "of the seeds of both"
    assert converged_at(found) == 40
    assert converged_at(found[:1]) is None
    assert converged_at([Doubling(20, -0.1, 0.0)]) == 20, "longer is worse"
    assert converged_at([Doubling(20, 0.0, 0.0), Doubling(40, math.nan, 0.1)]) is None
    assert doublings({20: {0: 0.1}, 40: {0: 0.1}}) == (), "one seed has no spread"


def test_the_time_to_a_target_is_on_the_line_between_two_evaluations() -> None:
    curve = ((10.0, 0.1), (20.0, 0.3), (30.0, 0.2), (40.0, 0.5))
    assert seconds_until(curve, 0.2) == pytest.approx(15)
    assert seconds_until(curve, 0.3) == pytest.approx(20)
    assert seconds_until(curve, 0.4) == pytest.approx(30 + 10 * 2 / 3)
    assert seconds_until(curve, 0.05) == 10, "nothing tells what was before the first"
    assert seconds_until(curve, 0.6) is None


def result(*scores: float, every: int = 10) -> RunResult:
    curve = tuple((every * (at + 1), {"map": score, "map_50": score}) for at, score in enumerate(scores))
    return RunResult(curve[-1][1], None, curve, 0.1, None, None)


def test_the_mean_curve_has_the_evaluations_of_all_runs() -> None:
    odd = RunResult({"map": 0.5}, None, ((10, {"map": 0.3}), (20, {"map": 0.5})), None, None, None)
    runs = [result(0.1, 0.3, 0.4, every=5), result(0.1, 0.5, 0.6, every=5)]
    assert mean_curve(runs, 30.0, "map") == ((10.0, 0.1), (20.0, pytest.approx(0.4)), (30.0, pytest.approx(0.5)))
    assert mean_curve([odd, result(0.1, 0.1, 0.1, 0.1, every=5)], 40.0, "map") == (
        (20.0, pytest.approx(0.2)),
        (40.0, pytest.approx(0.3)),
    )
    assert mean_curve([result(math.nan, 0.2)], 10.0, "map") == ((10.0, 0.2),)


# The whole -----------------------------------------------------------------------------------------------------------

RUNS = {
    "baseline-e20": {0: result(0.10, 0.28), 1: result(0.10, 0.30), 2: result(0.10, 0.32)},
    "fgfi-e20": {0: result(0.20, 0.39), 1: result(0.20, 0.41), 2: result(0.20, 0.40)},
    "baseline-e40": {0: result(0.2, 0.39, every=20), 1: result(0.2, 0.41, every=20), 2: result(0.2, 0.40, every=20)},
    "fgfi-e40": {0: result(0.3, 0.50, every=20), 1: result(0.3, 0.50, every=20), 2: result(0.3, 0.53, every=20)},
    "baseline-e80": {0: result(0.2, 0.4, every=40), 1: result(0.2, 0.4, every=40), 2: result(0.2, 0.4, every=40)},
    "fgfi-e80": {0: result(0.3, 0.52, every=40), 1: result(0.3, 0.52, every=40), 2: result(0.3, 0.52, every=40)},
    "baseline-e82": {},
}
TIMES = {
    **{f"baseline-e{epochs}": times(*[5.0 * epochs] * 3) for epochs in (20, 40, 80)},
    **{f"fgfi-e{epochs}": times(*[5.0 * epochs] * 3, filling=50.0) for epochs in (20, 40, 80)},
}
DECIDED = [
    EqualTime("fgfi-e20", False, 200.0, 5.0, 40, "baseline-e40"),
    EqualTime("fgfi-e20", True, 400.0, 5.0, 80, "baseline-e80"),
    EqualTime("fgfi-e40", False, 410.0, 5.0, 82, "baseline-e82"),
]


@pytest.fixture(name="schedules")
def _schedules() -> Schedules:
    found = compare_schedules(RUNS, TIMES, DECIDED, "map")
    assert found is not None
    return found


def test_gains_at_equal_steps_and_at_equal_time(schedules: Schedules) -> None:
    short, middle, long = schedules.results
    assert [(each.arm, each.epochs, each.seconds, each.filling) for each in schedules.results] == [
        ("fgfi", 20, 100, 50),
        ("fgfi", 40, 200, 50),
        ("fgfi", 80, 400, 50),
    ]
    assert short.equal_steps is not None and short.equal_steps.values == pytest.approx((0.11, 0.11, 0.08))
    assert short.equal_time is not None and short.equal_time.epochs == 40
    assert short.equal_time.gain is not None and short.equal_time.gain.values == pytest.approx((0, 0, 0), abs=1e-12)
    assert short.equal_time_with_filling is not None and short.equal_time_with_filling.gain is not None
    assert short.equal_time_with_filling.gain.values == pytest.approx((-0.01, 0.01, 0))
    assert middle.equal_time is not None and (middle.equal_time.epochs, middle.equal_time.gain) == (82, None)
    assert long.equal_time is None
    # From 0.2 at 50 s to 0.4 at 100 s: 0.3 at 75 s of the baseline's 100, and 50 s more with the filling.
    assert short.to_baseline == TimeToBaseline(pytest.approx(0.75), pytest.approx(1.25))


def test_convergence_of_each_arm(schedules: Schedules) -> None:
    """The baseline adds 0.10 and 0.00, of a spread of 0.02 and 0.01; FGFI 0.11 and 0.01, of 0.01 and 0.017."""
    baseline, fgfi = schedules.convergence["baseline"], schedules.convergence["fgfi"]
    assert list(schedules.convergence) == ["baseline", "fgfi"]
    assert (baseline.epochs, baseline.gain, baseline.to_baseline) == (40, None, None)
    assert fgfi.epochs == 40
    assert fgfi.gain is not None and fgfi.gain.values == pytest.approx((0.11, 0.09, 0.13))
    # 0.40 of the converged baseline, after 200 s: FGFI has it at the end of its 20 epochs, 100 s; on its 40 epochs from
    # 0.3 at 100 s to 0.51 at 200 s later.
    assert fgfi.to_baseline == TimeToBaseline(pytest.approx(0.5), pytest.approx(0.75))
    alone = compare_schedules({"baseline-e20": RUNS["baseline-e20"], "fgfi-e20": RUNS["fgfi-e20"]}, TIMES, [], "map")
    assert alone is not None and alone.convergence == {}


def test_what_has_not_converged_has_no_gain_at_convergence() -> None:
    runs = {name: arm for name, arm in RUNS.items() if "80" not in name}
    found = compare_schedules(runs, TIMES, [], "map")
    assert found is not None
    assert {name: each.epochs for name, each in found.convergence.items()} == {"baseline": None, "fgfi": None}
    assert found.convergence["fgfi"].gain is None and found.convergence["fgfi"].to_baseline is None
    assert "fgfi has not converged" in conclusions(compare_arms(runs), found)[-1]
    one = {name: {0: arm[0]} for name, arm in runs.items() if arm}
    unknown = compare_schedules(one, TIMES, [], "map")
    assert [row[2] for row in tables(compare_arms(one), unknown)[2][1][1:]] == ["-", "-"]
    assert conclusions(compare_arms(one), unknown)[-1].startswith("Whether fgfi has converged is not known")


def test_a_schedule_of_equal_time_does_not_count_for_convergence() -> None:
    """By chance the baseline of equal time, of 160 epochs, is the double of 80: no arm has it."""
    runs = {**RUNS, "baseline-e160": RUNS["baseline-e80"]}
    found = compare_schedules(runs, TIMES, [], "map")
    assert found is not None and [each.epochs for each in found.convergence["baseline"].doublings] == [20, 40]


def test_one_schedule_without_equal_time_has_no_tables_of_it() -> None:
    runs = {"baseline": RUNS["baseline-e20"], "fgfi": RUNS["fgfi-e20"], "lr-e3": RUNS["fgfi-e20"]}
    assert compare_schedules(runs, {}, [], "map") is None
    equal = [EqualTime("fgfi", False, 200.0, 5.0, 40, "baseline-e40")]
    found = compare_schedules({**runs, "baseline-e40": RUNS["baseline-e40"]}, {}, equal, "map")
    assert found is not None and found.results[0].equal_time is not None
    assert found.results[0].equal_time.gain is not None and found.results[0].equal_time.gain.mean == pytest.approx(0)
    assert (found.results[0].seconds, found.results[0].to_baseline, found.convergence) == (None, None, {})


def test_the_tables(schedules: Schedules) -> None:
    (title, main, _), (_, time, words), (_, convergence, _) = tables(compare_arms(RUNS), schedules)
    assert title == ""
    assert [row[0] for row in main[1:]] == [name for name in RUNS if name != "baseline-e82"]
    assert [row[3] for row in main[1:4]] == ["", "+0.100 ± 0.043", ""], "of the baseline of its schedule"
    assert time[0] == [
        *("", "epochs", "seconds", "over baseline", "equal steps", "equal time", "with filling", "time to baseline")
    ]
    assert time[1][:4] == ["fgfi", "20", "100 + 50", "1.00"]
    assert [text[1:] for text in time[1][5:]] == [
        "0.000 ± 0.000 (40 epochs)",
        "0.000 ± 0.025 (80 epochs)",
        ".75, 1.25 with filling",
    ]
    assert time[2][5:7] == ["- (82 epochs)", ""]
    assert "With filling" in words and "{" not in words
    assert convergence[1:] == [
        ["baseline", "20 epochs: +0.100 (0.020), 40 epochs: +0.000 (0.010)", "40 epochs", "", ""],
        [
            *("fgfi", "20 epochs: +0.110 (0.010), 40 epochs: +0.010 (0.017)", "40 epochs"),
            *("+0.110 ± 0.050", "0.50, 0.75 with filling"),
        ],
    ]


def test_the_sentences(schedules: Schedules) -> None:
    said = conclusions(compare_arms(RUNS), schedules)
    assert said[0] == "fgfi-e20 is better than the baseline by 0.100 ± 0.043 mAP, over 3 seeds."
    assert said[3].startswith(
        "At equal time, 20 epochs beside 40 of the baseline, fgfi cannot be told from the baseline"
    )
    assert said[4].startswith(
        "At equal time, its cache filled, 20 epochs beside 80 of the baseline, fgfi cannot be told"
    )
    assert said[5].startswith("baseline has converged at 40 epochs: twice the epochs add +0.000 mAP")
    assert said[6].endswith(
        "Beside the converged baseline it is better than the baseline by 0.110 ± 0.050 mAP, over 3 seeds. It has that "
        "baseline's final metric after 0.50 of its training time, 0.75 with the filling of its cache."
    )
    assert len(said) == 7


def test_the_files_have_it_and_the_figure(schedules: Schedules, tmp_path: Path) -> None:
    write_comparison(tmp_path, compare_arms(RUNS), {"missing": [], "configs": {}}, schedules)
    kept = json.loads((tmp_path / "comparison.json").read_text())
    assert kept["schedules"]["results"][0]["equal_time"]["epochs"] == 40
    assert kept["schedules"]["curves"]["fgfi-e20"] == [[50.0, pytest.approx(0.2)], [100.0, pytest.approx(0.4)]]
    text = (tmp_path / "comparison.md").read_text()
    assert "\n## Equal steps and equal time\n\n| " in text and "\n## Convergence\n\n| " in text
    assert (tmp_path / "seconds.png").read_bytes().startswith(b"\x89PNG")
