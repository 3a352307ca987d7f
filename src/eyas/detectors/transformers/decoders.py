"""What the decoders of transformers answer layer by layer, and how each takes queries that are not its own.

In this module boxes are as the library has them: centre x, centre y, width, height in [0, 1] of the padded batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from eyas.nn.eval_mode import eval_mode

EPS = 1e-5
"""Coordinates stay this far from 0 and 1 in an inverse sigmoid, as in the library."""
BOXES = ("boxes", 4)
"""The kind of queries that are boxes, see `eyas.types.QueryPoints`."""
ANCHOR_SIDE = 0.05
"""Side of RT-DETR's anchors on the finest level, over the image's; it doubles from level to level."""


@dataclass(frozen=True)
class DecoderCall:
    """One pass of a network's decoder: its arguments by name, and its output."""

    network: Any
    inputs: Mapping[str, Any]
    output: Any


@dataclass(frozen=True)
class QueryForm:
    """The form in which one kind of decoder takes its queries.

    Attributes:
        kind: config -> `eyas.types.QueryPoints.kind`.
        read: call -> the values of all its queries, (batch, queries, D), and where they look, (batch, queries, 2) or
            None.
        put: call, values, where they look -> the arguments of the decoder that differ for these queries.
    """

    kind: Callable[[Any], tuple[str, int]]
    read: Callable[[DecoderCall], tuple[Tensor, Tensor | None]]
    put: Callable[[DecoderCall, Tensor, Tensor | None], dict[str, Any]]


@dataclass(frozen=True)
class DecoderRule:
    """How to read one kind of decoder.

    Attributes:
        layers: call -> (layers, batch, queries, C) logits and (layers, batch, queries, 4) boxes.
        states: call -> (layers, batch, queries, D), from which the answers are read.
        module: name of the decoder in the network.
        background: whether the last logit stands for no object.
        sides: call -> logits of the distributions of each box's left, top, right and bottom side, and the places of
            their bins, (layers, batch, queries, 4, bins) both; None where boxes are no distributions.
        own: config -> which queries are the detector's own, among those of its training pass.
        form: config -> how it takes queries; None where nothing but its own can be asked.
        recording: the context of the detector's own pass, given the decoder.
        answering: the context of a pass with other queries.
    """

    layers: Callable[[DecoderCall], tuple[Tensor, Tensor]]
    states: Callable[[DecoderCall], Tensor]
    module: str = "model.decoder"
    background: bool = False
    sides: Callable[[DecoderCall], tuple[Tensor, Tensor]] | None = None
    own: Callable[[Any], slice] = lambda config: slice(None)
    form: Callable[[Any], QueryForm | None] = lambda config: None
    recording: Callable[[nn.Module], AbstractContextManager[None]] = lambda decoder: nullcontext()
    answering: Callable[[nn.Module], AbstractContextManager[None]] = lambda decoder: nullcontext()


def _logit(boxes: Tensor) -> Tensor:
    return boxes.clamp(EPS, 1 - EPS).logit()


def _states(call: DecoderCall) -> Tensor:
    """States where the decoder keeps all layers only for auxiliary losses."""
    last: Tensor = call.output.last_hidden_state[None]
    earlier = call.output.intermediate_hidden_states
    return last if earlier is None else torch.cat((earlier[:-1], last))


def _layers_first(call: DecoderCall) -> Tensor:
    states: Tensor = call.output.intermediate_hidden_states
    return states


def _by_layer(call: DecoderCall) -> Tensor:
    """States where the decoder has the batch first."""
    states: Tensor = call.output.intermediate_hidden_states.transpose(0, 1)
    return states


def _tokens(call: DecoderCall) -> Tensor:
    tokens: Tensor = call.output.last_hidden_state[None, :, -call.network.config.num_detection_tokens :]
    return tokens


def _layers_of_detr(call: DecoderCall) -> tuple[Tensor, Tensor]:
    states = _states(call)
    return call.network.class_labels_classifier(states), call.network.bbox_predictor(states).sigmoid()


def _layers_of_conditional_detr(call: DecoderCall) -> tuple[Tensor, Tensor]:
    states = _states(call)
    deltas = call.network.bbox_predictor(states)
    centres = deltas[..., :2] + _logit(call.output.reference_points.transpose(0, 1))
    return call.network.class_labels_classifier(states), torch.cat((centres, deltas[..., 2:]), -1).sigmoid()


def _layers_of_dab_detr(call: DecoderCall) -> tuple[Tensor, Tensor]:
    states = call.output.intermediate_hidden_states
    boxes = call.network.bbox_predictor(states) + _logit(call.output.reference_points)
    return call.network.class_embed(states), boxes.sigmoid()


