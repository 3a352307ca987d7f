"""Chen et al. 2017: each loss against arithmetic by hand, and the box loss on both sides of its bound."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest
import torch
from torch import Tensor

from eyas.methods.chen2017 import Chen2017, bounded_regression_loss, soft_label_loss
from eyas.types import EyasError, HeadOutput, View
from helpers.output_cases import TwoHeads, head, matched, odds, probabilities, view


def test_soft_labels_of_a_softmax_by_hand() -> None:
    """Two rows; the background is column 0 with weight 1.5."""
    student = probabilities((0.5, 0.25, 0.25), (0.2, 0.7, 0.1))
    teacher = probabilities((0.8, 0.1, 0.1), (0.1, 0.6, 0.3))
    first = 1.5 * 0.8 * log(0.5) + 0.1 * log(0.25) + 0.1 * log(0.25)
    second = 1.5 * 0.1 * log(0.2) + 0.6 * log(0.7) + 0.3 * log(0.1)
    assert float(soft_label_loss(student, teacher, "softmax", 0, 1.5)) == pytest.approx(-(first + second), rel=1e-6)


def test_the_background_weight_is_on_the_background_alone() -> None:
    student, teacher = probabilities((0.5, 0.25, 0.25)), probabilities((0.8, 0.1, 0.1))
    plain = float(soft_label_loss(student, teacher, "softmax", None))
    assert plain == pytest.approx(-(0.8 * log(0.5) + 0.2 * log(0.25)), rel=1e-6)
    for column, share in ((0, 0.8 * log(0.5)), (1, 0.1 * log(0.25))):
        weighted = float(soft_label_loss(student, teacher, "softmax", column, 3.0))
        assert weighted - plain == pytest.approx(-2.0 * share, rel=1e-5)


def test_soft_labels_of_objectness_by_hand() -> None:
    """One sigmoid column, whose "no object" is the background."""
    student, teacher = odds((0.3,), (0.6,)), odds((0.9,), (0.2,))
    first = 0.9 * log(0.3) + 1.5 * 0.1 * log(0.7)
    second = 0.2 * log(0.6) + 1.5 * 0.8 * log(0.4)
    assert float(soft_label_loss(student, teacher, "sigmoid")) == pytest.approx(-(first + second), rel=1e-6)


def test_a_sigmoid_column_is_the_softmax_of_its_logit_against_zero() -> None:
    """The paper's proposal network has two columns; with the background's logit at 0 both heads are the same."""
    student, teacher = torch.randn(7, 1), torch.randn(7, 1)
    two = [torch.cat((torch.zeros(7, 1), logits), dim=1) for logits in (student, teacher)]
    expected = soft_label_loss(*two, "softmax", 0, 1.5)
    torch.testing.assert_close(soft_label_loss(student, teacher, "sigmoid", None, 1.5), expected)


def test_each_column_of_a_sigmoid_head_counts_by_itself() -> None:
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    columns = [soft_label_loss(student[:, [c]], teacher[:, [c]], "sigmoid") for c in range(3)]
    torch.testing.assert_close(soft_label_loss(student, teacher, "sigmoid"), torch.stack(columns).sum())


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_extreme_logits_give_finite_losses_and_gradients(activation: str) -> None:
    student = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss = soft_label_loss(student, torch.tensor([[-200.0, 200.0]]), activation, 0)  # type: ignore[arg-type]
    loss.backward()
    assert loss.isfinite() and student.grad is not None and student.grad.isfinite().all()
    assert float(loss.detach()) > 100


@pytest.mark.parametrize(
    ("student", "teacher", "margin", "expected"),
    [
        (2.0, 1.0, 0.0, 4.0),  # worse than the teacher: 4 > 1
        (1.0, 2.0, 0.0, 0.0),  # better: 1 < 4
        (2.0, 2.0, 0.0, 0.0),  # exactly as good: 4 > 4 does not hold
        (1.0, 2.0, 3.0, 0.0),  # better by exactly the margin: 1 + 3 > 4 does not hold
        (1.0, 2.0, 3.5, 1.0),  # better by less than the margin: 1 + 3.5 > 4
        (2.0, 2.0, 0.5, 4.0),  # as good, so not better by the margin
    ],
)
def test_a_row_counts_strictly_within_the_margin(
    student: float, teacher: float, margin: float, expected: float
) -> None:
    """One of the four deltas misses its target by the given amount."""
    targets = torch.tensor([[0.5, -1.0, 0.25, 3.0]])
    own = (targets + torch.tensor([[0.0, student, 0.0, 0.0]])).requires_grad_()
    loss = bounded_regression_loss(own, targets - torch.tensor([[0.0, 0.0, teacher, 0.0]]), targets, margin)
    assert float(loss.detach()) == expected
    loss.backward()
    assert own.grad is not None
    assert own.grad.tolist() == [[0.0, 2 * student if expected else 0.0, 0.0, 0.0]]


def test_each_row_is_bounded_separately() -> None:
    """Rows with squared errors 1 + 4 and 9 against a teacher's 4 and 10: only the first counts."""
    student = torch.tensor([[1.0, 2.0, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0]])
    teacher = torch.tensor([[0.0, 0.0, 2.0, 0.0], [3.0, 1.0, 0.0, 0.0]])
    assert float(bounded_regression_loss(student, teacher, torch.zeros(2, 4))) == 5.0


