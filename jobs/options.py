"""Command lines from nested dataclasses, by tyro, with a help that fits on a screen.

`--help` shows the options that most people need, `--help-all` every option.
"""

import dataclasses
import io
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import field, make_dataclass
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import tyro

from jobs.terminal import TerminalOptions
from pipeline.core.errors import InputError

Config = TypeVar("Config")
HELP, HELP_ALL = {"-h", "--help"}, "--help-all"


def read_options(
    config: type[Config],
    prog: str,
    words: Sequence[str],
    *,
    default: Config | None,
    description: str,
    brief: Sequence[str],
    variants: Mapping[str, Any],
) -> tuple[Config, TerminalOptions]:
    """Reads a config and the options of the terminal from a command line.

    Arguments and errors as in `jobs.cli.parse`.
    """
    own, start, wants_all = config, default, HELP_ALL in words
    if brief:
        description = f"{description} {HELP_ALL} shows every option."
        if not wants_all and not HELP.isdisjoint(words):
            own, start = _only(config, default, brief), None
    job = make_dataclass(
        "Job",
        [
            ("job", _unnamed(own), field() if start is None else field(default=start)),
            ("terminal", _unnamed(TerminalOptions), field(default=TerminalOptions())),
        ],
        frozen=True,
        kw_only=True,
    )
    args, errors = ["--help"] if wants_all else words, io.StringIO()
    try:
        with redirect_stderr(errors):
            given: Any = tyro.cli(job, prog=prog, args=args, description=description)
    except SystemExit as leaving:
        if leaving.code:
            _raise_input_error(leaving)
            print(errors.getvalue(), end="", file=sys.stderr)
        elif wants_all:
            for choice, settings in variants.items():
                _print_help(f"{prog} {choice}", settings)
        raise
    return given.job, given.terminal


def _unnamed(options: type[Any]) -> Any:  # noqa: ANN401  (a type, annotated)
    """A part whose options are named as if they were the outer dataclass's."""
    return Annotated[options, tyro.conf.arg(name="")]


def _only(config: type[Any], default: Any, names: Sequence[str]) -> type[Any]:  # noqa: ANN401
    """A dataclass that is like a config, but whose help shows the named fields only.

    Args:
        config: a dataclass.
        default: an instance, whose values the help shows; None: those of the config.
        names: dotted names of fields.
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


def _print_help(prog: str, parts: Any) -> None:  # noqa: ANN401
    """Prints the help of the options of some parts: a dataclass of dataclasses."""
    try:
        tyro.cli(type(parts), prog=prog, args=["--help"], default=parts, description=" ")
    except SystemExit:
        return


def _raise_input_error(error: BaseException | None) -> None:
    """Raises the ``InputError`` of a config, for which tyro would draw a box."""
    while error is not None:
        if isinstance(error, InputError):
            raise error from None
        error = error.__context__