def _layers_of_deformable_detr(call: DecoderCall) -> tuple[Tensor, Tensor]:
    states = _by_layer(call)
    references = (call.inputs["reference_points"], *call.output.intermediate_reference_points.unbind(1))
    logits, boxes = [], []
    for layer, (state, reference) in enumerate(zip(states, references, strict=False)):  # nothing reads the last one
        logits.append(call.network.class_embed[layer](state))
        deltas, start = call.network.bbox_embed[layer](state), _logit(reference)
        known = start.shape[-1]  # 2 before a box is refined for the first time
        boxes.append(torch.cat((deltas[..., :known] + start, deltas[..., known:]), -1).sigmoid())
    return torch.stack(logits), torch.stack(boxes)


def _layers_of_rt_detr(call: DecoderCall) -> tuple[Tensor, Tensor]:
    return call.output.intermediate_logits.transpose(0, 1), call.output.intermediate_reference_points.transpose(0, 1)


def _layers_of_d_fine(call: DecoderCall) -> tuple[Tensor, Tensor]:
    logits, boxes = _layers_of_rt_detr(call)
    return logits[1:], boxes[1:]  # the first are a draft from within the first layer


def _sides_of_d_fine(call: DecoderCall) -> tuple[Tensor, Tensor]:
    """Bin b moves a side of the draft box outwards by ``W(b) / reg_scale`` of the box's width or height."""
    from transformers.models.d_fine.modeling_d_fine import weighting_function

    decoder, output = call.network.model.decoder, call.output
    logits = output.intermediate_predicted_corners.transpose(0, 1).unflatten(-1, (4, -1))
    drafts = output.initial_reference_points.transpose(0, 1)[..., None]
    moves = weighting_function(decoder.max_num_bins, decoder.up, decoder.reg_scale) / decoder.reg_scale.abs()
    outwards = torch.tensor([-1.0, -1.0, 1.0, 1.0], device=moves.device)[:, None] * (0.5 + moves)
    return logits, drafts[..., [0, 1, 0, 1], :] + outwards * drafts[..., [2, 3, 2, 3], :]


def _layers_of_lw_detr(call: DecoderCall) -> tuple[Tensor, Tensor]:
    states, references = call.output.intermediate_hidden_states, call.output.intermediate_reference_points
    deltas = call.network.bbox_embed(states)
    centres = deltas[..., :2] * references[..., 2:] + references[..., :2]
    sides = deltas[..., 2:].exp() * references[..., 2:]
    return call.network.class_embed(states), torch.cat((centres, sides), -1)


def _layers_of_yolos(call: DecoderCall) -> tuple[Tensor, Tensor]:
    tokens = _tokens(call)
    return call.network.class_labels_classifier(tokens), call.network.bbox_predictor(tokens).sigmoid()


def _embeddings(name: str) -> QueryForm:
    """Position embeddings under an argument's name, with zeros as content."""
    return QueryForm(
        lambda config: (config.model_type, config.d_model),
        lambda call: (call.inputs[name], None),
        lambda call, values, where: {name: values, "inputs_embeds": torch.zeros_like(values)},
    )


def _read_deformable(call: DecoderCall) -> tuple[Tensor, Tensor | None]:
    parts = (call.inputs["object_queries_position_embeddings"], call.inputs["inputs_embeds"])
    return torch.cat(parts, -1), call.inputs["reference_points"]


def _put_deformable(call: DecoderCall, values: Tensor, where: Tensor | None) -> dict[str, Any]:
    positions, content = values.chunk(2, -1)
    if where is None:
        where = call.network.model.reference_points(positions).sigmoid()
    return {"object_queries_position_embeddings": positions, "inputs_embeds": content, "reference_points": where}


def _put_two_stage(call: DecoderCall, boxes: Tensor, where: Tensor | None) -> dict[str, Any]:
    model = call.network.model
    embedded = model.pos_trans_norm(model.pos_trans(model.get_proposal_pos_embed(_logit(boxes))))
    positions, content = embedded.chunk(2, -1)
    return {"object_queries_position_embeddings": positions, "inputs_embeds": content, "reference_points": boxes}


def _put_dab(call: DecoderCall, boxes: Tensor, where: Tensor | None) -> dict[str, Any]:
    content = boxes.new_zeros(*boxes.shape[:2], call.network.config.hidden_size)
    return {"query_position_embeddings": _logit(boxes), "inputs_embeds": content}


