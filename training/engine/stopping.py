"""Stop requests from outside: SIGTERM and Ctrl-C."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ANSWER = b"stopping: a checkpoint is written first (Ctrl-C again ends at once)\n"


@contextmanager
def asked_to_stop(request: Callable[[], None]) -> Iterator[None]:
    """While the block runs, SIGTERM and the first Ctrl-C call ``request`` and interrupt nothing.

    The second Ctrl-C does what it did before the block. An ignored SIGINT, as in a process that a
    shell started in the background, stays ignored. Only the main thread of a process gets signals:
    in another, such as a trial of a sweep, nothing happens. ``request`` is called between any two
    instructions of the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def answer(number: int, _frame: object) -> None:
        request()
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, before[signal.SIGINT])
            os.write(sys.stderr.fileno(), ANSWER)  # print may be what was interrupted

    try:
        signal.signal(signal.SIGTERM, answer)
        if before[signal.SIGINT] is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, answer)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
