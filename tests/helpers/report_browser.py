"""A page in a headless Chromium: its measures at some width, what it logged, and a screenshot."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MEASURE = """
<script>addEventListener("load", () => {
  const all = query => [...document.querySelectorAll(query)];
  const size = element => { const box = element.getBoundingClientRect(); return [box.width, box.height]; };
  const root = document.documentElement, paper = getComputedStyle(document.body);
  parent.document.title = JSON.stringify({
    width: innerWidth, content: root.scrollWidth, paper: paper.backgroundColor, ink: paper.color,
    pictures: all("img").map(image => image.complete ? image.naturalWidth : 0),
    drawings: all("figure > svg").filter(e => !e.closest("details")).map(size),
    outside: all("h1, h2, h3, p, figure, svg, img, ul").filter(e => e.getBoundingClientRect().right > innerWidth + 1)
      .filter(e => !e.closest(".scroll")).map(e => e.outerHTML.slice(0, 80)),
  });
});</script>
"""


def measure(page: Path, folder: Path, *, width: int, dark: bool = False) -> tuple[dict[str, Any], str]:
    """The measures of a page, and what the browser wrote on stderr.

    Args:
        page: the HTML file.
        folder: for the browser's own files.
        width: of the window, pixels.
        dark: prefer dark colours.
    """
    inner = escape(page.read_text(encoding="utf-8").replace("</body>", MEASURE + "</body>"))
    # In a frame, since a window of Chromium's is at least 500 pixels wide.
    frame = f'<iframe style="border:0" width="{width}" height="1000" srcdoc="{inner}"></iframe>'
    probe = folder / "probe.html"
    probe.write_text(f'<meta charset="utf-8"><meta name="color-scheme" content="light dark">{frame}', encoding="utf-8")
    done = _run(probe, folder, width + 100, dark, "--dump-dom")
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None, done.stderr
    measures: dict[str, Any] = json.loads(unescape(title.group(1)))
    return measures, done.stderr


def photograph(page: Path, folder: Path, *, width: int, height: int, dark: bool = False) -> Path:
    """A PNG of the top of a page."""
    path = folder / f"{width}{'-dark' if dark else ''}.png"
    done = _run(page, folder, width, dark, f"--screenshot={path}", height=height)
    assert path.is_file(), done.stderr
    return path


def _run(
    page: Path, folder: Path, width: int, dark: bool, action: str, *, height: int = 1000
) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    options += [f"--user-data-dir={folder / 'profile'}", f"--window-size={width},{height}"]
    options += ["--blink-settings=preferredColorScheme=0"] if dark else []
    return subprocess.run(
        [CHROMIUM, *options, action, page.as_uri()], capture_output=True, text=True, timeout=180, check=True
    )
