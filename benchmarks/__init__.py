"""Times and memory of the sampling layers: ``python -m benchmarks`` (Table 4, and what lies around it)."""

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler otherwise reports each start and stop
