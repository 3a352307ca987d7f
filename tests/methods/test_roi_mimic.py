"""Region mimicry: pooled values by hand, the levels that torchvision chooses, and limiting cases."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torchvision.ops import MultiScaleRoIAlign

from eyas.detectors import build
from eyas.distillation.distiller import Distiller
from eyas.methods.method import LevelPair
from eyas.methods.roi_mimic import RoIMimic, assign_levels, mimic_loss, pool_regions
from eyas.types import EyasError, Level, View
from helpers.gloo import two_processes
from helpers.toys import relative, toy_target

IMAGE = (256, 384)
NOTHING = [torch.zeros(0, 4), torch.zeros(0, 4)]
# With strides 8 and 16, one box is on the fine level and three on the coarse one, which begins at 224 pixels.
BOXES = [
    torch.tensor([[10.0, 20.0, 90.0, 130.0], [0.0, 0.0, 224.0, 224.0], [8.0, 16.0, 380.0, 250.0]]),
    torch.tensor([[130.0, 10.0, 384.0, 256.0]]),
]


def random_boxes(count: int, generator: torch.Generator) -> Tensor:
    """Boxes inside the image with sides of at least 4 pixels."""
    low = torch.rand(count, 2, generator=generator) * torch.tensor([IMAGE[1] - 8.0, IMAGE[0] - 8.0])
    room = torch.tensor([float(IMAGE[1]), float(IMAGE[0])]) - low
    return torch.cat((low, low + 4 + (room - 4) * torch.rand(count, 2, generator=generator)), dim=1)


def view(
    channels: Sequence[int],
    strides: Sequence[int],
    boxes: Sequence[Tensor] | None,
    seed: int,
    ranges: Any = (None, None),
) -> View:
    """Random features of a batch of two; only with seed 0, the student's, do they require gradients."""
    generator = torch.Generator().manual_seed(seed)
    features = [
        torch.randn(2, width, IMAGE[0] // stride, IMAGE[1] // stride, generator=generator).requires_grad_(seed == 0)
        for width, stride in zip(channels, strides, strict=True)
    ]
    levels = [Level(c, s, box_range=r) for c, s, r in zip(channels, strides, ranges, strict=True)]
    return View(features, levels, IMAGE, proposals=boxes)


def views(
    student_boxes: Sequence[Tensor] | None = None,
    teacher_boxes: Sequence[Tensor] | None = None,
    *,
    student_strides: Sequence[int] = (8, 16),
) -> tuple[View, View]:
    return view((3, 4), student_strides, student_boxes, 0), view((5, 6), (8, 16), teacher_boxes, 1)


def prepared(method: RoIMimic, student: View, teacher: View) -> RoIMimic:
    torch.manual_seed(11)
    levels = zip(student.levels, teacher.levels, strict=True)
    method.setup([LevelPair(f"s{i}", s, f"t{i}", t) for i, (s, t) in enumerate(levels)])
    for parameter in method.parameters():
        nn.init.normal_(parameter, std=0.3)
    return method


def loss_of(method: RoIMimic, student: View, teacher: View) -> Tensor:
    return method(student, teacher, [])


# --- pooling ---


def test_pooling_a_linear_map_gives_the_cell_centres() -> None:
    """Bilinear samples of a linear map are exact: the cells of a pooled region hold the x of their centres."""
    stride, columns = 8, torch.arange(12.0)
    feature = columns.expand(1, 1, 6, 12)
    box = torch.tensor([[16.0, 8.0, 48.0, 40.0]])  # cells 2 to 6 of the map: a region of four cells has width 1 each
    (region,) = pool_regions([feature], [stride], [box], torch.zeros(1, dtype=torch.int64), output_size=4)
    torch.testing.assert_close(region, torch.tensor([2.5, 3.5, 4.5, 5.5]).expand(1, 1, 4, 4))


def test_padding_inside_the_detector_does_not_move_boxes() -> None:
    """The map has ceil(H / stride) cells: the scale is 1 / stride, not the quotient of the sizes."""
    rows = torch.arange(8.0)[:, None].expand(1, 1, 8, 12)
    image_height, stride = 60, 8  # padded to 64 inside
    box = torch.tensor([[0.0, 16.0, 32.0, 48.0]])
    (region,) = pool_regions([rows], [stride], [box], torch.zeros(1, dtype=torch.int64), output_size=2)
    assert rows.shape[2] / image_height != 1 / stride
    torch.testing.assert_close(region[0, 0, :, 0], torch.tensor([3.0, 5.0]))


def test_a_box_is_pooled_from_its_own_image_and_level() -> None:
    fine = torch.stack([torch.full((1, 8, 8), 1.0), torch.full((1, 8, 8), 2.0)])
    coarse = torch.stack([torch.full((2, 4, 4), 3.0), torch.full((2, 4, 4), 4.0)])
    boxes = [torch.tensor([[0.0, 0.0, 9.0, 9.0]]), torch.tensor([[0.0, 0.0, 9.0, 9.0], [8.0, 8.0, 40.0, 40.0]])]
    first, second = pool_regions([fine, coarse], [8, 16], boxes, torch.tensor([0, 1, 0]), output_size=3)
    assert first.shape == (2, 1, 3, 3) and second.shape == (1, 2, 3, 3)
    assert first[0].unique().tolist() == [1.0] and first[1].unique().tolist() == [2.0]
    assert second.unique().tolist() == [4.0]


def test_levels_follow_equation_1() -> None:
    """k = floor(4 + log2(side / 224)): stride 16 from 224 pixels up, stride 8 from 112 pixels up, and so on."""
    sides = [27.0, 28.0, 55.0, 56.0, 111.0, 112.0, 223.0, 224.0, 447.0, 448.0, 2000.0]
    boxes = [torch.tensor([[5.0, 7.0, 5.0 + side, 7.0 + side] for side in sides])]
    strides = [2, 4, 8, 16, 32]
    chosen = [strides[index] for index in assign_levels(boxes, strides).tolist()]
    assert chosen == [2, 2, 2, 4, 4, 8, 8, 16, 16, 32, 32]
    assert assign_levels(boxes, [8, 32]).tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]
    assert assign_levels(boxes, [8, 8, 16]).tolist() == [0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2]
    assert assign_levels([torch.zeros(1, 4)], [8, 16]).tolist() == [0]  # an empty box


