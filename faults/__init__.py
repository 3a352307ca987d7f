"""Fault harnesses: they inject the faults that happen in the field, and check what a run promises then."""
