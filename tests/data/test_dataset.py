"""Batches: padding, the way back, and the same data whatever the workers, processes and interruptions."""

from __future__ import annotations

import pickle
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import prepare_data_loader
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from eyas.data import (
    Augmentation,
    DataSource,
    DetectionDataset,
    Resize,
    collate,
    eval_transform,
    loader,
    to_record_frame,
    train_transform,
)
from eyas.data.dataset import Draw
from eyas.data.formats.records import Annotation, build_record
from eyas.ops.pixels import as_float
from eyas.types import EyasError, Prediction

JITTER = train_transform(Resize(), Augmentation(flip=0.5, brightness=0.5, scale=(0.5, 1.0), shift=0.2))


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> DataSource:
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    records = []
    for n in range(10):
        path = folder / f"{n}.png"
        Image.fromarray(random.integers(0, 255, (12 + n, 16, 3), dtype=np.uint8)).save(path)
        boxes = [Annotation((1, 1, 9, 10), 0), Annotation((2, 2, 6, 6), -1, ignore=True)]
        records.append(build_record(f"image{n}", path, (16, 12 + n), boxes, path)[0])
    return DataSource("coco", folder, "train", ("cat",), tuple(records))


def same(first, second) -> bool:
    """Whether two lists of batches are equal, bit for bit."""
    pairs = list(zip(first, second, strict=True))
    images = all(torch.equal(a, b) for (a, _), (b, _) in pairs)
    targets = [(s, t) for (_, a), (_, b) in pairs for s, t in zip(a, b, strict=True)]
    keys = ("boxes", "labels", "ignore")
    return images and all(
        all(torch.equal(s[k], t[k]) for k in keys) and s["index"] == t["index"] and s["size"] == t["size"]
        for s, t in targets
    )


def batches(source, epoch, **options):
    arguments = {"batch_size": 3, "shuffle": True, "workers": 0, "seed": 7, **options}
    made = loader(source, JITTER, **arguments)
    made.set_epoch(epoch)
    return list(made)


def indices(batches) -> list[int]:
    return [target["index"] for _, targets in batches for target in targets]


def test_a_sample_knows_its_record_and_size(source):
    image, target = DetectionDataset(source, eval_transform(Resize(height=24, width=32)))[4]
    assert image.shape == (3, 24, 32) and (target["index"], target["size"]) == (4, (24, 32))
    assert target["boxes"].tolist() == [[2, 1.5, 18, 15]] and target["ignore"].tolist() == [[4, 3, 12, 9]]


def test_a_plain_index_draws_from_the_generator_and_a_draw_does_not_touch_it(source):
    dataset = DetectionDataset(source, JITTER)
    torch.manual_seed(3)
    first, second = dataset[0], dataset[0]
    torch.manual_seed(3)
    assert torch.equal(first[0], dataset[0][0]) and first[0].shape != second[0].shape
    state = torch.get_rng_state()
    draws = [dataset[Draw(0, epoch, seed)][0] for epoch, seed in ((0, 0), (1, 0), (0, 1), (0, 0))]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(draws[0], draws[3])
    assert not any(a.shape == draws[0].shape and torch.equal(a, draws[0]) for a in draws[1:3])


def test_a_dataset_sent_to_a_spawned_worker_gives_the_same_samples(source):
    dataset = DetectionDataset(source, eval_transform(Resize(height=24, width=32)))
    copy = pickle.loads(ForkingPickler.dumps(dataset))
    assert same([collate([dataset[index]]) for index in range(10)], [collate([copy[index]]) for index in range(10)])


def _noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def test_collate_pads_right_and_bottom():
    small, large = _noise(3, 4, 9), _noise(3, 7, 5)
    target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    images, targets = collate([(small, target), (large, target)])
    assert images.dtype == torch.uint8
    assert images.shape == (2, 3, 7, 9) and len(targets) == 2
    assert torch.equal(images[0, :, :4], small) and torch.equal(images[1, :, :, :5], large)
    for padding in (images[0, :, 4:], images[1, :, :, 5:]):
        assert torch.equal(padding, torch.tensor([124, 116, 104]).reshape(3, 1, 1).expand_as(padding))
    floats, _ = collate([(as_float(small), target), (as_float(large), target)])
    assert torch.equal(floats, as_float(images))


