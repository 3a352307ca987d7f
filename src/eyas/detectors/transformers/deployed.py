"""Detectors of transformers as graphs of fixed shapes, see `eyas.detectors.deployed`. They need no NMS."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from eyas.detectors.deployed import Candidates, Deployed, take_rows
from eyas.detectors.transformers.families import FAMILIES
from eyas.types import Size, size_of

if TYPE_CHECKING:
    from eyas.detectors.transformers.adapter import TransformersDetector

PROBED = 1000
"""Number of queries used to find an image processor's rule; more than any rule keeps."""


class Rule(NamedTuple):
    """How an image processor turns queries into detections.

    With softmax: the best class of each query; the last column means no object. Otherwise: the best pairs of query and
    class, at most this number, or as many as there are queries.
    """

    softmax: bool
    most: int | None


class DeployedTransformers(Deployed):
    """A detector of transformers, with the normalisation and the post-processing of its image processor.

    The head outputs are the library's ``logits`` and ``pred_boxes``: centre, width and height in [0, 1] of the padded
    image. Where scores of the encoder select the queries, the selected boxes come first, as ``proposals``, xyxy in
    pixels.
    """

    def __init__(self, detector: TransformersDetector) -> None:
        super().__init__()
        self.network, self.padding = detector.network, detector.padding
        self.score_threshold = detector.score_threshold
        processor, config = detector.processor, detector.network.config
        self.mean, self.std = pixel_statistics(processor)
        family = FAMILIES[type(detector.network).__name__]
        self.strict, self.ordered, self.proposals = family.strict, family.ordered, family.proposals(config)
        self.coupled = True  # queries attend to each other
        self.raw_names = (*(("proposals",) if self.proposals else ()), "class_logits", "pred_boxes")
        self.matched = self.raw_names if self.proposals else ()
        self.rule = read_rule(processor)

    def raw(self, images: Tensor) -> tuple[tuple[Tensor, ...], Sequence[int]]:
        batch = self.padding.normalised(images, self.mean, self.std)
        with nullcontext() if self.strict else OpenSizes():
            output: Any = self.network(pixel_values=batch)
        rows = [output.logits.shape[1]]
        if self.proposals is None:
            return (output.logits, output.pred_boxes), rows
        proposals = in_pixels(output[self.proposals], size_of(batch))
        return (proposals, output.logits, output.pred_boxes), rows

    def detect(self, raw: Sequence[Tensor], rows: Sequence[int], size: Size) -> Candidates:
        logits, boxes = raw[-2:]
        if self.rule.softmax:
            scores, labels = logits.softmax(dim=2)[..., :-1].max(dim=2)
            scores, indices = scores.topk(scores.shape[1], dim=1)
            labels = labels.gather(1, indices)
        else:
            pairs, columns = logits.sigmoid().flatten(1), logits.shape[2]
            scores, indices = pairs.topk(min(pairs.shape[1], self.rule.most or logits.shape[1]), dim=1)
            indices, labels = indices // columns, indices % columns
        found = in_pixels(take_rows(boxes, indices), self.padding.padded(size))
        real = scores > self.score_threshold
        return Candidates(
            torch.where(real[..., None], found, 0.0), torch.where(real, scores, 0.0), torch.where(real, labels, -1)
        )


class OpenSizes(TorchFunctionMode):
    """In the context, ``torch.linspace`` and ``torch.as_tensor`` keep open the sizes that a trace keeps open.

    `torch.export` silently turns the steps of the former and the numbers of the latter into constants. Deformable DETR
    and its relatives use both for grids of cells and sizes of maps, so their graphs would fit the traced size only.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func is torch.linspace and len(args) == 3 and isinstance(args[2], torch.SymInt):
            start, end, steps = args
            return start + torch.arange(steps, **options) * ((end - start) / torch.sym_max(steps - 1, 1))
        if func is torch.as_tensor and len(args) == 1 and _is_open(args[0]):
            return _as_tensor(args[0], options)
        return func(*args, **options)


def _is_open(value: Any) -> bool:
    return any(map(_is_open, value)) if isinstance(value, (list, tuple)) else isinstance(value, torch.SymInt)


def _as_tensor(value: Any, options: Mapping[str, Any]) -> Tensor:
    if isinstance(value, (list, tuple)):
        return torch.stack([_as_tensor(entry, options) for entry in value])
    return torch.full((), value, **options)


def pixel_statistics(processor: Any) -> tuple[Sequence[float], Sequence[float]]:
    """An image processor's mean and standard deviation per channel; 0 and 1 where it does not normalise."""
    if processor.do_normalize:
        return processor.image_mean, processor.image_std
    return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def read_rule(processor: Any) -> Rule:
    """The rule of an image processor's post-processing, from its output for identical queries."""
    logits, boxes = torch.full((1, PROBED, 2), 5.0), torch.full((1, PROBED, 4), 0.5)
    raw = SimpleNamespace(logits=logits, pred_boxes=boxes)
    (found,) = processor.post_process_object_detection(raw, threshold=0.0, target_sizes=[(1, 1)])
    # For two equal columns the softmax gives 0.5, the sigmoid 0.99.
    count = len(found["scores"])
    return Rule(bool(found["scores"].max() < 0.6), None if count == PROBED else count)


def in_pixels(boxes: Tensor, size: Size) -> Tensor:
    """Boxes (..., 4), centre, width and height in [0, 1] of an image of (height, width), to xyxy in pixels."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    corners = torch.cat((centre - half, centre + half), dim=-1)
    return torch.stack((corners[..., 0::2] * size[1], corners[..., 1::2] * size[0]), dim=-1).flatten(-2)
