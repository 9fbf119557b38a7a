"""What every job does around its work: the command line, the results, the exit code."""

import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

from jobs.options import read_options
from jobs.terminal import Terminal, TerminalOptions
from pipeline.core.errors import JobError, Stopped
from pipeline.core.progress import Silence, listening
from pipeline.storage.storage import Location, is_url

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
    brief: Sequence[str] = (),
    variants: Mapping[str, Any] = MappingProxyType({}),
) -> Config:
    """Make a config, a dataclass, from the command line.

    In a job that `main` runs, ``--quiet`` and ``--json`` hold from here.

    Args:
        config: the dataclass; its fields are the options.
        prog: the job's name in help and errors.
        arguments: instead of those that the process was started with.
        default: values of the options that are not given, instead of the dataclass's own.
        description: for the help, instead of the dataclass's own.
        brief: dotted names of the fields that ``--help`` shows; empty: all.
        variants: what ``--help-all`` shows besides: a title, and a dataclass of the parts whose
            options are shown.

    Raises:
        InputError: the config refuses a value.
        SystemExit: 0 after a help; 2 after an error that tyro has explained: an unknown or missing
            option, or a value of another type.
    """
    described = inspect.cleandoc(description or config.__doc__ or "").partition("Attributes:")[0]
    made, terminal = read_options(
        config,
        prog,
        sys.argv[1:] if arguments is None else arguments,
        default=default,
        description=described.strip(),
        brief=brief,
        variants=variants,
    )
    if _until_the_end is not None:
        _begin(terminal, _until_the_end)
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


def main(run: Callable[[], int | None]) -> NoReturn:
    """Run a job and leave the process with its exit code; what it tells goes to its terminal.

    A `JobError` becomes one line on stderr and its own exit code, also where Ray has wrapped it;
    an interrupt becomes that of `Stopped`. Anything else is a defect and keeps its traceback.

    Args:
        run: the job; returns an exit code, or None for 0.
    """
    global _terminal, _until_the_end
    try:
        with ExitStack() as _until_the_end:
            code = run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(Stopped.exit_code)
    except Exception as error:
        known = find_job_error(error)
        if known is None:
            raise
        print(f"error: {' '.join(str(known).split())}", file=sys.stderr)
        sys.exit(known.exit_code)
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


def find_job_error(error: BaseException | None) -> JobError | None:
    """The `JobError` that an exception is or was caused by; None where it is something else."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        # a RayTaskError is of the class of its cause and has the worker's traceback for a
        # message: the cause comes first
        inner = getattr(error, "cause", None)
        if isinstance(inner, BaseException):
            error = inner
        elif isinstance(error, JobError):
            return error
        else:
            error = error.__cause__
    return None
