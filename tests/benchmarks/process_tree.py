"""The processes below this one, as Linux shows them: peak memory, command."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PAUSE_SECONDS = 0.2


@dataclass(frozen=True)
class Process:
    """A living process; the peak is of its resident memory."""

    pid: int
    parent: int
    command: str
    peak_mib: float


def below() -> list[Process]:
    """This process, and all that descend from it."""
    alive = {process.pid: process for process in map(_read, _pids()) if process}
    found = [alive[os.getpid()]]
    for process in found:
        found += [other for other in alive.values() if other.parent == process.pid]
    return found


@contextmanager
def peaks_watched() -> Iterator[dict[int, Process]]:
    """This process and all that descend from it while the block runs, by number, as last seen.

    Looks several times a second: what a process has reached at its end may be missed by a little.
    """
    seen: dict[int, Process] = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(PAUSE_SECONDS):
            seen.update({process.pid: process for process in below()})

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield seen
    finally:
        ended.set()
        watching.join()


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _read(pid: int) -> Process | None:
    folder = Path("/proc") / str(pid)
    try:
        # the name in parentheses may hold anything: what follows it does not
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        status = (folder / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    peaks = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return Process(
        pid=pid,
        parent=int(fields[1]),
        command=command,
        peak_mib=int(peaks[0]) / 1024 if peaks else 0.0,
    )
