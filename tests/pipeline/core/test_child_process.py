"""A child process answers calls, dies without harm, and ends with its parent."""

import operator
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.core.child_process import Child, ChildDied, ChildEnded
from pipeline.core.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


class Untold(Exception):
    """Cannot be made again from what pickle keeps of it."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


def fail() -> None:
    raise Untold("a fault", " of its own")


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child()
    yield child
    child.close()


def test_calls_are_answered_by_one_process_and_errors_travel(
    child: Child, capfd: pytest.CaptureFixture[str]
) -> None:
    assert not child.is_running
    first = child.call(os.getpid)
    assert first != os.getpid()
    with pytest.raises(ZeroDivisionError) as raised:
        child.call(operator.truediv, 1, 0)
    assert "Traceback" in raised.value.__notes__[0]
    with pytest.raises(RuntimeError, match="Untold: a fault of its own"):
        child.call(fail)
    child.call(os.write, 1, b"one")
    child.call(os.write, 2, b"two")
    assert capfd.readouterr() == ("", "")  # output is discarded
    assert (child.call(os.getpid), child.is_running) == (first, True)


def test_a_death_is_told_and_the_next_call_starts_another(child: Child) -> None:
    first = child.call(os.getpid)
    for function, arguments, code in ((os._exit, (3,), 3), (os.abort, (), -signal.SIGABRT)):
        with pytest.raises(ChildDied) as died:
            child.call(function, *arguments)
        assert (died.value.exit_code, child.is_running) == (code, False)
    assert child.call(os.getpid) != first


def test_an_ended_child_is_not_taken_for_one_that_died(child: Child) -> None:
    """Its caller would look for an image that kills it, and start it again."""
    assert child.call(operator.add, 1, 2) == 3
    threading.Timer(0.5, child.end).start()
    with pytest.raises(ChildEnded):
        child.call(time.sleep, 60)
    with pytest.raises(ChildEnded):
        child.call(operator.add, 1, 2)
    assert not child.is_running


def test_a_process_that_cannot_start_is_one_error(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(sys, "path", [])
        with pytest.raises(InputError, match=r"cannot start \(exit code 1\): ModuleNotFoundError"):
            child.call(os.getpid)
        broken.setattr(sys, "executable", "/nowhere/python")
        with pytest.raises(InputError, match=r"cannot start: .*No such file"):
            child.call(os.getpid)
    assert child.call(operator.add, 2, 3) == 5


PARENT = """
import time, sys
from pathlib import Path
from pipeline.core.child_process import Child
import os

child = Child()
Path(sys.argv[1]).write_text(str(child.call(os.getpid)))
child.call(time.sleep, 600)
"""


def test_it_ends_with_its_parent_in_the_middle_of_a_call(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "-c", PARENT, pid_file], cwd=ROOT, env=environment)
    deadline = time.monotonic() + 60
    while not (pid_file.exists() and pid_file.read_text()):
        assert parent.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child = psutil.Process(int(pid_file.read_text()))
    assert child.ppid() == parent.pid
    parent.kill()
    parent.wait()
    child.wait(timeout=30)
    assert not child.is_running()
