"""Files, progress, timing and signals. Nothing here knows about detection."""
