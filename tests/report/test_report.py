"""`eyas report` on tiny runs: the page's content, its words where something is missing, and how a browser shows it."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure
from PIL import Image

from eyas.__main__ import main
from eyas.report.markup import ASSETS, legend, paragraph, table
from eyas.report.models import teacher_origin
from eyas.report.runs import arm_name, find_runs
from eyas.report.svg import drawing
from eyas.runs.config import CONFIG
from eyas.runs.log import LOG
from eyas.runs.results import read_run
from eyas.types import EyasError
from helpers import report_browser
from helpers.tiny import options, write_squares

CLASSES = ('<script>alert("x")</script>', "$\\frac{&'")
"""A class that would be markup, and one that would be mathematics."""
ARM = '<img src=x onerror="alert(1)"> http:&'
SECTION_IDS = ("summary", "curves", "classes", "cost", "precision-recall", "errors", "masks", "images")
VOID = {"meta", "link", "img", "br"}


@dataclass
class Page(HTMLParser):
    """A parsed page. Raises where its tags do not nest."""

    source: str
    open: list[str] = field(default_factory=list)
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@dataclass
class Made:
    root: Path
    runs: Path
    page: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A teacher, and two seeds of a baseline and of a distilled student whose name is an attack; the page of all."""
    root = tmp_path_factory.mktemp("report")
    data, runs, teacher = write_squares(root / "data", classes=CLASSES), root / "runs", root / "runs" / "teacher"
    assert main(["train", f"--data={data}", f"--out={teacher}", *options(run_epochs=2)]) == 0
    for seed in (0, 1):
        more = options(run_epochs=2, run_seed=seed)
        assert main(["train", f"--data={data}", f"--out={runs / f'baseline-{seed}'}", *more]) == 0
        more += [f"--teacher={teacher}", "--method=eyas.FGFI", "--method.psi=0.25"]
        more += ["--method.weight={warmup: 1}", "--any_teacher=true"]
        out = runs / f"{ARM}-{seed}"
        assert main(["distill", f"--data={data}", f"--out={out}", *more]) == 0
    page = root / "page" / "report.html"
    # A student of two epochs is sure of nothing.
    assert main(["report", str(runs), f"--out={page}", "--threshold=0.05", "--workers=0", "--images=2"]) == 0
    return Made(root, runs, page)


@pytest.fixture
def page(made: Made) -> Page:
    return Page(made.page.read_text(encoding="utf-8"))


def test_the_page_has_every_section(made: Made, page: Page) -> None:
    assert [section["id"] for section in page.all("section")] == list(SECTION_IDS)
    assert [link["href"] for link in page.all("a")] == [f"#{name}" for name in SECTION_IDS]
    assert "Left out" not in page.text and "missing" not in [tag.get("class") for _, tag in page.tags]
    for name in ("baseline", ARM):
        for seed in (0, 1):
            assert f"{read_run(made.runs / f'{name}-{seed}').summary['map']:.3f}" in page.text
    assert "Not an arm, since other runs have it as their teacher: teacher." in page.text
    assert "psi 0.25, global" in page.text, "the masks are those of the distilled run"
    assert "on the 5 images of val" in page.text
    assert f"{ARM} cannot be told from the baseline" in page.text or f"{ARM} is " in page.text
    assert "Confusion matrix of baseline" in page.text and "Weights" in page.text
    assert "class objects baseline" in page.text
    # Each picture row has the truth, the teacher, the baseline and the distilled student.
    assert len(page.all("img")) == 4 * (2 + 2) + len([1 for image in page.all("img") if "near them" in image["alt"]])


def test_names_from_files_are_never_markup(page: Page) -> None:
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "iframe", "object", "form"})
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
    for name in (*CLASSES, ARM):
        assert " ".join(name.split()) in page.text


def test_nothing_comes_from_the_network(page: Page) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), f"{tag} {name}={value}"
        assert not re.search(r"url\((?!#)", attributes.get("style") or ""), tag
        assert not any(name.startswith("xmlns") for name in attributes), tag
    assert not re.search(r"@import|url\(|http", (ASSETS / "style.css").read_text())


def test_images_drawings_and_tables_have_text_for_screen_readers(page: Page) -> None:
    for tag, attributes in page.tags:
        if tag == "img":
            assert attributes["alt"]
        if tag == "svg":
            assert attributes["role"] == "img" and attributes["aria-label"]
        if tag == "th":
            assert attributes["scope"] in ("row", "col")
    assert len(page.all("table")) == len(page.all("caption"))
    assert len(page.all("h1")) == 1
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert all(after - before <= 1 for before, after in pairwise(levels))
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))
    used = {
        match for _, tag in page.tags for value in tag.values() for match in re.findall(r"url\(#(.*?)\)", value or "")
    }
    assert used and used <= set(names)


def changed(made: Made, folder: Path, **config: str) -> Path:
    """Copies of the runs with other values in their configs."""
    shutil.copytree(made.runs, folder)
    for file in folder.glob(f"*/{CONFIG}"):
        file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **config}))
    return folder


