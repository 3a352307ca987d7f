"""Variances near objects and far from them, against numpy and by hand; the command from its line to its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from eyas.__main__ import main
from eyas.data import write_coco
from eyas.evaluation.variance import LevelInspection, Moments, inspect_features, table, verdict, view_and_masks
from eyas.ops.pixels import image_cells
from eyas.report.plots import channel_variances, draw_near_masks, save_figure
from eyas.types import Level, Target
from helpers.tiny import CLASSES, SIZE, one_epoch, square_image, write_squares
from helpers.toys import seeded, toy_batch, toy_target


def assert_close(value: Tensor | None, expected: Any) -> None:
    assert value is not None
    torch.testing.assert_close(value, torch.as_tensor(expected), rtol=1e-11, atol=1e-13)


def maps(seed: int, batch: int) -> tuple[Tensor, Tensor]:
    """Features with means far above their deviations, where a sum of squares in float32 is wrong; and cells."""
    random = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, 5, 4, 7, generator=random) + torch.arange(5).view(5, 1, 1) * 1000.0
    return features, torch.rand(batch, 4, 7, generator=random) < 0.3


def level(near: Moments, far: Moments) -> LevelInspection:
    return LevelInspection("p3", Level(len(near.mean), 8), near, far)


def moments(*cells: list[float]) -> Moments:
    """The moments of cells given by their channels."""
    features = torch.tensor(cells).T[None, :, None]
    return Moments.of(features, torch.ones(1, 1, len(cells), dtype=torch.bool))


def test_merged_batches_equal_numpy_on_their_concatenation() -> None:
    batches = [maps(seed, batch) for seed, batch in enumerate((3, 1, 2))]
    for near in (True, False):
        merged = Moments.of(batches[0][0][:0], batches[0][1][:0])
        for features, cells in batches:
            merged = merged.merge(Moments.of(features, cells == near))
        values = np.concatenate(
            [features.permute(0, 2, 3, 1)[cells == near].double().numpy() for features, cells in batches]
        )
        assert merged.count == len(values)
        assert_close(merged.mean, values.mean(axis=0))
        assert_close(merged.variance, np.var(values, axis=0))


def test_near_and_far_together_are_the_whole_map() -> None:
    features, cells = maps(3, 2)
    found = level(Moments.of(features, cells), Moments.of(features, ~cells))
    assert_close(found.whole.variance, np.var(features.double().numpy(), axis=(0, 2, 3)))
    assert found.near_share == int(cells.sum()) / cells.numel()


def test_variances_and_shares_worked_out_by_hand() -> None:
    # Channel 0: near 0, 2 (variance 1), far 5, 5 (0). Channel 1: near 1, 1 (0), far 1, 5 (4). Means of all: 3 and 2.
    found = level(moments([0, 1], [2, 1]), moments([5, 1], [5, 5]))
    assert_close(found.near.variance, torch.tensor([1.0, 0.0]).double())
    assert_close(found.far.variance, torch.tensor([0.0, 4.0]).double())
    assert found.near_to_far == 0.5 / 2
    assert found.far_above_near == 0.5
    assert found.far_part == (4 + 4 + 1 + 9) / (9 + 1 + 1 + 1 + 4 + 4 + 1 + 9)
    assert "no, their variance is 0.25 times" in verdict([found]) and "yes, 60%" in verdict([found])


def test_one_cell_has_variance_0_and_no_cell_none() -> None:
    one, none = moments([3.0, 4.0]), Moments.of(torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.bool))
    assert_close(one.variance, torch.zeros(2).double())
    assert none.variance is None and none.count == 0
    assert_close(one.merge(none).mean, one.mean)
    assert_close(none.merge(one).mean, one.mean)
    assert none.merge(none).variance is None


def test_a_level_without_near_cells_has_none_instead_of_a_number() -> None:
    none = Moments.of(torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.bool))
    found = level(none, moments([0, 1], [2, 1]))
    numbers = found.to_json()
    assert numbers["variance"] == {"whole": 0.5, "near": None, "far": 0.5}
    assert numbers["near_share"] == 0 and numbers["far_part"] == 1
    assert [numbers[name] for name in ("near_to_far", "near_to_far_of_images", "far_above_near")] == [None] * 3
    assert numbers["per_channel"]["near"] is None
    assert "nan" not in table([found]).lower() and " - " in table([found])
    assert "no comparison" in verdict([found])


def test_every_level_against_numpy_and_the_masks_themselves() -> None:
    teacher = seeded(1)
    images, targets = toy_batch()
    batches = [(images, targets), (images.flip(0) * 0.5, targets)]
    found = inspect_features(teacher, batches)
    for index, one in enumerate(found):
        near, far, ratios = [], [], []
        for pixels, boxes in batches:
            view, masks = view_and_masks(teacher, pixels, boxes, psi=0.5, assignment="global")
            for values, mask in zip(view.features[index].permute(0, 2, 3, 1).double(), masks[index], strict=True):
                near.append(values[mask].numpy())
                far.append(values[~mask].numpy())
                if len(near[-1]) and len(far[-1]):
                    ratios.append(np.var(near[-1], axis=0).mean() / np.var(far[-1], axis=0).mean())
        assert one.near.count == sum(map(len, near)) > 0
        assert_close(one.near.variance, np.var(np.concatenate(near), axis=0))
        assert_close(one.far.variance, np.var(np.concatenate(far), axis=0))
        assert one.near_to_far_of_images == pytest.approx(np.median(ratios), rel=1e-9)
    assert teacher.training, "the teacher is left in its mode"


def test_the_batch_size_changes_nothing() -> None:
    images, targets = toy_batch()
    together = inspect_features(seeded(1), [(images, targets)])
    apart = inspect_features(seeded(1), [(images[:1], targets[:1]), (images[1:], targets[1:])])
    for one, other in zip(together, apart, strict=True):
        assert one.near.count == other.near.count
        # Convolutions may round differently in batches of other sizes.
        torch.testing.assert_close(one.near.variance, other.near.variance, rtol=1e-5, atol=1e-9)
        assert one.ratios == pytest.approx(other.ratios, rel=1e-5)


def test_images_without_objects_are_far() -> None:
    images, _ = toy_batch()
    targets: list[Target] = [toy_target(), toy_target()]
    for one in inspect_features(seeded(1), [(images, targets)]):
        assert one.near_share == 0 and one.near.variance is None
        assert one.far.count == one.whole.count > 0


def test_padding_is_neither_near_nor_far() -> None:
    assert image_cells((2, 3), 8, [(16, 24), (8, 17), (9, 8)]).int().tolist() == [
        [[1, 1, 1], [1, 1, 1]],
        [[1, 1, 1], [0, 0, 0]],
        [[1, 0, 0], [1, 0, 0]],
    ]
    images, _ = toy_batch()
    alone = inspect_features(seeded(1), [(images[:1, :, :32, :48], [toy_target((8, 8, 30, 30))])])
    wide = torch.full_like(images[:1], 9.0)
    wide[:, :, :32, :48] = images[:1, :, :32, :48]
    padded = inspect_features(seeded(1), [(wide, [{**toy_target((8, 8, 30, 30)), "size": (32, 48)}])])
    # The fine level has no receptive field beyond its own cell: padding around the image changes nothing there.
    assert padded[0].near.count == alone[0].near.count > 0
    assert padded[0].far.count == alone[0].far.count
    assert_close(padded[0].whole.variance, alone[0].whole.variance)


def test_the_drawing_survives_constant_channels_and_levels_without_near_cells(tmp_path: Path) -> None:
    some = torch.tensor([1.0, 0.0, 100.0]).double()
    levels = {
        "all": {"whole": some, "near": some / 2, "far": some * 2},
        "no near": {"whole": some, "near": None, "far": some},
        "constant": {"whole": some * 0, "near": None, "far": some * 0},
        "nothing": {"whole": None, "near": None, "far": None},
    }
    save_figure(tmp_path / "v.png", channel_variances(levels))
    with Image.open(tmp_path / "v.png") as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20) or []}
    assert {(0xD5, 0x5E, 0), (0, 0x72, 0xB2), (0x33, 0x33, 0x33)} <= colours


def test_masks_are_drawn_to_scale_where_the_map_reaches_beyond_the_image(tmp_path: Path) -> None:
    mask = torch.zeros(1, 2, 2, dtype=torch.bool)
    mask[:, :, 1] = True
    save_figure(tmp_path / "m.png", draw_near_masks([torch.full((3, 64, 48), 0.5)], [toy_target()], [mask], [32]))
    with Image.open(tmp_path / "m.png") as image:
        tinted = np.ptp(np.asarray(image.convert("RGB")).astype(int), axis=2) > 60
        grey = np.asarray(image.convert("L")) < 200
    columns = np.nonzero((tinted | grey)[tinted.shape[0] // 2])[0]
    share = tinted[tinted.shape[0] // 2].sum() / (columns.max() - columns.min())
    assert share == pytest.approx(16 / 48, abs=0.03), "the second cell begins at pixel 32 of 48"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher after one epoch, its data beside it; two more validation images have no object."""
    root = tmp_path_factory.mktemp("inspect")
    data = write_squares(root / "data")
    empty = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    blank = [(f"blank{i}", np.full((SIZE, SIZE, 3), 90 + i, dtype=np.uint8), *empty) for i in range(2)]
    write_coco(data, "val", CLASSES, [*((f"val{i}", *square_image(1000 + i)) for i in range(5)), *blank])
    return one_epoch(root / "teacher", data)


