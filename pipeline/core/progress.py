"""What long work tells while it runs: lines, and how far it is. One listener a process hears it.

Whoever works says and shows; whoever started it decides what becomes of that. By default it is
printed, and of progress a line every few seconds. A job's terminal draws bars instead; the process
of a worker hands everything on to the one that a person looks at.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

SECONDS_BETWEEN_LINES = 10.0
WARNING = "warning: "
"""What a line begins with that is to be seen even where only results are wanted."""
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far a piece of work is.

    Attributes:
        work: what it is; a smaller `done` than the one before begins it anew.
        done: what of `total` is done.
        total: all of it; 0: nothing is to be done.
        unit: of both, in the plural.
        given: what of `done` took no time, since it was there already: it says nothing of the
            speed.
        note: more about it, a loss say.
    """

    work: str
    done: int
    total: int
    unit: str
    given: int = 0
    note: str = ""


class Listener(Protocol):
    """Hears what work tells."""

    def say(self, line: str) -> None:
        """Takes a line."""

    def show(self, standing: Standing) -> None:
        """Takes how far some work is; may be called for every batch."""


class Silence:
    """Hears nothing: for all ranks but the first."""

    def say(self, line: str) -> None:
        """Nothing."""

    def show(self, standing: Standing) -> None:
        """Nothing."""


@dataclass
class _Begun:
    started: float
    last_line: float
    first: Standing
    latest: Standing


class Printed:
    """Prints lines, and a line of progress every few seconds.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun: dict[str, _Begun] = {}

    def say(self, line: str) -> None:
        """Prints a line at once, also where the output is a file."""
        print(line, flush=True)

    def show(self, standing: Standing) -> None:
        """Says how far it is, how fast and how long yet, where it is time to."""
        now, begun = self._clock(), self._begun.get(standing.work)
        if begun is None or standing.done < begun.latest.done:
            begun = _Begun(now, now, standing, standing)
            self._begun[standing.work] = begun
        begun.latest = standing
        if standing.done >= standing.total:
            del self._begun[standing.work]
        elif now - begun.last_line >= SECONDS_BETWEEN_LINES:
            begun.last_line = now
            self.say(progress_line(standing, begun.first, now - begun.started))


def progress_line(standing: Standing, first: Standing, seconds: float) -> str:
    """How far work is, how fast and how long yet.

    Args:
        standing: now.
        first: at its begin.
        seconds: since then, above 0.
    """
    words = [f"{standing.work}: {standing.done}/{standing.total} {standing.unit}"]
    made = (standing.done - standing.given) - (first.done - first.given)
    if made > 0:
        rate = made / seconds
        words.append(f"{rate:.0f} {standing.unit}/s" if rate >= 10 else _slow(rate, standing.unit))
        words.append(f"{duration((standing.total - standing.done) / rate)} left")
    return ", ".join(words) + (f"; {standing.note}" if standing.note else "")


def _slow(rate: float, unit: str) -> str:
    return f"{rate:.1f} {unit}/s" if rate >= 1 else f"{60 * rate:.1f} {unit}/min"


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``40 s``, ``1 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


_listener: Listener = Printed()


def say(line: str) -> None:
    """Tells this process's listener a line."""
    _listener.say(line)


def show(standing: Standing) -> None:
    """Tells this process's listener how far some work is."""
    _listener.show(standing)


def track(
    items: Iterable[Item],
    work: str,
    total: int,
    unit: str,
    *,
    size: Callable[[Item], int] = lambda _: 1,
) -> Iterator[Item]:
    """Yields the items, and shows how far that is.

    Args:
        items: what is worked through; one counts as done when the next is asked for.
        work: what the work is.
        total: of all their sizes.
        unit: of the sizes, in the plural.
        size: of an item.
    """
    done = 0
    show(Standing(work=work, done=0, total=total, unit=unit))
    for item in items:
        yield item
        done += size(item)
        show(Standing(work=work, done=done, total=total, unit=unit))


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """While the block runs, all of this process is told to another listener."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before
