"""Writers of hostile files that pretend to be weights, a run or a cache, for `faults.checkpoints` and the tests.

Each writer fills an empty folder, and unpickles nothing. A pickle that would run code creates the file `marker` in its
folder, which shows whether it ran.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from eyas.data import Resize
from eyas.runs.checkpoint import ModelSpec, save_state, save_weights

Reader = Literal["weights", "resume", "run", "transformers", "onnx"]
MARKER = "marker"
WEIGHTS, LEGACY, SAFE = "weights.pt", "weights.pth", "weights.safetensors"
MIB = 1024**2


@dataclass(frozen=True)
class Case:
    """A hostile file.

    Attributes:
        name: what is wrong with it.
        reader: which reader of the product gets it.
        file: its name in the folder, which the error must contain.
        write: writes it into an empty folder.
        good: it is valid and must be read.
    """

    name: str
    reader: Reader
    file: str
    write: Callable[[Path], object]
    good: bool = field(default=False, kw_only=True)


class Runs:
    """Unpickling it creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return os.system, (f"touch '{self.marker}'",)


def state(side: int = 8) -> dict[str, Tensor]:
    """A small state dict that contains an integer."""
    return {"a.weight": torch.ones(side, side), "a.bias": torch.zeros(side), "n": torch.tensor(3)}


def spec(**changes: Any) -> ModelSpec:
    """The description of a tiny detector."""
    options = {"width": 0.25, "stem_channels": 8}
    return ModelSpec(
        **{"model": "shuffledet", "classes": ("a", "b"), "options": options, "resize": Resize(), **changes}
    )


def save(folder: Path, content: object, name: str = WEIGHTS) -> Path:
    """Save with PyTorch, in its old format if the name ends in ``pth``."""
    torch.save(content, folder / name, _use_new_zipfile_serialization=name != LEGACY)
    return folder / name


def edited(folder: Path, pickle_edit: Callable[[bytes], bytes], content: object = None) -> None:
    """A PyTorch file with a changed pickle."""
    original = save(folder, content or {"w": torch.ones(4)}, "original")
    with zipfile.ZipFile(original) as source, zipfile.ZipFile(folder / WEIGHTS, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, pickle_edit(data) if name.endswith("data.pkl") else data)
    original.unlink()


def number_at(data: bytes, after: bytes, old: bytes, new: int, *, last: bool = False) -> bytes:
    """A pickle whose short integer after some bytes is replaced by another."""
    start = data.index(after)
    place = data.rindex(old) if last else data.index(old, start)
    return data[:place] + b"J" + struct.pack("<i", new) + data[place + len(old) :]


