"""End a job's process before its interpreter is taken down.

Threads of libraries (Arrow's pools) may free Python objects while the interpreter ends, which
aborts the process after all its work is done. So the last of the exit functions ends it.
"""

import atexit
import logging
import os
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
