"""From a deployed detector to an ONNX model, by PyTorch's exporter on `torch.export`."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from eyas.detectors.deployed import DROPPED, Deployed, HeadsOnly
from eyas.types import EyasError, Size

if TYPE_CHECKING:
    import onnx


OPSET = 18
"""RoiAlign has had its half-pixel modes since 16, Pad its axes since 18."""
OPEN_SIZE = (640, 768)
"""What a graph of any size is traced with at least. Maps of one cell would be taken for ones that always have one."""
DETECTIONS = ("boxes", "scores", "labels")
"""The outputs with the detections: (batch, D, 4), (batch, D) and (batch, D), where D is the detector's limit."""
INSTALL = 'install them with: pip install "eyas[onnx]"'


def require_onnx() -> None:
    """Raises EyasError, which names the extra, when a package that ONNX export or inference needs is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise EyasError(f"ONNX files need onnx, onnxruntime and onnxscript ({error}); {INSTALL}") from error


def to_onnx(deployed: Deployed, size: Size, *, raw: bool, dynamic_size: bool) -> onnx.ModelProto:
    """An ONNX model of any batch size.

    Its input is ``images``, (batch, 3, height, width) float32 in [0, 1]; normalisation and padding are inside. Its
    outputs are the heads', by `Deployed.raw_names`, and then, unless ``raw``, `DETECTIONS`.

    Args:
        deployed: in evaluation mode, on the CPU.
        size: (height, width) of the input; with ``dynamic_size`` of no matter.
        raw: no detections.
        dynamic_size: leave height and width open too.

    Raises:
        EyasError: a package is missing, or the exporter cannot trace this detector with as many images as one likes;
            the message has its reason.
    """
    require_onnx()
    batch = torch.export.Dim("batch", min=1)
    axes: dict[int, Any] = {0: batch}
    if dynamic_size:
        axes |= {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
        size = (max(size[0], OPEN_SIZE[0]), max(size[1], OPEN_SIZE[1]))
    names = [*deployed.raw_names, *(() if raw else DETECTIONS)]
    module: nn.Module = HeadsOnly(deployed) if raw else deployed
    images = (torch.rand(2, 3, *size),)
    hint = "; leave out --dynamic_size" if dynamic_size else ""
    with warnings.catch_warnings(), torch.no_grad():
        # Of the exporter's own making; what matters about the result is compared afterwards.
        warnings.simplefilter("ignore")
        logging.getLogger("onnxscript").setLevel(logging.ERROR)
        logging.getLogger("onnx_ir").setLevel(logging.ERROR)
        try:
            traced = torch.export.export(module, images, dynamic_shapes=(axes,), strict=deployed.strict)
            program = torch.onnx.export(
                traced,
                dynamo=True,
                input_names=["images"],
                output_names=names,
                opset_version=OPSET,
                custom_translation_table={
                    torch.ops.eyas.nms_kept.default: _nms_kept_in_onnx,
                    torch.ops.aten._is_all_true.default: _all_true_in_onnx,
                },
                verbose=False,
            )
        except Exception as error:  # tracing runs the detector's own code, and documents no exception types
            raise EyasError(f"the exporter cannot trace this detector ({_first_line(error)}){hint}") from error
    assert program is not None
    return program.model_proto


def _first_line(error: Exception) -> str:
    return (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0]


def without_heads(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose outputs are the detections alone."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = [output for output in copy.graph.output if output.name in DETECTIONS]
    heads = {output.name for output in copy.graph.output} - set(DETECTIONS)
    del copy.graph.output[:]
    copy.graph.output.extend(kept)
    # Anchors of an input of fixed size are a constant, and may be an output and nothing else.
    idle = heads - {name for node in copy.graph.node for name in node.input}
    weights = [weight for weight in copy.graph.initializer if weight.name not in idle]
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(weights)
    return copy


def add_metadata(model: onnx.ModelProto, values: Mapping[str, Any]) -> None:
    """Write values as JSON texts into the model, by name."""
    for name, value in values.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, json.dumps(value)


def read_metadata(entries: Mapping[str, str]) -> dict[str, Any]:
    """What `add_metadata` wrote. Raises ValueError when an entry is not JSON."""
    return {name: json.loads(value) for name, value in entries.items() if name.startswith("eyas.")}


def _nms_kept_in_onnx(boxes: Any, scores: Any, groups: Any, num_groups: int, threshold: float) -> Any:
    """`eyas.detectors.deployed.nms_kept` in ONNX, whose NMS takes scores for each group: (batch, groups, M).

    Each candidate has its score in its own group and is out in the others.
    """
    from onnxscript import opset18

    op: Any = opset18  # typed by tensor type, which is not known here
    numbers = op.Constant(value_ints=list(range(num_groups)))
    axis = op.Constant(value_ints=[1])
    own = op.Equal(op.Unsqueeze(groups, axis), op.Unsqueeze(numbers, axis))
    table = op.Where(own, op.Unsqueeze(scores, axis), op.Constant(value_float=DROPPED))
    every = op.Constant(value_ints=[2**31 - 1])
    limits = (op.Constant(value_floats=[float(threshold)]), op.Constant(value_floats=[DROPPED / 2]))
    chosen = op.NonMaxSuppression(boxes, table, every, *limits)
    places = op.Gather(chosen, op.Constant(value_ints=[0, 2]), axis=1)
    none = op.Expand(op.Cast(op.Constant(value_int=0), to=9), op.Shape(scores))
    marks = op.Expand(op.Cast(op.Constant(value_int=1), to=9), op.Shape(places, start=0, end=1))
    return op.ScatterND(none, places, marks)


def _all_true_in_onnx(values: Any) -> Any:
    """``aten::_is_all_true``, a bool, which detectors of transformers check their shapes by."""
    from onnxscript import opset18

    op: Any = opset18
    return op.Cast(op.ReduceMin(op.Cast(values, to=6), keepdims=0), to=9)


def as_inputs(images: Tensor) -> dict[str, Any]:
    """Images as the model's named inputs, in memory that onnxruntime reads."""
    return {"images": images.detach().to("cpu", torch.float32).contiguous().numpy()}


def as_tensors(outputs: Sequence[Any]) -> list[Tensor]:
    """onnxruntime's outputs as tensors."""
    return [torch.from_numpy(output) for output in outputs]
