"""What is printed of long work, and who hears it."""

from contextlib import suppress
from dataclasses import replace

import pytest

from pipeline.core.progress import (
    Printed,
    Standing,
    duration,
    listening,
    progress_line,
    say,
    show,
    track,
)
from tests.listeners import Clock, Kept

START = Standing(work="shards", done=0, total=1000, unit="images")


def test_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    printed = Printed(clock)
    for clock.now, done, given in (
        (0.0, 0, 0),
        (3.0, 50, 0),  # too early
        (10.0, 200, 100),  # 100 made, 100 were there
        (12.0, 300, 100),
        (20.0, 400, 100),  # 300 made
        (29.0, 900, 100),
        (100.0, 300, 100),  # it starts again, and is timed anew
        (110.0, 500, 100),
        (120.0, 1000, 100),  # the end says itself
    ):
        printed.show(replace(START, done=done, given=given))
    assert capsys.readouterr().out.splitlines() == [
        "shards: 200/1000 images, 10 images/s, 1 min 20 s left",
        "shards: 400/1000 images, 15 images/s, 40 s left",
        "shards: 500/1000 images, 20 images/s, 25 s left",
    ]


def test_the_rate_has_a_fitting_unit_and_durations_are_short() -> None:
    for done, given, words in (
        (256, 256, ""),  # nothing was made: there is no speed
        (3, 0, ", 3.0 images/min, 5 h 32 min left"),
        (150, 0, ", 2.5 images/s, 5 min 40 s left"),
    ):
        now = replace(START, done=done, given=given, note="loss 5.1")
        assert progress_line(now, START, 60.0) == f"shards: {done}/1000 images{words}; loss 5.1"
    texts = ["0 s", "59 s", "1 min 00 s", "1 h 00 min", "2 h 05 min"]
    assert list(map(duration, (0.2, 59.4, 59.6, 3599.9, 7500))) == texts


def test_items_are_counted_by_their_size_once_they_are_worked_through() -> None:
    kept = Kept()
    with listening(kept):
        for batch in track([[1, 2], [3]], "features", 3, "images", size=len):
            say(f"batch of {len(batch)}")
            assert kept.standings[-1].done == batch[0] - 1
    assert [standing.done for standing in kept.standings] == [0, 2, 3]
    assert {(s.work, s.total, s.unit) for s in kept.standings} == {("features", 3, "images")}
    assert kept.lines == ["batch of 2", "batch of 1"]


def test_the_listener_is_whoever_asked_last(capsys: pytest.CaptureFixture[str]) -> None:
    outer, inner = Kept(), Kept()
    with listening(outer):
        with suppress(ZeroDivisionError), listening(inner):
            say("inner")
            show(START)
            raise ZeroDivisionError
        say("outer")
        with listening(None):
            say("nobody")
            show(START)
    say("printed")
    assert (outer.lines, inner.lines, inner.standings) == (["outer"], ["inner"], [START])
    assert outer.standings == []
    assert capsys.readouterr().out == "printed\n"
