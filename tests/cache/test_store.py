"""The teacher cache's records and files: what was written is what is read, and what is damaged is never read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from eyas.cache.identity import detector_digest
from eyas.cache.session import summarise_teacher
from eyas.cache.shards import KEY_BYTES, LevelRecord, Shards, ShardWriter
from eyas.cache.store import (
    CacheDtype,
    TeacherCache,
    cache_folder,
    fingerprint,
    in_bytes,
    record_key,
)
from eyas.cache.teacher import CachedTeacher, TeacherSummary
from eyas.data import Augmentation, Resize, train_transform
from eyas.data.formats.records import Annotation, build_record
from eyas.data.identity import record_digest
from eyas.distillation.distiller import Distiller
from eyas.methods import CWD, FGFI, PKD, BoxMask, Chen2017, FitNets, Method, RoIMimic, Schedule, Vanilla
from eyas.methods.cells import TeacherTargets, gather
from eyas.ops.anchors import StrideGrid
from eyas.tools.files import file_digest
from eyas.types import EyasError, Record, Target, View
from helpers.toys import seeded, toy_batch

SIZES, CHANNELS = ((6, 9), (3, 5)), (4, 7)
SHARED = {"format": 1}
CPU = torch.device("cpu")


def key(number: int) -> bytes:
    return record_key(bytes(32), number)


def maps(images: int, seed: int = 0, sizes: Sequence[tuple[int, int]] = SIZES) -> tuple[list[Tensor], list[Tensor]]:
    """Features and masks of two levels; the mask of the last image is empty."""
    generator = torch.Generator().manual_seed(seed)
    features = [torch.randn(images, c, *size, generator=generator) for c, size in zip(CHANNELS, sizes, strict=True)]
    masks = [torch.rand(images, *size, generator=generator) < 0.3 for size in sizes]
    for mask in masks:
        mask[-1] = False
    return features, masks


def wanted_of(features: Sequence[Tensor], masks: Sequence[Tensor]) -> list[TeacherTargets]:
    return [gather(*level) for level in zip(features, masks, strict=True)]


def opened(folder: Path, dtype: CacheDtype = "float32") -> TeacherCache:
    return TeacherCache(folder, SHARED, CHANNELS, dtype)


def write(store: TeacherCache, wanted: Sequence[TeacherTargets], first: int = 0, rank: int = 0) -> None:
    with ShardWriter(store.folder, rank) as writer:
        for number, levels in enumerate(store.split(wanted), start=first):
            writer.add(key(number), levels)
    store.refresh()


def assert_same(
    found: Sequence[TeacherTargets], expected: Sequence[TeacherTargets], dtype: torch.dtype = torch.float32
) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.size == theirs.size
        assert all(torch.equal(a, b) for a, b in zip(mine.cells, theirs.cells, strict=True))
        assert mine.vectors.dtype == dtype and torch.equal(mine.vectors, theirs.vectors.flatten(0, -2).to(dtype))


# --- records ---


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_was_written_is_read_in_any_order(tmp_path: Path, dtype: CacheDtype) -> None:
    """Bit for bit but for the rounding to the cache's type; the last image has no cell at all."""
    features, masks = maps(3)
    store = opened(tmp_path, dtype)
    write(store, wanted_of(features, masks))
    order = [2, 0, 1, 0]
    expected = wanted_of([f[order] for f in features], [m[order] for m in masks])
    assert_same(store.read([key(number) for number in order], CPU), expected, getattr(torch, dtype))


def test_every_cell(tmp_path: Path) -> None:
    features, masks = maps(2)
    store = opened(tmp_path)
    every = wanted_of(features, [torch.ones_like(mask) for mask in masks])
    assert all(level.whole and level.vectors.ndim == 4 for level in every)
    write(store, every)
    found = store.read([key(0), key(1)], CPU)
    assert_same(found, every)
    assert all(level.whole for level in found)


