"""The documentation site builds without a warning: links, anchors, navigation and the docstrings that it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_site_builds_strictly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONWARNINGS": "default"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    index = (tmp_path / "site" / "index.html").read_text()
    assert "Your first student" in index
    assert "psi" in (tmp_path / "site" / "api" / "index.html").read_text()
    method = (tmp_path / "site" / "method" / "index.html").read_text()
    assert "tests/ops/test_near_objects.py" in method
    pages = [page.read_text() for page in (tmp_path / "site").rglob("*.html")]
    assert "<math" in method and not any('class="arithmatex"' in page for page in pages), "every formula is MathML"
    formulas = [
        re.sub(r"<[^>]+>", "", formula) for page in pages for formula in re.findall(r"(?s)<math.*?</math>", page)
    ]
    assert not [formula for formula in formulas if "\\" in formula or "&#x0005C;" in formula], "every command is known"
    loaded = [tag for page in pages for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page)]
    assert not [tag for tag in loaded if re.search(r'(src|href)="(https?:)?//', tag)], "nothing comes from the network"
