"""Functions in processes of their own: answers, lines, errors, threads, stops."""

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from pipeline.core.errors import InputError, Stopped
from pipeline.core.progress import Standing, listening, say, show
from training.demo.side_by_side import side_by_side
from training.engine.stopping import asked_to_stop


def square(number: int) -> int:
    say(f"squaring {number}")
    show(Standing(work="squaring", done=number, total=10, unit="numbers", note=f"n {number}"))
    return number**2


def fails(words: str) -> int:
    raise InputError(words)


def dies() -> int:
    os._exit(7)


def sleeps(path: Path) -> int:
    path.write_text(str(os.getpid()))
    time.sleep(120)
    return 0


def until_asked(path: Path) -> str:
    """Ends when it is asked to, as a training does."""
    stop = threading.Event()
    with asked_to_stop(stop.set):
        path.write_text("there")
        assert stop.wait(120)
    return "stopped"


class Heard:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.standings: list[Standing] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def show(self, standing: Standing) -> None:
        self.standings.append(standing)


def test_answers_and_what_they_tell() -> None:
    with listening(heard := Heard()):
        answers = side_by_side({"one": partial(square, 3), "two": partial(square, 4)})
    assert answers == {"one": 9, "two": 16}
    assert sorted(heard.lines) == ["one: squaring 3", "two: squaring 4"]
    last = heard.standings[-1]
    assert (last.done, last.total, last.unit) == (7, 20, "numbers")
    assert sorted(last.note.split("; ")) == ["one n 3", "two n 4"]


def test_children_have_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert side_by_side({"a": partial(os.getenv, "OMP_NUM_THREADS")}) == {"a": "1"}
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_an_error_comes_back_and_ends_the_others(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with pytest.raises(InputError, match="nothing there"):
        side_by_side({"long": partial(sleeps, path), "bad": partial(fails, "nothing there")})
    if path.exists():  # it may not have got that far
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)


def test_a_death_is_told() -> None:
    with pytest.raises(RuntimeError, match=r"bad \(exit code 7\)"):
        side_by_side({"bad": partial(dies), "good": partial(square, 2)})


def test_a_stop_is_passed_on(tmp_path: Path) -> None:
    path = tmp_path / "there"

    def stop() -> None:
        while not path.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    assert side_by_side({"a": partial(until_asked, path)}) == {"a": "stopped"}


def test_a_stop_without_an_answer_is_an_interrupt(tmp_path: Path) -> None:
    path = tmp_path / "pid"

    def stop() -> None:
        while not path.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    with pytest.raises(Stopped):
        side_by_side({"a": partial(sleeps, path)})
