"""The statistics of a comparison by hand and by t tables, and what is read from the logs of runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import stdtrit

from eyas.comparison.presentation import conclusions, markdown, rows, tables
from eyas.comparison.statistics import compare_arms, estimate, gap_closed, minus_reference, paired_difference
from eyas.runs.log import LOG
from eyas.runs.results import RunResult, is_finished, metric_title, read_run, seconds_between_lines
from eyas.types import EyasError


@pytest.mark.parametrize(
    ("values", "mean", "half_width"),
    [
        ([1, 2], 1.5, 12.706 * math.sqrt(0.5) / math.sqrt(2)),  # s² = 0.5, t(0.975, 1) of the tables
        ([1, 2, 6], 3, 4.303 * math.sqrt(7) / math.sqrt(3)),  # s² = (4 + 1 + 9) / 2
        ([1, 2, 3, 4, 5], 3, 2.776 * math.sqrt(2.5) / math.sqrt(5)),
        ([0.25, 0.25, 0.25], 0.25, 0),
    ],
)
def test_mean_and_interval(values: list[float], mean: float, half_width: float) -> None:
    found = estimate(values)
    assert found.mean == pytest.approx(mean)
    assert found.half_width == pytest.approx(half_width, rel=2e-4)
    assert found.values == tuple(values)


def test_one_seed_has_no_interval() -> None:
    found = estimate([0.3])
    assert (found.mean, found.half_width, found.shown()) == (0.3, None, "0.300")


def test_an_undefined_metric_is_a_dash() -> None:
    assert estimate([math.nan, math.nan]).shown() == "-"
    assert estimate([0.4, 0.6]).shown(1, "+") == "+0.5 ± 1.3"


def test_pairing_takes_out_what_the_seeds_have_in_common() -> None:
    baseline = {0: 0.1, 1: 0.5, 2: 0.9}
    method = {2: 0.95, 0: 0.15, 1: 0.55}
    gain = paired_difference(method, baseline)
    assert gain is not None
    assert gain.mean == pytest.approx(0.05)
    assert gain.half_width == pytest.approx(0, abs=1e-9)
    wide = estimate(list(method.values())).half_width
    assert wide is not None and wide > 0.9


def test_only_seeds_of_both_are_paired() -> None:
    gain = paired_difference({1: 0.4, 2: 0.6, 3: 9.0}, {0: 5.0, 1: 0.3, 2: 0.3})
    assert gain is not None
    assert gain.values == pytest.approx((0.1, 0.3))
    assert paired_difference({1: 0.4}, {0: 0.3}) is None


@pytest.mark.parametrize(("method", "ratio"), [((0.4, 0.42), 0.5), ((0.2, 0.22), -0.5), ((0.6, 0.62), 1.5)])
def test_the_gap_closed_is_a_ratio_of_means(method: tuple[float, float], ratio: float) -> None:
    """Baseline 0.3 and 0.32 under a teacher of 0.51."""
    closed = gap_closed(dict(enumerate(method)), {0: 0.3, 1: 0.32}, 0.51)
    assert closed is not None and closed.ratio == pytest.approx(ratio)
    assert closed.interval[0] < closed.ratio < closed.interval[1]


def test_a_teacher_barely_above_the_baseline_closes_no_gap() -> None:
    """(0.5 - 0.45) / (0.4501 - 0.45) is 500, which says nothing where seeds of the baseline differ by more."""
    baseline = {0: 0.449, 1: 0.45, 2: 0.451}
    assert gap_closed({0: 0.5, 1: 0.5, 2: 0.5}, baseline, 0.4501) is None


def test_the_interval_of_a_known_gap_is_that_of_the_gain() -> None:
    """With one baseline for all seeds the gap has no spread: Fieller's interval is Student's, divided by the gap."""
    method, baseline = {0: 0.30, 1: 0.32, 2: 0.37}, dict.fromkeys(range(3), 0.2)
    closed = gap_closed(method, baseline, 0.6)
    half = float(stdtrit(2, 0.975)) * float(np.std([0.30, 0.32, 0.37], ddof=1)) / math.sqrt(3)
    assert closed is not None and closed.interval == pytest.approx(((0.13 - half) / 0.4, (0.13 + half) / 0.4))
    assert closed.shown() == f"32% ({(0.13 - half) / 0.4:.0%} to {(0.13 + half) / 0.4:.0%})"


def test_the_interval_holds_the_true_share_at_its_rate() -> None:
    random = np.random.default_rng(2)
    inside = 0
    for _ in range(1000):
        baseline = 0.2 + random.normal(0, 0.02, 4)
        method = 0.6 * baseline + 0.4 * 0.5 + random.normal(0, 0.02, 4)  # closes 40 % of the gap
        closed = gap_closed(dict(enumerate(method)), dict(enumerate(baseline)), 0.5)
        assert closed is not None
        inside += closed.interval[0] <= 0.4 <= closed.interval[1]
    assert 0.93 < inside / 1000 < 0.97


def test_no_gap_closed_without_two_seeds_or_without_a_gap() -> None:
    assert gap_closed({0: 0.3}, {0: 0.2}, 0.5) is None
    assert gap_closed({0: 0.3, 1: 0.3}, {2: 0.2, 3: 0.2}, 0.5) is None
    assert gap_closed({0: 0.3, 1: 0.4}, {0: 0.2, 1: 0.6}, 0.5) is None, "the gap may be zero"
    assert gap_closed({0: 0.3, 1: 0.4}, {0: 0.6, 1: 0.7}, 0.5) is None, "the baseline is above the teacher"


# Reading -------------------------------------------------------------------------------------------------------------


def write_log(folder: Path, *lines: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / LOG).write_text("".join(json.dumps({"time": 0.0, **line}) + "\n" for line in lines))
    return folder


def val(epoch: int, score: float | None) -> dict[str, Any]:
    return {"kind": "val", "epoch": epoch, "step": 10 * epoch, "summary": {"map": score}, "per_class": {}}


def cost(steps: int, seconds: float | None, memory: int, device: int | None = None) -> dict[str, Any]:
    costs = {"seconds_per_step": seconds, "peak_memory": memory, "peak_device_memory": device}
    return {"kind": "cost", "step": 20, "steps": steps, **costs}


def test_a_run_of_several_sittings(tmp_path: Path) -> None:
    teacher = {"kind": "teacher", "name": "t", "summary": {"map": 0.5}}
    costs = [cost(14, 0.2, 100, 7), cost(6, 0.9, 300), cost(0, None, 50)]
    folder = write_log(tmp_path / "run", teacher, val(1, 0.1), val(2, None), *costs)
    run = read_run(folder)
    assert is_finished(folder)
    assert math.isnan(run.summary["map"])
    assert run.teacher == {"map": 0.5}
    assert [epoch for epoch, _ in run.curve] == [1, 2]
    assert (run.seconds_per_step, run.peak_memory, run.peak_device_memory) == (0.2, 300, 7)
    assert not is_finished(tmp_path / "nothing")


def test_a_run_that_logged_no_cost(tmp_path: Path) -> None:
    """Steps of 0.5 s, an evaluation of 100 s between the epochs, one slow step."""
    times = [(0, 1, 10.0), (0, 3, 11.0), (0, 5, 12.0), (1, 7, 113.0), (1, 8, 113.5), (1, 9, 120.0)]
    lines = [{"kind": "train", "epoch": epoch, "step": step, "time": time, "losses": {}} for epoch, step, time in times]
    assert seconds_between_lines(lines) == pytest.approx(0.5)
    run = read_run(write_log(tmp_path / "run", *lines, val(2, 0.2)))
    assert run.seconds_per_step == pytest.approx(0.5)
    assert (run.teacher, run.peak_memory, run.peak_device_memory) == (None, None, None)
    assert seconds_between_lines(lines[:1]) is None


def test_a_log_of_a_clock_that_was_set_and_of_steps_that_occur_twice(tmp_path: Path) -> None:
    """Only the 0.5 s from step 3 to 5 say how long a step takes; a session without a memory is passed over."""
    times = [(1, 10.0), (1, 11.0), (2, None), (3, 500.0), (5, 501.0), (7, 20.0), (6, 30.0)]
    lines = [{"kind": "train", "epoch": 0, "step": step, "time": time, "losses": {}} for step, time in times]
    assert seconds_between_lines(lines[3:]) == pytest.approx(0.5)
    assert seconds_between_lines(lines[:3]) is None
    unknown = {**cost(3, None, 0), "peak_memory": None}
    assert read_run(write_log(tmp_path / "run", *lines, val(2, 0.2), cost(1, 0.1, 5), unknown)).peak_memory == 5


# The report ----------------------------------------------------------------------------------------------------------


def run(score: float, teacher: float | None = None, seconds: float = 0.1, memory: int = 2**20) -> RunResult:
    summary = {"map": score, "map_50": 2 * score}
    taught = None if teacher is None else {"map": teacher, "map_50": 2 * teacher}
    return RunResult(summary, taught, ((1, summary),), seconds, memory, None)


RUNS = {
    "baseline": {0: run(0.245), 1: run(0.255), 2: run(0.4)},
    "better": {0: run(0.295, 0.5, 0.2, 3 * 2**20), 1: run(0.305, 0.5, 0.3)},
    "nothing": {},
}


def test_the_comparison_pairs_by_seed_and_leaves_out_what_is_not_there() -> None:
    comparison = compare_arms(RUNS)
    assert comparison.metric == "map"
    assert comparison.teacher is not None and comparison.teacher["map"] == 0.5
    assert list(comparison.arms) == ["baseline", "better"]
    better = comparison.arms["better"]
    gain = better.metrics["map"].minus_baseline
    assert gain is not None and gain.mean == pytest.approx(0.05)
    # Over seeds 0 and 1: baseline 0.25, better 0.3, teacher 0.5.
    closed = better.metrics["map"].gap_closed
    assert closed is not None and closed.ratio == pytest.approx(0.2)
    gain = better.metrics["map_50"].minus_baseline
    assert gain is not None and gain.mean == pytest.approx(0.1)
    assert better.seconds_per_step == pytest.approx(0.25)
    assert better.peak_memory == 3 * 2**20
    baseline = comparison.arms["baseline"].metrics["map"]
    assert baseline.minus_baseline is None and baseline.gap_closed is None
    spread = float(np.std([0.245, 0.255, 0.4], ddof=1))
    assert baseline.half_width == pytest.approx(4.303 * spread / math.sqrt(3), rel=2e-4)
    assert compare_arms(RUNS, "map_50").metric == "map_50"
    assert compare_arms({"baseline": {}}).arms == {}
    with pytest.raises(EyasError, match="--rank_by map_99: the runs have map, map_50"):
        compare_arms(RUNS, "map_99")


def test_the_table() -> None:
    table = rows(compare_arms(RUNS))
    head = ["", "mAP", "mAP50", "minus baseline", "gap closed", "s/step", "memory", "seeds"]
    assert table[0] == head
    assert table[1][:3] == ["teacher", "0.500", "1.000"]
    assert table[2] == ["baseline", "0.300 ± 0.215", "0.600 ± 0.431", "", "", "0.100", "1 MiB", "3"]
    closed = "20% (16% to 27%)"
    assert table[3] == ["better", "0.300 ± 0.064", "0.600 ± 0.127", "+0.050 ± 0.000", closed, "0.250", "3 MiB", "2"]
    lines = markdown(table, "note").splitlines()
    assert lines[1].startswith("| --- | ---: |")
    assert len({line.count("|") for line in lines[:5]}) == 1
    assert lines[-1] == "note"


def test_every_arm_minus_a_reference_over_the_seeds_that_both_have() -> None:
    runs = {
        "baseline": {0: run(0.2), 1: run(0.3), 2: run(0.9)},
        "fgfi": {0: run(0.3), 1: run(0.35), 3: run(0.1)},
        "pkd": {0: run(0.31), 1: run(0.37)},
        "alone": {9: run(0.5)},
    }
    comparison = compare_arms(runs)
    found = minus_reference(comparison, "fgfi")
    assert list(found.minus) == ["baseline", "pkd"], "neither itself, nor an arm without a common seed"
    assert found.minus["pkd"]["map"].values == pytest.approx((0.01, 0.02))
    assert found.minus["pkd"]["map_50"].mean == pytest.approx(0.03)
    assert found.minus["baseline"]["map"].values == pytest.approx((-0.1, -0.05))
    title, table, words = tables(comparison, reference=found)[1]
    assert title == "Minus fgfi" and words.startswith("Each arm minus fgfi")
    # Student's t of two values: 12.706 times their deviation, 0.00707, over the root of 2.
    assert table == [
        ["", "mAP", "mAP50", "seeds"],
        ["baseline", "-0.075 ± 0.318", "-0.150 ± 0.635", "2"],
        ["pkd", "+0.015 ± 0.064", "+0.030 ± 0.127", "2"],
    ]


def test_the_reference_of_an_arm_is_that_of_its_schedule() -> None:
    runs = {
        f"{arm}-e{epochs}": {0: run(score + epochs / 100), 1: run(score)}
        for epochs in (4, 8)
        for arm, score in (("baseline", 0.2), ("fgfi", 0.3), ("pkd", 0.4))
    }
    runs["baseline-e5"] = {0: run(0.1), 1: run(0.1)}
    minus = minus_reference(compare_arms(runs), "fgfi").minus
    assert list(minus) == ["baseline-e4", "pkd-e4", "baseline-e8", "pkd-e8"]
    assert all(each["map"].mean == pytest.approx(0.1) for name, each in minus.items() if name.startswith("pkd"))


def test_a_metric_of_one_threshold() -> None:
    only = RunResult({"map_50": 0.4, "map_50_11": 0.5}, None, (), None, None, None)
    table = rows(compare_arms({"baseline": {0: only}}))
    assert table == [
        ["", "mAP50", "minus baseline", "gap closed", "s/step", "memory", "seeds"],
        ["baseline", "0.400", "", "", "", "", "1"],
    ]


def test_arms_whose_teachers_see_other_images_have_a_teacher_each() -> None:
    """The gap of an arm is that to the teacher as its runs scored it."""
    runs = {
        "baseline": {0: run(0.2), 1: run(0.201)},
        "small": {0: run(0.3, 0.4005), 1: run(0.301, 0.4005)},
        "large": {0: run(0.3, 0.6005), 1: run(0.301, 0.6005)},
    }
    comparison = compare_arms(runs)
    closed = {name: arm.metrics["map"].gap_closed for name, arm in comparison.arms.items() if name != "baseline"}
    assert {name: gap.ratio for name, gap in closed.items() if gap} == pytest.approx({"small": 0.5, "large": 0.25})
    assert [row[0] for row in rows(comparison)[1:3]] == ["teacher of small", "teacher of large"]


def test_a_gap_that_cannot_be_told_is_a_dash() -> None:
    runs = {"baseline": {0: run(0.2)}, "other": {0: run(0.3, 0.4)}}
    assert [row[4] for row in rows(compare_arms(runs))[1:]] == ["", "", "-"]


def test_the_limit_of_detections_is_in_the_heading() -> None:
    only = RunResult({"map_max300": 0.4, "map_50_max300": 0.5, "mar_max300": 0.6}, None, (), None, None, None)
    assert rows(compare_arms({"baseline": {0: only}}))[0][1:3] == ["mAP max300", "mAP50 max300"]


def test_titles() -> None:
    names = ("map", "map_50", "map_75", "map_easy", "map_50_11", "mar_100")
    assert [metric_title(name) for name in names] == ["mAP", "mAP50", "mAP75", "mAP easy", "mAP50/11", "mAR100"]


def test_conclusions_say_what_the_seeds_can_tell() -> None:
    def runs(*values: float) -> dict[int, RunResult]:
        return {
            seed: RunResult({"map": value}, {"map": 0.6}, ((1, {"map": value}),), None, None, None)
            for seed, value in enumerate(values)
        }

    arms = {
        "baseline": runs(0.2, 0.3, 0.4),
        "good": runs(0.3, 0.41, 0.5),
        "bad": runs(0.1, 0.19, 0.3),
        "same": runs(0.3, 0.2, 0.45),
        "single": runs(0.25),
        "undefined": runs(math.nan),
    }
    good, bad, same, single = conclusions(compare_arms(arms))
    assert good.startswith("good is better than the baseline by 0.103 ± 0.014 mAP, over 3 seeds; it closes 34%")
    assert bad.startswith("bad is worse than the baseline by 0.103 ± 0.014 mAP, over 3 seeds")
    assert same.startswith("same cannot be told from the baseline: +0.017 ± 0.259 mAP, over 3 seeds")
    assert single == "single is +0.050 mAP from the baseline on one seed, which does not show the spread."
    assert conclusions(compare_arms({"good": runs(0.3, 0.4)})) == [], "without a baseline there is nothing to conclude"


@pytest.mark.parametrize(
    ("lines", "checkpoint", "finished"),
    [
        ([val(1, 0.1), val(2, 0.2), cost(20, 0.1, 1)], True, True),
        ([val(1, 0.1), cost(10, 0.1, 1)], True, True),  # it ran out of patience
        ([val(1, 0.1), val(2, 0.2)], True, False),  # killed while the weights of the last evaluation were written
        ([val(1, 0.1)], True, False),
        ([val(1, 0.1), val(2, 0.2)], False, True),  # of a version that logged no cost
        ([val(1, 0.1)], False, False),
        ([cost(0, None, 1)], False, False),
    ],
)
def test_a_run_is_finished_when_it_says_so(
    tmp_path: Path, lines: list[dict[str, Any]], checkpoint: bool, finished: bool
) -> None:
    folder = write_log(tmp_path / "run", *lines)
    (folder / "config.yaml").write_text("run: {epochs: 2}")
    if checkpoint:
        (folder / "last.pt").touch()
    assert is_finished(folder) == finished


def test_a_teacher_of_some_of_the_classes_has_no_row_beside_means_over_all(tmp_path: Path) -> None:
    of = {name: {"map": 0.5} for name in ("nut", "bolt")}
    score = {**val(1, 0.4), "per_class": of}
    for known, found in (({"nut": {"map": 0.5}}, None), (of, {"map": 0.5})):
        teacher = {"kind": "teacher", "name": "t", "summary": {"map": 0.5}, "per_class": known}
        assert read_run(write_log(tmp_path / "run", teacher, score)).teacher == found
