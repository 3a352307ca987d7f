"""`python -m benchmarks.gpu`: what it records of parts that fail or take too long, and every part on tiny inputs."""

from __future__ import annotations

import json
import math
import os
import re
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu.cases import Bench, Case, Row, Untried, perform
from benchmarks.gpu.supervise import Part, Run, write_results

from eyas.commands.names import METHODS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PARTS = {
    "good": "yield {'value': 1}",
    "failing": "yield {'value': 1}; raise ValueError('no')",
    "outside": "yield {'within': True}; yield {'within': False}",
    "crashing": "yield {'value': 1}; import os; os._exit(3)",
    "hanging": "yield {'value': 1}; import time; time.sleep(60)",
}


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Name to module of parts that need no torch; the second case of each is good."""
    for name, body in PARTS.items():
        (tmp_path / f"{name}_part.py").write_text(
            "from benchmarks.gpu.cases import Case\n"
            f"def first():\n    {body}\n"
            "def cases(bench):\n    return [Case('first', first), Case('second', lambda: [{'value': 2}])]\n"
        )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(ROOT / "src"), str(tmp_path))))
    return {name: f"{name}_part" for name in PARTS}


def test_the_page_says_how_long_each_part_takes() -> None:
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"\| `(\w+)` \| (\d+) \|", page)) == {part.name: str(part.seconds) for part in gpu.PARTS}


def test_rows_survive_whatever_ends_a_part(parts: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "card.json"
    ordered = [Part(name, math.inf, module) for name, module in parts.items()]
    arguments = ["--device", "cpu", "--folder", str(tmp_path)]
    run = Run(ordered, arguments, tmp_path, lambda done: write_results(file, {}, done))

    def ends(part: Part) -> float:
        """The time of the part that hangs is over as soon as it has a row."""
        rows = run.results[part.name].cases.get("first", {}).get("rows")
        return 0 if part.name == "hanging" and rows else math.inf

    run.ends = ends  # type: ignore[method-assign]
    assert [run(part) for part in ordered] == [True, False, False, False, False]
    found: dict[str, Any] = json.loads(file.read_text())["parts"]
    assert {name: part["status"] for name, part in found.items()} == {**dict.fromkeys(parts, "failed"), "good": "done"}
    assert all(part["cases"]["first"]["rows"] for part in found.values())
    for name in ("good", "failing", "outside"):
        assert found[name]["cases"]["second"]["rows"] == [{"value": 2}]
    assert found["failing"]["cases"]["first"]["error"] == "ValueError: no"
    assert found["failing"]["error"] == "failed: first"
    assert found["outside"]["cases"]["first"]["error"] == "1 rows are outside their tolerance"
    assert found["crashing"]["error"] == "the process ended with status 3 in first"
    assert found["hanging"]["error"] == "its time was over in first"


def test_unused_time_passes_on(tmp_path: Path) -> None:
    one, two = Part("one", 10, ""), Part("two", 20, "")
    run = Run([one, two], [], tmp_path, lambda _: None, began=100.0)
    assert (run.ends(one), run.ends(two)) == (110, 130)


def test_shares_are_eight_minutes_at_most() -> None:
    assert sum(part.seconds for part in (gpu.MACHINE, *gpu.PARTS)) <= 480
    assert [part.seconds for part in gpu.scaled(gpu.PARTS, 60)] == pytest.approx(
        [part.seconds * 60 / sum(each.seconds for each in gpu.PARTS) for part in gpu.PARTS]
    )


def test_no_case_begins_after_the_deadline(tmp_path: Path) -> None:
    found: list[Row] = []
    perform([Case("late", lambda: [{}])], Bench("cpu", True, tmp_path, time.monotonic() - 1), found.append)
    assert found == [{"case": "late", "left_out": "no time left"}]


def test_what_cannot_be_tried_is_no_error(tmp_path: Path) -> None:
    def run() -> list[Row]:
        raise Untried("no such package")

    *_, ending = performed([Case("one", run)], tmp_path)
    assert ending["untried"] == "no such package" and "error" not in ending


def test_without_a_card_nothing_is_run(
    parts: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "MACHINE", Part("machine", 60, parts["crashing"]))
    assert gpu.main(["--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
    assert "parity" not in capsys.readouterr().out


def test_the_files_are_named_after_the_card() -> None:
    assert gpu.file_name("NVIDIA H100 80GB HBM3") == "NVIDIA-H100-80GB-HBM3"


def test_the_carried_packages_are_those_that_the_tests_run_with() -> None:
    def pinned(file: Path) -> set[str]:
        return {line.lower() for line in file.read_text().splitlines() if line and not line.startswith("#")}

    assert pinned(ROOT / "benchmarks/gpu/requirements.txt") <= pinned(ROOT / "constraints.txt")


# --- every part, on tiny inputs ---


def performed(cases: list[Case], folder: Path) -> list[Row]:
    found: list[Row] = []
    perform(cases, Bench("cpu", True, folder, time.monotonic() + 600), found.append)
    return found


def tiny(part: str, folder: Path) -> list[dict[str, Any]]:
    """The rows of a part, none of whose cases may fail."""
    bench = Bench("cpu", True, folder, time.monotonic() + 600)
    found = performed(import_module(f"benchmarks.gpu.{part}").cases(bench), folder)
    assert [entry for entry in found if "error" in entry] == []
    return [entry["row"] for entry in found if "row" in entry]


def test_the_machine(tmp_path: Path) -> None:
    (row,) = tiny("machine", tmp_path)
    assert row["card"] == "cpu" and row["torch"] and row["cores"] >= 1


def test_parity(tmp_path: Path) -> None:
    rows = tiny("parity", tmp_path)
    assert {row["precision"] for row in rows} == {"float32", "bfloat16", "float16"}
    # The CPU against itself: the same numbers in float32, and rounding that is seen in 16 bits.
    differences = {(row["precision"] == "float32", row["gradient differs by"] > 1e-5) for row in rows}
    assert (False, True) in differences and (True, True) not in differences


def test_parity_has_every_method() -> None:
    from benchmarks.gpu.parity import IN_STEPS, ON_VIEWS

    assert {
        name.partition(",")[0] for tried in (ON_VIEWS, IN_STEPS) for made in tried.values() for name in made
    } == set(METHODS)


def test_steps(tmp_path: Path) -> None:
    rows = {row["name"].rpartition(": ")[2]: row for row in tiny("steps", tmp_path)}
    assert rows["distilled over floor"]["ratio"] > 0 and rows["cached over plain"]["ratio"] > 0
    assert 0 < rows["distilled, time that is no convolution"]["share"] < 1


def test_losses(tmp_path: Path) -> None:
    rows = tiny("losses", tmp_path)
    assert all({"sparse_seconds", "dense_seconds", "written_mib"} <= row.keys() for row in rows if "share" in row)
    (summary,) = (row for row in rows if "sparse_below" in row)
    assert 0 <= summary["sparse_below"] <= 1 and summary["device"] == "cpu"
    assert [row["cells that differ"] for row in rows if "boxes" in row] == [0]


def test_the_crossover() -> None:
    from benchmarks.gpu.losses import crossover

    assert crossover([0.1, 0.2, 0.4], [0.9, 0.8, 0.5]) == 0
    assert crossover([0.1, 0.2, 0.4], [4.0, 3.0, 2.0]) == 1
    assert crossover([0.1, 0.2, 0.4], [4.0, 2.0, 0.5]) == pytest.approx(0.3)
    assert crossover([0.1, 0.2, 0.4], [4.0, 0.5, 1.2]) == pytest.approx(1 / 6)


def test_tensorrt_is_recorded_as_untried_without_a_card(tmp_path: Path) -> None:
    assert tiny("tensorrt_parity", tmp_path) == []


def test_compiled_steps(tmp_path: Path) -> None:
    rows = {row["name"].rpartition(": ")[2]: row for row in tiny("compiled", tmp_path)}
    assert rows["distilled, eager over compiled"]["ratio"] > 0 and rows["until compiled"]["backend"] == "aot_eager"


def test_digits(tmp_path: Path) -> None:
    rows = tiny("digits", tmp_path)
    (curves,) = (row["mAP by epoch"] for row in rows if "mAP by epoch" in row)
    assert sorted(curves) == ["baseline-0", "baseline-1", "fgfi-0", "fgfi-1"]
    (comparison,) = (row["comparison"] for row in rows if "comparison" in row)
    assert comparison["missing"] == [] and set(comparison["arms"]) == {"baseline", "fgfi"}
