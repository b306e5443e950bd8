"""The Triton kernels on a CPU: these files run in processes of their own with TRITON_INTERPRET=1.

It has to be there before Triton is imported. `triton_interpreter.run` of tests/support starts the processes; by hand:

    TRITON_INTERPRET=1 python -m pytest tests/interpreted
"""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
