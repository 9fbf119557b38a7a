"""Exit codes and the one line that a person reads."""

from dataclasses import dataclass
from typing import Any

import pytest
from ray.exceptions import RayTaskError

from jobs.cli import find_input_error, main, parse
from pipeline.core.errors import InputError


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


@pytest.mark.parametrize(
    "error",
    [InputError("no such folder:\n x"), from_a_worker(InputError("no such folder:\n x"))],
    ids=["own", "from a Ray worker"],
)
def test_wrong_input_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(lambda: run_that_raises(error))
    assert leaving.value.code == 2
    assert capsys.readouterr() == ("", "error: no such folder: x\n")


def test_defects_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        main(lambda: run_that_raises(ZeroDivisionError()))
    with pytest.raises(ValueError, match="a defect"):
        main(lambda: run_that_raises(ValueError("a defect")))
    assert find_input_error(from_a_worker(ValueError("a defect"))) is None


def test_the_cause_of_an_error_is_found() -> None:
    outer = RuntimeError("outer")
    outer.__cause__ = from_a_worker(InputError("inner"))
    assert str(find_input_error(outer)) == "inner"


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
        with pytest.raises(InputError, match=rf"{wrong[0]}.*\(see x --help\)$") as refused:
            parse(Config, "x", wrong)
        assert "\n" not in str(refused.value)
        assert capsys.readouterr() == ("", "")
    with pytest.raises(SystemExit) as leaving:
        parse(Config, "x", ["--help"])
    assert leaving.value.code == 0
    assert "How many." in capsys.readouterr().out
