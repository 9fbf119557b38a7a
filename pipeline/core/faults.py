"""Points of failure, which tests switch on: there a process kills itself, or a write fails once.

`point` is called before every step of training and every effect on a disk or a bucket. With the
environment variable `SALMASK_FAULT`, `HOW:NUMBER:LOG`, a process appends a record to the file LOG
at every point, numbered from 1 over all processes. At point NUMBER (0: at none) it kills itself
where HOW is `kill`, else it raises the error whose errno has the name HOW.
"""

import errno
import os
import signal
from pathlib import Path

VARIABLE, STEP = "SALMASK_FAULT", "step"
RECORD_BYTES = 64
plan: tuple[str, int, int] | None = None
"""How, at which number, and the descriptor of the log."""


def switch(words: str | None) -> None:
    """Have this process follow a plan, in the words of the variable; None: no longer."""
    global plan
    plan = None
    if words is not None:
        how, number, log = words.split(":", 2)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        plan = how, int(number), os.open(log, flags, 0o666)


def point(what: str, where: Path | str = "") -> None:
    """Come to a point: what is done next, and to which file, folder or key."""
    if plan is None:
        return
    how, number, log = plan
    line = f"{what} {os.path.basename(where)}".encode()[: RECORD_BYTES - 1]
    os.write(log, line.ljust(RECORD_BYTES - 1) + b"\n")
    # Where this process's own record ends, whatever other processes have appended since.
    if os.lseek(log, 0, os.SEEK_CUR) == number * RECORD_BYTES:
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(getattr(errno, how), os.strerror(getattr(errno, how)))


switch(os.environ.get(VARIABLE))
