"""Lines and progress of long work. Workers call `say` and `show`; one listener per process decides.

The default listener prints lines, and a line of progress every few seconds.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

SECONDS_BETWEEN_LINES = 10.0
WARNING = "warning: "
"""Prefix of lines that are shown even where only results are wanted."""
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The progress of a piece of work.

    Attributes:
        work: its name; a smaller `done` than before means that it starts again.
        done: items that are complete.
        total: all items, 0 or more.
        unit: what the items are, in the plural.
        given: items of `done` that were already complete; excluded from the rate.
        note: more about it, such as a loss.
    """

    work: str
    done: int
    total: int
    unit: str
    given: int = 0
    note: str = ""


class Listener(Protocol):
    """Receives the lines and the progress of a process."""

    def say(self, line: str) -> None:
        """Take a line."""

    def show(self, standing: Standing) -> None:
        """Take the progress of some work; may be called for every batch."""


class Printed:
    """Prints lines, and a line of progress every `SECONDS_BETWEEN_LINES` of a monotonic clock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: dict[str, tuple[float, Standing]] = {}
        self._latest: dict[str, Standing] = {}
        self._printed_at: dict[str, float] = {}

    def say(self, line: str) -> None:
        """Print a line and flush it."""
        print(line, flush=True)

    def show(self, standing: Standing) -> None:
        """Print progress, rate and remaining time if the last line is old enough."""
        now, work = self._clock(), standing.work
        if work not in self._latest or standing.done < self._latest[work].done:
            self._first[work], self._printed_at[work] = (now, standing), now
        self._latest[work] = standing
        if standing.done >= standing.total:
            del self._latest[work]
        elif now - self._printed_at[work] >= SECONDS_BETWEEN_LINES:
            self._printed_at[work] = now
            started, first = self._first[work]
            self.say(progress_line(standing, first, now - started))


def progress_line(standing: Standing, first: Standing, seconds: float) -> str:
    """Progress, rate and remaining time as text; `first` was `seconds` > 0 ago, at the start."""
    words = [f"{standing.work}: {standing.done}/{standing.total} {standing.unit}"]
    made = (standing.done - standing.given) - (first.done - first.given)
    if made > 0:
        rate = made / seconds
        per_second = f"{rate:.{0 if rate >= 10 else 1}f} {standing.unit}/s"
        words.append(per_second if rate >= 1 else f"{60 * rate:.1f} {standing.unit}/min")
        words.append(f"{duration((standing.total - standing.done) / rate)} left")
    return ", ".join(words) + (f"; {standing.note}" if standing.note else "")


def duration(seconds: float) -> str:
    """Seconds as text: ``40 s``, ``1 min 20 s``, ``2 h 05 min``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


_listener: Listener | None = Printed()


def say(line: str) -> None:
    """Send a line to this process's listener."""
    if _listener is not None:
        _listener.say(line)


def show(standing: Standing) -> None:
    """Send the progress of some work to this process's listener."""
    if _listener is not None:
        _listener.show(standing)


def numbered(count: int, one: str) -> str:
    """A number with its noun: 1 shard, 2 shards; every noun here has a plural in s."""
    return f"{count} {one}{'' if count == 1 else 's'}"


def track(
    items: Iterable[Item],
    work: str,
    total: int,
    unit: str,
    *,
    size: Callable[[Item], int] = lambda _: 1,
) -> Iterator[Item]:
    """Yield the items and show progress; an item is done when the next one is asked for.

    `total` is the sum of all sizes, in `unit`; the other names are those of `Standing`.
    """
    done = 0
    show(Standing(work=work, done=0, total=total, unit=unit))
    for item in items:
        yield item
        done += size(item)
        show(Standing(work=work, done=done, total=total, unit=unit))


@contextmanager
def listening(listener: Listener | None) -> Iterator[None]:
    """Use another listener, or none, in this process while the block runs."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before
