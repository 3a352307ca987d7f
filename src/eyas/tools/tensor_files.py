"""Reads untrusted tensor files: runs nothing in them, and checks the sizes they claim before it allocates memory.

A ``.pt`` file is a pickle plus storages, in a zip archive or, before PyTorch 1.6, in one stream. PyTorch reads the
pickle with ``weights_only=True``, which creates tensors and plain values and refuses everything else. It does not check
claims: an archive that unpacks to a thousand times its size, a pickle of a million empty lists, a tensor larger than
its storage. A safetensors file claims less, and its own library checks most of it.
"""

from __future__ import annotations

import pickletools  # nosec B403
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import load_file
from torch import Tensor

from eyas.tools.files import check_file
from eyas.types import EyasError

STRUCTURE_LIMIT = 16 * 1024**2
"""Limit in bytes for names, shapes and nesting; enough for 100,000 tensors. A byte may take sixty in memory."""
STREAM_LIMIT = 2 * 1024**2
"""The same for files from before PyTorch 1.6, whose pickles are parsed to find their end, which takes seconds."""
SHARED_LIMIT = 8
"""Tensors may share a storage; together they may claim this many times the file's size."""
WEIGHT_DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
ZIP_START = b"PK\x03\x04"
LEGACY_PICKLES = 5  # magic number, protocol, system, object, storage keys; then the storages' bytes
UNSAFE = "it holds Python objects, and to read those is to run code from the file, so nothing of it was read or run"
TENSORS_ONLY = "ask its author for a safetensors file, or for a state dict saved alone"


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name.

    Raises:
        EyasError: it is no file, damaged, inconsistent, or its header exceeds `STRUCTURE_LIMIT`.
    """
    check_file(path)
    try:
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        size = path.stat().st_size
        if STRUCTURE_LIMIT < header <= size - 8:
            raise EyasError(_refusal(path, f"its header has {header:,} bytes; the limit is {STRUCTURE_LIMIT:,}"))
        return dict(load_file(path))
    except EyasError:
        raise
    except Exception as error:  # SafetensorError, OSError, and TypeError for a shape that torch cannot hold
        raise EyasError(_refusal(path, f"not a readable safetensors file ({_first_line(error)})")) from error


def read_pt(path: Path, allowed: Sequence[type] = ()) -> Any:
    """The tensors and plain values of a ``.pt`` file, on the CPU.

    Args:
        path: the file.
        allowed: classes whose objects it may hold, too. Making one and setting its attributes must run no code of the
            file.

    Raises:
        EyasError: it is not such a file, is damaged, holds other objects, or claims more bytes than it has.
    """
    check_file(path)
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == ZIP_START
            file.seek(0)
            room = _check_archive(path, file) if zipped else _check_stream(path, file)
        with torch.serialization.safe_globals(list(allowed)):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except EyasError:
        raise
    except Exception as error:  # torch.load documents no exception types
        raise EyasError(_refusal(path, _reason(error))) from error
    _check_tensors(path, loaded, room)
    return loaded


def check_weights(source: str, tensors: Mapping[str, Any]) -> None:
    """Check that tensors can be the weights of a network.

    Args:
        source: the file, for the message.
        tensors: by name; values that are not tensors are ignored.

    Raises:
        EyasError: some are NaN, infinite, too large for float32, or of a dtype not in `WEIGHT_DTYPES`.
    """
    found = {name: value for name, value in tensors.items() if isinstance(value, Tensor)}
    strange = [f"{name} {value.dtype}" for name, value in found.items() if value.dtype not in WEIGHT_DTYPES]
    if strange:
        raise EyasError(f"{source}: {len(strange)} tensors have an unsupported type: {_some(strange)}")
    bad = [name for name, value in found.items() if not bool(torch.isfinite(value.float()).all())]
    if bad:
        raise EyasError(
            f"{source}: {len(bad)} of {len(found)} tensors have NaN or infinite values: {_some(bad)}; its training has "
            "diverged, or the file is damaged: take an earlier checkpoint, or another file"
        )


def _check_archive(path: Path, file: BinaryIO) -> int:
    """Check the archive's directory. Returns the bytes of all storages."""
    size = path.stat().st_size
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
        raise EyasError(_refusal(path, "its entries are compressed or encrypted, which those of PyTorch never are"))
    room = sum(entry.file_size for entry in entries)
    if room > size:
        raise EyasError(_refusal(path, f"its entries claim {room:,} bytes, and the file has {size:,}"))
    _check_structure(path, sum(entry.file_size for entry in entries if entry.filename.endswith(".pkl")))
    return room


def _check_stream(path: Path, file: BinaryIO) -> int:
    """Check the pickles at the start of a file from before PyTorch 1.6. Returns the file's size in bytes."""
    size = path.stat().st_size
    try:
        for _ in range(LEGACY_PICKLES):
            for _ in pickletools.genops(file):
                _check_structure(path, file.tell(), STREAM_LIMIT)
    except ValueError as error:
        what = f"it is not a PyTorch checkpoint ({_first_line(error)})" if size else "it is empty"
        raise EyasError(_refusal(path, what)) from error
    return size


def _check_structure(path: Path, size: int, limit: int = STRUCTURE_LIMIT) -> None:
    if size > limit:
        raise EyasError(_refusal(path, f"its pickle has more than {limit:,} bytes"))


def _check_tensors(path: Path, loaded: Any, room: int) -> None:
    """Check that every tensor is dense and fits its storage, and that the storages fit the file."""
    total = 0
    storages: dict[int, int] = {}
    for value in _tensors(loaded):
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise EyasError(_refusal(path, f"it has a tensor that is not dense ({value.layout}, {value.device})"))
        length, storage = value.numel() * value.element_size(), value.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        total += length
        if length > storage.nbytes():
            raise EyasError(_refusal(path, f"a tensor of shape {tuple(value.shape)} is larger than what is stored"))
    if sum(storages.values()) > room or total > SHARED_LIMIT * room:
        raise EyasError(_refusal(path, f"its tensors claim {total:,} bytes, and the file has {room:,}"))


def _tensors(loaded: Any) -> Iterator[Tensor]:
    """Every tensor in nested containers, once, though containers may contain each other many times."""
    waiting: list[Any] = [loaded]
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        if id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, Tensor):
                yield value
            elif isinstance(value, Mapping | list | tuple | set):
                waiting.extend(value.values() if isinstance(value, Mapping) else value)


def _some(names: Sequence[str]) -> str:
    return ", ".join(name[:200] for name in names[:4])


def _reason(error: Exception) -> str:
    """Why PyTorch refuses a file, without its advice to switch off the safety."""
    if found := re.search(r"Unsupported (?:global: GLOBAL|class) ([\w.]+)", str(error)):
        return f"{UNSAFE} ({found[1]})"
    if "weights_only" in str(error):
        return UNSAFE
    return f"it is damaged, or not a PyTorch checkpoint ({_first_line(error)})"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _refusal(path: Path, why: str) -> str:
    return f"{path}: {why}; {TENSORS_ONLY if UNSAFE in why else 'get the file again from a source that you trust'}"