def deflated(folder: Path, mib: int) -> None:
    """Zeros that compress to a thousandth of their size."""
    original = save(folder, {"w": torch.ones(4)}, "original")
    zeros = bytes(MIB)
    with zipfile.ZipFile(original) as source, zipfile.ZipFile(folder / WEIGHTS, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            if not name.endswith("data/0"):
                data = source.read(name)
                target.writestr(name, number_at(data, b"cpu", b"K\x04", mib * MIB // 4) if "data.pkl" in name else data)
        with target.open("original/data/0", "w") as entry:
            for _ in range(mib):
                entry.write(zeros)
    original.unlink()


def relisted(folder: Path, change: Callable[[zipfile.ZipFile], None]) -> None:
    """An archive with a changed directory."""
    original = save(folder, {"w": torch.ones(1000)}, "original")
    with zipfile.ZipFile(original) as source, zipfile.ZipFile(folder / WEIGHTS, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
        change(target)
    original.unlink()


def overlap(archive: zipfile.ZipFile) -> None:
    """The same bytes under a hundred more names."""
    storage = next(entry for entry in archive.filelist if entry.filename.endswith("data/0"))
    for number in range(1, 101):
        copy = zipfile.ZipInfo(f"original/data/{number}")
        for name in ("header_offset", "CRC", "compress_size", "file_size"):
            setattr(copy, name, getattr(storage, name))
        archive.filelist.append(copy)


def enlarge(archive: zipfile.ZipFile) -> None:
    """One entry claims a terabyte."""
    storage = next(entry for entry in archive.filelist if entry.filename.endswith("data/0"))
    storage.file_size = storage.compress_size = 2**40


def lists(count: int) -> bytes:
    """A pickle of empty lists: one byte for each, sixty once read."""
    return b"\x80\x02(" + b"]" * count + b"l."


def zipped(folder: Path, content: bytes) -> None:
    """A PyTorch archive with this pickle."""
    edited(folder, lambda _: content)


def laughs(depth: int = 60) -> dict[str, Any]:
    """A dict that holds another one twice, and so on: a naive walk meets 2^60 leaves."""
    value: dict[str, Any] = {"leaf": torch.ones(1)}
    for _ in range(depth):
        value = {"a": value, "b": value}
    return value


def cut(folder: Path, name: str, write: Callable[[], object]) -> None:
    """The first two thirds of a file."""
    write()
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) * 2 // 3])


def safetensors(
    folder: Path, header: Mapping[str, Any] | bytes, body: bytes = b"", *, length: int | None = None
) -> None:
    """A safetensors file by hand."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    start = struct.pack("<Q", len(text) if length is None else length)
    (folder / SAFE).write_bytes(start + text + body)


def tensor(**changes: Any) -> dict[str, Any]:
    """An entry of a safetensors header, for sixteen bytes."""
    return {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16], **changes}


def run(folder: Path, change: Callable[[dict[str, Tensor]], object] = lambda _: None) -> nn.Module:
    """The folder of a finished run with changed weights."""
    network = spec().build().network
    spec().save(folder)
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    change(weights)
    save_file(weights, folder / spec().weights)
    return network


def described(folder: Path, **changes: Any) -> None:
    """The folder of a run with a changed model description."""
    run(folder)
    values = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**values, **changes}))


def resumable(folder: Path, **changes: Any) -> None:
    """A checkpoint to resume from."""
    progress = {"epoch": 1, "batch": 0, "step": 2, "best": 0.5, "epochs": 3}
    save_state(
        {"model": state(), "optimizer": {}, "scheduler": {}, "progress": progress, **changes}, folder / "last.pt"
    )


def pickled_resume(folder: Path) -> None:
    """A checkpoint to resume from with code in it."""
    torch.save({"model": state(), "optimizer": Runs(folder / MARKER)}, folder / "last.pt")


def transformers_with_code(folder: Path) -> None:
    """A save_pretrained folder configured by a Python file, and a run that asks to trust it."""
    native = folder / "native"
    native.mkdir()
    code = f"from pathlib import Path\nPath({str(folder / MARKER)!r}).touch()\n"
    code += "from transformers import PretrainedConfig\nclass Mine(PretrainedConfig):\n    model_type = 'mine'\n"
    (native / "mine.py").write_text(code)
    config = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}
    (native / "config.json").write_text(json.dumps(config))
    spec(model="transformers", backbone="native", options={"config": {"trust_remote_code": True}}).save(folder)


def untrusted_transformers(folder: Path) -> None:
    """The same folder as a teacher, with no request to trust it."""
    transformers_with_code(folder)
    for path in (folder / "native").iterdir():
        path.rename(folder / path.name)


def onnx_claim(folder: Path, elements: int = 2**40) -> None:
    """A model whose only weight claims a terabyte and has no bytes."""
    import onnx
    from onnx import TensorProto, helper

    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[elements], raw_data=b"")
    kind = helper.make_tensor_value_info("y", TensorProto.FLOAT, [elements])
    graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [kind], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    assert onnx is not None


def onnx_outside(folder: Path) -> None:
    """A model whose weight refers to a file outside its folder."""
    from onnx import StringStringEntryProto, TensorProto, helper

    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    weight.external_data.append(StringStringEntryProto(key="location", value="../../../etc/hostname"))
    kind = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [kind], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (folder / "m.onnx").write_bytes(model.SerializeToString())


def onnx_bare(folder: Path) -> None:
    """A valid model that `eyas export` did not write."""
    from onnx import TensorProto, helper

    kinds = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", kinds[:1], kinds[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (folder / "m.onnx").write_bytes(model.SerializeToString())


def nothing_in_it(value: object) -> bytes:
    """A bare pickle, not written by PyTorch."""
    buffer = io.BytesIO()
    pickle.Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue()


def finished(folder: Path) -> None:
    """A valid run with a checkpoint to resume from."""
    network = run(folder)
    save_weights(network, folder / spec().weights)
