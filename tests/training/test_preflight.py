"""What a training says before its first step and after its last, so that nothing fails silently."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from eyas.__main__ import main
from eyas.data import DataSource, Resize
from eyas.data.summary import FIT_RECORDS, anchor_fit, report
from eyas.detectors import build
from eyas.distillation.distiller import Distiller
from eyas.distillation.outlines import anchor_grids
from eyas.methods import FGFI, Auto, Chen2017, FitNets, Schedule, Vanilla
from eyas.ops.anchors import AnchorGrid, ratio_cell_anchors
from eyas.training.preflight import describe_anchors, describe_distillation, describe_idle, describe_late_start
from eyas.types import Record, Size
from helpers.tiny import options, write_squares
from helpers.toys import seeded, toy_batch, toy_target


def said_by(describe: object, *given: object) -> list[str]:
    lines: list[str] = []
    describe(*given, lines.append)  # type: ignore[operator]
    return lines


def test_a_run_that_ends_before_its_method_begins_is_announced() -> None:
    methods = [FGFI(), FitNets(Auto(warmup=2), schedule=Schedule(5)), Vanilla(0.5, schedule=Schedule(12)), Chen2017()]
    assert said_by(describe_late_start, methods, 13) == []
    first, second = said_by(describe_late_start, methods, 7)[:2]
    assert first.startswith("warning   fgfi distils nothing in this run: the student feels it after 10 batches")
    assert "the run has 7" in first and "--run.epochs" in first and "a number as weight" in first
    assert second.startswith("warning   fitnets distils nothing in this run: the student feels it after 7 batches")
    named = [line.split()[1] for line in said_by(describe_late_start, methods, 10)]
    assert named == ["fgfi", "vanilla"]


def test_what_the_student_never_felt_is_named_at_the_end() -> None:
    distiller = Distiller(seeded(0), seeded(1, 6), FGFI(Auto(warmup=3)), FitNets(0.5, schedule=Schedule(4)))
    for _ in range(3):
        distiller(*toy_batch())
    fgfi, fitnets = said_by(describe_idle, distiller)
    assert fgfi.startswith("warning   fgfi distilled nothing: after 3 batches its automatic weight was still 0")
    assert "fitnets distilled nothing: after 3 batches start_step 4 was never reached" in fitnets
    distiller(*toy_batch())
    distiller(*toy_batch())
    assert said_by(describe_idle, distiller) == []


def test_a_short_run_says_so_before_and_after(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = write_squares(tmp_path / "data", train=4, val=2)
    arguments = ["distill", f"--data={data}", f"--out={tmp_path / 'out'}", "--teacher=helpers.tiny:poor_teacher"]
    assert main([*arguments, "--any_score=true", *options(run_epochs=3, run_evaluate_every=0)]) == 0
    said = capfd.readouterr().out
    before, after = (
        said.index("warning   fgfi distils nothing in this run"),
        said.index("warning   fgfi distilled noth"),
    )
    batches = re.search(r"and the run has (\d+)", said)
    assert batches and int(batches[1]) <= 10 and before < said.index("gradient") + 500 < after + 500


def source_of(boxes: dict[str, list[tuple[float, float]]], size: Size = (96, 128)) -> DataSource:
    """A data set of one object of (width, height) in the middle of each image, by class."""
    records = []
    for label, sizes in enumerate(boxes.values()):
        for width, height in sizes:
            left, top = (size[1] - width) / 2, (size[0] - height) / 2
            box = np.array([[left, top, left + width, top + height]], np.float32)
            none = np.zeros((0, 4), np.float32)
            name = f"{label}-{len(records)}"
            records.append(
                Record(name, Path(f"{name}.png"), size[1], size[0], box, np.array([label]), none, np.zeros(0, np.int64))
            )
    return DataSource(Path("data"), "train", "coco", tuple(boxes), tuple(records))


def squares(size: Size) -> list[AnchorGrid]:
    """One anchor of 32x32 in the middle of each cell of 16 pixels."""
    cells = (size[0] // 16, size[1] // 16)
    return [AnchorGrid(ratio_cell_anchors(32.0, (1.0,)), cells, (16.0, 16.0), (0.0, 0.0))]


def test_the_fit_of_anchors_by_class_is_the_best_iou() -> None:
    """A square of 16 in one of 32: 256 / 1024. A cell's origin is in the middle of the image, at 64 and 48."""
    source = source_of({"good": [(32.0, 32.0)] * 3, "small": [(16.0, 16.0), (32.0, 8.0)], "none": []})
    fit = anchor_fit(source, Resize(), squares)
    assert fit["good"].tolist() == [1, 1, 1] and len(fit["none"]) == 0
    assert fit["small"].tolist() == pytest.approx([0.25, 0.25])
    twice = anchor_fit(source, Resize(height=192, width=256), squares)
    assert twice["small"].tolist() == pytest.approx([1.0, 16 * 32 / (64 * 16 + 32 * 32 - 16 * 32)])
    assert "median by class: good 1.00, small 0.25" in report(source, grids=squares)
    many = source_of({"good": [(32.0, 32.0)] * (3 * FIT_RECORDS)})
    assert len(anchor_fit(many, Resize(), squares)["good"]) == FIT_RECORDS


