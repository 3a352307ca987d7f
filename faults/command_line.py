"""What the commands of this package have in common: their options, and the file of their results."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from eyas.tools.files import make_folder, write_json


def parser(description: str | None) -> argparse.ArgumentParser:
    """The command line of a module, by its docstring."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    return found


def keep(result: dict[str, Any], path: Path | None) -> None:
    """Write the results, where a file is asked for."""
    if path is not None:
        make_folder(path.parent)
        write_json(path, result)
