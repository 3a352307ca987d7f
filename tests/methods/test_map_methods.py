"""What every method on whole maps does: levels add up, one gradient, and a loss on the smallest of batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from eyas.methods import CWD, FGD, FRS, MGD, PKD, Cosine, DeFeat, SelfSimilarity
from eyas.methods.cells import CachedView, TeacherTargets, whole_map
from eyas.methods.maps import MapImitation
from eyas.types import Size, Target
from helpers.map_cases import drawn, map_view, set_up
from helpers.toys import toy_target

METHODS: dict[str, Callable[[], MapImitation]] = {
    "pkd": PKD,
    "cwd": CWD,
    "mgd": MGD,
    "defeat": DeFeat,
    "fgd": FGD,
    "frs": FRS,
    "cosine": Cosine,
    "self_similarity": SelfSimilarity,
}
every_method = pytest.mark.parametrize("name", METHODS)

BOXES = [toy_target((4, 4, 40, 30)), toy_target((10, 20, 60, 62), (0, 0, 9, 9))]


@every_method
def test_levels_add_up_and_the_log_gets_their_parts(name: str) -> None:
    student = map_view(drawn(2, 4, 8, 8), drawn(2, 4, 4, 4))
    teacher = map_view(drawn(2, 4, 8, 8, seed=1), drawn(2, 4, 4, 4, seed=2))
    method = set_up(METHODS[name](), student, teacher)
    loss = method(student, teacher, BOXES)
    assert list(method.parts) == ["s0", "s1"]
    torch.testing.assert_close(loss.detach(), sum(method.parts.values(), torch.zeros(())))


@every_method
def test_gradients_reach_the_student_alone_in_half_precision_too(name: str) -> None:
    own, other = drawn(2, 4, 8, 8).to(torch.bfloat16).requires_grad_(), drawn(2, 4, 8, 8, seed=1).requires_grad_()
    student, teacher = map_view(own), map_view(other.detach())
    with torch.autocast("cpu", torch.bfloat16):
        loss = set_up(METHODS[name](), student, teacher)(student, teacher, BOXES)
    loss.backward()
    assert loss.dtype == torch.float32
    assert own.grad is not None and own.grad.any() and other.grad is None


@pytest.mark.parametrize("name", [name for name, make in METHODS.items() if not make().reads])
def test_a_cache_serves_the_same_loss(name: str) -> None:
    """The teacher's cells beyond the student's map are left out in both."""
    student = map_view(drawn(2, 4, 8, 7), drawn(2, 4, 4, 4))
    teacher = map_view(drawn(2, 4, 8, 8, seed=1), drawn(2, 4, 4, 4, seed=2))
    method = set_up(METHODS[name](), student, teacher)
    cached = CachedView(
        (),
        teacher.levels,
        teacher.image_size,
        read=lambda _, extents: method.select(teacher, BOXES, extents),
        count=lambda *_: 0,
    )
    torch.testing.assert_close(method(student, cached, BOXES), method(student, teacher, BOXES))


def mixed(maps: Sequence[Tensor], size: Size) -> TeacherTargets:
    """What a cache has of the maps (1, C, h, w) of single images, in a batch whose map has a size."""
    masks = torch.zeros(len(maps), *size, dtype=torch.bool)
    for mask, own in zip(masks, maps, strict=True):
        mask[: own.shape[2], : own.shape[3]] = True
    image, row, column = masks.nonzero(as_tuple=True)
    return TeacherTargets((image, row, column), torch.cat([own[0].flatten(1).t() for own in maps]), (len(maps), *size))


def test_the_padding_of_a_smaller_image_has_its_mean() -> None:
    wide, narrow = drawn(1, 3, 4, 6), drawn(1, 3, 2, 5, seed=1)
    whole = whole_map(mixed([wide, narrow], (4, 6)))
    torch.testing.assert_close(whole[0], wide[0])
    torch.testing.assert_close(whole[1, :, :2, :5], narrow[0])
    mean = narrow.mean((2, 3))[0, :, None]
    torch.testing.assert_close(whole[1, :, 2:].flatten(1), mean.expand(-1, 12))
    torch.testing.assert_close(whole[1, :, :2, 5], mean.expand(-1, 2))
    uniform = drawn(2, 3, 4, 6)
    torch.testing.assert_close(whole_map(mixed(uniform.split(1), (4, 6))), uniform)


@pytest.mark.parametrize("name", [name for name, make in METHODS.items() if not make().reads])
def test_a_cache_serves_images_of_unlike_sizes_in_one_batch(name: str) -> None:
    student = map_view(drawn(2, 4, 8, 8))
    found = mixed([drawn(1, 4, 8, 8, seed=1), drawn(1, 4, 5, 8, seed=2)], (8, 8))
    teacher = map_view(whole_map(found))
    method = set_up(METHODS[name](), student, teacher)
    cached = CachedView((), teacher.levels, teacher.image_size, read=lambda *_: [found], count=lambda *_: 0)
    torch.testing.assert_close(method(student, cached, BOXES), method(student, teacher, BOXES))


@pytest.mark.parametrize("name", METHODS)
def test_a_student_s_map_of_one_cell_beside_a_coarser_teacher(name: str) -> None:
    """Its cell ends before the centre of the teacher's first one, and is repeated."""
    own = drawn(2, 4, 1, 1).requires_grad_()
    student, teacher = map_view(own), map_view(drawn(2, 4, 1, 1, seed=1))
    loss = set_up(METHODS[name](), student, teacher, step=4.0)(student, teacher, BOXES)
    loss.backward()
    assert torch.isfinite(loss) and own.grad is not None and torch.isfinite(own.grad).all()


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"self_similarity"}))  # it has none
def test_every_layer_of_a_method_is_trained(name: str) -> None:
    student, teacher = map_view(drawn(2, 3, 8, 8)), map_view(drawn(2, 4, 8, 8, seed=1))
    method = set_up(METHODS[name](), student, teacher)
    for _ in range(2):  # a block that starts at 0 passes a gradient to what is before it after one step
        method.zero_grad()
        method(student, teacher, BOXES).backward()
        with torch.no_grad():
            for parameter in method.parameters():
                assert parameter.grad is not None
                parameter -= 0.01 * parameter.grad.sign()
    assert all(parameter.grad.any() for parameter in method.parameters() if parameter.grad is not None)


