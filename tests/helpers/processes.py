"""The command line as a process of its own."""

import os
import subprocess
import sys
import time
from pathlib import Path


def cli(*words, environment=None, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    environment.pop("HYDRA_FULL_ERROR", None)  # which the command line sets where a test calls it in this process
    return subprocess.Popen(
        [str(Path(sys.executable).parent / "gan-runner"), *words], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def wait_for(path, process, seconds=120):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
