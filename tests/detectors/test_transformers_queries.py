"""The queries of transformers' detectors: their own in both modes, layer by layer, and those of another detector."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_convert

from eyas.detectors import TransformersDetector
from eyas.detectors.transformers.decoders import DECODERS
from eyas.detectors.transformers.families import FAMILIES
from eyas.types import DetectorWithQueries, EyasError, QueryOutput, QueryPoints, Target
from helpers.tiny_transformers import CLASSES, CONFIGS, class_of, random_model

SIZE = (64, 96)
ALIKE = ("TableTransformer", "RTDetrV2", "Deimv2", "RfDetr")
"""Families whose decoders are read as another's."""


def parameters(families: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow if name.startswith(ALIKE) else ()) for name in families]


every_family = pytest.mark.parametrize("family", parameters(CONFIGS))
ASKED = [name for name in CONFIGS if not name.startswith("Yolos")]
every_asked_family = pytest.mark.parametrize("family", parameters(ASKED))
BY_CELL = [name for name in ASKED if name.startswith(("RTDetr", "DFine", "Deimv2"))]
"""Their queries start with the feature of the cell that proposed the box."""


def make(family: str, seed: int = 0, **changes: Any) -> TransformersDetector:
    torch.manual_seed(seed)
    config = CONFIGS[family]()
    for name, value in changes.items():
        setattr(config, name, value)
    model = class_of(family)(config) if changes else random_model(family)
    return TransformersDetector(model)


def images() -> Tensor:
    return torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(3))


def targets() -> list[Target]:
    some = torch.tensor([[5.0, 6, 45, 50], [50, 10, 90, 40]])
    none: Target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    return [{"boxes": some, "labels": torch.tensor([0, 2])}, none]


