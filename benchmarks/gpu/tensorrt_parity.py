"""The heads of an exported student in TensorRT 10, in float32 and float16, against PyTorch on the same card."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.cases import Bench, Case, Row, Untried, imported
from benchmarks.sides import DIGITS
from eyas.detectors import build, deploy
from eyas.export.check import difference
from eyas.export.onnx_format import to_onnx

TOLERANCES = {"float32": 1e-3, "float16": 2e-2}
SIZE = (160, 160)
BATCH = 4


def cases(bench: Bench) -> list[Case]:
    return [Case(precision, partial(parity, precision, bench)) for precision in TOLERANCES]


def parity(precision: str, bench: Bench) -> Iterator[Row]:
    """The largest difference of every head output, as `eyas export` measures it."""
    if bench.device != "cuda":
        raise Untried("TensorRT runs on a CUDA card")
    trt = imported("tensorrt")
    torch.manual_seed(0)
    deployed = deploy(build("shuffledet", tuple("0123456789"), options={**DIGITS, "width": 0.25}))
    images = torch.rand(BATCH, 3, *SIZE)
    plan = engine(trt, to_onnx(deployed, SIZE, raw=True, dynamic_size=False).SerializeToString(), images, precision)
    with torch.no_grad():
        expected = deployed.to(bench.device).raw(images.to(bench.device))[0]
    found = run(trt, plan, images.to(bench.device), deployed.raw_names)
    for name, ours, theirs in zip(deployed.raw_names, expected, found, strict=True):
        differs = difference(ours, theirs)
        limit = TOLERANCES[precision]
        yield {"output": name, "differs by": differs, "tolerance": limit, "within": differs <= limit}


def engine(trt: Any, model: bytes, images: Tensor, precision: str) -> Any:
    """An engine for batches of this shape, serialised."""
    log = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model):
        raise RuntimeError("\n".join(str(parser.get_error(index)) for index in range(parser.num_errors)))
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    if precision == "float16":
        if not hasattr(trt.BuilderFlag, "FP16"):
            raise Untried(f"TensorRT {trt.__version__} takes the precision from the file, which is in float32")
        config.set_flag(trt.BuilderFlag.FP16)
    shapes = builder.create_optimization_profile()
    shapes.set_shape("images", *(3 * [tuple(images.shape)]))
    config.add_optimization_profile(shapes)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RuntimeError("TensorRT built no engine; its log says why")
    return plan


def run(trt: Any, plan: Any, images: Tensor, names: Sequence[str]) -> list[Tensor]:
    """The outputs of an engine for images on the card."""
    context = trt.Runtime(trt.Logger(trt.Logger.WARNING)).deserialize_cuda_engine(plan).create_execution_context()
    context.set_input_shape("images", tuple(images.shape))
    outputs = {name: torch.empty(tuple(context.get_tensor_shape(name)), device=images.device) for name in names}
    for name, tensor in {"images": images.contiguous(), **outputs}.items():
        context.set_tensor_address(name, tensor.data_ptr())
    if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
        raise RuntimeError("TensorRT did not run the engine; its log says why")
    torch.cuda.synchronize()
    return list(outputs.values())