@every_method
@pytest.mark.parametrize(
    ("maps", "targets"),
    [
        ((drawn(2, 4, 8, 8), drawn(2, 4, 8, 8, seed=1)), [toy_target(), toy_target()]),
        ((drawn(1, 4, 8, 8), drawn(1, 4, 8, 8, seed=1)), [toy_target((4, 4, 40, 30))]),
        ((drawn(1, 4, 1, 1), drawn(1, 4, 1, 1, seed=1)), [toy_target((0, 0, 8, 8))]),
        ((torch.ones(2, 4, 8, 8), torch.full((2, 4, 8, 8), 3.0)), BOXES),
        ((torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 8, 8)), BOXES),
        ((drawn(2, 4, 8, 8), drawn(2, 4, 8, 8)), BOXES),
        ((drawn(2, 4, 8, 8), 1e4 * drawn(2, 4, 8, 8, seed=1)), BOXES),
    ],
    ids=["no boxes", "one image", "one cell", "constant", "zero", "equal", "large"],
)
def test_loss_and_gradients_are_finite(name: str, maps: tuple[Tensor, Tensor], targets: list[Target]) -> None:
    own = maps[0].clone().requires_grad_()
    student, teacher = map_view(own), map_view(maps[1])
    loss = set_up(METHODS[name](), student, teacher)(student, teacher, targets)
    loss.backward()
    assert own.grad is not None and torch.isfinite(own.grad).all()
    assert torch.isfinite(loss) and loss >= 0
