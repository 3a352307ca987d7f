"""All that needs a CUDA card, in at most eight minutes; `benchmarks.gpu.__main__` says how to run it."""
