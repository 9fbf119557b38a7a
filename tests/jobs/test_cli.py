"""Exit codes and the one line that a person reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayTaskError

from jobs.cli import find_job_error, main, parse
from pipeline.core.errors import DamagedSample, InputError, JobError

README = Path(__file__).resolve().parents[2] / "jobs" / "README.md"


@dataclass(frozen=True, kw_only=True)
class Config:
    """A config.

    Attributes:
        count: How many.
    """

    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"count must be at least 1, got {self.count}")


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
    for error in (kind("no such folder:\n x"), from_a_worker(kind("no such folder:\n x"))):
        with pytest.raises(SystemExit) as leaving:
            main(lambda error=error: run_that_raises(error))  # type: ignore[misc]
        assert leaving.value.code == kind.exit_code
        assert capsys.readouterr() == ("", "error: no such folder: x\n")
    named = next(base for base in (kind, *kind.__bases__) if base in JobError.__subclasses__())
    assert f"| {kind.exit_code} | `{named.__name__}` |" in README.read_text()
    assert DamagedSample.exit_code != InputError.exit_code == 2


def test_defects_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        main(lambda: run_that_raises(ZeroDivisionError()))
    with pytest.raises(ValueError, match="a defect"):
        main(lambda: run_that_raises(ValueError("a defect")))
    assert find_job_error(from_a_worker(ValueError("a defect"))) is None


def test_the_cause_of_an_error_is_found() -> None:
    outer = RuntimeError("outer")
    outer.__cause__ = from_a_worker(InputError("inner"))
    assert str(find_job_error(outer)) == "inner"


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    for code, expected in ((None, 0), (0, 0), (3, 3)):
        with pytest.raises(SystemExit) as leaving:
            main(lambda code=code: code)  # type: ignore[misc]
        assert leaving.value.code == expected
    with pytest.raises(SystemExit) as leaving:
        main(lambda: run_that_raises(KeyboardInterrupt()))
    assert leaving.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_command_line_becomes_a_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(Config, "x", ["--count", "3"]) == Config(count=3)
    with pytest.raises(InputError, match="count must be at least 1, got 0"):
        parse(Config, "x", ["--count", "0"])
    assert capsys.readouterr() == ("", "")
    for wrong in (["--cuont", "3"], ["--count", "three"]):
        with pytest.raises(SystemExit, match="2"):
            parse(Config, "x", wrong)
        printed = capsys.readouterr()
        assert printed.out == ""
        assert wrong[0] in printed.err
        assert "--count" in printed.err
    with pytest.raises(SystemExit) as leaving:
        parse(Config, "x", ["--help"])
    assert leaving.value.code == 0
    assert "How many." in capsys.readouterr().out
