"""What Ray prints and a person need not see."""

import os
import subprocess
import sys
import time

import pytest

from pipeline.precompute.ray_session import without_lines


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


def test_a_process_that_outlives_the_block_holds_nobody_up(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.precompute.ray_session.SETTLE_SECONDS", 0.1)
    program = "import os; os.read(0, 1); os.write(2, b'harmless\\nlate\\n')"
    with without_lines(b"harmless"):
        child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
    assert child.poll() is None
    child.communicate(b"x")
    deadline, seen = time.monotonic() + 30, ""
    while not seen:
        assert time.monotonic() < deadline
        time.sleep(0.01)
        seen = capfd.readouterr().err
    assert seen == "late\n"
