"""What every job does around its work: the command line, the results, the exit code.

A command line is read by tyro from nested dataclasses. `--help` shows the options that most people
need, `--help-all` every option.
"""

from jobs.ending import begin, end_with  # first: what follows takes time to import

# isort: split
import dataclasses
import inspect
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress
from dataclasses import field, make_dataclass
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

import tyro

from jobs.final_error import stop_if_final
from jobs.terminal import Retold, Terminal, TerminalOptions, retold
from pipeline.core.errors import Stopped, check, find_job_error, unwritable
from pipeline.core.memory import collect_garbage_rarely
from pipeline.core.progress import listening
from pipeline.storage.storage import SYNTHETIC, is_url
from training.config.fields import with_fields

HELP, HELP_ALL = {"-h", "--help"}, "--help-all"
TORCHRUN = "TORCHELASTIC_RUN_ID"
"""Set by torchrun for its processes."""
UNNAMED = tyro.conf.arg(name="")
"""Of a part whose options are named as if they were the outer dataclass's."""

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
    positional: Sequence[str] = (),
) -> Config:
    """Make a config, a dataclass, from the command line.

    In a job that `main` runs, ``--quiet`` and ``--json`` hold from here.

    Args:
        config: its fields are the options.
        prog: the job's name in help and errors.
        arguments: instead of those that the process was started with.
        default: values of the options that are not given, instead of the dataclass's own.
        description: for the help, instead of the dataclass's own.
        brief: dotted names of the fields that ``--help`` shows; empty: all.
        variants: by title, dataclasses whose options ``--help-all`` shows besides.
        positional: names of options whose values may stand, in this order and without the names,
            in front of all options.

    Raises:
        InputError: the config refuses a value, or there are too many words without a name.
        SystemExit: 0 after a help; 2 after an error that tyro has explained: an unknown or missing
            option, or a value of another type.
    """
    global _terminal
    words, prog = sys.argv[1:] if arguments is None else arguments, retold(prog)
    words = with_names(words, positional)
    described = inspect.cleandoc(description or config.__doc__ or "").partition("Attributes:")[0]
    if first := " ".join(f"--{name}" for name in positional):
        described = f"{described.strip()} The values of {first} may stand first, without the names."
    shown, start, wants_all = config, default, HELP_ALL in words
    if brief:
        described = f"{described.strip()} {HELP_ALL} shows every option."
        if not wants_all and not HELP.isdisjoint(words):
            shown, start = _only(config, default, brief), None
    parts: list[tuple[str, Any, Any]] = [
        ("job", Annotated[shown, UNNAMED], field() if start is None else field(default=start)),
        ("terminal", Annotated[TerminalOptions, UNNAMED], field(default=TerminalOptions())),
    ]
    job = make_dataclass("Job", parts, frozen=True, kw_only=True)
    args, errors = ["--help"] if wants_all else words, io.StringIO()
    told: Any = Retold(sys.stdout)
    try:
        with redirect_stderr(errors), redirect_stdout(told):
            given: Any = tyro.cli(job, prog=prog, args=args, description=described.strip())
    except SystemExit as leaving:
        # tyro would draw a box around what the config refuses
        if leaving.code and (refused := find_job_error(leaving, link="__context__")) is not None:
            raise refused from None
        print(retold(errors.getvalue()), end="", file=sys.stderr)
        for title, other in variants.items() if wants_all else ():
            with suppress(SystemExit), redirect_stdout(told):
                tyro.cli(type(other), prog=f"{prog} {title}", args=args, default=other)
        raise
    if _until_the_end is not None:
        _terminal = Terminal(given.terminal)
        _until_the_end.enter_context(listening(_terminal if _is_first_rank() else None))
        _until_the_end.callback(_terminal.close)
    made: Config = given.job
    return made


def with_names(words: Sequence[str], names: Sequence[str]) -> list[str]:
    """A command line whose first words, those in front of all options, have these options' names.

    InputError: there are more such words than names, where there are names at all.
    """
    count = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    wanted = f"wanted {' '.join(names).upper()}, then options"
    check(not names or count <= len(names), f"{' '.join(words[:count])}: {wanted}")
    first = list(zip(names, words[:count], strict=False))
    named = [part for name, word in first for part in (f"--{name}", word)]
    return [*named, *words[len(first) :]]


