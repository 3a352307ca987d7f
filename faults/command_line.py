"""Options and result files that the commands of this package share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from eyas.tools.files import make_folder, write_json


def parser(description: str | None) -> argparse.ArgumentParser:
    """The argument parser of a module, described by its docstring."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    return found


def keep(result: dict[str, Any], path: Path | None) -> None:
    """Write the results, if a file was given."""
    if path is not None:
        make_folder(path.parent)
        write_json(path, result)
