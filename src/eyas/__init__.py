"""Eyas distils a large object detector into a small, fast one."""
