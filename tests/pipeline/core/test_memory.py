"""Freed memory stays with the process: what is asked for next costs no page faults."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from pipeline.core.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.empty(16 << 20, dtype=np.uint8).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "keep" and not keep_freed_memory():
    print("not here")
    sys.exit()
np.empty(16 << 20, dtype=np.uint8).fill(1)
print(faults())
"""


def faults(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True
    )
    if "not here" in done.stdout:
        pytest.skip("this C library has no mallopt")
    return int(done.stdout)


def test_freed_memory_is_used_again() -> None:
    # Twenty times 16 MiB are 81,920 pages of 4 KiB, or 160 of 2 MiB.
    assert faults("keep") < 100 < faults("leave")
