"""ONNX: a deployed detector to a file, by PyTorch's exporter on `torch.export`, and the file in onnxruntime."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from eyas.detectors.deployed import DETECTIONS, DROPPED, Deployed, HeadsOnly
from eyas.export.protocols import Files
from eyas.tools.text_files import parse_json
from eyas.types import EyasError, Size

if TYPE_CHECKING:
    import onnx

OPSET = 18
"""RoiAlign has half-pixel modes since opset 16, Pad has axes since 18."""
OPEN_SIZE = (640, 768)
"""The smallest size that traces a graph for any size. A map of one cell would be traced as always having one cell."""
ONNX = ("onnx", "onnxruntime", "onnxscript")
"""Packages of the extra."""
INSTALL = 'install them with: pip install "eyas[onnx]"'


class OnnxRuntime:
    """onnxruntime on the CPU; satisfies `eyas.export.protocols.Runtime`. Arguments, errors as for `Exporter.open`."""

    def __init__(self, model: Path | bytes, threads: int | None = None) -> None:
        require_onnx()
        import onnxruntime

        if isinstance(model, Path) and not model.is_file():
            raise EyasError(f"{model}: no such file; eyas export RUN makes it")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads that spin while they wait take cores from other processes.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        source: Any = str(model) if isinstance(model, Path) else model
        try:
            self.session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exceptions share no base class
            raise EyasError(f"{model if isinstance(model, Path) else 'the model'}: onnxruntime: {error}") from error

    @property
    def metadata(self) -> dict[str, Any]:
        """The values that `add_metadata` wrote, by name. Raises EyasError when an entry is not JSON."""
        entries = self.session.get_modelmeta().custom_metadata_map
        return {name: parse_json(value, name) for name, value in entries.items() if name.startswith("eyas.")}

    def run(self, images: Tensor, names: Sequence[str]) -> list[Tensor]:
        """The outputs of these names for images (batch, 3, height, width) in [0, 1]."""
        return [torch.from_numpy(output) for output in self.session.run(list(names), as_input(images))]


def require_onnx() -> None:
    """Raises EyasError, which names the extra, when a package for ONNX export or inference is missing."""
    try:
        for package in ONNX:
            import_module(package)
    except ImportError as error:
        raise EyasError(f"ONNX files need onnx, onnxruntime and onnxscript ({error}); {INSTALL}") from error


def trace(deployed: Deployed, size: Size, *, raw: bool, dynamic_size: bool) -> torch.export.ExportedProgram:
    """PyTorch's graph of a detector for any batch size; arguments as for `eyas.export.protocols.Exporter.trace`.

    ``dynamic_size`` may trace with a larger size.

    Raises:
        EyasError: PyTorch cannot trace this detector; the message has its reason.
    """
    axes: dict[int, Any] = {0: torch.export.Dim("batch", min=1)}
    if dynamic_size:
        axes |= {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
        size = (max(size[0], OPEN_SIZE[0]), max(size[1], OPEN_SIZE[1]))
    module: nn.Module = HeadsOnly(deployed) if raw else deployed
    images = (torch.rand(2, 3, *size),)
    with _tracing("; leave out --dynamic_size" if dynamic_size else ""):
        return torch.export.export(module, images, dynamic_shapes=(axes,), strict=deployed.strict)


def to_onnx(deployed: Deployed, size: Size, *, raw: bool, dynamic_size: bool) -> onnx.ModelProto:
    """An ONNX model from `trace`, with its arguments.

    Its input is ``images``, (batch, 3, height, width) float32 in [0, 1]; it normalises and pads inside. Its outputs
    are those of `Deployed.raw_names` and then, unless ``raw``, `DETECTIONS`.

    Raises:
        EyasError: a package is missing, or this detector cannot be traced or has an operation that ONNX lacks.
    """
    require_onnx()
    traced = trace(deployed, size, raw=raw, dynamic_size=dynamic_size)
    with _tracing():
        program = torch.onnx.export(
            traced,
            dynamo=True,
            input_names=["images"],
            output_names=[*deployed.raw_names, *(() if raw else DETECTIONS)],
            opset_version=OPSET,
            custom_translation_table={
                torch.ops.eyas.nms_kept.default: _nms_kept_in_onnx,
                torch.ops.aten._is_all_true.default: _all_true_in_onnx,
            },
            verbose=False,
        )
        assert program is not None
        return program.model_proto


@contextmanager
def _tracing(hint: str = "") -> Iterator[None]:
    """Within the context PyTorch's exporter is silent, and its failure an EyasError that ends in the hint."""
    with quiet("onnxscript", "onnx_ir"), torch.no_grad():
        try:
            yield
        except Exception as error:  # tracing runs the detector's own code and documents no exception types
            reason = (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0]
            raise EyasError(f"the exporter cannot trace this detector ({reason}){hint}") from error


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Within the context warnings and these loggers are silent: what an exporter makes is compared with PyTorch."""
    with warnings.catch_warnings(), ExitStack() as afterwards:
        warnings.simplefilter("ignore")
        for name in loggers:
            logger = logging.getLogger(name)
            afterwards.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        yield


def without_heads(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose outputs are the detections only."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = [output for output in copy.graph.output if output.name in DETECTIONS]
    heads = {output.name for output in copy.graph.output} - set(DETECTIONS)
    del copy.graph.output[:]
    copy.graph.output.extend(kept)
    # With an input of fixed size the anchors are a constant, which may be used only as an output.
    idle = heads - {name for node in copy.graph.node for name in node.input}
    weights = [weight for weight in copy.graph.initializer if weight.name not in idle]
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(weights)
    return copy


def add_metadata(model: onnx.ModelProto, values: Mapping[str, Any]) -> None:
    """Write values into the model as JSON texts, by name."""
    for name, value in values.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, json.dumps(value)


class OnnxExporter:
    """Writes .onnx files; satisfies `eyas.export.protocols.Exporter`."""

    runtime: str = "onnxruntime"
    suffixes: tuple[str, ...] = (".onnx",)
    require, trace = staticmethod(require_onnx), staticmethod(to_onnx)

    def precisions(self) -> tuple[str, ...]:
        """Float32 alone."""
        return ("float32",)

    def advice(self, precision: str) -> str:
        """None."""
        return ""

    def build(self, model: onnx.ModelProto, metadata: Mapping[str, Any], precision: str, *, heads: bool) -> Files:
        """The file's content."""
        import onnx

        copy = onnx.ModelProto()
        copy.CopyFrom(model if heads else without_heads(model))
        add_metadata(copy, metadata)
        return {".onnx": copy.SerializeToString()}

    def open(self, model: Path | Files, threads: int | None = None) -> OnnxRuntime:
        """Open a file, or its content."""
        return OnnxRuntime(model if isinstance(model, Path) else model[".onnx"], threads)

    def quantise(self, files: Files, images: Iterable[Tensor]) -> Files:
        """Static post-training quantisation of convolutions and matrix products, weights per output channel.

        Everything after the heads stays in floating point.
        """
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process

        left = iter(images)

        class Reader(quantization.CalibrationDataReader):
            def get_next(self) -> dict[str, Any] | None:
                batch = next(left, None)
                return None if batch is None else as_input(batch)

        with tempfile.TemporaryDirectory() as folder:
            given, prepared, result = (Path(folder) / f"{name}.onnx" for name in ("float32", "prepared", "int8"))
            given.write_bytes(files[".onnx"])
            quant_pre_process(str(given), str(prepared), skip_symbolic_shape=True)
            quantization.quantize_static(
                str(prepared), str(result), Reader(), op_types_to_quantize=["Conv", "Gemm", "MatMul"], per_channel=True
            )
            return {".onnx": result.read_bytes()}


def _nms_kept_in_onnx(boxes: Any, scores: Any, groups: Any, num_groups: int, threshold: float) -> Any:
    """`eyas.detectors.deployed.nms_kept` in ONNX, whose NMS takes the scores per group: (batch, groups, M).

    Each candidate has its score in its own group and is dropped in the others.
    """
    from onnxscript import opset18

    op: Any = opset18  # its types name tensor types that are unknown here
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
    """``aten::_is_all_true``, a bool, with which detectors of transformers check their shapes."""
    from onnxscript import opset18

    op: Any = opset18
    return op.Cast(op.ReduceMin(op.Cast(values, to=6), keepdims=0), to=9)


def as_input(images: Tensor) -> dict[str, Any]:
    """Images as the model's named input, in memory that onnxruntime reads."""
    return {"images": images.detach().to("cpu", torch.float32).contiguous().numpy()}
