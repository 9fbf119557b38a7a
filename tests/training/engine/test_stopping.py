"""SIGTERM and the first Ctrl-C only ask; the second Ctrl-C interrupts."""

import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

from training.engine.stopping import asked_to_stop


@pytest.fixture(autouse=True)
def as_in_a_new_process() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(n, signal.default_int_handler) for n in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks(number: signal.Signals) -> None:
    asked: list[str] = []
    with asked_to_stop(lambda: asked.append("stop")):
        os.kill(os.getpid(), number)
        assert asked == ["stop"]
    assert signal.getsignal(number) is signal.default_int_handler


def test_the_second_ctrl_c_interrupts(capfd: pytest.CaptureFixture[str]) -> None:
    asked: list[str] = []
    with asked_to_stop(lambda: asked.append("stop")):
        os.kill(os.getpid(), signal.SIGINT)
        assert "Ctrl-C again ends at once" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert asked == ["stop"]


def test_every_sigterm_asks() -> None:
    asked: list[str] = []
    with asked_to_stop(lambda: asked.append("stop")):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    assert asked == ["stop", "stop"]


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked: list[str] = []
    with asked_to_stop(lambda: asked.append("stop")):
        os.kill(os.getpid(), signal.SIGINT)
    assert asked == []
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_what_answered_before_answers_again_after_an_error() -> None:
    def other(_number: int, _frame: FrameType | None) -> None: ...

    signal.signal(signal.SIGTERM, other)
    with pytest.raises(ValueError, match="in mid-run"), asked_to_stop(lambda: None):
        raise ValueError("in mid-run")
    assert signal.getsignal(signal.SIGTERM) is other


def test_another_thread_hears_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def work() -> None:
        with asked_to_stop(lambda: None):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
