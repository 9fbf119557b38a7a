"""Command lines, their two helps, exit codes and the one line that a person reads."""

import errno
import gc
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest
import tyro
from ray.exceptions import RayTaskError

from jobs.cli import UNNAMED, absolute_paths, main, parse
from pipeline.core.errors import InputError, JobError

README = Path(__file__).resolve().parents[2] / "jobs" / "README.md"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part.

    Attributes:
        size: side in pixels.
        depth: depth in pixels.
    """

    size: int = 3
    depth: int = 5


@dataclass(frozen=True, kw_only=True)
class Base:
    """What a job works on.

    Attributes:
        source: where from.
        count: how many, 1 or more.
    """

    source: str | Path
    part: Part = field(default_factory=Part)
    count: int = 2

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"count {self.count} must be 1 or more")


@dataclass(frozen=True, kw_only=True)
class Outer:
    """A job.

    Attributes:
        how: manner.
        out: where to.
    """

    how: str = "well"
    out: Path | None = None
    base: Annotated[Base, UNNAMED]


DEFAULT = Outer(base=Base(source=tyro.MISSING, count=9, part=Part(size=4)))


def test_values_that_are_not_given_are_those_of_the_default() -> None:
    made = parse(Outer, "x", ["--source", "S", "--part.depth", "1", "--how", "so"], default=DEFAULT)
    assert made == Outer(how="so", base=Base(source="S", count=9, part=Part(size=4, depth=1)))
    assert parse(Outer, "x", ["--source", "S"]) == Outer(base=Base(source="S"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "--source"),
        ("--source S --part.more 1", "--part.more"),
        ("--source S --count three", "--count"),
        ("--source S --count 0", None),
    ],
)
def test_what_the_command_line_lacks_or_the_config_refuses_is_named(
    words: str, said: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((SystemExit, InputError)) as refused:
        parse(Outer, "x", words.split())
    printed = capsys.readouterr()
    assert printed.out == ""
    if said is None:  # one line, and no box of tyro's
        assert (str(refused.value), printed.err) == ("count 0 must be 1 or more", "")
    else:
        assert refused.value.args == (2,)
        assert said in printed.err


def test_the_short_help_shows_some_options_and_the_long_one_all(
    capsys: pytest.CaptureFixture[str],
) -> None:
    brief = ("base.source", "base.part.size")
    variants = {"--plain": Base(source="V", part=Part(depth=6))}

    def shown(option: str) -> str:
        with pytest.raises(SystemExit, match="0"):
            parse(Outer, "x", [option], default=DEFAULT, brief=brief, variants=variants)
        return capsys.readouterr().out

    short, long = shown("--help"), shown("--help-all")
    for words in ("A job. --help-all shows", "where from. (required)", "pixels. (default: 4)"):
        assert words in short
        assert words in long
    for option, value in (("--how", "well"), ("--part.depth", "5"), ("--count", "9")):
        assert option not in short
        assert option in long
        assert f"(default: {value})" in long
    assert "x --plain" in long.partition("--part.depth")[2]
    assert "depth in pixels. (default: 6)" in long
    for help_text in (short, long):
        assert "--quiet" in help_text
        assert "Attributes" not in help_text


def test_paths_of_a_submitted_job_start_at_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    def places(source: str | Path) -> tuple[object, object]:
        made = absolute_paths(Outer(out=Path("o"), base=Base(source=source)), "out", "base.source")
        return made.out, made.base.source

    assert places("s") == (Path.cwd() / "o", Path.cwd() / "s")
    monkeypatch.setenv("SALMASK_ROOT", "/root")
    assert places("s") == (Path("/root/o"), Path("/root/s"))
    assert places("/s") == (Path("/root/o"), Path("/s"))
    assert places("s3://b/s") == (Path("/root/o"), "s3://b/s")
    monkeypatch.setenv("HOME", "/home/me")
    assert places("~/s")[1] == Path("/home/me/s")
    monkeypatch.setenv("SALMASK_ROOT", "/root/deep")
    assert places("../s/./t/..")[1] == Path("/root/s")
    assert absolute_paths(Outer(base=Base(source="")), "out", "base.source").out is None


def run_that_raises(error: BaseException) -> None:
    raise error


def from_a_worker(error: Exception) -> Exception:
    """The error as Ray hands it to the driver."""
    untyped: Any = RayTaskError
    wrapped = untyped(function_name="f", traceback_str="a long\ntrace", cause=error)
    as_cause: Exception = wrapped.as_instanceof_cause()
    return as_cause


ERRORS = [error for one in JobError.__subclasses__() for error in (one, *one.__subclasses__())]


@pytest.mark.parametrize("kind", ERRORS)
def test_a_job_error_is_one_line_and_its_documented_exit_code(
    kind: type[JobError], capsys: pytest.CaptureFixture[str]
) -> None:
    outer, error = RuntimeError("outer"), kind("no such folder:\n x")
    outer.__cause__ = from_a_worker(error)
    for raised in (error, outer.__cause__, outer):
        with pytest.raises(SystemExit) as leaving:
            main(lambda raised=raised: run_that_raises(raised))  # type: ignore[misc]
        assert leaving.value.code == kind.exit_code
        assert capsys.readouterr() == ("", "error: no such folder: x\n")
    named = next(base for base in (kind, *kind.__bases__) if base in JobError.__subclasses__())
    assert f"| {kind.exit_code} | `{named.__name__}` |" in README.read_text()


@pytest.mark.parametrize(
    ("number", "name", "line"),
    [
        (
            errno.EROFS,
            "/mnt/x",
            "error: /mnt/x cannot be written: Read-only file system; mend that",
        ),
        (errno.ENOSPC, None, "error: a file cannot be written: No space left on device; free some"),
    ],
)
def test_a_place_that_cannot_be_written_is_one_line(
    number: int, name: str | None, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise RuntimeError("outer") from OSError(number, os.strerror(number), name)

    with pytest.raises(SystemExit) as leaving:
        main(fails)
    assert leaving.value.code == InputError.exit_code
    assert capsys.readouterr().err.startswith(line)


def test_defects_keep_their_traceback_and_other_exit_codes_are_the_jobs() -> None:
    for defect in (ValueError("a defect"), from_a_worker(ValueError("a defect"))):
        with pytest.raises(ValueError, match=r"a defect|a long"):
            main(lambda defect=defect: run_that_raises(defect))  # type: ignore[misc]
    for code, expected in ((None, 0), (0, 0), (3, 3)):
        with pytest.raises(SystemExit, match=str(expected)):
            main(lambda code=code: code)  # type: ignore[misc]
    with pytest.raises(SystemExit, match="130"):
        main(lambda: run_that_raises(KeyboardInterrupt()))
    interrupted = RuntimeError("unexpected pos")
    interrupted.__context__ = KeyboardInterrupt()  # as of torch.save
    with pytest.raises(SystemExit, match="130"):
        main(lambda: run_that_raises(interrupted))


def test_jobs_collect_garbage_rarely() -> None:
    before = gc.get_threshold()
    gc.set_threshold(700)
    with pytest.raises(SystemExit, match="10000"):
        main(lambda: gc.get_threshold()[0])
    gc.set_threshold(*before)
