"""Target-aware feature distillation: which queries count, where they look, and the loss there."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import eyas
from eyas.detectors import TransformersDetector, retinanet
from eyas.methods.target_aware import LEAST, TargetAware, masked_loss, query_weights, target_masks
from eyas.types import EyasError, Target
from helpers.tiny_transformers import CLASSES, random_model
from helpers.toys import ToyDetector

NONE: Target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_weight_of_a_query_is_its_best_probabilities_times_its_overlap() -> None:
    """Two queries, two classes; the three best of four pairs count. The first box covers half of the object."""
    probabilities = torch.tensor([[0.9, 0.2], [0.6, 0.5]])
    logits = probabilities.logit().view(1, 1, 2, 2).expand(1, 2, 2, 2)
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]]).view(1, 1, 2, 4).expand(1, 2, 2, 4)
    some: Target = {"boxes": torch.tensor([[0.0, 0, 20, 10], [50, 50, 60, 60]]), "labels": torch.tensor([0, 1])}
    found = query_weights(logits, boxes, [some, NONE], False, 3)
    torch.testing.assert_close(found, torch.tensor([[[0.9 * 0.5, 1.1], [0.9, 1.1]]]))
    assert query_weights(logits, boxes, [some, NONE], False, 100)[0, 1].tolist() == pytest.approx([1.1, 1.1])
    softmax = query_weights(torch.zeros(1, 1, 1, 4), boxes[:, :1, :1], [NONE], True, 100)
    assert softmax.item() == pytest.approx(0.75)  # without no object


def test_the_mask_is_the_weighted_sum_of_cosines() -> None:
    states, weights, features = random(2, 3, 5, 8), random(2, 3, 5, seed=1).abs(), random(3, 8, 4, 6, seed=2)
    cosines = F.cosine_similarity(states[..., None, None], features[None, :, None], dim=3)
    wanted = (weights[..., None, None] * cosines).sum(2).clamp(min=LEAST)
    wanted = wanted / wanted.amax((2, 3), keepdim=True)
    torch.testing.assert_close(target_masks(states, weights, features), wanted)


@pytest.mark.parametrize("features", [torch.zeros(1, 8, 4, 6), torch.ones(1, 8, 4, 6), torch.ones(1, 8, 1, 1)])
def test_maps_without_a_pattern_count_everywhere(features: Tensor) -> None:
    masks = target_masks(random(2, 1, 5, 8), random(2, 1, 5, seed=1).abs(), features)
    torch.testing.assert_close(masks, torch.ones_like(masks))


def test_with_masks_of_one_it_is_the_mean_squared_error_of_each_layer() -> None:
    student, teacher = random(2, 8, 4, 6).requires_grad_(), random(2, 8, 4, 6, seed=1)
    loss = masked_loss(student, teacher, torch.ones(6, 2, 4, 6))
    torch.testing.assert_close(loss, 6 * F.mse_loss(student, teacher))
    masks = random(3, 2, 4, 6, seed=2).abs()
    layers = [F.mse_loss(mask[:, None] * student, mask[:, None] * teacher) for mask in masks]
    torch.testing.assert_close(masked_loss(student, teacher, masks), torch.stack(layers).sum())


def make(family: str, seed: int) -> TransformersDetector:
    torch.manual_seed(seed)
    return TransformersDetector(random_model(f"{family}ForObjectDetection"))


def batch() -> tuple[Tensor, list[Target]]:
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(3))
    return images, [{"boxes": torch.tensor([[5.0, 6, 45, 50], [50, 10, 90, 40]]), "labels": torch.tensor([0, 2])}, NONE]


@pytest.mark.parametrize("student", ["RTDetr", "retinanet"])
def test_a_teacher_of_queries_and_any_student(student: str) -> None:
    torch.manual_seed(1)
    if student == "retinanet":
        own: nn.Module = retinanet(CLASSES, "mobilenet_v3_small_fpn", fpn_channels=24, head_convs=1)
    else:
        own = make(student, 1)
    method = TargetAware(weight=1.0)
    teacher = make("DFine", 2)
    distiller = eyas.Distiller(own, teacher, method).train()  # type: ignore[arg-type]
    assert [distiller.pairs[index].teacher_tap for index in method.chosen] == [
        "model.encoder.fpn_blocks.1",
        "model.encoder.pan_blocks.0",
        "model.encoder.pan_blocks.1",
    ]
    frozen = copy.deepcopy(teacher.network.state_dict())
    losses = distiller(*batch())
    assert losses["target_aware"] > 0 and len(method.parts) == 3
    torch.stack(list(losses.values())).sum().backward()
    assert all(parameter.grad is not None for parameter in method.parameters())
    assert all(value.equal(frozen[name]) for name, value in teacher.network.state_dict().items())
    assert 0 < distiller.balance(*batch()).gradient_ratio()["target_aware"] < float("inf")


def test_levels_of_other_channels_are_left_out() -> None:
    """DETR's backbone has other channels than its queries; its encoder's tokens have as many."""
    method = TargetAware(weight=1.0)
    distiller = eyas.Distiller(make("Detr", 1), make("Detr", 2), method).train()
    losses = distiller(*batch())
    assert [float(part) > 0 for part in method.parts.values()] == [False, False, True]
    assert list(method.parts)[-1] == "token_maps:0" and losses["target_aware"] > 0


def test_what_has_no_masks_is_refused() -> None:
    with pytest.raises(EyasError, match="the teacher, a ToyDetector, has no queries"):
        eyas.Distiller(make("RTDetr", 1), ToyDetector(), TargetAware(weight=1.0)).train()(batch()[0], [NONE, NONE])
    backbone = "model.backbone.model.encoder.stages.1"
    pairs = {backbone: backbone}
    with pytest.raises(EyasError, match=r"no paired level of the teacher has 32 channels.*they have 16\. Pair levels"):
        eyas.Distiller(make("RTDetr", 1), make("DFine", 2), TargetAware(weight=1.0), pairs=pairs).train()(*batch())
    with pytest.raises(EyasError, match="TargetAware: best must be positive"):
        TargetAware(best=0)
    with pytest.raises(EyasError, match="more of the teacher than feature vectors"):
        TargetAware().fingerprint()


def test_masks_are_float32_under_autocast() -> None:
    states, weights, features = random(2, 1, 5, 8), random(2, 1, 5, seed=1).sigmoid(), random(1, 8, 4, 6, seed=2)
    expected = target_masks(states, weights, features)
    with torch.autocast("cpu", torch.bfloat16):
        found = target_masks(states, weights, features)
    assert found.dtype == torch.float32 and torch.equal(found, expected)
