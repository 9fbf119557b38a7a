"""SIGTERM and the first Ctrl-C only ask; the second Ctrl-C interrupts."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from training.engine.stopping import asked_to_stop


class Interrupted(Exception):
    """Stands for KeyboardInterrupt, which would end pytest and not fail a test."""


def interrupt(_number: int, _frame: object) -> None:
    raise Interrupted


@pytest.fixture(autouse=True)
def as_in_a_new_process() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(n, interrupt) for n in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_sigterm_asks_every_time_and_ctrl_c_once(capfd: pytest.CaptureFixture[str]) -> None:
    asked: list[str] = []
    with asked_to_stop(lambda: asked.append("stop")):
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert asked == ["stop"] * 3
        assert "Ctrl-C again ends at once" in capfd.readouterr().err
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGINT)
    assert asked == ["stop"] * 3
    assert signal.getsignal(signal.SIGTERM) is interrupt


def test_an_ignored_ctrl_c_stays_ignored_and_an_error_restores_the_handlers() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked: list[str] = []
    with suppress(ValueError), asked_to_stop(lambda: asked.append("stop")):
        os.kill(os.getpid(), signal.SIGINT)
        raise ValueError("in mid-run")
    assert asked == []
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) is interrupt


def test_another_thread_hears_nothing() -> None:
    seen: list[object] = []

    def work() -> None:
        with asked_to_stop(lambda: None):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [interrupt]