def test_images_of_several_sizes_share_a_padded_map(tmp_path: Path) -> None:
    store = opened(tmp_path)
    (wide, wide_masks), (high, high_masks) = maps(2, 1, ((4, 9), (2, 5))), maps(2, 2, ((7, 3), (4, 2)))
    write(store, wanted_of(wide, wide_masks))
    write(store, wanted_of(high, high_masks), first=2)
    padded, masks = [], []
    for level in range(2):
        size = (1, max(wide[level].shape[2], high[level].shape[2]), max(wide[level].shape[3], high[level].shape[3]))
        padded.append(torch.zeros(2, CHANNELS[level], *size[1:]))
        masks.append(torch.zeros(2, *size[1:], dtype=torch.bool))
        for slot, (f, m) in enumerate(((high, high_masks), (wide, wide_masks))):
            height, width = m[level].shape[1:]
            padded[level][slot, :, :height, :width] = f[level][0]
            masks[level][slot, :height, :width] = m[level][0]
    assert_same(store.read([key(2), key(0)], CPU), wanted_of(padded, masks))


def test_only_what_the_students_maps_cover(tmp_path: Path) -> None:
    """Its maps lack rows of the first level, columns of the second, or nothing."""
    features, masks = maps(3)
    store = opened(tmp_path)
    write(store, wanted_of(features, masks))
    keys = [key(number) for number in range(3)]
    for extents in ([(4, 9), (3, 3)], [(6, 9), (3, 5)], [(60, 90), (2, 50)]):
        cropped = [(f[..., :h, :w], m[:, :h, :w]) for f, m, (h, w) in zip(features, masks, extents, strict=True)]
        assert_same(store.read(keys, CPU, extents), wanted_of(*map(list, zip(*cropped, strict=True))))
        assert store.count(keys, extents) == sum(int(mask.sum()) for _, mask in cropped)


def test_float16_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    features, masks = maps(2)
    with pytest.raises(EyasError, match="bfloat16"):
        opened(tmp_path, "float16").split(wanted_of([features[0] * 1e6, features[1]], masks))


def test_the_size_is_predicted_to_the_byte(tmp_path: Path) -> None:
    features, masks = maps(5)
    store = opened(tmp_path, "bfloat16")
    write(store, wanted_of(features, masks))
    predicted, measured = store.predict(masks), store.measure(key(number) for number in range(5))
    assert predicted == measured
    assert measured.size == (tmp_path / "shard-00001-0.bin").stat().st_size
    assert measured.dense == 5 * 2 * (6 * 9 * 4 + 3 * 5 * 7) and measured.records == 5
    assert in_bytes(812) == "812 B" and in_bytes(2612) == "2.61 kB" and in_bytes(3.14e7) == "31.4 MB"


# --- damage ---


def damaged(tmp_path: Path, harm: str) -> tuple[TeacherCache, list[TeacherTargets]]:
    features, masks = maps(4)
    masks[0][-1, 2, 3] = True
    wanted = wanted_of(features, masks)
    write(opened(tmp_path), wanted)
    data, index = tmp_path / "shard-00001-0.bin", tmp_path / "shard-00001-0.index"
    if harm == "truncated by a byte":
        data.write_bytes(data.read_bytes()[:-1])
    elif harm == "a flipped bit":
        content = bytearray(data.read_bytes())
        content[-100] ^= 1
        data.write_bytes(content)
    elif harm == "index cut in a line":
        index.write_bytes(index.read_bytes()[:-10])
    elif harm == "a spoilt line":
        lines = index.read_bytes().splitlines(keepends=True)
        index.write_bytes(b"".join([*lines[:-1], b"\0" * len(lines[-1][:-1]) + b"\n"]))
    elif harm == "another record's place":
        lines = [json.loads(line) for line in index.read_text().splitlines()]
        lines[-1][1:] = lines[1][1:]
        index.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return opened(tmp_path), wanted


@pytest.mark.parametrize(
    "harm",
    ["truncated by a byte", "a flipped bit", "index cut in a line", "a spoilt line", "another record's place"],
)
def test_a_torn_record_is_missing_and_replaced(tmp_path: Path, harm: str) -> None:
    store, wanted = damaged(tmp_path, harm)
    keys = [key(number) for number in range(4)]
    assert store.missing(keys) == {key(3)}
    with ShardWriter(store.folder, 0) as writer:
        writer.add(key(3), store.split(wanted)[3])
    assert not opened(tmp_path).missing(keys)
    store.refresh()
    assert_same(store.read(keys, CPU), wanted)  # the new record, not the torn one that the index still names


