"""The records of a split in a few arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from eyas.types import Record


class PackedRecords(Sequence[Record]):
    """Records in a few arrays; each `Record` is made when it is asked for, and its arrays are views.

    A million `Record` objects take gigabytes, and a forked worker copies them page by page: to read a Python object is
    to write its reference count. Arrays stay shared.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self._ids = _texts(record.image_id for record in records)
        self._paths = _texts(str(record.path) for record in records)
        self._sizes = np.array([(record.width, record.height) for record in records], np.int32).reshape(-1, 2)
        self._boxes = _Rows([record.boxes for record in records], np.zeros((0, 4), np.float32))
        self._labels = _joined([record.labels for record in records], np.zeros(0, np.int64))
        self._ignore = _Rows([record.ignore for record in records], np.zeros((0, 4), np.float32))
        self._ignore_labels = _joined([record.ignore_labels for record in records], np.zeros(0, np.int64))
        contents = [record.content for record in records]
        self._contents = contents if any(contents) else None
        none = np.zeros(0, np.float32)
        self._attributes = {
            name: _Rows([record.attributes.get(name, none) for record in records], none)
            for name in dict.fromkeys(name for record in records for name in record.attributes)
        }

    def __len__(self) -> int:
        return len(self._sizes)

    @overload
    def __getitem__(self, key: int) -> Record: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[Record, ...]: ...
    def __getitem__(self, key: int | slice) -> Record | tuple[Record, ...]:
        chosen = range(len(self))[key]
        return self._record(chosen) if isinstance(chosen, int) else tuple(map(self._record, chosen))

    def _record(self, index: int) -> Record:
        (width, height), objects, regions = self._sizes[index].tolist(), self._boxes.of(index), self._ignore.of(index)
        attributes = {name: rows.values[rows.of(index)] for name, rows in self._attributes.items()}
        return Record(
            image_id=_text(self._ids, index),
            path=Path(_text(self._paths, index)),
            width=width,
            height=height,
            boxes=self._boxes.values[objects],
            labels=self._labels[objects],
            ignore=self._ignore.values[regions],
            ignore_labels=self._ignore_labels[regions],
            attributes={name: values for name, values in attributes.items() if len(values)},
            content=None if self._contents is None else self._contents[index],
        )


class _Rows:
    """Arrays of different lengths, one after the other in one array."""

    def __init__(self, arrays: Sequence[npt.NDArray[Any]], empty: npt.NDArray[Any]) -> None:
        self.values, self._ends = _joined(arrays, empty), np.cumsum([0, *map(len, arrays)])

    def of(self, index: int) -> slice:
        """Where the rows of an array are."""
        return slice(*self._ends[index : index + 2].tolist())


def _joined(arrays: Sequence[npt.NDArray[Any]], empty: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """With the type of ``empty``, an array without rows."""
    return np.concatenate([empty, *arrays], dtype=empty.dtype)


def _texts(texts: Iterable[str]) -> _Rows:
    """Names of files need not be UTF-8, and an id may be any text that JSON can hold."""
    encoded = (text.encode("utf-8", "surrogatepass") for text in texts)
    return _Rows([np.frombuffer(text, np.uint8) for text in encoded], np.zeros(0, np.uint8))


def _text(rows: _Rows, index: int) -> str:
    return rows.values[rows.of(index)].tobytes().decode("utf-8", "surrogatepass")
