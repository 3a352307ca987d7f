"""One part of the run, as a process of its own: ``python -m benchmarks.gpu.child MODULE --rows FILE ...``.

What a part does to the device, to torch's settings or to memory ends with its process.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from pathlib import Path

from benchmarks.gpu.cases import Bench, Row, perform
from eyas.tools.children import end_with_parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module", help="has cases(bench)")
    parser.add_argument("--rows", type=Path, required=True, help="gets a line of JSON for all that happens")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--tiny", action="store_true")
    chosen = parser.parse_args()
    end_with_parent()
    bench = Bench(chosen.device, chosen.tiny, chosen.folder, time.monotonic() + chosen.seconds)
    with chosen.rows.open("a", encoding="utf-8") as file:

        def emit(entry: Row) -> None:
            print(json.dumps(entry), file=file, flush=True)

        perform(importlib.import_module(chosen.module).cases(bench), bench, emit)


if __name__ == "__main__":
    main()
