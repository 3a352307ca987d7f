"""Scripts that time one thing against another: ``python -m benchmarks.mask``."""

import os

# Read when torch is first imported, which is after this package. Threads that wait by spinning keep a shared machine's
# cores from the very thread they wait for: an operation of 30 microseconds then takes 20 milliseconds.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
