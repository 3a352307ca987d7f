"""What a run folder holds."""

from eyas.runs.log import read_log

__all__ = ["read_log"]
