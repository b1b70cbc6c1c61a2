from __future__ import annotations

import os

# The engine process inherits this: two threads on a busy machine are ten times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
