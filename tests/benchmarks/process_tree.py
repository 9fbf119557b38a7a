"""The processes below this one, as Linux shows them: CPU seconds, peak memory, command."""

import os
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """A living process; the peak is of its resident memory."""

    pid: int
    parent: int
    command: str
    cpu_seconds: float
    peak_mib: float


def below() -> list[Process]:
    """This process, and all that descend from it."""
    alive = {process.pid: process for process in map(_read, _pids()) if process}
    found = [alive[os.getpid()]]
    for process in found:
        found += [other for other in alive.values() if other.parent == process.pid]
    return found


def cpu_seconds() -> float:
    """CPU seconds so far of this process and all that descend from it and live."""
    return sum(process.cpu_seconds for process in below())


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
        cpu_seconds=(int(fields[11]) + int(fields[12])) / TICKS,
        peak_mib=int(peaks[0]) / 1024 if peaks else 0.0,
    )
