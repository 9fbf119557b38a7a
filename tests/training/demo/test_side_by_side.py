"""Functions in processes of their own: answers, lines, errors, threads, stops."""

import os
import signal
import threading
import time
from functools import partial
from multiprocessing import Pipe
from pathlib import Path

import pytest

from pipeline.core.errors import InputError, Stopped
from pipeline.core.progress import Standing, listening, say, show
from tests.listeners import Kept
from training.demo.side_by_side import _run, side_by_side
from training.engine.stopping import asked_to_stop


def square(number: int) -> int:
    say(f"squaring {number} with {os.environ['OMP_NUM_THREADS']} thread")
    show(Standing(work="squaring", done=number, total=10, unit="numbers", note=f"n {number}"))
    return number**2


def fails(path: Path) -> int:
    while not path.exists():
        time.sleep(0.01)
    raise InputError("nothing there")


def dies() -> int:
    os._exit(7)


def sleeps(path: Path) -> int:
    path.with_suffix(".new").write_text(str(os.getpid()))
    path.with_suffix(".new").rename(path)
    time.sleep(120)
    return 0


def until_asked(path: Path) -> int:
    """Ends when it is asked to, as a training does."""
    stop = threading.Event()
    with asked_to_stop(stop.set):
        path.write_text("there")
        assert stop.wait(120)
    return 5


def test_answers_and_what_they_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with listening(heard := Kept()):
        answers = side_by_side({"one": partial(square, 3), "two": partial(square, 4)})
    assert answers == {"one": 9, "two": 16}
    said = ["one: squaring 3 with 1 thread", "two: squaring 4 with 1 thread"]
    assert sorted(heard.lines) == said
    last = heard.standings[-1]
    assert (last.done, last.total, last.unit) == (7, 20, "numbers")
    assert sorted(last.note.split("; ")) == ["one n 3", "two n 4"]
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_a_task_has_one_thread_also_in_a_fork_of_an_older_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    ours, theirs = Pipe(duplex=False)
    _run(partial(square, 3), theirs)
    assert ours.recv() == ("line", "squaring 3 with 1 thread")


def test_an_error_comes_back_and_ends_the_others(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with pytest.raises(InputError, match="nothing there"):
        side_by_side({"long": partial(sleeps, path), "bad": partial(fails, path)})
    with pytest.raises(ProcessLookupError):
        os.kill(int(path.read_text()), 0)


def test_a_death_is_told() -> None:
    with pytest.raises(RuntimeError, match=r"bad \(exit code 7\)"):
        side_by_side({"bad": partial(dies), "good": partial(square, 2)})


def test_a_stop_is_passed_on_and_without_an_answer_it_is_an_interrupt(tmp_path: Path) -> None:
    def stop(path: Path) -> None:
        while not path.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    for task, path in ((until_asked, tmp_path / "asked"), (sleeps, tmp_path / "sleeps")):
        threading.Thread(target=stop, args=(path,)).start()
        if task is until_asked:
            assert side_by_side({"a": partial(task, path)}) == {"a": 5}
        else:
            with pytest.raises(Stopped):
                side_by_side({"a": partial(task, path)})
