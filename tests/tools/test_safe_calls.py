"""Nothing in the product unpickles, evaluates or hands text to a shell; and bandit, where it is installed, agrees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "eyas"
FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "torch.hub.load", "pandas.read_pickle"),
}
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def name_of(node: ast.expr) -> str:
    """``a.b.c`` of a chain of attributes; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := name_of(node.value)):
        return f"{owner}.{node.attr}"
    return ""


def unsafe(text: str) -> Iterator[str]:
    """What must not stand in the product's code, line by line."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            for name in {module or alias.name for alias in node.names}:
                if name.split(".")[0] in MODULES:
                    yield f"{node.lineno}: imports {name}"
            hidden = {alias.name for alias in node.names} & {"load", "system", "popen"}
            if module in ("torch", "yaml", "os", "numpy") and hidden:
                yield f"{node.lineno}: hides where its load comes from"
        if isinstance(node, ast.Call):
            yield from unsafe_call(node)


def unsafe_call(node: ast.Call) -> Iterator[str]:
    name, options = name_of(node.func), {keyword.arg: keyword.value for keyword in node.keywords}
    if name in FORBIDDEN:
        yield f"{node.lineno}: {name}"
    if name == "np.load" and not is_constant(options.get("allow_pickle"), False):
        yield f"{node.lineno}: np.load without allow_pickle=False"
    if name == "torch.load" and not is_constant(options.get("weights_only"), True):
        yield f"{node.lineno}: torch.load without weights_only=True"
    for option, safe in (("allow_pickle", False), ("shell", False), ("trust_remote_code", False)):
        if option in options and not is_constant(options[option], safe):
            yield f"{node.lineno}: {name} with {option}"
    if name.endswith((".from_pretrained", ".from_config")) and "trust_remote_code" not in options:
        yield f"{node.lineno}: {name} without trust_remote_code=False"
    of_path = isinstance(node.func, ast.Attribute) and node.func.attr == "read_text" and not node.args
    if of_path and "encoding" not in options:
        yield f"{node.lineno}: read_text without an encoding"
    downloads = name.endswith(("load_state_dict_from_url", ".get_state_dict")) and "check_hash" in options
    if downloads and not is_constant(options.get("weights_only"), True):
        yield f"{node.lineno}: {name} without weights_only=True"


def is_constant(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_nothing_unsafe_is_called(path: Path) -> None:
    assert list(unsafe(path.read_text())) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "from torch import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "yaml.load(text)",
        "eval('1')",
        "np.load(path, allow_pickle=True)",
        "np.load(path)",
        "subprocess.run(text, shell=True)",
        "AutoModel.from_pretrained(name)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "entry.get_state_dict(check_hash=True)",
        "(folder / name).read_text()",
    ],
)
def test_the_test_sees_it(text: str) -> None:
    assert list(unsafe(text))


def test_the_test_lets_pass_what_is_safe() -> None:
    assert not list(unsafe("torch.load(p, weights_only=True)\nyaml.safe_load(t)\nmodel.eval()\nre.compile('a')\n"))


def test_bandit_finds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    manager = pytest.importorskip("bandit.core.manager")
    config = pytest.importorskip("bandit.core.config").BanditConfig(str(SOURCE.parents[1] / "pyproject.toml"))
    # `make lint` runs it over everything; here only the files that read what others wrote.
    skips = {"exclude": config.get_option("skips")}
    found = manager.BanditManager(config, "file", profile=skips)
    found.discover_files(
        [str(SOURCE / name) for name in ("tools/tensor_files.py", "runs/checkpoint.py", "cache/shards.py")]
    )
    assert len(found.files_list) == 3
    found.run_tests()
    assert [str(issue) for issue in found.get_issue_list()] == []
