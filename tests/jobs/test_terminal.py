"""What a person and a program see of a job."""

import io
import json
import os
import pty
import re
import subprocess
import sys
import termios
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from jobs.cli import conclude, main, parse
from jobs.terminal import Terminal, TerminalOptions, can_draw
from pipeline.core.progress import Standing, say, show
from tests.listeners import Clock
from tests.picture_folders import write_pictures

ROOT = Path(__file__).resolve().parents[2]
START = Standing(work="shards", done=0, total=1000, unit="images")
ANSI = re.compile(r"\x1b\[")


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def on_screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """Standard error, on a terminal; for a test's body, since pytest sets it at each stage."""
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return screen


def test_a_bar_with_rate_time_left_and_note(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen, terminal = on_screen(monkeypatch), Terminal()
    terminal.show(START)
    terminal.show(replace(START, done=500, given=400, note="loss 5.1"))
    terminal.say("a line above it")
    terminal.show(replace(START, done=600, given=400))
    terminal.close()
    drawn = screen.getvalue().split("\r")
    assert any(re.search(r"shards: +0%\|", one) for one in drawn)
    last = [one for one in drawn if "%|" in one][-1]
    assert re.search(r"shards: +\d+%\|.*\| \d+/1000 \[\d\d:\d\d<.*images/s, loss 5\.1", last), last
    assert drawn[-1].strip() == "", "the bar is taken away"
    assert capsys.readouterr().out == "a line above it\n"


def test_one_bar_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, terminal = on_screen(monkeypatch), Terminal()
    terminal.show(START)
    terminal.show(replace(START, work="features", total=10))
    terminal.show(replace(START, work="features", total=10, done=10))
    drawn = screen.getvalue()
    assert drawn.rfind("shards:") < drawn.find("features:")
    assert drawn.split("\r")[-1].strip() == ""
    terminal.close()


@pytest.mark.parametrize("term", [None, "dumb"])
def test_no_bar_where_none_can_be_drawn(
    term: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if term is not None:
        monkeypatch.setattr(sys, "stderr", Screen())
        monkeypatch.setenv("TERM", term)
    clock = Clock()
    terminal = Terminal(clock=clock)
    terminal.show(START)
    clock.now = 10.0
    terminal.show(replace(START, done=100))
    terminal.close()
    assert capsys.readouterr() == ("shards: 100/1000 images, 10 images/s, 1 min 30 s left\n", "")


@pytest.mark.parametrize(("columns", "drawn"), [(0, False), (100, True)])
def test_a_bar_needs_a_width(columns: int, drawn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    with open(theirs, "w") as stream:
        assert can_draw(stream) is drawn
    os.close(ours)


def tell(terminal: Terminal, clock: Clock) -> None:
    """All that a job may tell."""
    terminal.say("what will be done")
    terminal.show(START)
    clock.now += 10
    terminal.show(replace(START, done=100))
    terminal.say("warning: mind the gap")
    terminal.conclude({"out": Path("F"), "loss": float("nan"), "counts": (1, 2)}, ["results    F"])
    terminal.close()


@pytest.mark.parametrize(
    ("options", "out", "err"),
    [
        ({}, ["what will", "shards: 100", "results    F"], ["warning: mind the gap"]),
        ({"quiet": True}, ["results    F"], ["warning: mind the gap"]),
        ({"json": True}, ["{"], ["what will", "shards: 100", "warning: ", "results    F"]),
        ({"json": True, "quiet": True}, ["{"], ["warning: mind the gap"]),
    ],
)
def test_where_everything_goes(
    options: dict[str, bool], out: list[str], err: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    tell(Terminal(TerminalOptions(**options), clock), clock)
    captured = capsys.readouterr()
    for lines, starts in ((captured.out.splitlines(), out), (captured.err.splitlines(), err)):
        assert len(lines) == len(starts), lines
        assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True)), lines
    if options.get("json"):
        assert json.loads(captured.out) == {"out": "F", "loss": None, "counts": [1, 2]}


def test_the_options_hold_until_the_job_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str) -> None:
        def job() -> None:
            parse(TerminalOptionsOnly, "x", words)
            say("a line")
            print("a library's own")
            show(START)
            conclude({"done": 1}, "results    F")

        with pytest.raises(SystemExit, match="0"):
            main(job)

    run("--json")
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"done": 1}
    assert captured.err.splitlines() == ["a line", "a library's own", "results    F"]
    run("--quiet")
    assert capsys.readouterr() == ("a library's own\nresults    F\n", "")
    run()
    assert capsys.readouterr().out.splitlines() == ["a line", "a library's own", "results    F"]


@dataclass(frozen=True)
class TerminalOptionsOnly:
    """A job without options of its own."""


SCRIPT = """
import os, subprocess, sys
from jobs.terminal import Terminal, TerminalOptions
terminal = Terminal(TerminalOptions(json=True))
os.write(1, b"from C\\n")
subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
print("from Python")
terminal.conclude({"done": 1}, ["results    F"])
terminal.close()
print("afterwards")
"""


def test_nothing_else_reaches_the_output_of_json() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == '{"done": 1}\nafterwards\n'
    assert done.stderr.splitlines() == ["from C", "from a child", "from Python", "results    F"]


def score(folder: Path, *words: str) -> list[str]:
    """The command line of a job of seconds that imports no torch."""
    return [
        *(sys.executable, "jobs/score.py", "--images", str(folder), "--masks", str(folder)),
        *("--saliency", "centre", "--processes", "1", *words),
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    write_pictures(folder, 40)
    return folder


def test_a_bar_on_a_terminal_and_no_code_of_it_in_a_pipe(folder: Path) -> None:
    piped = subprocess.run(score(folder), cwd=ROOT, capture_output=True, text=True, check=True)
    assert piped.stderr == ""
    assert not ANSI.search(piped.stdout)
    assert "\r" not in piped.stdout
    assert piped.stdout.startswith("scoring centre on 40 images of ")
    main_end, job_end = pty.openpty()
    termios.tcsetwinsize(job_end, (24, 100))
    job = subprocess.Popen(
        score(folder),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=job_end,
        env=os.environ | {"TERM": "xterm"},
        text=True,
    )
    os.close(job_end)
    drawn = b""
    while chunk := read(main_end):
        drawn += chunk
    out, _ = job.communicate()
    os.close(main_end)
    assert job.returncode == 0
    assert re.search(r"scoring: +\d+%\|.*\d+/40 \[", drawn.decode()), drawn
    # but for the times, and for lines of progress on a machine that is very slow
    plain, beside = (
        [line for line in text.splitlines() if not line.startswith(("centre", "scoring:"))]
        for text in (piped.stdout, out)
    )
    assert plain == beside


def read(terminal: int) -> bytes:
    """What was written to a terminal; nothing once nobody has it open."""
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""
