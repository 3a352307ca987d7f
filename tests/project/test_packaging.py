"""What is built is what is installed: wheel and source archive hold all that the product needs, and the wheel runs."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments: str, cwd: Path, **environment: str) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive, made from a copy of what git tracks or would track."""
    out = tmp_path_factory.mktemp("built")
    copy = tmp_path_factory.mktemp("source")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in listed:
        if name.split("/")[0] in {"src", "pyproject.toml", "README.md", "LICENSE"} and (ROOT / name).is_file():
            target = copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    run("-m", "build", "--no-isolation", "--outdir", str(out), str(copy), cwd=out, PYTHONWARNINGS="default")
    return out


def test_wheel_holds_everything(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    source = ROOT / "src"
    expected = {str(path.relative_to(source)) for path in (source / "eyas").rglob("*") if path.is_file()}
    expected = {name for name in expected if "__pycache__" not in name}
    assert expected <= names, expected - names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_source_archive_builds_alone(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as content:
        names = {name.partition("/")[2] for name in content.getnames()}
    needed = {"pyproject.toml", "README.md", "LICENSE", "src/eyas/py.typed", "src/eyas/recipes/digits/student.yaml"}
    assert needed <= names, needed - names


def test_wheel_runs(built: Path, tmp_path: Path) -> None:
    """Installed beside nothing of the checkout, whose requirements the environment has."""
    (wheel,) = built.glob("*.whl")
    run("-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "site"), str(wheel), cwd=tmp_path)
    place = str(tmp_path / "site")
    assert run("-c", "import eyas; print(eyas.__file__)", cwd=tmp_path, PYTHONPATH=place).startswith(place)
    assert "digits/student" in run("-m", "eyas", "recipes", cwd=tmp_path, PYTHONPATH=place)
    assert "torch" in run("-m", "eyas", "doctor", cwd=tmp_path, PYTHONPATH=place)