@given(
    size=st.tuples(st.integers(1, 500), st.integers(1, 500)),
    resize=st.sampled_from([Resize(), Resize(height=37, width=91), Resize(shorter=64, longer=100), Resize(longer=33)]),
    corners=st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4),
)
def test_to_record_frame_undoes_the_resize(size, resize, corners):
    height, width = size
    x1, x2, y1, y2 = *sorted(corners[:2]), *sorted(corners[2:])
    box = torch.tensor([[x1 * width, y1 * height, x2 * width, y2 * height]])
    record = build_record("a", Path("a"), (width, height), [], Path("a"))[0]
    frame = resize.output_size(size)
    ratio = torch.tensor([frame[1] / width, frame[0] / height] * 2)
    prediction: Prediction = {"boxes": box * ratio, "scores": torch.ones(1), "labels": torch.zeros(1).long()}
    back = to_record_frame(prediction, record, frame)
    torch.testing.assert_close(back["boxes"], box, rtol=1e-5, atol=1e-4)
    assert back["scores"] is prediction["scores"]


def test_to_record_frame_clips_and_takes_no_boxes(source):
    record = source.records[0]  # 16 x 12
    prediction = {"boxes": torch.tensor([[-5.0, 2, 40, 30]]), "scores": torch.ones(1), "labels": torch.zeros(1)}
    assert to_record_frame(prediction, record, (24, 32))["boxes"].tolist() == [[0, 1, 16, 12]]
    none = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0)}
    assert to_record_frame(none, record, (24, 32))["boxes"].shape == (0, 4)


def test_each_epoch_gives_every_image_once_in_another_order(source):
    first, second = indices(batches(source, 0)), indices(batches(source, 1))
    assert sorted(first) == sorted(second) == list(range(10)) and first != second
    assert indices(batches(source, 0, seed=8)) != first
    assert indices(batches(source, 5, shuffle=False)) == list(range(10))
    assert len(batches(source, 0, drop_last=True)) == 3 and len(batches(source, 0)) == 4


def test_the_number_of_workers_changes_nothing(source):
    expected = [batches(source, epoch) for epoch in (0, 1)]
    assert not same(expected[0], batches(source, 0, seed=8))
    made = loader(source, JITTER, batch_size=3, shuffle=True, workers=2, seed=7)
    for epoch in (0, 1, 0):  # the workers live on, and must follow
        made.set_epoch(epoch)
        assert same(list(made), expected[epoch])


def test_the_loader_leaves_the_default_generator_alone(source):
    state = torch.get_rng_state()
    batches(source, 0)
    assert torch.equal(torch.get_rng_state(), state)


def prepared(source, processes: int = 1, rank: int = 0, **options):
    made = loader(source, JITTER, **{"batch_size": 3, "shuffle": True, "workers": 0, "seed": 7, **options})
    return prepare_data_loader(made, num_processes=processes, process_index=rank, put_on_device=False, rng_types=[])


def test_a_prepared_loader_gives_the_same_data(source):
    made = prepared(source)
    for epoch in (0, 1, 2):  # without set_epoch it counts
        assert same(list(made), batches(source, epoch))
    made.set_epoch(1)
    assert same(list(made), batches(source, 1))


def test_a_resumed_run_sees_the_rest_of_its_epoch(source):
    made = prepared(source)
    made.set_epoch(3)
    assert same(list(skip_first_batches(made, 2)), batches(source, 3)[2:])


def test_processes_share_the_batches(source):
    whole = batches(source, 2, drop_last=True, batch_size=2)
    shards = []
    for rank in (0, 1):
        made = prepared(source, 2, rank, drop_last=True, batch_size=2)
        made.set_epoch(2)
        shards.append(list(made))
    assert same(shards[0], whole[0:4:2]) and same(shards[1], whole[1:4:2])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_gives_one_line_that_names_it(source, tmp_path, workers):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG")
    record = build_record("bad", bad, (16, 12), [], bad)[0]
    broken = DataSource("coco", tmp_path, "train", ("cat",), (source.records[0], record))
    made = loader(broken, JITTER, batch_size=2, shuffle=True, workers=workers, seed=0)
    with pytest.raises(EyasError) as caught:
        list(made)
    if workers:
        # Left to the garbage collector, which finds it in the traceback's cycle, each worker is waited for 5 seconds.
        made._iterator._shutdown_workers()
    assert str(caught.value).startswith(f"{bad}: cannot be decoded") and "\n" not in str(caught.value)


def test_bad_options(source):
    options = {"batch_size": 4, "shuffle": False, "workers": 0, "seed": 0}
    for wrong in ({"batch_size": 0}, {"workers": -1}, {"seed": -1}):
        with pytest.raises(EyasError, match="batch_size >= 1"):
            loader(source, JITTER, **{**options, **wrong})
    with pytest.raises(EyasError, match="10 images do not fill one batch of 11"):
        loader(source, JITTER, **{**options, "batch_size": 11}, drop_last=True)
