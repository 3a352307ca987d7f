"""The page about scale: its tables are those that the script computes from the committed measurements."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from benchmarks.scale import ASSUMED, DATA, GPUS, NODES, PAGE, RESULT, compute, filled, tables

from eyas.cache.shards import LevelRecord, encode


@pytest.fixture(scope="module")
def found() -> Mapping[str, Any]:
    content: Mapping[str, Any] = json.loads(RESULT.read_text())
    return content


def test_every_number_is_computed_from_what_is_measured_and_assumed(found: Mapping[str, Any]) -> None:
    again = json.loads(json.dumps({"assumed": ASSUMED, "nodes": NODES, **compute(found["measured"])}))
    assert {name: found[name] for name in again} == again


def test_the_page_has_the_tables_of_the_script(found: Mapping[str, Any]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page, found) == page
    assert all(table in page for table in tables(found).values())


def test_the_bytes_of_a_record_are_those_of_the_cache(found: Mapping[str, Any]) -> None:
    near = round(found["data"]["COCO"]["near_cells"])
    counts = [near, 0, 0, 0, 0]
    levels = [
        LevelRecord((200, 267), np.arange(count, dtype=np.int32), np.zeros((count, 256), np.int16)) for count in counts
    ]
    assert len(encode(bytes(32), levels)) == found["data"]["COCO"]["record_bytes"]


def test_what_grows_with_data_and_nodes_does(found: Mapping[str, Any]) -> None:
    runs = {(run["data"], run["gpus"]): run for run in found["runs"]}
    assert len(runs) == len(DATA) * len(GPUS)
    for one in DATA:
        few, many = runs[one.name, 8], runs[one.name, 64]
        assert few["all_reduce_bytes"] == 0 < many["all_reduce_bytes"]
        assert many["hours"]["distilled"] == pytest.approx(few["hours"]["distilled"] / 8)
        assert few["cores"] == pytest.approx(many["cores"]), "eight GPUs on each node"
    sizes = found["data"]
    assert sizes["Objects365"]["cache_bytes"] > 20 * sizes["COCO"]["cache_bytes"]
