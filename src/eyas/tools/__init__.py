"""Files, progress, timing, signals: nothing here knows of detection."""
