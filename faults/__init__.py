"""Fault harnesses: what breaks in the field, done on purpose, and what a run then promises."""
