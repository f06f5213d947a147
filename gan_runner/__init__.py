"""Train and compare generative adversarial networks from one shell line."""

import os

__version__ = "0.1.0"

# cuBLAS reads it once, at a process's first product, and has no deterministic algorithms without it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
