"""README and docs: their Python runs, their commands parse, their links and the tests they name exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

from eyas.__main__ import parse
from eyas.commands.recipes import recipes
from eyas.runs.checkpoint import ModelSpec, save_weights
from eyas.types import EyasError, Target

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FOR_DEVELOPERS = [ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "ARCHITECTURE.md")]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")

Loader = list[tuple[torch.Tensor, list[Target]]]


def blocks(page: Path, language: str) -> list[str]:
    return [body for kind, body in FENCE.findall(page.read_text()) if kind == language]


def commands(page: Path) -> list[list[str]]:
    """The arguments of every `eyas` line in the shell blocks of a page, in their order."""
    lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    return [words[1:] for line in lines if (words := shlex.split(line, comments=True)) and words[0] == "eyas"]


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.fixture
def loader() -> Loader:
    """One batch: an image with two objects and one without any."""
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    some: Target = {"boxes": torch.tensor([[8.0, 8, 40, 44], [30, 20, 60, 60]]), "labels": torch.tensor([0, 1])}
    none: Target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    return [(images, [some, none])]


def test_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loader: Loader) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "teacher"
    folder.mkdir(parents=True)
    options = {"width": 0.25, "stem_channels": 8, "anchor_shapes": [[16, 24], [32, 32]]}
    spec = ModelSpec("shuffledet", ("red", "white"), options=options)
    torch.manual_seed(0)
    save_weights(spec.build().network, folder / spec.weights)
    spec.save(folder)
    shown = blocks(ROOT / "README.md", "python")
    assert len(shown) == 1
    namespace: dict[str, object] = {"loader": loader}
    exec(compile(shown[0], "README.md", "exec"), namespace)
    losses = namespace["distiller"](*loader[0])
    assert losses["fgfi"] > 0 and len(losses) > 1
    student = namespace["student"].network.state_dict()
    assert all(value.isfinite().all() for value in student.values())
    assert not any("adapter" in name for name in student)


def test_python_of_your_own_detector_runs() -> None:
    """The blocks of the page are one program."""
    page = ROOT / "docs" / "your_own_detector.md"
    namespace: dict[str, object] = {"__name__": "your_own_detector"}
    torch.manual_seed(0)
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), namespace)
    assert namespace["terms"].keys() == {"loss_class", "loss_box", "fgfi"}
    assert namespace["terms"]["fgfi"] > 0
    assert namespace["boxes"].shape == (10, 4)
    assert list(namespace["own"].levels) == ["body"]


def test_the_balance_of_the_weight_page_runs(loader: Loader) -> None:
    page = ROOT / "docs" / "weight.md"
    namespace: dict[str, object] = {}
    for block in blocks(ROOT / "docs" / "your_own_detector.md", "python"):
        exec(compile(block, "your_own_detector.md", "exec"), namespace)
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), namespace)
    assert namespace["balance"].gradient_ratio().keys() == {"fgfi"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real parser, in the order in which a reader would type them; recipes are copied as the page says.

    A YAML block is the file that its first line names.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").symlink_to(ROOT / "results")
    for text in blocks(page, "yaml"):
        (tmp_path / text.partition("\n")[0].removeprefix("# ")).write_text(text)
    for arguments in commands(page):
        assert parse(arguments)[0] == arguments[0]
        if arguments[:2] == ["recipes", "copy"]:
            recipes("copy", arguments[2])


def test_commands_are_found_where_they_are_shown() -> None:
    """Guards the test above against a fence that it does not read."""
    assert {arguments[0] for arguments in commands(ROOT / "README.md")} >= {"train", "distill", "export"}
    for page in PAGES:
        kinds = {kind for kind, _ in FENCE.findall(page.read_text())}
        assert kinds <= {"bash", "python", "text", "yaml", "math", "bibtex"}, page.name


def test_wrong_commands_do_not_parse() -> None:
    """Guards the tests above against a parser that takes anything."""
    with pytest.raises(EyasError, match="lst"):
        parse(["recipes", "lst"])
    with pytest.raises(EyasError, match="dta"):
        parse(["evaluate", "runs/student", "--dta", "cells/"])


@pytest.mark.parametrize("page", [*PAGES, *FOR_DEVELOPERS], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in LINK.findall(text):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), flags=re.MULTILINE)
            assert anchor in map(slug, headings), link


@pytest.mark.parametrize("page", [*PAGES, *FOR_DEVELOPERS], ids=lambda page: page.name)
def test_files_and_tests_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    for name in re.findall(r"`((?:src|tests|results|benchmarks|docs)/[\w./-]+)`", text):
        assert "NAME" in name or (ROOT / name).exists(), name
    known = {
        name for path in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert set(re.findall(r"`(test_\w+)`", text)) <= known