def test_the_whole_file_gone_is_missing(tmp_path: Path) -> None:
    store, _ = damaged(tmp_path, "none")
    assert not store.missing([key(0), key(3)])
    (tmp_path / "shard-00001-0.bin").write_bytes(b"")
    assert opened(tmp_path).missing([key(0), key(3)]) == {key(0), key(3)}


def test_a_file_cut_off_while_it_is_in_use_is_an_error(tmp_path: Path) -> None:
    """A mapped file would end the process by SIGBUS."""
    store, wanted = damaged(tmp_path, "none")
    keys = [key(number) for number in range(4)]
    data = tmp_path / "shard-00001-0.bin"
    content = data.read_bytes()
    for harm in (content[:-70], content[: KEY_BYTES // 2], b"", content[:-100] + bytes(100)):
        data.write_bytes(harm)
        with pytest.raises(EyasError, match=r"shard-00001-0\.bin: changed while it was in use; call the command again"):
            store.read(keys, CPU)
    data.write_bytes(content)
    data.unlink()
    assert_same(store.read(keys, CPU), wanted)  # a file that is removed stays open


def test_what_is_not_of_the_cache_is_passed_over(tmp_path: Path) -> None:
    store, wanted = damaged(tmp_path, "none")
    for name in ("shard-copy.index", "shard-00001-0.index.bak", "shard-1-0.bin", "shard--.bin", "notes.txt", ".lock"):
        (tmp_path / name).write_text("x")
    (tmp_path / "shard-00009-0.index").mkdir()
    (tmp_path / "shard-00009-0.bin").write_text("xx")
    (tmp_path / "shard-00008-0.index").write_text("[1]\n")
    (tmp_path / "shard-00008-0.bin").mkdir()
    os.mkfifo(tmp_path / "shard-00007-0.bin")
    (tmp_path / "shard-00007-0.index").write_text("[1]\n")
    store.refresh()
    assert_same(store.read([key(number) for number in range(4)], CPU), wanted)
    write(store, wanted, first=10)
    assert (tmp_path / "shard-00010-0.bin").is_file(), "the next number after all that are taken"
    assert not store.missing(map(key, range(10, 14)))


def test_a_shard_of_another_cache_is_passed_over(tmp_path: Path) -> None:
    """Caches of two teachers have the same keys: records put into the wrong one would be the wrong teacher's."""
    wanted, keys = wanted_of(*maps(4)), [key(number) for number in range(4)]
    first, second = opened(tmp_path / "fgfi-1"), opened(tmp_path / "fgfi-2")
    write(first, wanted)
    for path in first.folder.glob("shard-*"):
        shutil.copy(path, second.folder)
    second.refresh()
    assert second.missing(keys) == set(keys) and not second.holds(keys)
    shutil.copytree(tmp_path / "fgfi-1", tmp_path / "copy" / "fgfi-1")
    assert not opened(tmp_path / "copy" / "fgfi-1").missing(keys), "a whole cache may move"
    for path in second.folder.glob("shard-*.index"):
        path.write_bytes(path.read_bytes().partition(b"\n")[2])  # as earlier versions wrote it
    second.refresh()
    assert not second.missing(keys)


def test_a_cache_that_is_a_link_is_read_and_not_written(tmp_path: Path) -> None:
    wanted = wanted_of(*maps(4))
    write(opened(tmp_path / "elsewhere" / "fgfi-1"), wanted)
    before = sorted((tmp_path / "elsewhere").rglob("*"))
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "fgfi-1").symlink_to(tmp_path / "elsewhere" / "fgfi-1")
    (tmp_path / "empty").mkdir()
    (tmp_path / "root" / "fgfi-2").symlink_to(tmp_path / "empty")
    store = opened(tmp_path / "root" / "fgfi-1")
    assert not store.missing([key(number) for number in range(4)])
    with pytest.raises(EyasError, match="fgfi-1: is a link"):
        write(store, wanted, first=10)
    with pytest.raises(EyasError, match="fgfi-2: is a link"):
        opened(tmp_path / "root" / "fgfi-2")
    assert sorted((tmp_path / "elsewhere").rglob("*")) == before and not list((tmp_path / "empty").iterdir())


@pytest.mark.parametrize(
    "line",
    [
        *("[" * 10_000, "{}", "5", '["zz", 0, 0, 0]', '["00", 0, 0]', '["00", Infinity, 0, 0]', '["00", -5, 5, 0]'),
        *('["00", 0, 99999999999999999999, 0]', '["00", 5, -5, 0]', '["00", null, 0, 0]'),
    ],
)
def test_a_line_of_the_index_that_claims_what_is_not_there(tmp_path: Path, line: str) -> None:
    store, wanted = damaged(tmp_path, "none")
    index = tmp_path / "shard-00001-0.index"
    index.write_text(line + "\n" + index.read_text())
    store.refresh()
    assert_same(store.read([key(number) for number in range(4)], CPU), wanted)


def test_a_teacher_of_absurd_size_is_refused() -> None:
    for level in ({"channels": 10**9}, {"channels": 0}, {"stride": 0}, {"channels": "4"}):
        values = {
            "identity": "x",
            "classes": ["a"],
            "levels": {"l": {"channels": 4, "stride": 8, "rectified": True, **level}},
        }
        with pytest.raises((ValueError, TypeError)):
            TeacherSummary.from_json(values)


def test_writers_never_share_a_file_and_readers_see_all(tmp_path: Path) -> None:
    features, masks = maps(2)
    wanted = wanted_of(features, masks)
    first, second = opened(tmp_path), opened(tmp_path)
    levels = first.split(wanted)
    with (
        ShardWriter(first.folder, 0) as one,
        ShardWriter(second.folder, 0) as other,
        ShardWriter(second.folder, 1) as third,
    ):
        one.add(key(0), levels[0])
        other.add(key(1), levels[1])
        third.add(key(2), levels[0])
        one.add(key(3), levels[1])
    assert len(list(tmp_path.glob("shard-*.bin"))) == 3
    readers = [opened(tmp_path), opened(tmp_path)]
    for reader in readers:
        assert reader.holds(map(key, range(4))) and not reader.missing(map(key, range(4)))
        assert_same(reader.read([key(0), key(1)], CPU), wanted)
    assert memoryview(Shards(tmp_path)[key(0)]).readonly


# --- keys ---


def record(path: Path) -> Record:
    boxes = np.array([[1, 2, 30, 40]], np.float32)
    return Record("a", path, 64, 48, boxes, np.array([0]), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))


