"""What a person and a program see of a job."""

import io
import json
import os
import pty
import re
import subprocess
import sys
import termios
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from jobs.cli import conclude, main, parse
from jobs.terminal import Terminal, can_draw
from pipeline.core.progress import Standing, say, show
from tests.listeners import Clock

ROOT = Path(__file__).resolve().parents[2]
START = Standing(work="shards", done=0, total=1000, unit="images")


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def on_screen(monkeypatch: pytest.MonkeyPatch, term: str = "xterm") -> Screen:
    """Standard error, on a terminal; for a test's body, since pytest sets it at each stage."""
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("COLUMNS", "100")
    return screen


def test_a_bar_with_rate_time_left_and_note(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen, terminal = on_screen(monkeypatch), Terminal()
    terminal.show(START)
    terminal.show(replace(START, done=500, given=400, note="loss 5.1"))
    before = len(screen.getvalue())
    terminal.say("a line above it")
    around = screen.getvalue()[before:].split("\r")
    assert around[1].isspace(), "the bar is taken away for the line"
    assert "/1000" in around[-1]
    terminal.show(replace(START, done=600, given=400, note="loss 5.1"))
    drawn = screen.getvalue().split("\r")
    assert any(re.search(r"shards: +0%\|", one) for one in drawn)
    last = [one for one in drawn if "%|" in one][-1]
    assert re.search(r"shards: +\d+%\|.*\| \d+/1000 \[\d\d:\d\d<.*images/s, loss 5\.1", last), last
    assert capsys.readouterr().out == "a line above it\n"
    for done in (0, 10):  # one bar at a time
        terminal.show(replace(START, work="features", total=10, done=done))
    drawn = screen.getvalue().split("\r")
    works = [one.partition(":")[0].strip() for one in drawn if "%|" in one]
    assert works == sorted(works, reverse=True)
    assert works[-1] == "features"
    assert drawn[-1].strip() == "", "the bar is taken away"
    terminal.close()


def test_no_bar_where_none_can_be_drawn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for columns, drawn in ((0, False), (100, True)):
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, columns))
        with open(theirs, "w") as stream:
            assert can_draw(stream) is drawn
        os.close(ours)
    assert not can_draw(sys.stderr)
    assert not can_draw(on_screen(monkeypatch, "dumb"))
    clock = Clock()
    terminal = Terminal(clock=clock)
    terminal.show(START)
    clock.now = 10.0
    terminal.show(replace(START, done=100))
    terminal.close()
    assert capsys.readouterr() == ("shards: 100/1000 images, 10 images/s, 1 min 30 s left\n", "")


@dataclass(frozen=True)
class NoOptions:
    """A job without options of its own."""


@pytest.mark.parametrize(
    ("words", "out", "err"),
    [
        ("", ["a line", "a library", "results    F"], ["warning: mind the gap"]),
        ("--quiet", ["a library", "results    F"], ["warning: mind the gap"]),
        ("--json", ["{"], ["a line", "warning: mind", "a library", "results    F"]),
        ("--json --quiet", ["{"], ["warning: mind the gap", "a library"]),
    ],
)
def test_where_everything_goes(
    words: str, out: list[str], err: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def job() -> None:
        parse(NoOptions, "x", words.split())
        say("a line")
        say("warning: mind the gap")
        print("a library's own")
        show(START)
        values = {"out": Path("F"), "loss": float("nan"), "counts": (1, 2)}
        conclude(values, "results    F")

    with pytest.raises(SystemExit, match="0"):
        main(job)
    captured = capsys.readouterr()
    for lines, starts in ((captured.out.splitlines(), out), (captured.err.splitlines(), err)):
        assert len(lines) == len(starts), lines
        assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True)), lines
    if "json" in words:
        assert json.loads(captured.out) == {"out": "F", "loss": None, "counts": [1, 2]}
    say("afterwards")
    assert capsys.readouterr() == ("afterwards\n", "")


SCRIPT = """
import os, subprocess, sys
from dataclasses import replace
from jobs.cli import conclude, main, parse
from pipeline.core.progress import show
from pipeline.precompute.ray_session import without_lines
from tests.jobs.test_terminal import NoOptions, START

def job():
    parse(NoOptions, "x", ["--json"])
    os.write(1, b"from C\\n")
    subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
    print("from Python")
    show(START)
    with without_lines(b"a note of Ray's"):  # standard error is a pipe for the time
        show(replace(START, done=500))
    conclude({"done": 1}, "results    F")

main(job)
"""


def test_nothing_else_reaches_the_output_of_json_and_a_terminal_gets_a_bar() -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    job = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "TQDM_MININTERVAL": "0"},
        text=True,
    )
    os.close(theirs)
    drawn = b""
    with suppress(OSError):  # nobody has the terminal open any more
        while chunk := os.read(ours, 4096):
            drawn += chunk
    out, _ = job.communicate()
    os.close(ours)
    assert (job.returncode, out) == (0, '{"done": 1}\n'), drawn
    said = "from C.*from a child.*from Python.*shards: +0%\\|.* 500/1000 \\[.*results    F"
    assert re.search(said, drawn.decode(), re.DOTALL), drawn


def test_a_reader_that_leaves_does_not_end_the_job() -> None:
    """As `jobs/pretrain.py ... | head -1`."""
    code = "import time; from pipeline.core.progress import listening, say\n"
    code += "from jobs.terminal import Terminal\n"
    code += "import sys\n"
    code += "with listening(Terminal()):\n"
    code += "  [(say(str(n)), time.sleep(0.01)) for n in range(50)]\n"
    code += "print('whole', file=sys.stderr)"
    job = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert job.stdout is not None
    assert job.stdout.readline() == "0\n"
    job.stdout.close()
    assert job.stderr is not None
    assert (job.stderr.read(), job.wait()) == ("whole\n", 0)


def test_a_reader_that_leaves_does_not_end_a_help() -> None:
    """As `jobs/score.py --help | head -1`: exit code 0, and no traceback."""
    reading, writing = os.pipe()
    os.close(reading)  # nobody reads, from the start
    job = subprocess.Popen(
        [sys.executable, "jobs/score.py", "--help"],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    assert job.stderr is not None
    assert (job.stderr.read(), job.wait()) == ("", 0)