def test_without_data_the_sections_of_images_say_why(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = changed(made, tmp_path / "runs", data=str(tmp_path / "gone"))
    assert main(["report", str(runs / "baseline-0"), str(runs / f"{ARM}-0")]) == 0
    assert "gone: no such folder" in capsys.readouterr().out
    page = Page((runs / "baseline-0" / "report.html").read_text(encoding="utf-8"))
    assert [section["id"] for section in page.all("section")] == list(SECTION_IDS)
    assert page.text.count("Left out: the data cannot be read; see the top of the page.") == 4
    assert "gone: no such folder" in page.text
    assert page.all("img") == []
    assert "was measured" in page.text, "the size of an image is not known either: the input has no fixed size"
    assert main(["report", str(runs), f"--data={tmp_path / 'nowhere'}"]) == 2, "data that was asked for must be there"


def test_logs_alone_give_the_sections_that_need_no_weights(made: Made, tmp_path: Path) -> None:
    runs = changed(made, tmp_path / "runs")
    for file in (*runs.glob("*/*.safetensors"), *runs.glob("*/model.json")):
        file.unlink()
    assert main(["report", str(runs), f"--out={tmp_path / 'a.html'}"]) == 0
    page = Page((tmp_path / "a.html").read_text(encoding="utf-8"))
    assert page.text.count("none of the runs has its weights") == 5
    assert "no model.json here" in page.text
    assert page.all("img") == [] and len(page.all("svg")) > 5


def test_a_function_that_a_run_names_as_its_teacher_is_not_called(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = changed(made, tmp_path / "runs", teacher="own_teacher:make")
    for file in runs.glob("*/model.json"):
        file.unlink()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_teacher.py").write_text("raise SystemExit('imported')")
    out = f"--out={tmp_path / 'a.html'}"
    assert main(["report", str(runs), out]) == 0
    assert "the runs name the function own_teacher:make, which is called only for --teacher" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="imported"):
        main(["report", str(runs), out, "--teacher=own_teacher:make"])


def test_a_single_run_makes_a_page(made: Made, tmp_path: Path) -> None:
    assert (
        main(["report", str(made.runs / "teacher"), f"--out={tmp_path / 'a.html'}", "--workers=0", "--images=1"]) == 0
    )
    text = Page((tmp_path / "a.html").read_text(encoding="utf-8")).text
    assert "One seed does not show the spread" in text
    assert "there is no teacher here to load" in text
    assert "Worst images of teacher (run)" in text


def test_bad_input_is_refused(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(made.runs / "baseline-0")
    for arguments, words in (
        (["nowhere"], "nowhere: no run here"),
        ([run, "--rank_by=map_90"], "--rank_by map_90: the runs have map, map_50"),
        ([run, "--threshold=1.5"], "threshold must lie in [0, 1]"),
        ([run, "--images=0"], "images must be at least 1"),
        ([run, "--teacher=nowhere"], "nowhere: no model.json"),
    ):
        assert main(["report", *arguments, f"--out={tmp_path / 'a.html'}"]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "a.html").exists()


def write_run(folder: Path, *, epochs: int = 1, done: int = 1, classes: str = "a", **config: str) -> Path:
    """A run folder with a config and a log only."""
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(yaml.safe_dump({"run": {"epochs": epochs, "seed": 0}, **config}))
    val = {"kind": "val", "time": 0, "epoch": done, "step": 1, "summary": {"map": 0.5}}
    (folder / LOG).write_text(json.dumps({**val, "per_class": {name: {"map": 0.5} for name in classes}}) + "\n")
    return folder


def test_finished_runs_are_found_by_arm_and_seed(tmp_path: Path) -> None:
    teacher = write_run(tmp_path / "all" / "big")
    for name in ("base", "fgfi-0"):
        write_run(tmp_path / "all" / name, **({"teacher": str(teacher)} if name == "fgfi-0" else {}))
    write_run(tmp_path / "all" / "late", epochs=2)
    found = find_runs([tmp_path / "all", tmp_path / "all" / "base"])
    assert {arm: list(seeds) for arm, seeds in found.arms.items()} == {"baseline": [0], "fgfi": [0]}
    assert found.arms["baseline"][0].folder.name == "base", "the only student without a teacher"
    assert [run.name for run in found.teachers] == ["big"]
    assert found.notes == ("Left out, since they are not finished: late.",)
    assert [arm_name(*case) for case in (("fgfi-3", 3), ("w-seed-3", 3), ("r18", 8), ("3", 3))] == [
        "fgfi", "w", "r18", "3"
    ]  # fmt: skip


def test_a_teacher_is_known_wherever_its_folder_is_by_now(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the digest of its weights: its path is relative to where the runs began, or was written in another way."""
    runs = shutil.copytree(made.runs, tmp_path / "copied")
    shutil.rmtree(runs / "baseline-0")  # whose weights are the teacher's: it was trained likewise
    for config in runs.glob(f"*/{CONFIG}"):
        config.write_text(config.read_text().replace(str(made.runs), "runs"))
    found = find_runs([runs])
    assert [run.name for run in found.teachers] == ["teacher"] and set(found.arms) == {"baseline", ARM}
    assert teacher_origin(found, None) == (str(runs / "teacher"), [])
    monkeypatch.chdir(runs / "teacher")
    assert [run.name for run in find_runs([Path(), runs]).teachers] == ["teacher"]
    config = runs / f"{ARM}-1" / CONFIG
    config.write_text(config.read_text().replace("runs/teacher", str(runs / "teacher")))
    assert teacher_origin(find_runs([runs]), None) == (str(runs / "teacher"), [])


def test_runs_on_other_images_or_of_other_lengths(tmp_path: Path) -> None:
    one = write_run(tmp_path / "x-0")
    many = write_run(tmp_path / "y-0")
    (many / CONFIG).write_text((many / CONFIG).read_text().replace("epochs: 1", "epochs: 3"))
    (many / LOG).write_text(
        (many / LOG).read_text() + '{"kind": "cost", "steps": 3, "seconds_per_step": 1, '
        '"peak_memory": 1, "peak_device_memory": null}\n'
    )
    (note,) = find_runs([one, many]).notes
    assert "not trained for the same number of epochs (x 1, y 3)" in note
    for run, digest in ((one, "a"), (many, "b")):
        line = {"kind": "inputs", "train": None, "val": digest * 64, "teacher": None}
        (run / LOG).write_text((run / LOG).read_text() + json.dumps(line) + "\n")
    with pytest.raises(EyasError, match="were scored on other images or boxes; report them apart"):
        find_runs([one, many])


def test_runs_of_other_classes_or_of_one_arm_and_seed_are_refused(tmp_path: Path) -> None:
    one, other = write_run(tmp_path / "a" / "x-0"), write_run(tmp_path / "b" / "x-0")
    with pytest.raises(EyasError, match="are both arm x, seed 0"):
        find_runs([one, other])
    with pytest.raises(EyasError, match="have different classes"):
        find_runs([one, write_run(tmp_path / "y", classes="ab")])
    with pytest.raises(EyasError, match="is finished"):
        find_runs([write_run(tmp_path / "late", epochs=2)])
    (one / LOG).write_text('{"kind": "val", "epoch": 1}\n')
    with pytest.raises(EyasError, match=r"log\.jsonl: line 1 is damaged"):
        find_runs([one])
    (other / CONFIG).write_text("run: [")
    with pytest.raises(EyasError, match=r"config\.yaml: not readable as YAML"):
        find_runs([other])


def test_markup_escapes_text() -> None:
    bad = '<a href="x">&'
    for html in (paragraph(bad), table(bad, [bad], [[bad, bad]]), legend({bad: bad}, label=bad)):
        assert "<a" not in html and "&lt;a href=&quot;x&quot;&gt;&amp;" in html


def test_a_drawing_follows_the_style_sheet() -> None:
    def draw() -> Figure:
        figure = Figure()
        figure.subplots().plot([0, 1], color="#1f77b4", label="#1f77b4 <b>")
        figure.axes[0].legend()
        return figure

    svg = drawing(draw, "a & b")
    assert "var(--c0)" in svg and "currentColor" in svg
    assert "#1f77b4 &lt;b&gt;" in svg, "words are left alone"
    assert 'aria-label="a &amp; b"' in svg and "http" not in svg


# Colours and the browser ---------------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_colours_have_enough_contrast(mode: int) -> None:
    block = re.findall(r":root \{(.*?)\}", (ASSETS / "style.css").read_text(), re.DOTALL)[mode]
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", block))
    for words in ("ink", "muted", "link"):
        assert contrast(colours[words], colours["paper"]) >= 4.5
        assert contrast(colours[words], colours["card"]) >= 4.5
    assert contrast(colours["warn"], colours["warn-paper"]) >= 4.5
    for index in range(10):
        assert contrast(colours[f"c{index}"], colours["paper"]) >= 3


browser = pytest.mark.skipif(report_browser.CHROMIUM is None, reason="no Chromium here")


@browser
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (400, True)])
def test_a_browser_shows_everything_within_the_window(made: Made, tmp_path: Path, width: int, dark: bool) -> None:
    seen, said = report_browser.measure(made.page, tmp_path, width=width, dark=dark)
    assert "CONSOLE" not in said
    assert seen["width"] == width
    assert seen["content"] <= width, "the page itself does not scroll sideways"
    assert seen["outside"] == []
    assert seen["pictures"] and all(size > 100 for size in seen["pictures"])
    assert len(seen["drawings"]) > 8 and all(across > 200 and up > 60 for across, up in seen["drawings"])
    channels = [int(value) for value in re.findall(r"\d+", seen["paper"])[:3]]
    assert max(channels) < 60 if dark else min(channels) > 200


@browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_screenshot_has_words_and_the_right_background(made: Made, tmp_path: Path, dark: bool) -> None:
    path = report_browser.photograph(made.page, tmp_path, width=400, height=1600, dark=dark)
    with Image.open(path) as image:
        grey = np.asarray(image.convert("L")).astype(float)
    assert grey.shape == (1600, 400)
    assert (grey.mean() < 70) if dark else (grey.mean() > 200)
    assert (np.abs(grey - np.median(grey)) > 90).mean() > 0.01, "there are words on it"
