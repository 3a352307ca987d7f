"""The hostile files, and some valid ones, that `faults.checkpoints` reads."""

from __future__ import annotations

from functools import partial

import torch
from safetensors.torch import save_file

from faults import hostile as h
from faults.hostile import LEGACY, SAFE, WEIGHTS, Case

BOMB_MIB = 512


def pt_cases(bomb_mib: int = BOMB_MIB) -> list[Case]:
    """PyTorch files."""
    case = partial(Case, reader="weights", file=WEIGHTS)
    old = partial(Case, reader="weights", file=LEGACY)
    return [
        case("runs a command", write=lambda f: h.save(f, {"w": h.Runs(f / h.MARKER)})),
        old("runs a command, old format", write=lambda f: h.save(f, {"w": h.Runs(f / h.MARKER)}, LEGACY)),
        case(
            "runs a command, bare pickle",
            write=lambda f: (f / WEIGHTS).write_bytes(h.nothing_in_it(h.Runs(f / h.MARKER))),
        ),
        case("whole module", write=lambda f: h.save(f, torch.nn.Linear(2, 2))),
        case("zip bomb", write=lambda f: h.deflated(f, bomb_mib)),
        case("entries on the same bytes", write=lambda f: h.relisted(f, h.overlap)),
        case("entry of a terabyte", write=lambda f: h.relisted(f, h.enlarge)),
        case(
            "storage larger than its entry",
            write=lambda f: h.edited(f, lambda p: h.number_at(p, b"cpu", b"K\x04", 10**6)),
        ),
        case(
            "tensor larger than its storage",
            write=lambda f: h.edited(f, lambda p: h.number_at(p, b"cpu", b"K\x04", 2**31 - 1, last=True)),
        ),
        case("tensor of 8 GB by stride 0", write=lambda f: h.save(f, {"w": torch.ones(1).expand(2**31)})),
        case("20 million empty lists", write=lambda f: h.zipped(f, h.lists(20_000_000))),
        old("20 million empty lists, old format", write=lambda f: (f / LEGACY).write_bytes(h.lists(20_000_000))),
        case("2^60 leaves", write=lambda f: h.save(f, h.laughs())),
        case("NaN", write=lambda f: h.save(f, {"w": torch.tensor([1.0, float("nan")])})),
        case("infinite", write=lambda f: h.save(f, {"w": torch.tensor([1.0, float("inf")])})),
        case("beyond float32", write=lambda f: h.save(f, {"w": torch.tensor([1e300], dtype=torch.float64)})),
        case("complex", write=lambda f: h.save(f, {"w": torch.ones(2, dtype=torch.complex64)})),
        case("sparse", write=lambda f: h.save(f, {"w": torch.eye(3).to_sparse()})),
        case("no tensor", write=lambda f: h.save(f, {"epoch": 3})),
        case("truncated", write=lambda f: h.cut(f, WEIGHTS, lambda: h.save(f, h.state()))),
        old("truncated, old format", write=lambda f: h.cut(f, LEGACY, lambda: h.save(f, h.state(), LEGACY))),
        case("empty", write=lambda f: (f / WEIGHTS).write_bytes(b"")),
        case("text", write=lambda f: (f / WEIGHTS).write_text("hello\n" * 100)),
        case("a picture", write=lambda f: (f / WEIGHTS).write_bytes(b"\xff\xd8\xff\xe0" + bytes(200))),
        case("an archive of something else", write=lambda f: h.zipped(f, b"")),
        case("in order", write=lambda f: h.save(f, h.state()), good=True),
        old("in order, old format", write=lambda f: h.save(f, h.state(), LEGACY), good=True),
        case("in order, a list with a shared tensor", write=lambda f: h.save(f, [torch.ones(3)] * 2), good=True),
    ]


