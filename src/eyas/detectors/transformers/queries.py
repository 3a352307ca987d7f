"""The queries of a detector of transformers: the answers to its own, and to those of another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torchvision.ops import box_convert

from eyas.detectors.transformers.decoders import BOXES, DECODERS, DecoderCall, DecoderRule, QueryForm
from eyas.ops.boxes import to_centre_size
from eyas.types import EyasError, QueryOutput, QueryPoints, SideDistributions


class RecordedDecoder:
    """The decoder of a network after a pass over a batch; satisfies `eyas.types.QueryDecoder`.

    Its properties are there once the network has run in the context of `recorded_decoder`.
    """

    def __init__(self, network: Any, classes: tuple[str, ...]) -> None:
        self.network, self.classes = network, classes
        self.rule: DecoderRule = DECODERS[type(network).__name__]
        self.decoder: nn.Module = network.get_submodule(self.rule.module)
        self.with_gradients = True
        self._call: DecoderCall | None = None
        self._scale: Tensor = torch.ones(4)

    @cached_property
    def own(self) -> QueryOutput:
        return self._output(self.call).of_queries(self.rule.own(self.network.config))

    @property
    def states(self) -> Tensor:
        return self.rule.states(self.call)[:, :, self.rule.own(self.network.config)]

    @property
    def points(self) -> QueryPoints:
        rows = self.rule.own(self.network.config)
        values, where = self._form.read(self.call)
        references = None if where is None else where[:, rows].detach() * self._scale[:2]
        return self._in_pixels(values[:, rows].detach(), references)

    def draw(self, count: int, generator: Generator) -> QueryPoints:
        """Embeddings from a normal distribution; the logits of centres and sides of boxes, as in DAB-DETR's port."""
        values = torch.randn(count, self.kind[1], generator=generator, device="cpu").to(self._scale)
        batch = self.own.logits.shape[1]
        return self._in_pixels((values.sigmoid() if self.kind == BOXES else values).expand(batch, -1, -1), None)

    def answer(self, points: QueryPoints) -> QueryOutput:
        if points.kind != self.kind:
            raise EyasError(
                f"a {type(self.network).__name__} takes queries of {_named(self.kind)} and cannot answer those of "
                f"{_named(points.kind)}; choose student and teacher of one family and width, or match their "
                "queries instead (DETRDistill)"
            )
        values, where = points.values, points.references
        if points.kind == BOXES:
            values = to_centre_size(values) / self._scale
        with torch.set_grad_enabled(self.with_gradients), self.rule.answering(self.decoder):
            changed = self._form.put(self.call, values, None if where is None else where / self._scale[:2])
            inputs = {**self.call.inputs, **changed}
            return self._output(DecoderCall(self.network, inputs, self.decoder(**inputs)))

    @property
    def kind(self) -> tuple[str, int]:
        return self._form.kind(self.network.config)

    @property
    def call(self) -> DecoderCall:
        if self._call is None:
            raise EyasError(f"the decoder of this {type(self.network).__name__} has not run")
        return self._call

    def keep_size(self, network: nn.Module, arguments: tuple[Any, ...], inputs: Mapping[str, Any]) -> None:
        """The network's forward pre-hook."""
        height, width = inputs["pixel_values"].shape[-2:]
        self._scale = inputs["pixel_values"].new_tensor((width, height, width, height), dtype=torch.float32)

    def keep_call(self, module: nn.Module, arguments: tuple[Any, ...], inputs: Mapping[str, Any], output: Any) -> None:
        """The decoder's forward hook."""
        self._call = DecoderCall(self.network, dict(inputs), output)
        self.with_gradients = torch.is_grad_enabled()
        self.__dict__.pop("own", None)

    @property
    def _form(self) -> QueryForm:
        form = self.rule.form(self.network.config)
        if form is None:
            raise EyasError(
                f"a {type(self.network).__name__} of this configuration answers no queries but its own; match them "
                "instead (DETRDistill)"
            )
        return form

    def _in_pixels(self, values: Tensor, references: Tensor | None) -> QueryPoints:
        values = values.float()
        if self.kind == BOXES:
            values = box_convert(values * self._scale, "cxcywh", "xyxy")
        return QueryPoints(self.kind, values, references)

    def _output(self, call: DecoderCall) -> QueryOutput:
        with torch.set_grad_enabled(self.with_gradients):
            logits, boxes = self.rule.layers(call)
            corners = box_convert(boxes.float() * self._scale, "cxcywh", "xyxy")
            sides = None if self.rule.sides is None else self._sides(*self.rule.sides(call))
        return QueryOutput(logits.float(), corners, self.classes, self.rule.background, sides)

    def _sides(self, logits: Tensor, places: Tensor) -> SideDistributions:
        return SideDistributions(logits.float(), places.float() * self._scale[:, None])


def _named(kind: tuple[str, int]) -> str:
    return "boxes" if kind == BOXES else f"{kind[0]} with {kind[1]} channels"


@contextmanager
def recorded_decoder(network: Any, classes: tuple[str, ...]) -> Iterator[RecordedDecoder]:
    """Keep the decoder's arguments and output of one pass of a network in this context."""
    recorded = RecordedDecoder(network, classes)
    handles = (
        network.register_forward_pre_hook(recorded.keep_size, with_kwargs=True),
        recorded.decoder.register_forward_hook(recorded.keep_call, with_kwargs=True),
    )
    try:
        with recorded.rule.recording(recorded.decoder):
            yield recorded
    finally:
        for handle in handles:
            handle.remove()
