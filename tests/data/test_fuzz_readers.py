"""The short form of `faults.readers`: every reader, on folders whose files are spoilt, and its own checks."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from faults import dirty_data
from faults.dirty_data import CLASSES, FORMATS, SPLIT, files_of
from faults.readers import fuzz, judge

from eyas.data import DataSource, read
from eyas.data.formats import fields
from eyas.types import EyasError


@pytest.mark.parametrize("format", FORMATS)
def test_every_spoilt_folder_is_read_or_refused(tmp_path: Path, format: str) -> None:
    tried, failed = fuzz(format, tmp_path, 60, seed=1)
    assert not failed, [one.said for one in tried if one.outcome == "failed"]
    assert {"read", "refused"} <= {one.outcome for one in tried}, "faults of both kinds were among them"
    assert any(one.places for one in tried)


@pytest.mark.parametrize(("format", "said"), [("voc", r"xml:1: DOCTYPE"), ("yolo", r"yaml: .*aliases written out")])
def test_what_expands_without_bound_is_refused(tmp_path: Path, format: str, said: str) -> None:
    FORMATS[format](tmp_path)
    _, own, lists = files_of(tmp_path)
    path = own[0] if format == "voc" else next(path for path in lists if path.name == "data.yaml")
    path.write_bytes(dirty_data.bomb(path.read_bytes(), None))  # type: ignore[arg-type]
    with pytest.raises(EyasError, match=said):
        read(tmp_path, SPLIT, format=format)


@pytest.mark.parametrize("format", FORMATS)
def test_names_that_lead_away_are_refused(tmp_path: Path, format: str) -> None:
    FORMATS[format](tmp_path)
    outside = tmp_path.parent / "outside.png"
    outside.write_bytes(next(path for path in files_of(tmp_path)[0]).read_bytes())
    lists = [path for path in files_of(tmp_path)[2] if path.suffix in (".txt", ".json")]
    if format == "yolo":
        (tmp_path / "list.txt").write_text("../outside.png\n")
        (tmp_path / "data.yaml").write_text(f"names: [{', '.join(CLASSES)}]\n{SPLIT}: list.txt\n")
    for path in lists:
        away = "../../../outside.png" if path.suffix == ".json" else "../../outside"
        old = "0007.png" if path.suffix == ".json" else "0007"
        path.write_text(path.read_text().replace(old, away))
    with pytest.raises(EyasError, match="which is outside"):
        read(tmp_path, SPLIT, format=format)


def changed(source: DataSource, **values: torch.Tensor) -> DataSource:
    first, *others = source.records
    return replace(source, records=(replace(first, **values), *others))


def test_the_judge_sees_what_must_not_be(tmp_path: Path) -> None:
    FORMATS["kitti"](tmp_path)
    source = read(tmp_path, SPLIT, classes=CLASSES)
    boxes = source.records[0].boxes
    assert judge(source, set(), "", False) == ""
    assert "other boxes than written" in judge(changed(source, boxes=boxes + 1), set(), "", False)
    assert judge(changed(source, boxes=boxes + 1), {"0000"}, "", False) == "", "its own file was touched"
    assert "outside" in judge(changed(source, boxes=boxes + 100), {"0000"}, "", False)
    assert "outside" in judge(changed(source, boxes=boxes * torch.nan), {"0000"}, "", False)
    assert "without area" in judge(changed(source, boxes=boxes[:, [0, 1, 0, 1]]), {"0000"}, "", False)
    assert "records" in judge(replace(source, records=source.records[1:]), set(), "with_bom", False)


def test_a_whole_number_beyond_every_float_is_infinite() -> None:
    assert fields.real(10**400, "a box") == math.inf and fields.real(-(10**400), "a box") == -math.inf
