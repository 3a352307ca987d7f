"""The table of docs/performance.md on every method's step, from ``python -m benchmarks.methods``.

``python results/figures/methods.py [FILE]`` prints it, and why a pair does not suit a method; pages.py writes it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[1] / "methods.json"


def table(rows: list[dict[str, Any]]) -> str:
    """A row for each method that suits one of the pairs."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        pair, _, method = row["name"].rpartition(": ")
        found.setdefault(method, {})[pair] = row
    pairs = list(dict.fromkeys(row["name"].rpartition(": ")[0] for row in rows))
    lines = [
        "| | " + " | ".join(f"{pair}: **over floor** | over baseline | memory over baseline" for pair in pairs) + " |",
        "| --- |" + " ---: |" * 3 * len(pairs),
    ]
    for method, own in found.items():
        if all("left out" in row for row in own.values()):
            continue
        cells = [
            " |  | "
            if "left out" in own[pair]
            else f"{own[pair]['ratio']:.2f} | {own[pair]['over plain']:.2f} | "
            f"{own[pair]['distilled_mib'] / own[pair]['plain_mib']:.2f}"
            for pair in pairs
        ]
        lines.append(f"| `{method}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def reasons(rows: list[dict[str, Any]]) -> str:
    """Why a pair does not suit a method, a line each."""
    return "\n".join(f"{row['name']}: {row['left out']}" for row in rows if "left out" in row)


if __name__ == "__main__":
    read = json.loads((Path(sys.argv[1]) if len(sys.argv) > 1 else FILE).read_text())
    print(table(read), reasons(read), sep="\n\n")
