"""What every job does around its work: one line and exit code 2 for what a person got wrong."""

import inspect
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, redirect_stderr
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import tyro

from jobs.options import from_grouped, group, grouped, to_grouped, unnamed
from jobs.terminal import Terminal, TerminalOptions
from pipeline.core.errors import InputError
from pipeline.core.progress import Silence, listening
from pipeline.storage.storage import Location, is_url

EXIT_INPUT_ERROR = 2
EXIT_INTERRUPTED = 130


Config = TypeVar("Config")
_terminal = Terminal()
_until_the_end: ExitStack | None = None
"""Of the job that `main` runs."""


def parse(
    config: type[Config],
    prog: str,
    arguments: Sequence[str] | None = None,
    *,
    default: Config | None = None,
    description: str | None = None,
) -> Config:
    """Make a config, a dataclass, from the command line.

    In a job that `main` runs, ``--quiet`` and ``--json`` hold from here.

    Args:
        config: the dataclass; its fields are the options.
        prog: the job's name in help and errors.
        arguments: instead of those that the process was started with.
        default: values of the options that are not given, instead of the dataclass's own.
        description: for the help, instead of the dataclass's own.

    Raises:
        InputError: an unknown or missing option, or a value that the config refuses (tyro would
            draw a box around it).
        SystemExit: 0 after --help.
    """
    printed = io.StringIO()
    own, described = grouped(config, default), inspect.cleandoc(config.__doc__ or "")
    start = None if default is None else to_grouped(own, default)
    job = field() if start is None else field(default=start)
    fields = [
        ("job", unnamed(own), job),
        ("terminal", group(TerminalOptions, "terminal"), field(default=TerminalOptions())),
    ]
    try:
        with redirect_stderr(printed):
            given: Any = tyro.cli(
                make_dataclass("Job", fields, frozen=True, kw_only=True),
                prog=prog,
                args=arguments,
                description=description or described.partition("Attributes:")[0].strip(),
            )
    except SystemExit as leaving:
        error: BaseException | None = leaving
        while error is not None:
            if isinstance(error, InputError):
                raise error from None
            error = error.__context__
        if leaving.code:
            raise InputError(_one_line(printed.getvalue()) + f" (see {prog} --help)") from None
        raise
    made: Config = from_grouped(config, given.job)
    if _until_the_end is not None:
        _begin(given.terminal, _until_the_end)
    return made


def _begin(options: TerminalOptions, until_the_end: ExitStack) -> None:
    """Has all that this process tells printed as these options say, until the job's end."""
    global _terminal
    _terminal = Terminal(options)
    until_the_end.enter_context(listening(_terminal if _prints() else Silence()))
    until_the_end.callback(_terminal.close)


def conclude(values: Mapping[str, Any], *lines: str) -> None:
    """Gives the job's results.

    Args:
        values: for programs (``--json``): JSON values, paths among them.
        lines: for people; the last says where the results are, and what may come next.
    """
    if _prints():
        _terminal.conclude(values, lines)


def _prints() -> bool:
    """Whether this process speaks: of those that torchrun starts, the first does."""
    return "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("RANK") == "0"


def _one_line(box: str) -> str:
    """What tyro says in its box, as far as the first rule, and the names that it proposes."""
    lines = [line.strip("│ ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    rules = [number for number, line in enumerate(lines) if line and not line.strip("─")]
    message = " ".join(lines[: rules[0] if rules else None])
    if "Perhaps you meant:" in lines:
        near = [line for line in lines[lines.index("Perhaps you meant:") :] if line[:2] == "--"]
        message += f"; perhaps you meant {' or '.join(line.split()[0] for line in near)}"
    return message


def main(run: Callable[[], int | None]) -> NoReturn:
    """Run a job and leave the process with its exit code; what it tells goes to its terminal.

    `InputError` becomes one line on stderr and exit code 2, also where Ray has wrapped it;
    an interrupt becomes 130. Anything else is a defect and keeps its traceback.

    Args:
        run: the job; returns an exit code, or None for 0.
    """
    global _terminal, _until_the_end
    try:
        with ExitStack() as _until_the_end:
            code = run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        wrong_input = find_input_error(error)
        if wrong_input is None:
            raise
        print(f"error: {' '.join(str(wrong_input).split())}", file=sys.stderr)
        sys.exit(EXIT_INPUT_ERROR)
    finally:
        _terminal, _until_the_end = Terminal(), None
    sys.exit(code or 0)


def from_root(path: Path) -> Path:
    """Makes a path absolute, also for a job that Ray runs in a copy of the project.

    ``ray job submit --working-dir .`` copies the project; a relative path means a place below the
    folder where the cluster was started, which ``make cluster-up`` tells its jobs.
    """
    return Path(os.environ.get("SALMASK_ROOT", ""), path).absolute()


def place_from_root(place: Location) -> Location:
    """A URL as it is; a path as ``from_root`` makes it."""
    return place if is_url(place) else from_root(Path(place))


def find_input_error(error: BaseException | None) -> InputError | None:
    """The `InputError` that an exception is or was caused by; None where it is something else."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        # a RayTaskError is of the class of its cause and has the worker's traceback for a
        # message: the cause comes first
        inner = getattr(error, "cause", None)
        if isinstance(inner, BaseException):
            error = inner
        elif isinstance(error, InputError):
            return error
        else:
            error = error.__cause__
    return None
