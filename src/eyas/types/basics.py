"""What every other type needs: sizes, and the error of bad input."""

from __future__ import annotations

Size = tuple[int, int]
"""(height, width)."""


class EyasError(Exception):
    """Bad input from outside. The message names the file or option and the remedy; a command then exits with 2."""


class NoDetectionsError(EyasError):
    """A detector has feature maps but no detections, so it can be a teacher that is not scored, and nothing else."""