def safetensors_cases() -> list[Case]:
    """safetensors files."""
    case = partial(Case, reader="weights", file=SAFE)
    body = bytes(16)

    def lying(name: str, **changes: object) -> Case:
        return case(name, write=lambda f: h.safetensors(f, {"w": h.tensor(**changes)}, body))

    pair = {"a": h.tensor(shape=[2], data_offsets=[0, 8]), "b": h.tensor(shape=[2], data_offsets=[4, 12])}
    many = {str(i): h.tensor(shape=[0], data_offsets=[0, 0]) for i in range(300_000)}
    return [
        case("header of 2^63 bytes", write=lambda f: h.safetensors(f, {"w": h.tensor()}, body, length=2**63)),
        case("header of 1 GB", write=lambda f: h.safetensors(f, {"w": h.tensor()}, body, length=10**9)),
        case("header of 300,000 empty tensors", write=lambda f: h.safetensors(f, many)),
        lying("offsets beyond the file", data_offsets=[0, 10**12]),
        lying("shape of more than its bytes", shape=[10**6, 10**6]),
        lying("shape that overflows", shape=[2**40, 2**40]),
        lying("negative shape", shape=[-2, -2]),
        lying("unknown type", dtype="F99"),
        lying("type of no weights", dtype="F8_E5M2", shape=[16]),
        case(
            "size beyond 64 bits",
            write=lambda f: h.safetensors(f, {"w": h.tensor(shape=[0, 2**63], data_offsets=[0, 0])}),
        ),
        case("overlapping tensors", write=lambda f: h.safetensors(f, pair, bytes(12))),
        case("header that is no JSON", write=lambda f: h.safetensors(f, b"{{{{", body)),
        case("header of 100,000 brackets", write=lambda f: h.safetensors(f, b"[" * 100_000)),
        case("header that is no UTF-8", write=lambda f: h.safetensors(f, b"\xff\xfe{}")),
        case("bytes of no tensor", write=lambda f: h.safetensors(f, {"w": h.tensor()}, bytes(20))),
        case("NaN", write=lambda f: save_file({"w": torch.full((3,), float("nan"))}, f / SAFE)),
        case("truncated", write=lambda f: h.cut(f, SAFE, lambda: save_file(h.state(), f / SAFE))),
        case("empty", write=lambda f: (f / SAFE).write_bytes(b"")),
        case("in order", write=lambda f: save_file(h.state(), f / SAFE), good=True),
    ]


def run_cases() -> list[Case]:
    """Run folders, checkpoints to resume from, folders of transformers, and ONNX files."""
    weights = partial(Case, reader="run", file="student.safetensors")
    model = partial(Case, reader="run", file="model.json")
    last = partial(Case, reader="resume", file="last.pt")
    onnx = partial(Case, reader="onnx", file="m.onnx")
    options = h.spec().options
    return [
        weights("missing tensor", write=lambda f: h.run(f, lambda w: w.pop("head.bias"))),
        weights("unexpected tensor", write=lambda f: h.run(f, lambda w: w.update(more=torch.ones(1)))),
        weights("wrong shape", write=lambda f: h.run(f, lambda w: w.update({"head.bias": torch.ones(3)}))),
        weights("NaN", write=lambda f: h.run(f, lambda w: w["head.bias"].fill_(float("nan")))),
        model("width of 10,000", write=lambda f: h.described(f, options={**options, "width": 10_000.0})),
        model("option that is a text", write=lambda f: h.described(f, options={**options, "width": "wide"})),
        model("options that are a list", write=lambda f: h.described(f, options=[1, 2])),
        model("weights elsewhere", write=lambda f: h.described(f, weights="../../secret.safetensors")),
        model("classes that are numbers", write=lambda f: h.described(f, classes=[1, 2])),
        model("100,000 brackets", write=lambda f: (f / "model.json").write_text("[" * 100_000)),
        model("transformers' code, trusted by the run", write=h.transformers_with_code),
        Case("transformers' code", "transformers", "config.json", h.untrusted_transformers),
        last("runs a command", write=h.pickled_resume),
        last("NaN", write=lambda f: h.resumable(f, model={"w": torch.full((2,), float("nan"))})),
        last("no run's", write=lambda f: torch.save({"a": torch.ones(1)}, f / "last.pt")),
        last("in order", write=h.resumable, good=True),
        onnx("text", write=lambda f: (f / "m.onnx").write_text("hello")),
        onnx("weight of 4 TB", write=h.onnx_claim),
        onnx("weight in a file elsewhere", write=h.onnx_outside),
        onnx("no export of Eyas", write=h.onnx_bare),
        Case("in order", "run", "model.json", h.finished, good=True),
    ]


def cases(bomb_mib: int = BOMB_MIB) -> list[Case]:
    """All cases."""
    return [*pt_cases(bomb_mib), *safetensors_cases(), *run_cases()]
