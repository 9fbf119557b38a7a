"""What Ray prints and a person need not see."""

import os
import subprocess
import sys

import pytest

from pipeline.ray_session import without_lines


def test_lines_with_the_note_are_dropped_and_no_others(capfd: pytest.CaptureFixture[str]) -> None:
    with without_lines(b"harmless"):
        os.write(2, b"before\nit is harmless, really\nafter\n")
        subprocess.run([sys.executable, "-c", "import os; os.write(2, b'of a child')"], check=True)
    os.write(2, b", and harmless again")
    assert capfd.readouterr().err == "before\nafter\nof a child, and harmless again"


def test_an_error_is_passed_on_and_standard_error_is_as_before(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        with without_lines(b"harmless"):
            os.write(2, b"harmless\n")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    os.write(2, b"harmless\n")
    assert capfd.readouterr().err == "harmless\n"
