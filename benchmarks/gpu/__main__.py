"""All that needs a CUDA card, in at most eight minutes, as one JSON with the card's name.

    python -m benchmarks.gpu                    results/gpu/NAME.json
    python -m benchmarks.gpu --parts parity steps --seconds 180
    python -m benchmarks.gpu --tiny             every part on the CPU, on tiny inputs: does the code run?

The machine with the card needs torch 2.6 or newer with torchvision, accelerate, safetensors, rich, scipy, matplotlib,
onnx, onnxruntime and onnxscript, and no network; with transformers and libreyolo the methods on queries and LD are
compared, too. What Eyas and its digits need beyond these is in
``benchmarks/gpu/requirements.txt`` and can be carried as wheels. On a machine with a network, for Python 3.12 there:

    python -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp
        --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux2014_x86_64
        --dest wheels --requirement benchmarks/gpu/requirements.txt
    python -m pip wheel --no-deps --wheel-dir wheels .

The last one is Eyas itself, whose version every run records. Copy the checkout and ``wheels``; then there, in the
checkout:

    python3 -m pip install --no-index --no-deps --target /tmp/site wheels/*.whl
    PYTHONPATH=$PWD/src:/tmp/site python3 -m benchmarks.gpu

Every part is a process of its own with a share of the time; what it leaves unused passes on to the parts after it, and
one that takes longer is ended. The JSON is written whenever there is a row, so that a run that is cut off keeps its
rows. Exit status: 0 where every part was done, 1 where a case failed or a part was ended, 2 without a card.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.gpu.supervise import Part, Result, Run, write_results

MACHINE = Part("machine", 15, "benchmarks.gpu.machine")
PARTS = (
    Part("parity", 60, "benchmarks.gpu.parity"),
    Part("steps", 110, "benchmarks.gpu.steps"),
    Part("losses", 40, "benchmarks.gpu.losses"),
    Part("tensorrt", 20, "benchmarks.gpu.tensorrt_parity"),
    Part("compiled", 65, "benchmarks.gpu.compiled"),
    Part("digits", 165, "benchmarks.gpu.digits"),
)
"""In this order. The last ones profit most from what others leave: they have nothing to show before they are done."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [part.name for part in PARTS]
    parser.add_argument("--parts", nargs="+", choices=names, default=names, metavar="PART", help=", ".join(names))
    parser.add_argument("--seconds", type=float, metavar="N", help="in all; the parts' shares are scaled")
    parser.add_argument("--out", type=Path, default=Path("results/gpu"), metavar="FOLDER", help="of the JSON")
    parser.add_argument("--tiny", action="store_true", help="on the CPU, with tiny inputs")
    chosen = parser.parse_args(arguments)
    parts = scaled([MACHINE, *(part for part in PARTS if part.name in chosen.parts)], chosen.seconds)
    some = "" if set(chosen.parts) == set(names) else f".{'+'.join(part.name for part in parts[1:])}"
    suffix = ".tiny" * chosen.tiny + some
    began = time.time()

    def save(results: Mapping[str, Result]) -> None:
        card = card_of(results)
        if card is not None:
            head = {"card": card, "tiny": chosen.tiny, "time": round(began), "seconds": round(time.time() - began, 1)}
            write_results(chosen.out / f"{file_name(card)}{suffix}.json", head, results)

    with tempfile.TemporaryDirectory(prefix="eyas-gpu-", ignore_cleanup_errors=True) as folder:
        given = ["--device", "cpu" if chosen.tiny else "cuda", "--folder", folder, *(["--tiny"] if chosen.tiny else [])]
        run = Run(parts, given, Path(folder), save)
        if not run(parts[0]):
            return 2
        return 0 if all([run(part) for part in parts[1:]]) else 1


def scaled(parts: Sequence[Part], seconds: float | None) -> list[Part]:
    """The parts with shares that add up to ``seconds``; as they are where that is None."""
    factor = 1.0 if seconds is None else seconds / sum(part.seconds for part in parts)
    return [Part(part.name, part.seconds * factor, part.module) for part in parts]


def card_of(results: Mapping[str, Result]) -> str | None:
    """The card's name, as the first part found it, which has one row."""
    rows = results[MACHINE.name].cases.get(MACHINE.name, {}).get("rows")
    return str(rows[0]["card"]) if rows else None


def file_name(card: str) -> str:
    """``NVIDIA H100 80GB HBM3`` as ``NVIDIA-H100-80GB-HBM3``."""
    return re.sub(r"[^\w.]+", "-", card).strip("-")


if __name__ == "__main__":
    sys.exit(main())
