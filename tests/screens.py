"""A job in a pseudo-terminal, and what a person sees of it there: bars and whole lines."""

import importlib
import os
import pty
import re
import sys
import termios
import threading
from collections.abc import Sequence

import pytest

from jobs.cli import main

BAR = re.compile(r"([\w ()-]+?): +(\d+)%\|[^|\r\n]*\| (\d+)/(\d+) \[")
END = b"\0"
Seen = tuple[int, str]
"""Exit code, and all that the terminal was sent."""


class Screen:
    """A pseudo-terminal, and a thread that reads what is sent to it."""

    def __init__(self) -> None:
        self._ours, self.theirs = pty.openpty()
        termios.tcsetwinsize(self.theirs, (40, 200))
        self._sent = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while not self._sent.endswith(END):  # a helper of multiprocessing keeps it open for longer
            self._sent += os.read(self._ours, 4096)

    def sent(self) -> str:
        """Everything, once those who wrote have ended; closes the terminal."""
        os.write(self.theirs, END)
        self._reader.join()
        os.close(self._ours)
        os.close(self.theirs)
        return self._sent.removesuffix(END).decode()


def seen_in_terminal(job: str, words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> Seen:
    """A job in this process, whose standard output and error are a terminal."""
    screen = Screen()
    again = os.dup(screen.theirs)
    with monkeypatch.context() as patch, open(again, "w", buffering=1) as stream:
        patch.setenv("TERM", "xterm")
        patch.setattr(sys, "argv", ["job.py", *words])
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        with pytest.raises(SystemExit) as ended:
            main(importlib.import_module(f"jobs.{job}").run)
    assert isinstance(ended.value.code, int)
    return ended.value.code, screen.sent()


def check_bars(screen: str, work: str) -> None:
    """Bars begin at 0, move to their end and leave whole lines; one is of this work, if any."""
    works: dict[str, list[tuple[int, int]]] = {}
    for one, _, done, total in BAR.findall(screen):
        works.setdefault(one.strip(), []).append((int(done), int(total)))
    assert not work or work in works, screen
    for one, shown in works.items():
        before = [1, *(done for done, _ in shown)]
        starts = [at for at, (done, _) in enumerate(shown) if done == 0 < before[at]]
        assert starts[0] == 0, f"{one}: {shown}"
        for start, end in zip(starts, [*starts[1:], len(shown)], strict=True):
            steps = [done for done, _ in shown[start:end]]
            assert steps == sorted(steps), f"{one}: {shown}"
            assert steps[-1] == shown[start][1], f"{one} stands before its end: {shown}"
    # Lines begin at the left edge, where the bar was taken away before.
    assert not any("%|" in whole for whole in whole_lines(screen)), screen


def whole_lines(screen: str) -> list[str]:
    """What is left of each line at its end."""
    return [whole.rpartition("\r")[2].rstrip() for whole in screen.split("\r\n")]
