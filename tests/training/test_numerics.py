"""Short types, huge features, batches of every odd kind (`faults.numerics`): finite, or the run stops and says where.

The automatic weight stays finite and bounded whatever is measured; if it drowns the detection loss, a warning follows.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from faults.numerics import FEATURES, NONE, PRECISIONS, SCALES, SIZE, batches, huge, take, wrong
from hypothesis import given, settings
from hypothesis import strategies as st
from test_finite import RECORDS
from torch import Tensor

from eyas.__main__ import main
from eyas.args import OptimArgs
from eyas.distillation.distiller import Distiller
from eyas.distillation.weights import LIMIT, AutoWeight, RatioMonitor, dominance_warnings
from eyas.methods import FGFI, Auto, Method
from eyas.ops.near_objects import near_object_masks
from eyas.runs.log import read_log
from eyas.training.finite import FiniteLosses
from eyas.training.loss_module import Baseline
from eyas.types import EyasError, Level, View
from helpers.tiny import options, write_squares
from helpers.toys import seeded, toy_batch


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("batch", batches())
def test_every_method_at_every_precision_on_every_kind_of_batch(batch: str, precision: str) -> None:
    """All methods at once: each has its term, and the gradients are of their sum."""
    assert wrong(batch, *take(batch, precision)) == ""


def test_what_is_wrong_is_seen() -> None:
    losses, module = take("usual", "float32")
    assert wrong("usual", {**losses, "fgfi": torch.tensor(math.nan)}, module) == "fgfi is not finite"
    assert wrong("usual", {"fgfi": losses["fgfi"]}, module) == "losses fgfi"
    assert wrong("usual", {**losses, "vanilla": losses["vanilla"].double()}, module) == "vanilla is torch.float64"
    assert wrong("none with boxes", losses, module).startswith("fgfi is ")
    next(p for p in module.parameters() if p.grad is not None).grad.fill_(math.inf)  # type: ignore[union-attr]
    assert wrong("usual", losses, module).endswith("is not finite")


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize(
    ("precision", "scale"), [(precision, scale) for precision, scales in SCALES.items() for scale in scales]
)
def test_huge_features_give_finite_numbers_or_a_stop_that_names_the_images(
    name: str, precision: str, scale: float
) -> None:
    outcome, said = huge(name, precision, scale)
    held = scale < 1e14 and precision != "float16"
    assert outcome == "finite" if held else outcome in ("finite", "stopped"), said


@pytest.mark.parametrize("shape", [(1.0, 1.0), (0.01, 0.01), (1e-4, 100.0)])
def test_a_box_that_is_small_has_some_cells_and_few(shape: tuple[float, float]) -> None:
    width, height = shape
    for at in (0.0, 3.7, 60.0):
        grids = [level.grid((12, 16), SIZE) for level in (Level(8, 8), Level(8, 8))]
        masks = near_object_masks(grids, [torch.tensor([[at, at / 2, at + width, at / 2 + height]])])
        assert all(0 < int(mask.sum()) < mask.numel() / 4 for mask in masks)


class NoGradient(Method):
    """A loss of 0 whose gradient is NaN: the square root of 0."""

    def __init__(self) -> None:
        super().__init__("rooted", 1.0)

    def forward(self, student: View, teacher: View, targets: object) -> Tensor:
        return (student.features[0].float() * 0).sum().sqrt()


def test_a_gradient_that_is_not_finite_stops_before_the_weights_are_spoilt(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said, out = distilled(tmp_path, capfd, 2, "--method=test_numerics.NoGradient")
    assert "eyas: the gradient is not finite in step 1: " in said and re.search(r"rooted 0; images \d+, \d+", said)
    assert "Traceback" not in said and not (out / "last.pt").exists()


def test_a_gradient_that_is_accumulated_names_the_images_of_all_its_batches() -> None:
    finite = FiniteLosses(RECORDS, every=4)
    for index in range(3):
        loss = {"a": torch.tensor(1.0)}
        finite.add(1, loss["a"], loss, [{"boxes": NONE, "labels": torch.zeros(0).long(), "index": index}])
    finite.add_gradient(1, torch.tensor(math.nan))
    with pytest.raises(EyasError, match="gradient is not finite in step 1: a 1; images image0, image1, image2"):
        finite.check()


def distilled(folder: Path, capfd: pytest.CaptureFixture[str], status: int, *more: str) -> tuple[str, Path]:
    """`eyas distill` on coloured squares, and what it said."""
    data, out = write_squares(folder / "data", train=8, val=2), folder / "out"
    capfd.readouterr()
    arguments = ["distill", f"--data={data}", f"--out={out}", "--teacher=helpers.tiny:poor_teacher"]
    found = main([*arguments, "--any_teacher=true", *options(run_epochs=12, run_evaluate_every=0), *more])
    said = capfd.readouterr()
    assert found == status, said.err
    return said.out + said.err, out


def test_an_infinite_loss_stops_with_its_images(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said, out = distilled(tmp_path, capfd, 2, "--method=FGFI", "--method.weight=1e38", "--run.precision=bf16")
    assert re.search(r"is not finite in step 1: .*fgfi.*; images \d+, \d+", said)
    assert not (out / "last.pt").exists()


def test_a_dominating_weight_triggers_a_warning(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said, out = distilled(tmp_path, capfd, 0, "--method=FGFI", "--method.weight=100", "--method.init_std=0.1")
    assert said.count("warning   fgfi dominates: ") == 1 and "its weight is 100" in said
    ratios = [line["gradient_ratios"].get("fgfi") for line in read_log(out, "train")]
    assert ratios[:10] == [None] * 10 and ratios[-1] > 30


def test_a_weight_that_does_not_is_not(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said, out = distilled(tmp_path, capfd, 0, "--method=FGFI")
    assert "dominates" not in said
    assert 0.1 < read_log(out, "train")[-1]["gradient_ratios"]["fgfi"] < 30


def test_what_is_said_of_a_ratio() -> None:
    assert not dominance_warnings({"a": 30.0, "b": 0.01}, {"a": 1.0, "b": 1.0})
    (said,) = dominance_warnings({"a": 372.0, "b": 0.01}, {"a": 2.5, "b": 1.0}).values()
    assert said.startswith("a dominates") and "372 times" in said and "its weight is 2.5" in said
    assert Baseline(seeded(0)).gradient_ratios() == {}


def test_the_ratio_is_of_the_weighted_gradient_and_goes_on_after_a_resume() -> None:
    def after(weight: float | Auto, steps: int = 12) -> Distiller:
        module = Distiller(seeded(0), seeded(1, 6), FGFI(weight, init_std=0.1))
        for _ in range(steps):
            module(*toy_batch())
        return module

    once, tenfold = after(0.5), after(5.0)
    assert tenfold.gradient_ratios()["fgfi"] == pytest.approx(10 * once.gradient_ratios()["fgfi"], rel=1e-4)
    asked = once.balance(*toy_batch()).gradient_ratio()
    assert once.gradient_ratios()["fgfi"] == pytest.approx(asked["fgfi"], rel=1e-4)
    assert after(Auto(fraction=0.25, warmup=0)).gradient_ratios()["fgfi"] == pytest.approx(0.25, rel=1e-4)
    assert after(0.5, steps=5).gradient_ratios() == {}
    again = Distiller(seeded(0), seeded(1, 6), FGFI(0.5, init_std=0.1))
    again.load_state_dict(once.state_dict())
    assert again.gradient_ratios() == once.gradient_ratios()


NORMS = st.one_of(
    st.sampled_from([0.0, math.inf, math.nan, 1e-45, 1e-38, 1e-20, 1.0, 1e20, 3e38]), st.floats(0, 2.0**127, width=32)
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(NORMS, NORMS), min_size=1, max_size=30))
def test_an_automatic_weight_is_finite_and_bounded_whatever_is_measured(norms: list[tuple[float, float]]) -> None:
    weight = AutoWeight(Auto(fraction=2.0), start_step=0)
    for detection, imitation in norms:
        before = float(weight.value())
        weight.update(torch.tensor(detection), torch.tensor(imitation))
        now = float(weight.value())
        assert 0 <= now <= 2.0 * 1.001 * math.exp(LIMIT)
        if not (detection > 0 and imitation > 0 and math.isfinite(detection) and math.isfinite(imitation)):
            assert now == before, "such a batch says nothing"
        elif int(weight.measurements) > 1:
            assert now <= before * 1001, "one batch alone does not carry it away"


def test_a_quotient_that_float32_cannot_hold_is_measured_all_the_same() -> None:
    ratio = RatioMonitor(0)
    ratio.update(torch.tensor(1e30), torch.tensor(1e-30))
    assert float(ratio.log_ratio) == pytest.approx(LIMIT)
    for _ in range(200):
        ratio.update(torch.tensor(1.0), torch.tensor(1.0))
    assert float(ratio.ratio()) == pytest.approx(1, rel=0.01), "and it finds back"


@pytest.mark.parametrize("weight", [math.inf, math.nan, -1.0, Auto])
def test_weights_that_are_no_numbers(weight: float | type[Auto]) -> None:
    with pytest.raises(EyasError, match="weight"):
        FGFI(Auto(fraction=math.inf) if weight is Auto else weight)  # type: ignore[arg-type]


def test_a_gradient_norm_is_logged_where_nothing_is_clipped(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _, out = distilled(tmp_path, capfd, 0, "--method=FGFI", "--optim.clip_norm=0", "--run.epochs=1")
    assert OptimArgs(clip_norm=0).clip_norm == 0
    assert all(line["gradient_norm"] > 0 for line in read_log(out, "train"))
