"""Scripts that time Eyas against simpler code, for example ``python -m benchmarks.mask``."""

import os

# torch reads this when it is imported, which is after this package. On a shared machine, threads that spin while they
# wait take the core from the thread they wait for: an operation of 30 microseconds then takes 20 milliseconds.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# The profiler's own log lines (USDT, STAGE) would stand among those of the benchmark.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
