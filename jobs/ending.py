"""End a job's process before its interpreter is taken down, or at Ctrl-C while it begins.

Threads of libraries (Arrow's pools) may free Python objects while the interpreter ends, which
aborts the process after all its work is done. So the last of the exit functions ends it.
"""

import atexit
import logging
import os
import signal
import sys
from contextlib import suppress

_exit_code: int | None = None


def end_with(code: int) -> None:
    """Have the process end with this exit code, once all other exit functions have run."""
    global _exit_code
    _exit_code = code


@atexit.register  # exit functions run last in, first out: this module is imported before others
def _end() -> None:
    if _exit_code is None:
        return
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed, or nobody reads any more
            stream.flush()
    os._exit(_exit_code)


def end_at_interrupt() -> None:
    """Have Ctrl-C end the process at once, without a traceback, until `main` runs the job.

    Importing takes a second, in which nothing has been done yet. An ignored SIGINT stays ignored.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)


def begin() -> None:
    """Have Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupted(_number: int, _frame: object) -> None:
    os.write(2, b"interrupted\n")
    os._exit(130)


_script = getattr(sys.modules["__main__"], "__file__", None)
if _script and os.path.dirname(os.path.abspath(_script)) == os.path.dirname(__file__):
    end_at_interrupt()  # python jobs/x.py
