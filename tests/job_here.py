"""A job run in the tests' own process, which has imported torch already."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from jobs.cli import main


class Done(NamedTuple):
    code: int
    out: str
    err: str


def job_here(
    run: Callable[[], int | None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Done]:
    """The job as a function of its command line's words."""

    def call(*words: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["job.py", *map(str, words)])
        with pytest.raises(SystemExit) as exit_info:
            main(run)
        captured = capsys.readouterr()
        assert isinstance(exit_info.value.code, int)
        return Done(exit_info.value.code, captured.out, captured.err)

    return call