def roi_case() -> tuple[HeadOutput, HeadOutput]:
    """Four proposals, three counted, the last two of them positive and trained in slots 1 and 0."""
    counted = matched([0, 2, 3], [2, 3], slots=[1, 0], divisor=3.0)
    student = probabilities((0.5, 0.5), (0.9, 0.1), (0.4, 0.6), (0.2, 0.8)).requires_grad_()
    teacher = probabilities((0.8, 0.2), (0.5, 0.5), (0.1, 0.9), (0.3, 0.7)).requires_grad_()
    deltas = torch.full((4, 2, 4), 50.0)
    deltas[2, 1], deltas[3, 0] = torch.tensor([1.0, 0, 0, 0]), torch.tensor([0, 3.0, 0, 0])
    others = torch.zeros(4, 2, 4)
    others[2, 1] = 2.0
    return (
        head(student, deltas.requires_grad_(), counted, background=0),
        head(teacher, others.requires_grad_(), background=0),
    )


SOFT = -(
    (1.5 * 0.8 * log(0.5) + 0.2 * log(0.5))
    + (1.5 * 0.1 * log(0.4) + 0.9 * log(0.6))
    + (1.5 * 0.3 * log(0.2) + 0.7 * log(0.8))
)
"""L_soft of `roi_case`, summed."""
BOUNDED = 9.0
"""L_b of `roi_case`, summed: 1 against the teacher's 16 does not count, 9 against 0 does."""


def test_the_loss_by_hand() -> None:
    student, teacher = roi_case()
    hard = torch.tensor(2.0, requires_grad=True)
    loss = Chen2017(mu=0.25, nu=0.5)(view({"loss_roi_class": hard}, roi=student), view(roi=teacher), [])
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(0.75 * (SOFT / 3 - 2.0) + 0.5 * BOUNDED / 3, rel=1e-6)


@pytest.mark.parametrize("mu", [0.0, 0.3, 0.5, 1.0])
def test_the_total_class_loss_is_mu_hard_plus_one_minus_mu_soft(mu: float) -> None:
    """In value and gradient, once the training loop adds the method's loss to the detector's own."""
    student, teacher = roi_case()
    rows = student.matched.rows if student.matched else torch.zeros(0)
    hard = torch.nn.functional.cross_entropy(student.logits[rows], torch.tensor([0, 1, 1]))
    total = hard + Chen2017(mu=mu, nu=0.0)(view({"loss_roi_class": hard}, roi=student), view(roi=teacher), [])
    soft = soft_label_loss(student.logits[rows], teacher.logits[rows], "softmax", 0) / 3
    expected = mu * hard + (1 - mu) * soft
    torch.testing.assert_close(total, expected, rtol=2e-7, atol=2e-7)
    mine, theirs = (torch.autograd.grad(loss, student.logits, retain_graph=True)[0] for loss in (total, expected))
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)


def test_gradients_reach_only_the_student() -> None:
    student, teacher = roi_case()
    hard = student.logits.square().sum()
    Chen2017()(view({"loss_roi_class": hard}, roi=student), view(roi=teacher), []).backward()
    assert teacher.logits.grad is None
    assert teacher.deltas is not None and teacher.deltas.grad is None
    assert student.deltas is not None and student.deltas.grad is not None
    assert student.deltas.grad.nonzero().tolist() == [[3, 0, 1]]  # the one positive row that counts, in its slot
    assert student.logits.grad is not None and student.logits.grad.abs().sum() > 0


