"""OpenVINO: the ONNX graph of a deployed detector as an IR, quantised by NNCF, and the IR in OpenVINO on a CPU."""

from __future__ import annotations

import functools
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from eyas.export.onnx_format import as_input, quiet, require_onnx, to_onnx, without_heads
from eyas.export.protocols import Files
from eyas.tools.signal_stack import kept_signal_stack
from eyas.tools.text_files import parse_json
from eyas.types import EyasError

if TYPE_CHECKING:
    import onnx

HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
"""Precision -> the value of OpenVINO's option INFERENCE_PRECISION_HINT."""
PRECISION, METADATA = "eyas.precision", ["eyas", "metadata"]
"""The entry of the metadata that names the precision, and where the IR has the metadata."""
LAYERS = {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul"}
"""Types of the operations that compute in 8-bit integers."""


class OpenVinoRuntime:
    """OpenVINO on the CPU; satisfies `eyas.export.protocols.Runtime`. Arguments, errors as for `Exporter.open`.

    It computes in the precision that the file's metadata names, not in the CPU's default, which is bfloat16 on many
    server CPUs.
    """

    def __init__(self, model: Path | Files, threads: int | None = None) -> None:
        require_openvino()
        name = str(model) if isinstance(model, Path) else "the model"
        if isinstance(model, Path) and not model.is_file():
            raise EyasError(f"{name}: no such file; eyas export RUN --runtime openvino makes it")
        try:
            graph = _read(model)
            text = graph.get_rt_info(METADATA).astype(str) if graph.has_rt_info(METADATA) else "{}"
            self.metadata: Mapping[str, Any] = dict(parse_json(text, "metadata"))
            options = {
                "INFERENCE_PRECISION_HINT": HINTS[self.metadata.get(PRECISION, "float32")],
                "INFERENCE_NUM_THREADS": threads or torch.get_num_threads(),
                "NUM_STREAMS": 1,
                "ENABLE_CPU_PINNING": False,  # processes that pin their threads to the same cores take turns
            }
            self.compiled = _core().compile_model(graph, "CPU", options)
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            raise EyasError(f"{name}: OpenVINO: {(str(error).strip().splitlines() or [''])[-1]}") from error

    def run(self, images: Tensor, names: Sequence[str]) -> list[Tensor]:
        """The outputs of these names for images (batch, 3, height, width) in [0, 1]."""
        found = self.compiled(as_input(images))
        return [torch.from_numpy(found[name]) for name in names]


def require_openvino() -> None:
    """Raises EyasError, which names the extra, when OpenVINO is missing."""
    try:
        import openvino  # noqa: F401
    except ImportError as error:
        raise EyasError(f'OpenVINO is missing ({error}); install it with: pip install "eyas[openvino]"') from error


@functools.cache
def _core() -> Any:
    """The one Core of this process, with its CPU plugin loaded.

    The plugin registers a signal stack. When it is unloaded, it frees that stack and registers the one before it, which
    a Core that ended earlier has freed: the next signal ends the process.
    """
    import openvino

    core = openvino.Core()
    with kept_signal_stack():
        core.get_property("CPU", "FULL_DEVICE_NAME")
    return core


@functools.cache
def default_precision() -> str:
    """What OpenVINO computes in on this CPU where no option says otherwise."""
    hint = _core().get_property("CPU", "INFERENCE_PRECISION_HINT").to_string()
    return {value: name for name, value in HINTS.items()}[hint]


class OpenVinoExporter:
    """Writes an IR, an .xml and a .bin file; satisfies `eyas.export.protocols.Exporter`."""

    runtime: str = "OpenVINO"
    suffixes: tuple[str, ...] = (".xml", ".bin")
    trace, open = staticmethod(to_onnx), OpenVinoRuntime

    def require(self) -> None:
        """Raises EyasError, which names the extra, when a package is missing."""
        require_onnx()
        require_openvino()

    def precisions(self) -> tuple[str, ...]:
        """Float32, and the CPU's default where that is another."""
        return tuple(dict.fromkeys(("float32", default_precision())))

    def advice(self, precision: str) -> str:
        """The option of OpenVINO: an IR cannot hold it."""
        own = default_precision()
        return (
            f'a program of your own gets {precision} by compile_model(..., {{"INFERENCE_PRECISION_HINT": '
            f'"{HINTS[precision]}"}}); on this machine OpenVINO computes in {own} by itself'
        )

    def build(self, model: onnx.ModelProto, metadata: Mapping[str, Any], precision: str, *, heads: bool) -> Files:
        """The IR, its weights in float32 for every precision."""
        graph = _read((model if heads else without_heads(model)).SerializeToString())
        graph.set_rt_info(json.dumps({**metadata, PRECISION: precision}), METADATA)
        return _content(graph)

    def quantise(self, files: Files, images: Iterable[Tensor]) -> Files:
        """Static post-training quantisation by NNCF, with its correction of biases.

        Nothing after the last convolution or matrix product is quantised: decoding and NMS stay in floating point.
        """
        nncf, graph = _import_nncf(), _read(files)
        decoding = nncf.IgnoredScope(names=after_the_layers(graph), validate=False)
        count = sum(1 for _ in images)
        # NNCF has Cores of its own; see `_core`. Its progress bars go to the StringIO.
        with kept_signal_stack(), quiet("nncf"), redirect_stdout(StringIO()):
            data = nncf.Dataset(images, as_input)
            return _content(nncf.quantize(graph, data, subset_size=count, ignored_scope=decoding))


def after_the_layers(graph: Any) -> list[str]:
    """Names of the operations of an OpenVINO model on which no convolution or matrix product depends."""
    feeding: set[str] = set()
    after = []
    for operation in reversed(graph.get_ordered_ops()):
        name = operation.get_friendly_name()
        users = (target.get_node() for output in operation.outputs() for target in output.get_target_inputs())
        if operation.get_type_name() in LAYERS or any(user.get_friendly_name() in feeding for user in users):
            feeding.add(name)
        else:
            after.append(name)
    return after


def _read(model: Path | Files | bytes) -> Any:
    """An OpenVINO model from a file, the content of its files, or an ONNX model."""
    if isinstance(model, Mapping):
        return _core().read_model(model=model[".xml"], weights=model[".bin"])
    return _core().read_model(str(model) if isinstance(model, Path) else model)


def _content(graph: Any) -> Files:
    """The files of an OpenVINO model."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(graph, path, compress_to_fp16=False)
        return {suffix: path.with_suffix(suffix).read_bytes() for suffix in OpenVinoExporter.suffixes}


def _import_nncf() -> Any:
    """NNCF. Raises EyasError, which names the extra, when it is missing."""
    try:
        with _without("openvino_telemetry"):  # by which it would report its use to its makers
            import nncf
    except ImportError as error:
        raise EyasError(f'NNCF is missing ({error}); install it with: pip install "eyas[nncf]"') from error
    return nncf


@contextmanager
def _without(package: str) -> Iterator[None]:
    """In the context, importing a package fails as if it were not installed."""
    before = sys.modules.get(package)
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]
        if before is not None:
            sys.modules[package] = before