def close(given: QueryOutput, expected: QueryOutput) -> None:
    torch.testing.assert_close(given.logits, expected.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(given.boxes, expected.boxes, rtol=1e-4, atol=1e-2)


def in_pixels(boxes: Tensor) -> Tensor:
    """The library's boxes as xyxy in pixels; `SIZE` needs no padding in any of the families."""
    return box_convert(boxes * torch.tensor([SIZE[1], SIZE[0]] * 2), "cxcywh", "xyxy")


def test_every_family_has_a_rule() -> None:
    assert DECODERS.keys() == FAMILIES.keys()


@every_family
def test_own_queries_in_evaluation_are_the_detections(family: str) -> None:
    detector = make(family).eval()
    assert isinstance(detector, DetectorWithQueries)
    with torch.no_grad():
        with detector.decoding() as decoder:
            detector.predict(images())
        plain = detector.network(pixel_values=detector._prepare(images())[0])
    own = decoder.own
    assert own.logits.shape == (len(own.boxes), 2, 12, len(CLASSES) + own.background)
    assert own.boxes.shape == (len(own.logits), 2, 12, 4) and own.classes == CLASSES
    torch.testing.assert_close(own.logits[-1], plain.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(own.boxes[-1], in_pixels(plain.pred_boxes), rtol=1e-4, atol=1e-2)
    assert not own.logits.requires_grad and detector.network.training is False
    assert (own.distributions is not None) == family.startswith(("DFine", "Deimv2"))


@every_family
def test_own_queries_in_training_are_those_of_the_losses(family: str) -> None:
    """The library's loss gets the layers that the decoder answers with, its own queries and no noisy boxes."""
    detector = make(family).train()
    given: dict[str, Any] = {}
    loss = detector.network.loss_function

    def spy(logits: Tensor, labels: Any, device: Any, boxes: Tensor, *others: Any, **named: Any) -> Any:
        given.update(logits=logits, boxes=boxes, classes=others[1] if len(others) > 1 else None)
        return loss(logits, labels, device, boxes, *others, **named)

    detector.network.loss_function = spy
    with detector.decoding() as decoder:
        losses = detector.losses(images(), targets())
    own = decoder.own
    groups = 2 if family.startswith(("LwDetr", "RfDetr")) else 1
    queries = given["logits"].shape[1]
    rows = slice(queries // groups) if groups > 1 else slice(queries - 12, None)
    torch.testing.assert_close(own.logits[-1], given["logits"][:, rows].float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(own.boxes[-1], in_pixels(given["boxes"][:, rows]), rtol=1e-4, atol=1e-2)
    assert len(own.logits) == (1 if family.startswith("Yolos") else 2)
    first = next(detector.network.get_submodule(detector.backbone_name).parameters())
    for layer in (0, -1):
        (gradient,) = torch.autograd.grad(own.logits[layer].sum() + own.boxes[layer].sum(), first, retain_graph=True)
        assert gradient.abs().sum() > 0
    sum(losses.values()).backward()
    assert not detector.network._forward_pre_hooks and not decoder.decoder._forward_hooks


def test_denoising_queries_are_left_out() -> None:
    detector = make("RTDetrForObjectDetection").train()
    with detector.decoding() as decoder:
        detector.losses(images(), targets())
    assert decoder.call.output.intermediate_logits.shape[2] > 12 == decoder.own.logits.shape[2]


@pytest.mark.parametrize("family", parameters(name for name in ASKED if name not in BY_CELL))
def test_its_own_queries_are_answered_as_before(family: str) -> None:
    detector = make(family).eval()
    with torch.no_grad(), detector.decoding() as decoder:
        detector.predict(images())
    close(decoder.answer(decoder.points), decoder.own)


def test_its_own_queries_of_two_stages_are_answered_as_before() -> None:
    changes = {"two_stage": True, "with_box_refine": True, "two_stage_num_proposals": 12}
    detector = make("DeformableDetrForObjectDetection", **changes).eval()
    with torch.no_grad(), detector.decoding() as decoder:
        detector.predict(images())
    assert decoder.kind == ("boxes", 4)
    close(decoder.answer(decoder.points), decoder.own)


@pytest.mark.parametrize("family", parameters(BY_CELL))
def test_the_content_of_a_box_is_the_feature_at_its_centre(family: str) -> None:
    """Boxes that are the network's anchors have the cell of the anchor, so the decoder's arguments are its own."""
    detector = make(family).eval()
    with torch.no_grad(), detector.decoding() as decoder:
        detector.predict(images())
    sizes = decoder.call.inputs["spatial_shapes_list"]
    memory, model = decoder.call.inputs["encoder_hidden_states"], detector.network.model
    anchors, _ = model.generate_anchors(tuple(map(tuple, sizes)))
    finite = anchors[0].abs().amax(-1) < 100
    cells = finite.nonzero()[:, 0][:12]
    boxes = in_pixels(anchors[:, cells].sigmoid()).expand(2, -1, -1)
    arguments = decoder.rule.form(detector.network.config).put(
        decoder.call, anchors[:, cells].sigmoid().expand(2, -1, -1), None
    )
    torch.testing.assert_close(arguments["inputs_embeds"], model.enc_output(memory[:, cells]))
    torch.testing.assert_close(arguments["reference_points"], anchors[:, cells].expand(2, -1, -1), rtol=1e-3, atol=1e-3)
    assert decoder.answer(QueryPoints(("boxes", 4), boxes)).logits.shape == (2, 2, 12, 3)


@every_asked_family
def test_random_queries_are_answered_in_training(family: str) -> None:
    student, teacher = make(family, 1).train(), make(family, 2).eval()
    with torch.no_grad(), teacher.decoding() as taught:
        teacher.predict(images())
    with student.decoding() as learning:
        student.losses(images(), targets())
    modes = [module.training for module in student.network.modules()]
    points = taught.draw(7, torch.Generator().manual_seed(5))
    again = taught.draw(7, torch.Generator().manual_seed(5))
    other = taught.draw(7, torch.Generator().manual_seed(6))
    assert points.values.equal(again.values) and not points.values.equal(other.values)
    for asked in (points, taught.points):
        answers, wanted = learning.answer(asked), taught.answer(asked)
        assert answers.logits.shape == wanted.logits.shape and not wanted.logits.requires_grad
        assert answers.boxes.isfinite().all() and answers.logits.isfinite().all()
        first = next(student.network.get_submodule(student.backbone_name).parameters())
        (gradient,) = torch.autograd.grad(answers.logits.sum() + answers.boxes.sum(), first, retain_graph=True)
        assert gradient.abs().sum() > 0
    assert modes == [module.training for module in student.network.modules()]
    assert not any(parameter.grad is not None for parameter in teacher.parameters())


def test_boxes_of_a_padded_batch_are_in_the_images_pixels() -> None:
    detector = make("LwDetrForObjectDetection").eval()
    with torch.no_grad(), detector.decoding() as decoder:
        found = detector.predict(images()[..., :50, :70])
    best = decoder.own.logits[-1, 0].sigmoid().amax(-1)
    torch.testing.assert_close(found[0]["scores"][0], best.max())
    torch.testing.assert_close(found[0]["boxes"][0], decoder.own.boxes[-1, 0, best.argmax()], rtol=1e-4, atol=1e-2)
    close(decoder.answer(decoder.points), decoder.own)


def test_boxes_are_put_to_another_family() -> None:
    student, teacher = make("DabDetrForObjectDetection").train(), make("RTDetrForObjectDetection").eval()
    with torch.no_grad(), teacher.decoding() as taught:
        teacher.predict(images())
    with student.decoding() as learning:
        student.losses(images(), targets())
    assert learning.answer(taught.points).boxes.shape == (2, 2, 12, 4)


def test_what_cannot_be_asked_is_refused() -> None:
    detr, conditional = make("DetrForObjectDetection").eval(), make("ConditionalDetrForObjectDetection").eval()
    yolos = make("YolosForObjectDetection").eval()
    with torch.no_grad(), detr.decoding() as first, conditional.decoding() as second, yolos.decoding() as third:
        for detector in (detr, conditional, yolos):
            detector.predict(images())
    with pytest.raises(EyasError, match=r"ConditionalDetr.* takes queries of conditional_detr with 32 channels and"):
        second.answer(first.points)
    with pytest.raises(EyasError, match=r"Yolos.*answers no queries but its own"):
        third.draw(3, torch.Generator())
    with detr.decoding() as never, pytest.raises(EyasError, match="has not run"):
        _ = never.own


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "family", ["DFineForObjectDetection", pytest.param("Deimv2ForObjectDetection", marks=pytest.mark.slow)]
)
def test_the_mean_places_of_the_sides_are_the_boxes(family: str, training: bool) -> None:
    """For the detector's own queries, layer by layer, and for others."""
    detector = make(family).train(training)
    with detector.decoding() as decoder:
        detector.losses(images(), targets()) if training else detector.predict(images())
    for answer in (decoder.own, decoder.answer(decoder.points)):
        sides = answer.distributions
        assert sides is not None and sides.logits.shape == sides.places.shape == (2, 2, 12, 4, 33)
        torch.testing.assert_close(
            (sides.logits.softmax(-1) * sides.places).sum(-1), answer.boxes, rtol=1e-4, atol=1e-2
        )
        outwards = sides.places.diff(dim=-1) * torch.tensor([-1, -1, 1, 1])[:, None]
        assert bool((outwards > 0).all())