def two_heads(counted: dict[str, list[int]], positives: list[int]) -> tuple[TwoHeads, View, View]:
    inputs = torch.randn(6, 5, generator=torch.Generator().manual_seed(4))
    student, teacher = TwoHeads(1), TwoHeads(2)
    given = {
        name: matched(rows, positives, divisor=max(float(len(rows)), 1.0), name=name) for name, rows in counted.items()
    }
    losses: dict[str, Tensor] = {"loss_rpn_class": torch.tensor(0.5), "loss_roi_class": torch.tensor(0.25)}
    return student, view(losses, **student.heads(inputs, given)), view(**teacher.heads(inputs))


def test_heads_add_up_and_can_be_chosen() -> None:
    _, student, teacher = two_heads({"rpn": [0, 1, 5], "roi": [2, 3]}, [2])
    both = Chen2017()(student, teacher, [])
    apart = [Chen2017(heads=[name])(student, teacher, []) for name in ("rpn", "roi")]
    torch.testing.assert_close(both, apart[0] + apart[1])
    assert not torch.equal(*apart)


@pytest.mark.parametrize("positives", [[], [3]], ids=["no box", "one box"])
def test_no_box_and_one_box_give_finite_gradients(positives: list[int]) -> None:
    """The margin makes every positive row count."""
    model, student, teacher = two_heads({"rpn": [0, 3], "roi": [1, 3]}, positives)
    loss = Chen2017(margin=1e6)(student, teacher, [])
    loss.backward()
    assert loss.isfinite()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert model.boxes.grad is not None
    assert bool(model.boxes.grad.any()) == bool(positives)


def test_without_counted_rows_only_the_hard_loss_is_reduced() -> None:
    """L_soft is 0 without rows, so -(1 - mu) times the detector's own losses, 0.5 and 0.25 here, is left."""
    model, student, teacher = two_heads({"rpn": [], "roi": []}, [])
    loss = Chen2017()(student, teacher, [])
    assert float(loss.detach()) == -0.5 * 0.75
    loss.backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())


def test_a_head_without_boxes_has_no_box_term() -> None:
    student, teacher = roi_case()
    student, teacher = replace(student, deltas=None), replace(teacher, deltas=None)
    loss = Chen2017(mu=0.0)(view({"loss_roi_class": torch.tensor(0.0)}, roi=student), view(roi=teacher), [])
    assert float(loss.detach()) == pytest.approx(SOFT / 3, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"logits": torch.zeros(4, 5)}, "rows and columns"),
        ({"activation": "sigmoid"}, "activation"),
        ({"background": 1}, "background column"),
        ({"deltas": None}, "box deltas"),
        ({"coding": (1.0, 1.0)}, "box coding"),
    ],
)
def test_heads_that_disagree_raise_with_their_name(change: dict[str, object], word: str) -> None:
    student, teacher = roi_case()
    losses = {"loss_roi_class": torch.tensor(0.0)}
    with pytest.raises(EyasError, match=rf"head roi: .*{word}"):
        Chen2017()(view(losses, roi=student), view(roi=replace(teacher, **change)), [])  # type: ignore[arg-type]


def test_missing_parts_are_named() -> None:
    student, teacher = roi_case()
    with pytest.raises(EyasError, match="no loss loss_roi_class, only loss_box"):
        Chen2017()(view({"loss_box": torch.tensor(0.0)}, roi=student), view(roi=teacher), [])
    with pytest.raises(EyasError, match="head roi: the teacher has none"):
        Chen2017()(view(roi=student), view(rpn=teacher), [])
    with pytest.raises(EyasError, match=r"head roi: .*MatchedAnchors"):
        Chen2017()(view(roi=teacher), view(roi=teacher), [])
    with pytest.raises(EyasError, match="no head rpn; it has roi"):
        Chen2017(heads=["rpn"])(view(roi=student), view(roi=teacher), [])
    with pytest.raises(EyasError, match="answers with no head"):
        Chen2017()(view(), view(roi=teacher), [])


@pytest.mark.parametrize(
    "options",
    [
        {"mu": 1.5},
        {"mu": -0.1},
        {"nu": -1.0},
        {"margin": -1.0},
        {"background_weight": -1.0},
        {"heads": []},
        {"weight": 2.1},  # would leave the hard labels a share of -0.05
    ],
)
def test_options_out_of_range_raise(options: dict[str, object]) -> None:
    with pytest.raises(EyasError, match="Chen2017"):
        Chen2017(**options)  # type: ignore[arg-type]
