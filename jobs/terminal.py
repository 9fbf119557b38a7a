"""What a person sees of a job: bars on a terminal, lines elsewhere, results at the end; or JSON."""

import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from typing import Annotated, Any, TextIO

import tyro
from tqdm import tqdm

from pipeline.core.progress import WARNING, Printed, Standing
from pipeline.storage.storage import without_options

COMMAND = "salmask "
"""Start of `sys.argv[0]` where a job is a part of the command."""


@dataclass(frozen=True, kw_only=True)
class TerminalOptions:
    """What is printed, and how. It changes nothing of what is done.

    Attributes:
        quiet: only results, warnings and errors.
        json: the results as one JSON object, alone on standard output; all else goes to standard
            error.
    """

    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False


class Terminal(Printed):
    """Prints lines and progress; on a terminal progress is a bar, above which lines go on."""

    def __init__(
        self,
        options: TerminalOptions = TerminalOptions(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(clock)
        self._options = options
        self._lock = threading.RLock()
        self._bar: tqdm[Any] | None = None
        self._drawn = Standing(work="", done=0, total=0, unit="")
        """What the bar shows."""
        self._screen: TextIO | None = None
        """Where it stands: standard error may be a pipe later, while Ray Data works."""
        self._open = ExitStack()
        self._results = self._open.enter_context(_results_apart()) if options.json else None

    def say(self, line: str) -> None:
        """Print a line, above the bar where there is one; of a quiet job's only the warnings."""
        if line.startswith(WARNING):
            self._print(line, sys.stderr)
        elif not self._options.quiet:
            self._print(line, sys.stdout)

    def show(self, standing: Standing) -> None:
        """Move the bar, or print a line where it is time to."""
        if self._options.quiet:
            return
        with self._lock:
            if self._screen is None:
                if not can_draw(sys.stderr):
                    super().show(standing)
                    return
                self._screen = self._open.enter_context(_again(sys.stderr))
            if self._drawn.work != standing.work:
                self._close_bar()
            self._draw(standing)
            if standing.done >= standing.total and self._bar is not None:
                self._bar.refresh()
                self._close_bar()

    def _draw(self, standing: Standing) -> None:
        bar, given = self._bar, standing.given - self._drawn.given
        if bar is None:
            tqdm.monitor_interval = 0  # a thread more would only be in the way of forks
            self._bar = bar = tqdm(
                desc=standing.work,
                total=standing.total,
                initial=standing.done,
                unit=f" {standing.unit}",
                file=self._screen,
                leave=False,
                dynamic_ncols=True,
                miniters=1,  # else a large step, as of what was there before, stops it for long
                smoothing=0.1,
            )
            given = 0
        # These took no time, and are no part of the rate.
        bar.n, bar.initial, bar.last_print_n = (
            number + given for number in (bar.n, bar.initial, bar.last_print_n)
        )
        bar.total = standing.total
        bar.set_postfix_str(standing.note, refresh=False)
        bar.update(standing.done - bar.n)
        self._drawn = standing

    def conclude(self, values: Mapping[str, Any], lines: Sequence[str]) -> None:
        """Give the results: JSON values, paths among them, for programs, or lines for people.

        Numbers that are not finite become null.
        """
        with self._lock:
            self._close_bar()
        if self._results is not None:
            plain = without_options(json.dumps(values, default=os.fspath))
            finite = json.loads(plain, parse_constant=lambda _: None)
            print(json.dumps(finite), file=self._results, flush=True)
            if self._options.quiet:
                return
        for line in lines:
            self._print(line, sys.stdout)

    def close(self) -> None:
        """Take the bar away, and give standard output back."""
        with self._lock:
            self._close_bar()
            self._screen = None
        self._open.close()

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _print(self, line: str, stream: TextIO) -> None:
        line = retold(line)
        with self._lock:
            if self._bar is not None:
                self._bar.clear()
            try:
                print(line, file=stream, flush=True)
            except BrokenPipeError:  # the job goes on
                _read_no_more(stream)
            if self._bar is not None:
                self._bar.refresh()


def retold(text: str) -> str:
    """A text as a person is told it: URLs without options, and the command that was typed.

    `salmask x` stands for each `jobs/x.py` where a person has typed that. Both are equally long,
    so that a help keeps its columns.
    """
    text = without_options(text)
    if not sys.argv[0].startswith(COMMAND):
        return text
    return re.sub(r"(?:python )?jobs/(?!demo)(\w+)\.py", rf"{COMMAND}\1", text)


class Retold:
    """A stream that is given the `retold` text."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text, if anybody still reads."""
        try:
            return self._stream.write(retold(text))
        except BrokenPipeError:
            _read_no_more(self._stream)
            return len(text)


def _read_no_more(stream: TextIO) -> None:
    """Lose what is written from now on: who read it (head, less) has left."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def can_draw(stream: TextIO) -> bool:
    """Whether bars can be drawn there: a terminal that moves its cursor and knows its width."""
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        return False
    descriptor = _descriptor(stream)
    return descriptor is None or os.get_terminal_size(descriptor).columns > 0


@contextmanager
def _results_apart() -> Iterator[TextIO]:
    """Standard output for results alone.

    While the block runs, whatever else is printed there goes to standard error, also by C code and
    by processes that are started meanwhile.
    """
    with ExitStack() as restored:
        results = sys.stdout
        if _descriptor(sys.stdout) == 1 and _descriptor(sys.stderr) == 2:
            sys.stdout.flush()
            results = restored.enter_context(os.fdopen(os.dup(1), "w"))
            restored.callback(os.dup2, results.fileno(), 1)
            os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield results


@contextmanager
def _again(stream: TextIO) -> Iterator[TextIO]:
    """The file that a stream writes to, also when its descriptor leads elsewhere later."""
    descriptor = _descriptor(stream)
    if descriptor is None:
        yield stream
        return
    with os.fdopen(os.dup(descriptor), "w", buffering=1) as file:
        yield file


def _descriptor(stream: TextIO) -> int | None:
    with suppress(OSError):  # it is no file
        return stream.fileno()
    return None
