"""The documentation site builds without a warning: links, anchors, navigation and the docstrings that it shows."""

from __future__ import annotations

import os
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
    assert 'class="arithmatex"' in method and "tests/ops/test_near_objects.py" in method
