"""Makes the helpers beside this file, such as `toys`, importable from every test."""