def _only(config: type[Any], default: Any, names: Sequence[str]) -> type[Any]:  # noqa: ANN401
    """A dataclass like a config, but whose help shows only the fields of these dotted names.

    The help shows the values of `default`, an instance; None: those of the dataclass.
    """
    hints = get_type_hints(config, include_extras=True)
    members: list[Any] = []
    for one in dataclasses.fields(config):
        within = [name.partition(".")[2] for name in names if name.split(".")[0] == one.name]
        kind, own = hints[one.name], field(default=one.default, default_factory=one.default_factory)
        if default is not None:
            own = field(default=getattr(default, one.name))
        if not within:
            kind = Annotated[kind, tyro.conf.Suppress]
        elif any(within):
            part, *about = get_args(kind) if get_origin(kind) is Annotated else (kind,)
            kind, own = _only(part, getattr(default, one.name, None), within), field()
            kind = Annotated[(kind, *about)] if about else kind
        members.append((one.name, kind, own))
    described = {"__doc__": config.__doc__}
    return make_dataclass(config.__name__, members, namespace=described, frozen=True, kw_only=True)


def conclude(values: Mapping[str, Any], *lines: str) -> None:
    """Give the job's results: JSON values for programs (``--json``), lines for people.

    The last line says where the results are, and what may come next.
    """
    if _is_first_rank():
        _terminal.conclude(values, lines)


def _is_first_rank() -> bool:
    """Whether this process prints: of those that torchrun starts, the first does."""
    return TORCHRUN not in os.environ or os.environ.get("RANK") == "0"


def main(run: Callable[[], int | None], *, is_process: bool | None = None) -> NoReturn:
    """Run a job and leave the process with the exit code that it returns; None is 0.

    A `JobError` becomes one line on stderr and its own exit code, also where Ray has wrapped it;
    an interrupt becomes that of `Stopped`. Anything else is a defect and keeps its traceback.
    `is_process` is whether nothing else happens in this process; None: where `run` is its script's.
    """
    global _terminal, _until_the_end
    collect_garbage_rarely()
    code = 1
    try:
        begin()
        with ExitStack() as _until_the_end:
            code = run() or 0
    except SystemExit as leaving:  # a help, or an option that tyro refuses
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except (Exception, KeyboardInterrupt) as error:
        known = find_job_error(error) or unwritable(error)
        if _was_interrupted(error):
            print("interrupted", file=sys.stderr)
            code = Stopped.exit_code
        elif known is None:
            raise
        else:
            print(retold(f"error: {' '.join(str(known).split())}"), file=sys.stderr)
            code = known.exit_code
    finally:
        _terminal, _until_the_end = Terminal(), None
        if run.__module__ == "__main__" if is_process is None else is_process:
            end_with(code)
    stop_if_final(code)
    sys.exit(code)


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether an interrupt led to an error, as within torch.save, which then fails in turn."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def from_root(path: str | Path) -> Path:
    """Make a path absolute, also for a job that Ray runs in a copy of the project.

    ``ray job submit --working-dir .`` copies the project; a relative path means a place below the
    folder where the cluster was started, which ``make cluster-up`` tells its jobs. Shells leave
    ``--out=~/runs`` as it is; and a folder has one name, whether or not it is reached by ``..``.
    """
    place = Path(os.environ.get("SALMASK_ROOT", ""), os.path.expanduser(path)).absolute()
    return place.resolve() if ".." in place.parts else place


def absolute_paths(config: Config, *names: str) -> Config:
    """A config with absolute paths in the fields of these dotted names, by `from_root`.

    URLs, and fields that hold nothing, stay. A field may hold several.
    """

    def absolute(place: Any) -> Any:  # noqa: ANN401  (a location, or several)
        if isinstance(place, tuple):
            return tuple(map(absolute, place))
        is_path = not is_url(place) and not str(place).startswith(SYNTHETIC)
        return from_root(place) if is_path else place

    given = {name: attrgetter(name)(config) for name in names}
    found = {name: absolute(place) for name, place in given.items() if place}
    return with_fields(config, {name: one for name, one in found.items() if one != given[name]})