def test_anchors_that_fit_a_class_badly_are_named() -> None:
    """The default anchors of a RetinaNet begin at 32 pixels; those of an FCOS are points, and fit everything."""
    source = source_of({"cell": [(40.0, 40.0)] * 12, "platelet": [(12.0, 12.0)] * 12, "few": [(9.0, 9.0)] * 5})
    build_options = {"fpn_channels": 16}
    torch.manual_seed(0)
    retinanet = build("retinanet", source.classes, backbone="mobilenet_v3_small", options=build_options).train()
    (said,) = said_by(describe_anchors, retinanet, source, Resize())
    assert said.startswith("warning   the anchors hardly fit these classes") and "platelet (median 0.14)" in said
    assert "cell" not in said and "few" not in said and "--dataset.resize" in said and retinanet.network.training
    assert said_by(describe_anchors, retinanet, source, Resize(height=288, width=384)) == []
    fcos = build("fcos", source.classes, backbone="mobilenet_v3_small", options={"fpn_channels": 64})
    assert said_by(describe_anchors, fcos, source, Resize()) == []
    assert len(anchor_grids(retinanet, (96, 128))) == len(retinanet.levels)


def test_near_cells_that_are_most_of_the_map_are_remarked() -> None:
    distiller = Distiller(seeded(0), seeded(1, 6), FGFI(psi=0.1, init_std=0.1))
    balance = distiller.balance(*toy_batch())
    share = re.match(r"\d+% of cells near", balance.notes["fgfi"])
    assert share and int(share[0].split("%")[0]) > 50
    *_, said = said_by(describe_distillation, distiller, balance)
    assert said.startswith(f"warning   fgfi: {share[0].split()[0]} of the cells are near an object")
    assert "raise psi (0.1)" in said
    few = [toy_target((40.0, 30.0, 56.0, 46.0)), toy_target()]
    assert distiller.balance(toy_batch()[0], few).cautions == {}


def test_the_limit_of_an_automatic_weight_is_said() -> None:
    assert Chen2017("auto", mu=0.75).max_weight == 4
    method = FGFI(init_std=0.1)
    method.max_weight = 4.0
    distiller = Distiller(seeded(0), seeded(1, 6), method)
    (said,) = said_by(describe_distillation, distiller, distiller.balance(*toy_batch()))[1:]
    assert said.endswith("automatic, which will hold 3 : 1, at most with a weight of 4")


def test_a_level_that_has_nearly_all_of_a_loss_is_warned_of() -> None:
    distiller = Distiller(seeded(0), seeded(1, 6), FGFI(0.5, init_std=0.1))
    balance = distiller.balance(*toy_batch())
    fine, coarse = (pair.student_tap for pair in distiller.pairs)
    uneven = replace(balance, parts={"fgfi": {fine: 97.0, coarse: 3.0}}, cautions={})
    *_, said = said_by(describe_distillation, distiller, uneven)
    assert said.startswith(f"warning   fgfi: 97% of its loss is that of {fine}, so the others hardly count")
    even = replace(balance, parts={"fgfi": {fine: 89.0, coarse: 11.0}}, cautions={})
    assert not any(line.startswith("warning") for line in said_by(describe_distillation, distiller, even))
