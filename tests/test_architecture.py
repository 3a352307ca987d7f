"""The rooms of `eyas`: a module imports only from its own room and from rooms of a lower level."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "src" / "eyas"
LEVELS = {
    "ops": 0,
    "types": 1,
    "nn": 2,
    "tools": 2,
    "methods": 3,
    "detectors": 3,
    "data": 3,
    "args": 4,
    "distillation": 4,
    "runs": 5,
    "evaluation": 6,
    "comparison": 6,
    "cache": 7,
    "training": 8,
    "export": 8,
    "report": 8,
    "eyas": 9,  # __init__.py: the public names
    "commands": 10,
    "__main__": 11,
}
TOP_FILES = 6


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file of every module below a package's folder."""
    files = {path.relative_to(root.parent).with_suffix("").parts: path for path in root.rglob("*.py")}
    return {".".join(parts[:-1] if parts[-1] == "__init__" else parts): path for parts, path in files.items()}


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import, also inside functions, but not under ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module or '.'}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from imports(ast.Module(node.orelse, []))
        else:
            yield from imports(node)


def graph(root: Path) -> dict[str, dict[str, int]]:
    """Module -> the modules of the same package that it imports, each with the line."""
    known = modules(root)
    result: dict[str, dict[str, int]] = {name: {} for name in known}
    for name, path in known.items():
        for line, imported in imports(ast.parse(path.read_text())):
            target = imported if imported in known else imported.rpartition(".")[0]  # a name in a module
            if target in known and target != name:
                result[name].setdefault(target, line)
    return result


def room(module: str) -> str:
    """``eyas.data.formats.coco`` -> ``data``."""
    return module.split(".")[1] if "." in module else module


def violations(arrows: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Imports that do not go down: from a room of the same or a higher level."""
    return [
        f"{module}, line {line}: {room(module)} (level {LEVELS[room(module)]}) imports {target} "
        f"(level {LEVELS[room(target)]})"
        for module, targets in sorted(arrows.items())
        for target, line in targets.items()
        if room(target) != room(module) and LEVELS[room(target)] >= LEVELS[room(module)]
    ]


def test_modules_import_only_from_lower_levels() -> None:
    assert violations(graph(ROOT)) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter(graph(ROOT)).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_every_room_has_a_level() -> None:
    assert {room(module) for module in modules(ROOT)} == set(LEVELS)


def test_few_files_lie_outside_the_rooms() -> None:
    assert len(list(ROOT.glob("*.py"))) <= TOP_FILES


def test_imports_in_functions_count_and_those_for_types_do_not(tmp_path: Path) -> None:
    package = tmp_path / "eyas"
    for name, text in {
        "__init__": "from eyas.ops.boxes import iou",
        "ops/__init__": "",
        "ops/boxes": "if TYPE_CHECKING:\n    from eyas.training.trainer import Trainer\nelse:\n    import eyas.types",
        "types": "def iou():\n    try:\n        import eyas.data.reading\n    finally:\n        pass",
        "data/__init__": "from eyas.methods import fgfi",
        "data/reading": "from eyas import ops",
        "methods/fgfi": "from eyas.ops import boxes",
        "training/trainer": "from eyas import iou",
    }.items():
        path = package / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert violations(graph(package)) == [
        "eyas.data, line 1: data (level 3) imports eyas.methods.fgfi (level 3)",
        "eyas.ops.boxes, line 4: ops (level 0) imports eyas.types (level 1)",
        "eyas.training.trainer, line 1: training (level 8) imports eyas (level 9)",
        "eyas.types, line 3: types (level 1) imports eyas.data.reading (level 3)",
    ]