def test_the_digest_of_an_image_stays_that_of_earlier_versions(tmp_path: Path) -> None:
    """Or no cache would be found again."""
    path = tmp_path / "a.png"
    path.write_bytes(b"pixels")
    cat = Annotation((1, 2, 30.3, 40), 1, attributes={"area": 7.7, "occluded": 2.0})
    annotated, _ = build_record("a", path, (64, 48), [cat, Annotation((0, 0, 9, 9), -1, ignore=True)], path)
    assert (
        record_digest(annotated, file_digest(path)).hex()
        == "060c2512b47b6c77ba3eb764449f9f98ac13bcc260f7ca9006b8f359edfe5d41"
    )


def test_a_key_depends_on_bytes_boxes_and_variant(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"pixels")
    before = record(path)
    keys = {record_key(record_digest(before, file_digest(path)), variant) for variant in (0, 1)}
    moved = before.boxes + np.array([0, 0, 0, 1e-4], np.float32)
    others = [
        replace(before, boxes=moved),
        replace(before, boxes=before.boxes.repeat(2, axis=0), labels=np.array([0, 0])),
        replace(before, labels=np.array([1])),
        replace(before, ignore=before.boxes, ignore_labels=np.array([0])),
        replace(before, width=63),
    ]
    keys |= {record_key(record_digest(other, file_digest(path)), 0) for other in others}
    assert record_key(record_digest(before, file_digest(path)), 0) in keys
    assert (
        record_key(record_digest(replace(before, image_id="b"), file_digest(path)), 0) in keys
    )  # its name does not matter
    path.write_bytes(b"pixelt")
    keys.add(record_key(record_digest(before, file_digest(path)), 0))
    assert len(keys) == 2 + len(others) + 1


