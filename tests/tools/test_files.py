"""Files written whole or not at all, whatever links and other writers there are in the folder."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from eyas.runs.config import start_folder
from eyas.runs.log import RunLog
from eyas.tools.files import PART, make_folder, open_own, part_of, remove_parts, write_atomic, write_json, write_text
from eyas.types import EyasError


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A file outside the folder that is written."""
    (tmp_path / "folder").mkdir()
    path = tmp_path / "mine.txt"
    path.write_text("my own")
    return path


def test_a_link_is_replaced_and_not_followed(mine: Path) -> None:
    """The former name of a part file, the name of the file itself, and a name of a part that is guessed."""
    folder = mine.parent / "folder"
    for name in ("report.html", "report.html.part"):
        (folder / name).symlink_to(mine)
    write_text(folder / "report.html", "new")
    assert mine.read_text() == "my own"
    assert (folder / "report.html").read_text() == "new" and not (folder / "report.html").is_symlink()


def test_a_part_that_exists_is_not_written(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guessed = mine.parent / "folder" / f"a.json.guessed{PART}"
    guessed.symlink_to(mine)
    monkeypatch.setattr("eyas.tools.files.part_of", lambda _: guessed)
    with pytest.raises(EyasError, match=r"a\.json: could not be written .*File exists"):
        write_json(mine.parent / "folder" / "a.json", {})
    assert mine.read_text() == "my own"


def test_a_log_that_is_a_link_is_refused(mine: Path) -> None:
    folder = mine.parent / "folder"
    (folder / "log.jsonl").symlink_to(mine)
    with pytest.raises(EyasError, match=r"log\.jsonl: could not be written"):
        RunLog(folder)("train", step=1)
    with pytest.raises(OSError, match="links"), open_own(folder / "log.jsonl", "rb+"):
        pass
    assert mine.read_text() == "my own"


def test_a_folder_that_is_a_link_is_not_written(tmp_path: Path) -> None:
    """Only below what the user has named: a run folder may itself be a link to a larger disk."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    make_folder(tmp_path / "run" / "a" / "b", within=tmp_path / "run")
    make_folder(tmp_path / "run", within=tmp_path / "run")
    (tmp_path / "run" / "link").symlink_to(tmp_path)
    for inside in ("link", "link/c"):
        with pytest.raises(EyasError, match=r"run/link: is a link.*remove the link"):
            make_folder(tmp_path / "run" / inside, within=tmp_path / "run")
    assert not (tmp_path / "c").exists()


def test_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    path, together = tmp_path / "a.txt", threading.Barrier(2)

    def slowly(text: str) -> None:
        def write(part: Path) -> None:
            with part.open("w") as file:
                for character in text:
                    together.wait(10)
                    file.write(character)
                    file.flush()

        write_atomic(path, write)

    threads = [threading.Thread(target=slowly, args=(letter * 50,)) for letter in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert path.read_text() in ("a" * 50, "b" * 50)
    assert list(tmp_path.iterdir()) == [path]


def test_a_long_name(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    write_text(path, "content")
    assert path.read_text() == "content" and len(part_of(path).name) <= 255
    with pytest.raises(EyasError, match=r"File name too long.*choose a shorter name"):
        write_text(tmp_path / ("n" * 256), "content")


def test_what_a_killed_process_left_is_removed_when_the_run_goes_on(mine: Path) -> None:
    folder = mine.parent / "folder"
    left = [part_of(folder / name) for name in ("last.pt", "native", "link")]
    left[0].write_bytes(b"half")
    left[1].mkdir()
    left[2].symlink_to(mine)
    start_folder(folder, config="")
    assert not list(folder.glob(f"*{PART}"))
    outside = mine.parent / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    part_of(folder / "native").symlink_to(outside)
    remove_parts(folder)
    assert (outside / "kept").exists() and mine.exists()


def test_a_pipe_in_the_place_of_a_log_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log.jsonl")
    for mode in ("ab", "rb+"):
        with pytest.raises(FileExistsError):
            open_own(tmp_path / "log.jsonl", mode)
    with pytest.raises(EyasError, match=r"log\.jsonl: could not be written .*a file stands in the way"):
        RunLog(tmp_path)("train", epoch=0, step=1, losses={})