@pytest.mark.parametrize("strides", [(4, 8, 16, 32), (8, 16), (16,)])
def test_equals_torchvisions_pooling_on_a_pyramid(strides: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(5)
    features = [torch.randn(2, 3, IMAGE[0] // s, IMAGE[1] // s, generator=generator) for s in strides]
    boxes = [random_boxes(40, generator), torch.cat((random_boxes(20, generator), BOXES[0]))]
    pool = MultiScaleRoIAlign([str(s) for s in strides], output_size=7, sampling_ratio=2)
    named = OrderedDict(zip([str(s) for s in strides], features, strict=True))
    expected = pool(named, boxes, [IMAGE, IMAGE])
    levels = assign_levels(boxes, strides)
    if len(strides) > 1:
        assert torch.equal(levels, pool.map_levels(boxes)) and len(levels.unique()) > 1
    for index, region in enumerate(pool_regions(features, strides, boxes, levels)):
        assert torch.equal(region, expected[levels == index])


# --- the loss ---


def test_loss_by_hand() -> None:
    """Two regions of two channels and two cells: 1/(2*2) * 1/2 * ((1+4) + (0+9) + (1+1) + (0+0)) = 2."""
    adapted = torch.tensor([[[[1.0, 2.0]], [[0.0, 3.0]]], [[[1.0, 1.0]], [[5.0, 5.0]]]])
    teacher = torch.tensor([[[[0.0, 0.0]], [[0.0, 0.0]]], [[[0.0, 2.0]], [[5.0, 5.0]]]])
    loss = mimic_loss(adapted, teacher, 2)
    assert loss == 2 and loss.dtype == torch.float32


@pytest.mark.parametrize("output_size", [1, 7])
def test_the_loss_of_constant_maps_by_hand_at_any_output_size(output_size: int) -> None:
    """Student 2, transform 3x + 1 into two channels, teacher 5 and 9: ((7-5)^2 + (7-9)^2) / 2 = 4, at any size."""
    features = torch.full((1, 1, 8, 8), 2.0), torch.tensor([5.0, 9.0])[:, None, None].expand(1, 2, 8, 8)
    boxes = [torch.tensor([[8.0, 8.0, 40.0, 48.0]])]
    student = View([features[0]], [Level(1, 8)], (64, 64))
    teacher = View([features[1]], [Level(2, 8)], (64, 64), proposals=boxes)
    method = prepared(RoIMimic(output_size=output_size), student, teacher)
    with torch.no_grad():
        method.adapters[0].conv.weight.fill_(3.0)
        method.adapters[0].conv.bias.fill_(1.0)
    assert float(loss_of(method, student, teacher).detach()) == pytest.approx(4)


@pytest.mark.parametrize("source", ["teacher", "student"])
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_the_loss_equals_a_loop_over_boxes(source: str, kernel_size: int) -> None:
    """It uses the proposals of the chosen detector, although the other has some too."""
    others = [torch.tensor([[0.0, 0.0, 32.0, 32.0]])] * 2
    student, teacher = views(*((BOXES, others) if source == "student" else (others, BOXES)))
    method = prepared(RoIMimic(proposals=source, kernel_size=kernel_size), student, teacher)
    assert method.reads == {f"{source}_proposals"}
    total, seen = 0.0, set()
    for image, boxes in enumerate(BOXES):
        for box in boxes:
            level = int((box[2] - box[0]) * (box[3] - box[1]) >= 224**2)
            seen.add(level)
            mine, theirs = (
                MultiScaleRoIAlign(["0"], 7, 2)({"0": v.features[level][image : image + 1]}, [box[None]], [IMAGE])
                for v in (student, teacher)
            )
            adapted = method.adapters[level](mine)
            total += float((adapted - theirs).double().square().sum().detach())
    assert seen == {0, 1}
    assert float(loss_of(method, student, teacher).detach()) == pytest.approx(total / (2 * 4 * 49), rel=1e-5)


def test_a_student_of_half_the_resolution_matches_a_linear_scene() -> None:
    """Its regions of a linear scene equal the teacher's, so the loss is 0."""
    x = torch.arange(IMAGE[1] / 8) * 8
    fine = x.expand(2, 1, IMAGE[0] // 8, -1)
    coarse = fine[:, :, ::2, ::2].contiguous()
    boxes = [boxes.clamp(max=300.0) for boxes in BOXES]  # a coarse map ends earlier and is constant beyond its end
    student = View([coarse], [Level(1, 16)], IMAGE)
    teacher = View([fine.expand(-1, 2, -1, -1)], [Level(2, 8)], IMAGE, proposals=boxes)
    method = prepared(RoIMimic(), student, teacher)
    with torch.no_grad():
        method.adapters[0].conv.weight.fill_(1.0)
        method.adapters[0].conv.bias.zero_()
    assert float(loss_of(method, student, teacher).detach()) == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        method.adapters[0].conv.bias.fill_(1.0)
    assert float(loss_of(method, student, teacher).detach()) == pytest.approx(1)


def test_rois_per_image_keeps_the_first_proposals() -> None:
    student, teacher = views(None, BOXES)
    cut = views(None, [boxes[:2] for boxes in BOXES])[1]
    capped = prepared(RoIMimic(rois_per_image=2), student, teacher)
    whole = prepared(RoIMimic(), student, cut)
    assert torch.equal(loss_of(capped, student, teacher), loss_of(whole, student, cut))
    assert not torch.equal(loss_of(capped, student, teacher), loss_of(whole, student, teacher))


# --- limiting cases ---


@pytest.mark.parametrize("boxes", [NOTHING, [BOXES[0][:1], NOTHING[0]], BOXES], ids=["none", "one", "some"])
def test_gradients_reach_only_the_student_and_the_transforms(boxes: list[Tensor]) -> None:
    """Without proposals the loss is 0, but every parameter still gets a gradient, which DDP needs."""
    student, teacher = views(None, boxes)
    for feature in teacher.features:
        feature.requires_grad_()
    proposals = [own.clone().requires_grad_() for own in boxes]
    teacher = View([f.detach() for f in teacher.features], teacher.levels, IMAGE, proposals=proposals)
    method = prepared(RoIMimic(), student, teacher)
    loss = loss_of(method, student, teacher)
    loss.backward()
    trained = [*student.features, *method.parameters()]
    assert all(tensor.grad is not None and bool(tensor.grad.isfinite().all()) for tensor in trained)
    assert all(tensor.grad is None for tensor in (*teacher.features, *proposals))
    touched = [bool(tensor.grad.any()) for tensor in trained]
    if boxes is NOTHING:
        assert loss == 0 and not any(touched)
    else:
        # The one box is pooled from the fine level of its own image only.
        assert loss > 0 and touched == ([True, False] + [True] * 2 + [False] * 2 if len(boxes[1]) == 0 else [True] * 6)
        assert bool(student.features[0].grad[1].any()) is False


def test_levels_that_only_propose_are_left_out() -> None:
    ranges = ((0.0, 224.0), (224.0, float("inf")), (0.0, 0.0))
    student = view((3, 3, 3), (8, 16, 32), None, 0, ranges)
    teacher = view((5, 5, 5), (8, 16, 32), BOXES, 1, ranges)
    method = prepared(RoIMimic(), student, teacher)
    assert len(method.adapters) == 2
    loss_of(method, student, teacher).backward()
    assert student.features[1].grad is not None and student.features[2].grad is None
    only = LevelPair("s", student.levels[2], "t", teacher.levels[2])
    with pytest.raises(EyasError, match="no pair of levels that boxes are pooled from"):
        RoIMimic().setup([only])


def test_the_order_of_the_pairs_does_not_matter() -> None:
    student, teacher = views(None, BOXES)
    method = prepared(RoIMimic(), student, teacher)
    turned = [View(v.features[::-1], v.levels[::-1], IMAGE, proposals=v.proposals) for v in (student, teacher)]
    other = prepared(RoIMimic(), *turned)
    assert other.chosen == (1, 0)
    torch.testing.assert_close(loss_of(method, student, teacher), loss_of(other, *turned))


def test_half_precision_features_are_compared_in_float32() -> None:
    student, teacher = views(None, BOXES)
    method = prepared(RoIMimic(), student, teacher)
    exact = loss_of(method, student, teacher)
    halves = [
        View([f.bfloat16() for f in v.features], v.levels, IMAGE, proposals=v.proposals) for v in (student, teacher)
    ]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = loss_of(method, *halves)
    assert rounded.dtype == torch.float32
    assert float(rounded.detach()) == pytest.approx(float(exact.detach()), rel=0.02)


def test_describe_gives_the_proposals_per_image_and_level() -> None:
    student, teacher = views(None, BOXES)
    method = prepared(RoIMimic(), student, teacher)
    assert method.describe(teacher, []) == "2 of the teacher's proposals per image: 25% at stride 8, 75% at stride 16"
    assert "0% at stride 8" in method.describe(views(None, NOTHING)[1], [])
    own = prepared(RoIMimic(proposals="student", rois_per_image=50), student, teacher)
    assert own.describe(teacher, []) == "regions of the student's proposals, at most 50 of an image"


def test_one_stage_detectors_raise_for_lack_of_proposals() -> None:
    student, teacher = views(BOXES, None)
    with pytest.raises(EyasError, match=r'the teacher makes no proposals.*proposals="student"'):
        loss_of(prepared(RoIMimic(), student, teacher), student, teacher)


@pytest.mark.parametrize(
    "options",
    [
        {"proposals": "both"},
        {"output_size": 0},
        {"kernel_size": 2},
        {"rois_per_image": 0},
        {"init_std": 0.0},
        {"weight": -1},
    ],
)
def test_options_out_of_range_raise(options: dict[str, Any]) -> None:
    with pytest.raises(EyasError, match=next(iter(options))):
        RoIMimic(**options)


@pytest.mark.parametrize("source", ["teacher", "student"])
def test_distilling_two_faster_rcnns_trains_only_the_pooled_levels(source: str) -> None:
    """The level that only proposes is left out."""
    torch.manual_seed(0)
    light = {"strides": [8, 16], "head_width": 8, "proposals_train": 30, "proposals_test": 20, "roi_samples": 12}
    student, teacher = (
        build("faster_rcnn", ["a"], backbone="mobilenet_v3_small", options=light | {"fpn_channels": channels})
        for channels in (8, 12)
    )
    method = RoIMimic(1.0, proposals=source, init_std=0.1)
    distiller = Distiller(student, teacher, method)
    assert len(distiller.pairs) == 3 and method.chosen == (0, 1)
    targets = [toy_target((8.0, 8.0, 40.0, 60.0)), toy_target()]
    losses = distiller(torch.rand(2, 3, 100, 130), targets)
    assert losses["roi_mimic"] > 0
    losses["roi_mimic"].backward()
    assert all(p.grad is not None for p in method.parameters())
    assert bool(method.adapters[0].conv.weight.grad.any())
    assert next(student.network.backbone.parameters()).grad.any()
    assert all(p.grad is None for p in teacher.network.parameters())


# --- two processes ---

# Proposals per image, two images on each process. In "one empty" the second process has none.
CASES = {"uneven": (5, 2, 1, 0), "one empty": (3, 1, 0, 0), "all empty": (0, 0, 0, 0)}


class Pair(nn.Module):
    """A student of two convolutions, its frozen teacher's maps and RoIMimic, as one module for DDP."""

    def __init__(self, source: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fine, self.coarse = nn.Conv2d(3, 4, 8, stride=8), nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.method = RoIMimic(proposals=source, init_std=0.3)
        self.method.setup([LevelPair(f"s{s}", Level(4, s), f"t{s}", Level(3, s)) for s in (8, 16)])

    def forward(self, images: Tensor, boxes: list[Tensor]) -> Tensor:
        fine = self.fine(images)
        maps = [nn.functional.avg_pool2d(images, stride) for stride in (8, 16)]
        student = View([fine, self.coarse(fine.relu())], [Level(4, 8), Level(4, 16)], IMAGE, proposals=boxes)
        return self.method(student, View(maps, [Level(3, 8), Level(3, 16)], IMAGE, proposals=boxes), [])


def step(case: str, source: str, part: slice, *, parallel: bool) -> dict[str, Tensor]:
    """The loss of a part of the batch and the gradients."""
    generator = torch.Generator().manual_seed(9)
    images = torch.rand(4, 3, *IMAGE, generator=generator)
    boxes = [
        torch.cat((random_boxes(count, generator), BOXES[0][1:2]))[-count:] if count else NOTHING[0]
        for count in CASES[case]
    ]
    model = Pair(source)
    module: nn.Module = DistributedDataParallel(model) if parallel else model
    loss = module(images[part], boxes[part])
    loss.backward()
    return {"loss": loss.detach(), **{name: p.grad.clone() for name, p in model.named_parameters()}}


def work(rank: int) -> dict[tuple[str, str], dict[str, Tensor]]:
    part = slice(2 * rank, 2 * rank + 2)
    sources = ("teacher", "student")
    return {(case, source): step(case, source, part, parallel=True) for case in CASES for source in sources}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, str], dict[str, Tensor]]]:
    return two_processes(work, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("source", ["teacher", "student"])
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_like_one_on_the_batch_of_both(ranks: list[Any], case: str, source: str) -> None:
    """Gradients are averaged over processes, so N must be the total of both divided by two."""
    alone = step(case, source, slice(None), parallel=False)
    values = [float(rank[case, source].pop("loss")) for rank in ranks]
    assert sum(values) / 2 == pytest.approx(float(alone.pop("loss")), rel=1e-5)
    assert (values[1] == 0) == (case != "uneven")
    for rank in ranks:
        assert rank[case, source].keys() == alone.keys()
        for name, expected in alone.items():
            assert relative(rank[case, source][name], expected) < 1e-5, name
            assert bool(expected.any()) == (case != "all empty"), name