def _put_rt_detr(call: DecoderCall, boxes: Tensor, where: Tensor | None) -> dict[str, Any]:
    # The detector's own content is the encoder's feature at the cell that proposed the box, without gradient.
    cells = _cells(boxes, call.inputs["spatial_shapes_list"])
    memory = call.inputs["encoder_hidden_states"]
    with torch.no_grad():
        at_cells = memory.gather(1, cells[..., None].expand(-1, -1, memory.shape[-1]))
        content = call.network.model.enc_output(at_cells)
    return {"reference_points": _logit(boxes), "inputs_embeds": content, "encoder_attention_mask": None}


def _cells(boxes: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    """The token at the centre of each box, on the level whose anchors are nearest in size; (batch, queries) int64."""
    side = boxes[..., 2:].clamp(min=EPS).prod(-1).sqrt()
    level = (side / ANCHOR_SIDE).log2().round().clamp(0, len(sizes) - 1).long()
    table = torch.tensor(sizes, device=boxes.device)
    starts = table.prod(1).cumsum(0) - table.prod(1)
    height, width = table[level].unbind(-1)
    column, row = (
        (boxes[..., axis] * size).long().clamp(min=0).minimum(size - 1) for axis, size in ((0, width), (1, height))
    )
    return starts[level] + row * width + column


def _put_lw_detr(call: DecoderCall, boxes: Tensor, where: Tensor | None) -> dict[str, Any]:
    # Query i has learned content of its own, whatever its box.
    slots = torch.arange(boxes.shape[1], device=boxes.device) % call.network.config.num_queries
    content = call.network.model.query_feat.weight[slots].expand(len(boxes), -1, -1)
    return {"reference_points": boxes, "inputs_embeds": content}


def _box_form(
    read: Callable[[DecoderCall], Tensor], put: Callable[[DecoderCall, Tensor, Tensor | None], dict[str, Any]]
) -> QueryForm:
    return QueryForm(lambda config: BOXES, lambda call: (read(call), None), put)


DEFORMABLE = QueryForm(lambda config: (config.model_type, 2 * config.d_model), _read_deformable, _put_deformable)
TWO_STAGE = _box_form(lambda call: call.inputs["reference_points"], _put_two_stage)
DAB = _box_form(lambda call: call.inputs["query_position_embeddings"].sigmoid(), _put_dab)
RT_DETR_FORM = _box_form(lambda call: call.inputs["reference_points"].sigmoid(), _put_rt_detr)
LW_DETR_FORM = _box_form(lambda call: call.inputs["reference_points"], _put_lw_detr)


@contextmanager
def _all_layers(decoder: nn.Module) -> Iterator[None]:
    """D-FINE's decoder gives the outputs of all layers in training mode only; the layers below keep their mode."""
    before, decoder.training = decoder.training, True
    try:
        yield
    finally:
        decoder.training = before


DETR = DecoderRule(
    _layers_of_detr, _states, background=True, form=lambda config: _embeddings("object_queries_position_embeddings")
)
RT_DETR = DecoderRule(
    _layers_of_rt_detr,
    _by_layer,
    own=lambda config: slice(-config.num_queries, None),  # the noisy boxes of denoising come before
    form=lambda config: RT_DETR_FORM,
)
D_FINE = replace(
    RT_DETR,
    layers=_layers_of_d_fine,
    states=_layers_first,
    sides=_sides_of_d_fine,
    recording=_all_layers,
    answering=_all_layers,
)
LW_DETR = DecoderRule(
    _layers_of_lw_detr,
    _layers_first,
    own=lambda config: slice(config.num_queries),  # in training there are further groups of as many
    form=lambda config: LW_DETR_FORM,
    answering=eval_mode,  # in training it would take the queries for several groups
)
DECODERS: Mapping[str, DecoderRule] = {
    "DetrForObjectDetection": DETR,
    "TableTransformerForObjectDetection": replace(DETR, form=lambda config: _embeddings("query_position_embeddings")),
    "ConditionalDetrForObjectDetection": replace(DETR, layers=_layers_of_conditional_detr, background=False),
    "DabDetrForObjectDetection": DecoderRule(
        _layers_of_dab_detr, _layers_first, form=lambda config: None if config.num_patterns else DAB
    ),
    "DeformableDetrForObjectDetection": DecoderRule(
        _layers_of_deformable_detr, _by_layer, form=lambda config: TWO_STAGE if config.two_stage else DEFORMABLE
    ),
    "RTDetrForObjectDetection": RT_DETR,
    "RTDetrV2ForObjectDetection": RT_DETR,
    "DFineForObjectDetection": D_FINE,
    "Deimv2ForObjectDetection": D_FINE,
    "LwDetrForObjectDetection": LW_DETR,
    "RfDetrForObjectDetection": LW_DETR,
    "YolosForObjectDetection": DecoderRule(_layers_of_yolos, _tokens, module="vit", background=True),
}
"""By the class of the library's model."""
