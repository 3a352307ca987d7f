"""Cosine and self-similarity by hand, against the formula written out, and in their limiting cases."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from eyas.methods import Cosine, LevelPair, SelfSimilarity
from eyas.methods.cosine import cosine_distance
from eyas.methods.maps import MapImitation
from eyas.methods.self_similarity import similarity_divergence
from eyas.types import EyasError, Level, View


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def view(map: Tensor, *, batch: int = 0) -> View:
    return View([map], [Level(map.shape[1], 32)], (map.shape[-2] * 32, map.shape[-1] * 32), batch=batch)


def set_up(method: MapImitation, student: View, teacher: View) -> MapImitation:
    torch.manual_seed(0)
    method.setup([LevelPair("s", student.levels[0], "t", teacher.levels[0])])
    return method


def test_cosine_of_two_cells_by_hand() -> None:
    student = torch.tensor([[3.0, 4.0], [1.0, 0.0]]).T.view(1, 2, 1, 2)
    teacher = torch.tensor([[4.0, 3.0], [-5.0, 0.0]]).T.view(1, 2, 1, 2)
    # The cosines are 24/25 and -1.
    assert float(cosine_distance(student, teacher)) == pytest.approx((1 / 25 + 2) / 2)


def test_cosine_is_torchs_and_does_not_see_lengths() -> None:
    student, teacher = drawn(2, 5, 4, 3), drawn(2, 5, 4, 3, seed=1)
    expected = (1 - torch.nn.functional.cosine_similarity(student.double(), teacher.double(), dim=1)).mean()
    assert float(cosine_distance(student, teacher)) == pytest.approx(float(expected), rel=1e-6)
    lengths = drawn(2, 1, 4, 3, seed=2).exp()
    torch.testing.assert_close(cosine_distance(student * lengths, teacher / lengths), cosine_distance(student, teacher))
    assert float(cosine_distance(teacher, teacher)) == pytest.approx(0, abs=1e-6)
    assert float(cosine_distance(-teacher, teacher)) == pytest.approx(2)


def test_a_vector_of_zeros_counts_as_orthogonal_and_has_a_finite_gradient() -> None:
    student = torch.zeros(1, 4, 2, 2, requires_grad=True)
    for teacher in (torch.zeros(1, 4, 2, 2), drawn(1, 4, 2, 2)):
        loss = cosine_distance(student, teacher)
        assert float(loss.detach()) == 1
        (gradient,) = torch.autograd.grad(loss, student)
        assert torch.isfinite(gradient).all()
    assert gradient.any()


def test_cosine_always_projects_and_its_share_of_smooth_l1() -> None:
    student, teacher = view(drawn(2, 4, 3, 5)), view(drawn(2, 4, 3, 5, seed=1))
    method = set_up(Cosine(), student, teacher)
    adapted = method.adapters[0](student.features[0])
    assert isinstance(method.adapters[0], torch.nn.Conv2d) and method.adapters[0].kernel_size == (1, 1)
    cosine = method(student, teacher, [])
    torch.testing.assert_close(cosine, cosine_distance(adapted, teacher.features[0]))
    distance = (adapted - teacher.features[0]).abs().double()
    smooth = torch.where(distance < 1, distance.square() / 2, distance - 0.5).mean()
    mixed = set_up(Cosine(smooth_l1=0.1), student, teacher)(student, teacher, [])
    assert float(mixed.detach()) == pytest.approx(0.9 * float(cosine.detach()) + 0.1 * float(smooth.detach()), rel=1e-5)


def test_self_similarity_of_two_cells_by_hand() -> None:
    """Orthogonal to the student, the same to the teacher, whose rows are therefore one half each."""
    student = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    teacher = torch.tensor([[[3.0, 1.0]]])
    own = torch.tensor([1.0, 0.0]).div(0.5).log_softmax(dim=0)  # cosines with itself and the other, over T
    expected = math.log(0.5) - float(own.mean())
    assert float(similarity_divergence(student, teacher, 0.5)) == pytest.approx(expected, rel=1e-6)


def test_self_similarity_is_the_formula_cell_by_cell() -> None:
    student, teacher = drawn(2, 6, 5).double(), drawn(2, 3, 5, seed=1).double()
    expected = []
    for own, other in zip(student, teacher, strict=True):
        for cell in range(5):
            rows = []
            for vectors in (own, other):
                cosines = [
                    float(vectors[:, cell] @ vectors[:, k] / (vectors[:, cell].norm() * vectors[:, k].norm()))
                    for k in range(5)
                ]
                weights = [math.exp(cosine / 0.07) for cosine in cosines]
                rows.append([weight / sum(weights) for weight in weights])
            expected.append(sum(t * (math.log(t) - math.log(s)) for s, t in zip(*rows, strict=True)))
    found = similarity_divergence(student, teacher, 0.07)
    assert float(found) == pytest.approx(sum(expected) / len(expected), rel=1e-4)


def test_self_similarity_does_not_see_rotations_and_lengths() -> None:
    student, teacher = drawn(2, 6, 9), drawn(2, 3, 9, seed=1)
    rotation, _ = torch.linalg.qr(drawn(6, 6, seed=2))
    lengths = drawn(2, 1, 9, seed=3).exp()
    moved = torch.einsum("dc,bcn->bdn", rotation, student) * lengths
    whole = similarity_divergence(student, teacher, 0.2)
    torch.testing.assert_close(similarity_divergence(moved, teacher, 0.2), whole, rtol=1e-4, atol=1e-5)
    assert float(whole) > 0.1
    assert float(similarity_divergence(moved, student, 0.2)) == pytest.approx(0, abs=1e-5)


def test_of_a_large_map_other_cells_are_drawn_in_each_batch_and_the_same_again() -> None:
    student, teacher = drawn(2, 4, 6, 6), drawn(2, 3, 6, 6, seed=1)
    method = set_up(SelfSimilarity(max_cells=8), view(student), view(teacher))

    def loss(batch: int) -> Tensor:
        return method(view(student), view(teacher, batch=batch), [])

    assert float(loss(0)) == float(loss(0)) != float(loss(1))
    # With as many cells as there are, all count: no chance.
    all_cells = set_up(SelfSimilarity(max_cells=36), view(student), view(teacher))
    assert float(all_cells(view(student), view(teacher), [])) == pytest.approx(
        float(similarity_divergence(student.flatten(2), teacher.flatten(2), 0.07))
    )


@pytest.mark.parametrize("method", [Cosine, SelfSimilarity])
@pytest.mark.parametrize("size", [(1, 1), (3, 4)])
def test_constant_maps_of_one_image_under_autocast(method: type[MapImitation], size: tuple[int, int]) -> None:
    own = torch.full((1, 4, *size), 2.0, requires_grad=True)
    student, teacher = view(own), view(torch.full((1, 6, *size), -1.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = set_up(method(), student, teacher)(student, teacher, [])
    loss.backward()
    assert loss.dtype == torch.float32 and torch.isfinite(loss.detach())
    assert own.grad is not None and torch.isfinite(own.grad).all()


def test_similarities_are_float32_under_autocast() -> None:
    student, teacher = drawn(2, 16, 12), drawn(2, 16, 12, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = similarity_divergence(student, teacher, 0.07)
    assert float(found) == float(similarity_divergence(student, teacher, 0.07))


def test_options_out_of_range() -> None:
    for make, word in (
        (lambda: Cosine(smooth_l1=1.0), "smooth_l1"),
        (lambda: SelfSimilarity(temperature=0.0), "temperature"),
        (lambda: SelfSimilarity(max_cells=1), "max_cells"),
    ):
        with pytest.raises(EyasError, match=word):
            make()
