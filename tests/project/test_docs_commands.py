"""Every `eyas` command in README and docs runs, in the order of its page, on tiny data.

`docs_project` supplies data, teachers and files for downloads. Pages that take more than some seconds are slow.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from test_readme import PAGES, ROOT, blocks, commands

from eyas.__main__ import COMMANDS, main
from helpers import docs_project

SLOW = {"README.md"} | {
    f"docs/{name}.md"
    for name in (
        "cache", "compare", "data", "export", "first_student", "foundation_teacher", "inspect", "launch",
        "methods/bckd", "methods/crosskd", "methods/ld", "other_teacher", "questions/which_method", "recipes",
        "report", "results", "trackers", "transformers", "yolo",
    )
}  # fmt: skip
"""Pages whose trainings, exports and comparisons take more than some seconds."""
STATUS = {"doctor": {0, 1}}
"""Exit statuses other than 0: with 1 `doctor` reports that something is missing on this machine."""

WITH_COMMANDS = [page for page in PAGES if commands(page)]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def marked(page: Path) -> Any:
    marks = [pytest.mark.slow] if name_of(page) in SLOW else []
    return pytest.param(page, marks=marks, id=name_of(page))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of SQLAlchemy, to MLflow
@pytest.mark.parametrize("page", [marked(page) for page in WITH_COMMANDS])
def test_commands_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for text in (*blocks(page, "yaml"), *blocks(page, "python")):
        name = text.partition("\n")[0].removeprefix("# ")
        if name.endswith((".yaml", ".py")):
            Path(name).write_text(text)
    for arguments in commands(page):
        run(arguments)
    shutil.rmtree(tmp_path)


def run(arguments: list[str]) -> None:
    """Run one command, and check that its output appears."""
    docs_project.supply([docs_project.SUBSTITUTES.get(word, word) for word in arguments])
    out = Path(arguments[arguments.index("--out") + 1]) if "--out" in arguments else None
    if out is not None and arguments[0] in ("train", "distill"):
        shutil.rmtree(out, ignore_errors=True)  # made by an earlier command of the page
    assert main(docs_project.ready(arguments)) in STATUS.get(arguments[0], {0}), arguments
    if out is not None:
        assert out.is_file() or any(out.iterdir()), arguments
    for checkpoint in Path().glob("runs/**/last.pt"):
        checkpoint.unlink()  # hundreds of MB for the larger networks


def test_every_command_of_the_product_is_on_a_page() -> None:
    shown = {arguments[0] for page in WITH_COMMANDS for arguments in commands(page)}
    assert shown >= set(COMMANDS) - {"demo", "benchmark"}
    assert {name_of(page) for page in WITH_COMMANDS} >= SLOW


def test_a_command_that_fails_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match="no_such_model"):
        run(["train", "--data", "cells/", "--model", "no_such_model", "--out", "runs/teacher"])