class Wider(FGFI):
    def masks(self, teacher: View, targets: Sequence[Target]) -> list[Tensor]:
        return [torch.ones_like(mask) for mask in super().masks(teacher, targets)]


class Told(Wider):
    def fingerprint(self) -> dict[str, object]:
        return {**super().fingerprint(), "wider": True}


class Renamed(FGFI):
    pass


def shared(method: Method, **more: str) -> str:
    settings = {"teacher": "t", "taps": ["p3"], "resize": {"height": 3}, "dtype": "bfloat16", "precision": "no"}
    return cache_folder(Path(), fingerprint(method, **{**settings, **more})).name


def test_a_fingerprint_depends_on_all_that_records_share() -> None:
    methods = [FGFI(), FGFI(psi=0.4), FGFI(assignment="per_level"), FitNets(), BoxMask(), BoxMask(scale=2.0), Told()]
    names = [shared(method) for method in methods]
    names += [shared(FGFI(), teacher="u"), shared(FGFI(), taps=["p4"]), shared(FGFI(), resize={"height": 4})]
    names += [shared(FGFI(), dtype="float32"), shared(FGFI(), precision="bf16"), shared(PKD())]
    assert len(set(names)) == len(names)
    # What does not change the teacher's vectors shares them.
    same = FGFI(0.3, kernel_size=1, schedule=Schedule(3), init_std=0.1, name="other", sparse_below=0.1)
    assert shared(same) == shared(Renamed()) == names[0]
    assert shared(PKD(finest=2)) == shared(CWD(temperature=4.0)) == names[-1]
    assert names[0].startswith("fgfi-") and len(names[0]) == len("fgfi-") + 12


@pytest.mark.parametrize("method", [Vanilla(), RoIMimic(), Chen2017()], ids=lambda method: type(method).__name__)
def test_methods_that_look_at_more_are_refused(method: Vanilla) -> None:
    with pytest.raises(EyasError, match=f"{type(method).__name__} looks at more"):
        shared(method)


def test_masks_of_ones_own_need_a_fingerprint_of_ones_own() -> None:
    with pytest.raises(EyasError, match=r"Wider has masks\(\) of its own"):
        shared(Wider())


def test_another_caches_folder_is_not_taken(tmp_path: Path) -> None:
    opened(tmp_path)
    with pytest.raises(EyasError, match="remove this folder"):
        TeacherCache(tmp_path, {"format": 2}, CHANNELS, "float32")


def test_a_damaged_fingerprint_is_named_and_made_again(tmp_path: Path) -> None:
    opened(tmp_path)
    meta = tmp_path / "meta.json"
    meta.write_text(meta.read_text()[:-3])
    with pytest.raises(EyasError, match=r"meta\.json: not readable .*; remove it, and it is made again"):
        opened(tmp_path)
    meta.unlink()
    opened(tmp_path)
    assert json.loads(meta.read_text()) == SHARED


# --- variants ---


def test_variants_of_an_augmentation() -> None:
    assert Augmentation(flip=0.0, brightness=0.3, hue=0.1).variants() == (0,)
    assert Augmentation().variants() == (0, 1)
    assert Augmentation(flip=1.0).variants() == (1,)


@pytest.mark.parametrize(
    ("options", "drop"),
    [
        ({"shift": 0.1}, "--dataset.augment.shift 0 "),
        ({"scale": (0.8, 1.0)}, "--dataset.augment.scale '[1, 1]' "),
        ({"zoom_out": 4.0}, "--dataset.augment.zoom_out 1 "),
        ({"crop": True, "shift": 0.1}, "--dataset.augment.crop false --dataset.augment.shift 0 "),
    ],
)
def test_an_augmentation_without_end_is_refused_by_name(options: dict[str, object], drop: str) -> None:
    with pytest.raises(EyasError) as refusal:
        Augmentation(**options).variants()
    assert drop in str(refusal.value) and "colours may vary" in str(refusal.value)


