"""What every other type needs: sizes, and the error of bad input."""

from __future__ import annotations

Size = tuple[int, int]
"""(height, width)."""


class EyasError(Exception):
    """Bad input from outside. The message names the file or option and the remedy; a command then exits with 2."""