def inspected(run: Path, *arguments: str) -> dict[str, Any]:
    assert main(["inspect", str(run), "--workers=0", "--device=cpu", *arguments]) == 0
    numbers: dict[str, Any] = json.loads((run / "inspection" / "inspection.json").read_text())
    return numbers


def test_the_commands_numbers_agree_with_each_other(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = inspected(run, "--batch_size=3")
    assert sorted(path.name for path in (run / "inspection").iterdir()) == [
        "inspection.json",
        "near_masks.png",
        "variance.png",
    ]
    assert {name: numbers[name] for name in ("run", "data", "split", "images", "psi", "assignment")} == {
        "run": "teacher",
        "data": "data",
        "split": "val",
        "images": 7,
        "psi": 0.5,
        "assignment": "global",
    }
    assert str(run.parent) not in json.dumps(numbers), "no path of this machine"
    (one,) = numbers["levels"]
    assert one["cells"] == 7 * (SIZE // one["stride"]) ** 2
    assert 0 < one["near_share"] == one["near_cells"] / one["cells"] < 1
    assert all(len(values) == one["channels"] for values in one["per_channel"].values())
    for where, mean in one["variance"].items():
        assert mean == pytest.approx(np.mean(one["per_channel"][where]), rel=1e-5)
    assert one["near_to_far"] == pytest.approx(one["variance"]["near"] / one["variance"]["far"])
    printed = capsys.readouterr().out
    assert f"{one['near_share']:.1%}" in printed and numbers["verdict"][0] in printed
    with Image.open(run / "inspection" / "variance.png") as image:
        assert image.width > 300


def test_two_runs_are_equal(run: Path) -> None:
    first = inspected(run, "--images=3", "--batch_size=2")
    assert first == inspected(run, "--images=3", "--batch_size=2")
    assert first["images"] == 3


def test_the_options_reach_the_measurement(run: Path, tmp_path: Path) -> None:
    arguments = ("--images=2", "--split=train", f"--json_file={tmp_path / 'copy.json'}")
    wide = inspected(run, "--psi=0.1", *arguments)
    assert (wide["images"], wide["split"], wide["psi"]) == (2, "train", 0.1)
    assert json.loads((tmp_path / "copy.json").read_text()) == wide
    nothing = inspected(run, "--psi=1", *arguments)
    assert nothing["levels"][0]["variance"]["near"] is None
    assert nothing["levels"][0]["near_share"] == 0 < wide["levels"][0]["near_share"]


def made_teacher() -> Any:
    """A teacher by import path."""
    toy = seeded(2)
    toy.classes = CLASSES
    return toy


def test_a_detector_of_your_own(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = f"--data={run.parent / 'data'}"
    assert main(["inspect", "test_variance:made_teacher", data, "--workers=0", "--device=cpu"]) == 0
    numbers = json.loads((tmp_path / "inspection" / "inspection.json").read_text())
    assert [level["stride"] for level in numbers["levels"]] == [8, 16]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--psi=1.5"], "psi must lie in [0, 1]"),
        (["--images=0"], "images must be at least 1"),
        (["--data=/nowhere"], "no such folder"),
        (["--split=test"], "test"),
    ],
)
def test_bad_options_end_with_a_message(
    run: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(run), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_detector_of_your_own_needs_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "test_variance:made_teacher"]) == 2
    assert "give --data" in capsys.readouterr().err
