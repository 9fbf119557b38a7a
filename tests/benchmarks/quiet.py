"""Run a command while the ablations of this checkout pause.

    python -m tests.benchmarks.quiet COMMAND ...

The command holds a shared lock on a file as long as it or a child of it lives. A run of an ablation
looks at the lock before every step.
"""

import fcntl
import os
import sys
import time
from pathlib import Path

QUIET_FILE = Path(__file__).resolve().parents[2] / "runs" / ".quiet"


def is_held(path: Path = QUIET_FILE) -> bool:
    """Whether a process holds the lock."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        for _ in range(3):  # another run that looks holds it for an instant
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.005)
            else:
                return False
    return True


def hold(path: Path = QUIET_FILE) -> int:
    """Take the lock; returns a descriptor that children inherit, and whose end releases it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    os.set_inheritable(descriptor, True)
    return descriptor


if __name__ == "__main__":
    hold()
    os.execvp(sys.argv[1], sys.argv[1:])
