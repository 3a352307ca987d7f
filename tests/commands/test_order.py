"""What a command refuses before its work: values without a meaning, and places where it could not write."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from eyas.__main__ import main
from eyas.tools.output_paths import check_output_files, check_output_folder
from eyas.types import EyasError


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("predict r i --threshold 30", "threshold must lie in [0, 1], got 30.0"),
        ("report r --threshold -1", "threshold must lie in [0, 1], got -1.0"),
        ("report r --images 0", "images must be at least 1, got 0"),
        ("export r --runs 0", "runs must be at least 1, got 0"),
        ("export r --calibration -3", "calibration must be at least 1, got -3"),
        ("export r --tolerance -1", "tolerance must lie in [0, 1], got -1.0"),
        ("export r --workers 9999", "workers must lie in [0, 256], got 9999"),
        ("inspect r --psi 2", "psi must lie in [0, 1], got 2.0"),
        ("inspect r --images 0", "images must be at least 1, got 0"),
        ("inspect r --imgsz 3x4", "resize height must lie in [8, 16384] pixels, got 4"),
        ("train --data d --model m --out o --imgsz 3x4", "resize height must lie in [8, 16384] pixels, got 4"),
        ("train --data d --model m --out o --epochs -1", "epochs must be at least 1, got -1"),
        ("train --data d --model m --out o --seed 4294967296", "seed must lie in [0, 4294967295], got 4294967296"),
        ("compare --data d --teacher t --student digits/student --out o --seeds 4294967296", "seed must lie in"),
        ("compare --data d --teacher t --student digits/student --out o --jobs 0", "jobs must be at least 1, got 0"),
        ("compare --data d --teacher t --student digits/student --out o --threads 0", "threads must be at least 1"),
        ("demo --seeds 0,4294967296 --out o", "seed must lie in [0, 4294967295], got 4294967296"),
        ("benchmark --data d --model m --steps 0", "steps must be at least 1, got 0"),
    ],
)
def test_a_value_without_a_meaning(
    line: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(line)) == 2
    assert capsys.readouterr().err.startswith(f"eyas: {said}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "line",
    [
        "export r --out file/student.onnx",
        "export r --json_file file/scores.json",
        "evaluate r --json_file file/scores.json",
        "evaluate r --predictions file/found.json",
        "inspect r --json_file file/scores.json",
        "inspect r --out file/inspection",
        "predict r i --out file/found",
        "report r --out file/report.html",
        "benchmark --data d --model m --json_file file/times.json",
        "compare --data d --teacher t --student digits/student --out file/compare",
        "demo --out file/demo",
    ],
)
def test_a_place_that_cannot_be_written_is_refused_first(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run that each line names does not exist either: the place comes before it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert main(shlex.split(line)) == 2
    said = capsys.readouterr().err
    assert said.startswith("eyas: file/") and f"{tmp_path / 'file'} is a file; choose another place" in said


def test_places(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check_output_files(None, tmp_path / "file", tmp_path / "deep" / "deeper" / "file")
    check_output_folder(tmp_path)
    check_output_folder(tmp_path / "deep" / "deeper")
    with pytest.raises(EyasError, match="is a folder; give the name of a file"):
        check_output_files(tmp_path)
    with pytest.raises(EyasError, match="is a file; give the name of a folder"):
        check_output_folder(tmp_path / "file")
    with pytest.raises(EyasError, match="a name of more than 255 bytes"):
        check_output_files(tmp_path / ("long" * 64) / "file")
    with pytest.raises(EyasError, match="two outputs have this name"):
        check_output_files(tmp_path / "new", None, tmp_path / "." / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "nothing is made"