def test_a_target_says_its_variant_truly() -> None:
    transform = train_transform(Resize(), Augmentation(flip=0.5))
    image = torch.arange(3 * 4 * 6, dtype=torch.uint8).view(3, 4, 6)
    target: Target = {"boxes": torch.tensor([[0.0, 0, 2, 3]]), "labels": torch.tensor([0])}
    seen = set()
    for _ in range(12):
        pixels, out = transform(image, target)
        flipped = torch.equal(pixels, image.flip(2))
        assert out["variant"] == int(flipped)
        assert out["boxes"].tolist() == ([[4.0, 0, 6, 3]] if flipped else [[0.0, 0, 2, 3]])
        seen.add(out["variant"])
    assert seen == {0, 1}


# --- teachers ---


def test_a_teacher_made_by_code_is_told_by_its_tensors_and_anchors() -> None:
    digests = {detector_digest(seeded(0)), detector_digest(seeded(1)), detector_digest(seeded(0, norm=True))}
    other = seeded(0)
    level = other.levels["neck:fine"]
    other.levels["neck:fine"] = replace(level, grid=StrideGrid(level.stride))
    digests.add(detector_digest(other))
    other.levels["neck:fine"] = replace(level, box_range=(0.0, 32.0))
    digests.add(detector_digest(other))
    assert len(digests) == 5 and detector_digest(seeded(0)) in digests


def test_a_distiller_takes_a_cached_teacher() -> None:
    """Levels and their kind as the teacher itself has them; what is to be run, or is not said, is refused."""
    known = summarise_teacher(seeded(1, 6), "digest")
    assert TeacherSummary.from_json(json.loads(json.dumps(asdict(known)))) == known
    cached, live = (Distiller(seeded(0), teacher, FGFI()) for teacher in (CachedTeacher(known), seeded(1, 6)))
    for mine, theirs in zip(cached.pairs, live.pairs, strict=True):
        assert (mine.student_tap, mine.teacher_tap, mine.rectified) == (
            theirs.student_tap,
            theirs.teacher_tap,
            theirs.rectified,
        )
        assert (mine.teacher.channels, mine.teacher.stride) == (theirs.teacher.channels, theirs.teacher.stride)
    mine, theirs = cached.state_dict(), live.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine if name != "_extra_state")
    with pytest.raises(EyasError, match="index and variant"):
        cached(*toy_batch())


def test_a_full_disk_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are closed on the way out, which fails once more."""
    files = [path.open("wb") for path in (Path("/dev/full"), tmp_path / "index")]
    monkeypatch.setattr(ShardWriter, "_create", lambda _: files)
    record = LevelRecord((2, 2), np.zeros(1, dtype=np.int32), np.zeros((1, 8), dtype=np.int16))
    with pytest.raises(EyasError, match=r"could not be written .*No space left"), ShardWriter(tmp_path, 0) as writer:
        writer.add(bytes(KEY_BYTES), [record])


def test_how_long_filling_takes_is_told_by_what_was_timed(tmp_path: Path) -> None:
    """Twenty records in 5 s and ten more in 4 s: 0.3 s for each."""
    store = opened(tmp_path / "fgfi")
    assert store.filling_seconds(30) is None
    store.add_filling(20, 5.0)
    assert opened(tmp_path / "fgfi").filling_seconds(4) == pytest.approx(1.0)
    opened(tmp_path / "fgfi").add_filling(10, 4.0)
    assert store.filling_seconds(60) == pytest.approx(18.0)
    assert store.filling_seconds(61) is None, "fewer than half of them were timed"
    for broken in ('{"records": "9", "seconds": 1}', '{"records": 9, "seconds": -1}', "[]"):
        (tmp_path / "fgfi" / "filling.json").write_text(broken)
        with pytest.raises(EyasError, match=r"filling\.json: .*it is made again"):
            store.filling_seconds(1)
