"""Points of failure, which tests switch on: there a process kills itself, or a write fails once.

`point` is called before every step of training and before every effect on a disk or a bucket. The
environment variable `SALMASK_FAULT` is `HOW:NUMBER:LOG`: each process that has it appends a record
to the file LOG at every point, which numbers the points from 1 over all processes. At point NUMBER
(0: at none) it kills itself where HOW is `kill`; else HOW is the name of an errno, and that is
raised. Without the variable a point costs one comparison.
"""

import errno
import os
import signal
from pathlib import Path

VARIABLE = "SALMASK_FAULT"
RECORD_BYTES = 64
"""Of one line of the log."""
STEP = "step"
"""The points that are steps of training: no write."""


class _Plan:
    def __init__(self, text: str) -> None:
        self._how, number, log = text.split(":", 2)
        self._number = int(number)
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)

    def reach(self, line: str) -> None:
        os.write(self._log, line[: RECORD_BYTES - 1].encode().ljust(RECORD_BYTES - 1) + b"\n")
        # Where this process's own record ends, whatever other processes have appended since.
        if os.lseek(self._log, 0, os.SEEK_CUR) != self._number * RECORD_BYTES:
            return
        if self._how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        code = getattr(errno, self._how)
        raise OSError(code, os.strerror(code))


_plan: _Plan | None = None


def switch(plan: str | None) -> None:
    """Have this process follow a plan, in the words of the variable; None: no longer."""
    global _plan
    _plan = None if plan is None else _Plan(plan)


def point(what: str, where: Path | str = "") -> None:
    """Come to a point of failure: what is done next, and the file, folder or key it is done to."""
    if _plan is not None:
        _plan.reach(f"{what} {os.path.basename(where)}".rstrip())


switch(os.environ.get(VARIABLE))
