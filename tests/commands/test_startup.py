"""What a command line imports before it runs: help and errors in options answer without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

import eyas

HEAVY = ("torch", "torchvision", "accelerate", "matplotlib", "scipy", "PIL", "eyas.methods")
DISTILL = ["distill", "--data=d", "--teacher=t", "--model=m", "--out=o"]


def imported(code: str) -> list[str]:
    """Which of `HEAVY` a fresh interpreter has after some code."""
    code = f"{code}\nimport sys\nprint(*(name for name in {HEAVY} if name in sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    return done.stderr.splitlines()[-1].split()


def test_the_package_and_the_parsers_of_all_commands_import_nothing_heavy() -> None:
    assert imported("import eyas, eyas.data, eyas.types") == []
    build = "from eyas.__main__ import COMMANDS, overview, parser_of\noverview()"
    assert imported(f"{build}\nfor name in COMMANDS: parser_of(name, methods=False)") == []


@pytest.mark.parametrize(
    "arguments",
    [
        [*DISTILL, "--optim.lr=fast"],
        [*DISTILL, "--optim.lr=-1"],
        [*DISTILL, "--speed=1", "--method=eyas.FGFI", "--method.psi", "0.3"],
        [*DISTILL, "--optim.lr=-1", "--method+=eyas.FGFI"],
        ["inspect", "run", "--psi=2"],
        ["inspect", "run", "--images=0"],
        ["benchmark", "--data=d", "--model=m", "--steps=0"],
        ["evaluate", "run", "--batch_size=0"],
        ["recipes", "copy", "nothing"],
        ["train", "--data=d", "--model=m", "--out=o", "--nodes=2"],
    ],
)
def test_an_error_in_options_imports_nothing_heavy(arguments: list[str]) -> None:
    assert imported(f"from eyas.__main__ import main\nassert main({arguments}) == 2") == []


def test_a_method_is_imported_when_the_other_options_are_right() -> None:
    given = f"from eyas.__main__ import parse\nparse({DISTILL})"
    assert imported(given) == []
    assert "torch" in imported(f"from eyas.__main__ import parse\nparse({[*DISTILL, '--method=eyas.FGFI']})")


def test_every_public_name_is_there() -> None:
    assert {name for names in eyas.HOMES.values() for name in names} == set(eyas.__all__) <= set(dir(eyas))
    for name in eyas.__all__:
        assert getattr(eyas, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        eyas.Nothing  # noqa: B018


@pytest.mark.parametrize("module", ["difflib", "jsonargparse", "eyas.types"])
@pytest.mark.parametrize(
    "start", ["from eyas.__main__ import main", "import runpy\nrunpy.run_module('eyas', run_name='__main__')"]
)
def test_ctrl_c_while_modules_are_imported_is_quiet(start: str, module: str) -> None:
    code = f"""
import sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == {module!r}:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
{start}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
